"""Whether a folder is the same one on all nodes, and fit for what trials do with it.

Who asks makes a folder in it with a file to be read, a lock that is held, and for each node a
folder in which both sides replace what the other has written. All of it is removed in the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from analysis.whole_files import write_text

HELD, TAKEN = "held", "taken"
"""What became of a try to take a lock: another node has it, or this one has it now."""
_PATIENCE = 5.0
"""Seconds for a file of another node to be seen: network file systems remember what was not there
a moment ago."""
_TOKEN, _LOCK, _GIVEN, _MADE = "token", "lock", "given", "made"


@dataclass(frozen=True)
class FolderUse:
    """What a node could do with the folder.

    Attributes:
        is_there: whether there is a folder of that name.
        is_same: whether it is that of who asks.
        refused: why something in it could not be written or replaced, "" if all could.
        lock: what became of the try to take the lock that who asks holds, or why no lock can be
            had; "" where that was not tried.
        user: number of the user who wrote.
        umask: of the process.
        seconds: that two small files took to be written.
    """

    is_there: bool
    is_same: bool
    refused: str
    lock: str
    user: int
    umask: int
    seconds: float


class SharedFolder:
    """The side of who asks.

    Attributes:
        path: of the folder made in the storage.
        token: what its file says.
        lock: `TAKEN` while it is open, or why no lock can be had.
    """

    def __init__(self, storage: Path) -> None:
        self.path = storage / f".doctor-{uuid.uuid4().hex[:12]}"
        self.token, self.lock = uuid.uuid4().hex, ""

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Make the folder and hold its lock; in the end remove what is allowed to be removed.

        Raises:
            OSError: it cannot be made.
        """
        self.path.mkdir()
        lock = FileLock(self.path / _LOCK, timeout=0)
        try:
            write_text(self.path / _TOKEN, self.token)
            self.lock = _take(lock)
            yield
        finally:
            lock.release()
            shutil.rmtree(self.path, ignore_errors=True)

    def prepare(self, node: str) -> None:
        """Make a node's folder with the file that it is to replace."""
        (self.path / node).mkdir()
        write_text(self.path / node / _GIVEN, self.token)

    def compare(self, node: str) -> str:
        """Read and replace what a node has written; says why that is not possible, "" if it is."""
        file = self.path / node / _MADE / _TOKEN
        try:
            if _seen(file) != self.token:
                return "it is not seen here"
            write_text(file, self.token)
        except OSError as error:
            return _reason(error)
        return ""


def use_folder(path: Path, node: str, token: str) -> FolderUse:
    """Do on a node what trials do in the storage.

    Args:
        path, token: of `SharedFolder`.
        node: name of this node's folder in it.
    """
    umask = _umask()
    is_there, is_same = path.parent.is_dir(), False
    refused = lock = ""
    seconds = 0.0
    try:
        is_same = is_there and _seen(path / _TOKEN) == token
        if is_same:
            started = time.monotonic()
            write_text(path / node / _GIVEN, token)
            (path / node / _MADE).mkdir()
            write_text(path / node / _MADE / _TOKEN, token)
            seconds = time.monotonic() - started
    except OSError as error:
        refused = _reason(error)
    if is_same:
        other = FileLock(path / _LOCK, timeout=0)
        lock = _take(other)
        other.release()
    return FolderUse(is_there, is_same, refused, lock, os.getuid(), umask, seconds)


def clear_folder(path: Path, node: str) -> None:
    """Remove what this node has written, which others may not be allowed to."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path / node / _MADE)


def _seen(file: Path) -> str:
    """Content of a file that may take a while to be seen, "" if it is not."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return file.read_text()
        except FileNotFoundError:
            if time.monotonic() > until:
                return ""
        time.sleep(0.2)


def _take(lock: FileLock) -> str:
    try:
        lock.acquire()
    except Timeout:
        return HELD
    except (OSError, NotImplementedError) as error:  # the latter is the library's for ENOSYS
        return _reason(error)
    return TAKEN


def _umask() -> int:
    """The process's umask, which can only be read by being set."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _reason(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number).lower() if number else str(error)
