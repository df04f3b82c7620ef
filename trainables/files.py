"""Files and folders that are there whole or not at all: written aside, then renamed.

A reader never sees half of one, and a kill at any moment leaves at most something whose name begins
with `PARTIAL`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from analysis.schema.typed import parse_json, typed
from analysis.whole_files import PARTIAL, temporary_path, write_text

DAMAGED = "damaged-"
_LOG = logging.getLogger(__name__)
Content = TypeVar("Content")


def write_json(path: Path, values: object) -> None:
    """Write a JSON file, in place of one that is there."""
    write_text(path, json.dumps(values, indent=1, sort_keys=True) + "\n")


class DamagedFileError(ValueError):
    """A file does not hold what it was written to hold.

    Attributes:
        problem: what is wrong with it.
    """

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"{path} is damaged ({problem}): {remedy}")
        self.problem = problem


class NoFileError(OSError):
    """Under the name of a file is something else, which cannot be read as one."""


_NO_FILE = (errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG)
"""A folder, a link in a circle, a socket; or no file can have the name."""
NOT_THERE = (FileNotFoundError, NotADirectoryError, NoFileError)
"""OSErrors, of `reading`, that say what is on the disk. Any other says that it cannot be known
now."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Let an error of the `with` block that is none of the file's content name the file.

    Raises:
        NoFileError: it is no file.
        OSError: it cannot be read, for want of memory, too.
    """
    try:
        yield
    except MemoryError as error:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(path)) from error
    except OSError as error:
        if error.errno in _NO_FILE:
            raise NoFileError(error.errno, error.strerror, str(path)) from error
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let an error of the system, a full disk for example, be an OSError also where the libraries
    of the `with` block, of tokenizers and safetensors, only tell of it in the text of their own.

    Raises:
        OSError: something in `path` cannot be written.
    """
    try:
        yield
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None or isinstance(error, OSError):
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


_REMEDY = "move it away and run the command again, which makes it anew, or restore it from a backup"


def read_json(path: Path, kind: type[Content], *, remedy: str = _REMEDY) -> Content:
    """Read a JSON file.

    Args:
        path: of the file.
        kind: what it is to be; see `typed`.
        remedy: what to do about a damaged one.

    Raises:
        DamagedFileError: it is no JSON, or of another shape; the message names it, and what to do.
        OSError: it cannot be read.
    """
    try:
        with reading(path):
            content: Content = typed(parse_json(path.read_text(encoding="utf-8")), kind)
        return content
    except (ValueError, NoFileError) as error:  # of JSON, of UTF-8, of the shape
        problem = str(error).splitlines()[0]
        raise DamagedFileError(path, problem, remedy) from error


def read_or_set_aside(path: Path, kind: type[Content], default: Content, *, then: str) -> Content:
    """Read a JSON file that the command can do without.

    Args:
        path: of the file.
        kind: what it is to be; see `typed`.
        default: what is taken where there is no file, or a damaged one, which is set aside.
        then: what becomes of what it held, for the person at the command.

    Raises:
        OSError: it cannot be read.
    """
    if not path.exists():
        return default
    try:
        return read_json(path, kind)
    except DamagedFileError as damaged:
        aside = set_aside(path)
        tell(f"{path} is damaged ({damaged.problem}): it is now called {aside.name}, and {then}")
        return default


def read_if_sound(path: Path, kind: Any) -> Any:
    """The content of a JSON file that one can do without; None if it is not there, or damaged."""
    try:
        return read_json(path, kind)
    except (DamagedFileError, *NOT_THERE):
        return None


def damaged_name(path: Path) -> Path:
    """A new name, beside its place, for a damaged file or folder."""
    return path.with_name(f"{DAMAGED}{path.name}-{uuid.uuid4().hex[:8]}")


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder, which is kept beside its place; returns the new path."""
    aside = damaged_name(path)
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        path.rename(aside)
    return aside


def write_json_again(path: Path, values: object) -> None:
    """Write a damaged JSON file again and keep it beside its place, whose name is never absent."""
    if path.is_dir():
        set_aside(path)  # what a file cannot take the place of
    elif path.exists():
        shutil.copyfile(path, damaged_name(path))
    write_json(path, values)


@functools.cache
def tell(sentence: str) -> None:
    """Tell the person at the command, on stderr and once, what was mended without being asked."""
    _LOG.warning(sentence)


@contextlib.contextmanager
def whole_folder(
    target: Path, *, replace: bool = False, aside: Path | None = None
) -> Iterator[Path]:
    """A new folder to fill, which becomes `target` at the end of the `with` block.

    Its files are on the disk before it has the name. After an exception nothing is left of it.

    Args:
        target: in a folder that exists.
        replace: whether it takes the place of a `target` that is there by then. Else that one
            stays: another process was faster.
        aside: where a damaged `target` goes, at the last moment: others may be reading it.
    """
    partial = temporary_path(target)
    partial.mkdir()
    try:
        yield partial
        _flush(partial)
        if replace:
            shutil.rmtree(target, ignore_errors=True)
        if aside is not None:
            with contextlib.suppress(FileNotFoundError):
                target.rename(aside)
        try:
            partial.rename(target)
        except OSError:  # a folder that has files: of what kind the error is depends on the system
            if replace or not target.is_dir():
                raise
            shutil.rmtree(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_partial(folder: Path, name: str = "") -> None:
    """Remove what killed processes left half written in a folder.

    Args:
        folder: where nobody writes now; the caller holds its lock.
        name: of the files or folders that were to be; by default all.
    """
    for leftover in folder.glob(f"{PARTIAL}{name}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _flush(folder: Path) -> None:
    """Write the files of a folder to the disk, so that its name never outlives its content."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
