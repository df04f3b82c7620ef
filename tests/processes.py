"""Commands under test, as processes of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """The environment of a command under test: no other cluster, store or storage."""
    names = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "BABYSWEEP_STORAGE")
    return {k: v for k, v in os.environ.items() if k not in names} | {"PYTHONUNBUFFERED": "1"}


def exit_status(command: Callable[[], int]) -> int:
    """The status that a command ends with, also if it does not come so far as to be run."""
    try:
        return command()
    except SystemExit as ended:
        return int(ended.code or 0)


def wait_for(process: subprocess.Popen[str], pattern: str) -> str:
    """Read a process's output up to a line that matches; returns what came until then."""
    seen: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(line)
        if re.search(pattern, line):
            return "".join(seen)
    raise AssertionError(f"{pattern!r} was never printed:\n{''.join(seen)}")


def kill(*processes: psutil.Process) -> None:
    """Kill those that are still there."""
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def free_port() -> int:
    """A port that nothing listens on."""
    (port,) = free_ports(1)
    return port


@contextlib.contextmanager
def serve_mlflow(storage: Path, port: int | None = None) -> Iterator[str]:
    """`make ui` of a storage folder, which is made if need be, on a port, by default a free one;
    ends with all of its processes."""
    storage.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    # The installation that runs the tests, as it is.
    words = [
        "make",
        "ui",
        f"STORAGE={storage}",
        f"PORT={port}",
        f"BIN={Path(sys.executable).parent}",
    ]
    with subprocess.Popen(
        [*words, "--old-file=.venv/installed"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            wait_for(process, "Application startup complete")
            assert process.stdout is not None
            # A full pipe would stop the server.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield f"http://127.0.0.1:{port}/"
        finally:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)
