"""Whether processes end that are not this one's children."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

SECONDS = 30.0


def until(condition: Callable[[], bool]) -> None:
    """Wait, but not for ever."""
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether there is such a process, which has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(note: Path) -> None:
    """None is left of the processes whose numbers are in a file."""
    for pid in map(int, note.read_text().split()):
        until(lambda pid=pid: not runs(pid))


def python_that(lines: str, folder: Path) -> str:
    """A file to set for `sys.executable`: it runs these lines, whatever it is asked to run.

    `note(*pids)` writes such a file as `assert_gone` reads, "note" in the folder.
    """
    file = folder / "python"
    file.write_text(f"""#!{sys.executable}
import os, signal, subprocess, sys, time

def note(*pids):
    with open({str(folder / "new")!r}, "w") as new:
        new.write(" ".join(map(str, pids)))
    os.rename(new.name, {str(folder / "note")!r})

{lines}
""")
    file.chmod(0o755)
    return str(file)
