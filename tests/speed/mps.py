"""NVIDIA's Multi-Process Service (MPS): kernels of several processes share a GPU at one time.

Without it the GPU goes from process to process in slices of time, and what one leaves idle no other
uses. A daemon has to run, and the processes have to know where: here one of its own folders, beside
any other that the machine may have.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

CONTROL = "nvidia-cuda-mps-control"
START_SECONDS = 10.0
QUIT_SECONDS = 10.0


class NotStarted(Exception):
    """The daemon is not installed, or does not start; the message says why."""


@contextlib.contextmanager
def daemon() -> Iterator[dict[str, str]]:
    """The environment variables by which processes find the daemon that runs meanwhile.

    It is this process's child, in the foreground, so that whatever ends the group ends it.
    """
    control = shutil.which(CONTROL)
    if control is None:
        raise NotStarted(f"{CONTROL} is not installed")
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        variables = {
            "CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe",
            "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log",
        }
        for place in variables.values():
            Path(place).mkdir()
        environment = {**os.environ, **variables}
        said = Path(folder) / "said"
        with said.open("w") as file:
            process = subprocess.Popen(
                [control, "-f"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_until_ready(process, control, environment, said)
            yield variables
        finally:
            _quit(process, control, environment)


def _wait_until_ready(
    process: subprocess.Popen[bytes], control: str, environment: dict[str, str], said: Path
) -> None:
    ends = time.monotonic() + START_SECONDS
    while process.poll() is None:
        if _ask(control, environment, "get_server_list"):
            return
        if time.monotonic() > ends:
            raise NotStarted(f"{CONTROL} does not answer after {START_SECONDS:.0f} s")
        time.sleep(0.1)
    lines = said.read_text(errors="replace").strip().splitlines()
    raise NotStarted(f"{CONTROL}: {lines[-1] if lines else f'status {process.returncode}'}")


def _ask(control: str, environment: dict[str, str], command: str) -> bool:
    """Send the daemon a command; returns whether it took it."""
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        done = subprocess.run(
            [control],
            input=f"{command}\n".encode(),
            env=environment,
            capture_output=True,
            timeout=START_SECONDS,
        )
        return done.returncode == 0
    return False


def _quit(process: subprocess.Popen[bytes], control: str, environment: dict[str, str]) -> None:
    """End the daemon and the servers that it has started, by force if they do not."""
    servers = []
    if process.poll() is None:
        servers = psutil.Process(process.pid).children(recursive=True)
        if _ask(control, environment, "quit"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(QUIT_SECONDS)
    process.kill()
    process.wait()
    for server in psutil.wait_procs(servers, timeout=1)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            server.kill()
