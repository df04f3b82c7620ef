"""Folders that a command writes to, checked before anything is spent."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def writable_folder(path: Path, flag: str) -> Path:
    """A folder that files can be written to, made if it is not there.

    Args:
        path: of the folder.
        flag: what named it, for errors.

    Raises:
        ValueError: it cannot be one; the message names flag, place and reason.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        reason = _file_in_the_way(path) or os.strerror(error.errno or 0).lower()
        raise ValueError(
            f"{flag} {path} cannot be written to ({reason}): give a folder that can"
        ) from None


def _file_in_the_way(path: Path) -> str:
    for part in (path, *path.parents):
        try:
            if part.exists() and not part.is_dir():
                return "it is a file" if part == path else f"{part} is a file"
        except OSError:  # a name too long, or a folder that may not be looked into
            return ""
    return ""
