"""Files and folders that are there whole or not at all: written aside, then renamed.

A reader never sees half of one, and a kill at any moment leaves at most something whose name begins
with `PARTIAL`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTIAL = ".partial-"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, in place of one that is there."""
    partial = _aside(path)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file, in place of one that is there."""
    write_text(path, json.dumps(values, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: it is damaged; the message names it, and what to do.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(
            f"{path} is damaged ({error}): move it away and run the command again, which makes it "
            "anew, or restore it from a backup"
        ) from error


@contextlib.contextmanager
def whole_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A new folder to fill, which becomes `target` at the end of the `with` block.

    Its files are on the disk before it has the name. After an exception nothing is left of it.

    Args:
        target: in a folder that exists.
        replace: whether it takes the place of a `target` that is there by then. Else that one
            stays: another process was faster.
    """
    partial = _aside(target)
    partial.mkdir()
    try:
        yield partial
        _flush(partial)
        if replace:
            shutil.rmtree(target, ignore_errors=True)
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


def _aside(path: Path) -> Path:
    """Where to write what shall be `path`: nobody else does, on whatever machine."""
    return path.with_name(f"{PARTIAL}{path.name}-{uuid.uuid4().hex[:12]}")


def _flush(folder: Path) -> None:
    """Write the files of a folder to the disk, so that its name never outlives its content."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
