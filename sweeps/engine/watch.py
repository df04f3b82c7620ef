"""A watch over Ray: that it died is known at once, and not from an abort a minute later."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import ray
from ray.util.client import ray as client

from analysis.errors import EXIT_FAILED
from analysis.signals import was_signalled

LOOK_SECONDS = 0.5
HEAD_SECONDS = 30.0
"""For the head of somebody's cluster to come back; Ray itself gives up after a minute."""
_NEEDED = ("raylet", "gcs_server")


class RayDied(RuntimeError):
    """The end of a process that Ray cannot do without; the connection cannot even be ended."""


class RayWatch(threading.Thread):
    """Interrupts the main thread, as Ctrl-C does, when what Ray cannot do without is gone.

    Of a cluster that this process started that is one of two processes, of another one the server
    at its head.

    Attributes:
        death: what is gone, "" while nothing is.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.death = ""
        self._over = threading.Event()
        children = filter(_is_alive, psutil.Process().children())
        self._processes = {child.name(): child for child in children if child.name() in _NEEDED}
        # A client (ray://) does not reach the head itself; its own connection's end is an error.
        is_other = not self._processes and not client.is_connected()
        self._head = ray.get_runtime_context().gcs_address if is_other else ""
        self._answered = time.monotonic()

    def run(self) -> None:
        """Look now and then, until the end."""
        while not self.death and not self._over.wait(LOOK_SECONDS):
            self.death = self._missing()
        # A real signal, which also ends a system call. Of who stops everything at once Ray's
        # processes get a signal, too: the command is at its end then, and needs no second one.
        if self.death and not was_signalled():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def end(self) -> None:
        """End the watch."""
        self._over.set()
        self.join()

    def kill_the_rest(self) -> None:
        """End what is left of a cluster of this process: it would live on for a minute."""
        for process in self._processes.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                for each in (*process.children(recursive=True), process):
                    each.kill()

    def _missing(self) -> str:
        for name, process in self._processes.items():
            if not _is_alive(process):
                return f"Ray's process {name} was killed, or ended by itself"
        if self._head:
            host, _, port = self._head.rpartition(":")
            with contextlib.suppress(OSError):
                socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
                self._answered = time.monotonic()
            if time.monotonic() - self._answered > HEAD_SECONDS:
                return f"Ray's head at {self._head} has not answered for {HEAD_SECONDS:.0f} s"
        return ""


def _leave() -> None:
    """End the process in place of Ray's own end, which would wait for what is dead, and abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def watching_ray() -> Iterator[None]:
    """Watch over the cluster that this process is connected to; not from other threads than the
    main one, which the watch interrupts.

    Raises:
        RayDied: something that it cannot do without is gone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = RayWatch()
    watch.start()
    try:
        yield
    except BaseException as error:
        if watch.death:
            watch.kill_the_rest()
            atexit.register(_leave)
            raise RayDied(watch.death) from error
        raise
    finally:
        watch.end()
