"""A Ray cluster of several nodes on loopback; each node is a process that a test may kill."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.processes import environment, free_port, free_ports, kill, wait_for


class RayNodes:
    """A head, and the nodes that join it, with ports, a token and a folder of their own.

    Args:
        folder: for Ray's files; a short path, since sockets lie in it.
        cpus: of each node.
        head_cpus: of the head, where it has others.
        variables: of every node's environment, beside the tests'.

    Attributes:
        address: of the head's server, for `--address`.
        jobs: address of the head's dashboard, for `ray job submit`.
        env: environment of commands that use the cluster.
        folder: of Ray's files.
        nodes: the processes of `ray start --block`, the head first.
    """

    def __init__(
        self,
        folder: Path,
        cpus: int = 2,
        head_cpus: int | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self._variables = folder, dict(variables or {})
        port, dashboard = free_ports(2)
        self.address, self.jobs = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.env = environment() | token | {"PATH": path}
        self.nodes: list[subprocess.Popen[str]] = []
        self._cpus = cpus
        self._flags = ["--node-ip-address=127.0.0.1", "--disable-usage-stats"]
        self._flags += ["--object-store-memory=100000000"]
        # Nodes of one machine would fight for the workers' default ports.
        self._flags += ["--min-worker-port=0", "--max-worker-port=0"]
        head = ["--head", f"--port={port}", f"--dashboard-port={dashboard}"]
        head += ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}"]
        self._start(cpus if head_cpus is None else head_cpus, *head)

    def join(self, *before: str, **variables: str) -> None:
        """Start a further node.

        Args:
            before: words of a command that runs the node's.
            variables: of its environment.
        """
        self._start(self._cpus, f"--address={self.address}", before=before, variables=variables)

    def kill(self, number: int) -> None:
        """End a node with all its processes, as a machine that loses its power."""
        node = self.nodes.pop(number)
        members = family(node)
        node.kill()
        kill(*members)
        node.wait()

    def end(self) -> None:
        """End all nodes, the head last; nothing stays."""
        members = [member for node in self.nodes for member in family(node)]
        for node in reversed(self.nodes):
            node.terminate()
            node.wait(timeout=60)
        kill(*members)

    def _start(
        self,
        cpus: int,
        *flags: str,
        before: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        words = [*before, str(Path(sys.executable).with_name("ray")), "start", "--block", *flags]
        words += [f"--num-cpus={cpus}"]
        node = subprocess.Popen(
            [*words, *self._flags, f"--dashboard-agent-listen-port={free_port()}"],
            env=self.env | self._variables | dict(variables or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        wait_for(node, "Ray runtime started")
        assert node.stdout is not None
        threading.Thread(target=node.stdout.read, daemon=True).start()  # a full pipe would block it
        self.nodes.append(node)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes below this one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []
