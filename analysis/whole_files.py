"""Files that are there whole or not at all: written aside, then renamed.

A reader never sees half of one, and a kill at any moment leaves at most a file whose name begins
with `PARTIAL`.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial-"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the path of a file to write, which takes the place of `path` at the block's end.

    After an exception nothing is left of it.
    """
    partial = temporary_path(path)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, in place of one that is there."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def temporary_path(path: Path) -> Path:
    """A path at which to write what shall be `path`: nobody else does, on whatever machine."""
    return path.with_name(f"{PARTIAL}{path.name}-{uuid.uuid4().hex[:12]}")
