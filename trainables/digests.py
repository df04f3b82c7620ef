"""Digests of a folder's files: whether they are still as they were written.

A JSON file of the folder says that there are some, or one that lost them would count as a folder of
an earlier version, which has none.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from trainables.files import NOT_THERE, DamagedFileError, read_json, reading, write_json

_DIGESTS = "digests.json"
MARK = "has_digests"
"""True in the JSON file that says it."""


def write_digests(folder: Path, *, marked: str) -> None:
    """Write the SHA-256 of every file into the folder, and that it has them into the JSON file of
    this name."""
    write_json(folder / marked, {**read_json(folder / marked, dict[str, Any]), MARK: True})
    files = [file for file in folder.iterdir() if file.is_file()]
    write_json(folder / _DIGESTS, {file.name: _digest(file) for file in files})


def has_digests(folder: Path, *, marked: str) -> bool:
    """Whether the folder's files were written with their digests, lost since or not."""
    try:
        return (folder / _DIGESTS).exists() or _is_marked(folder / marked)
    except DamagedFileError:  # it cannot tell
        return True


def damage(folder: Path, *, holds: str, may_lack: str, marked: str) -> str:
    """The problem with a folder's files, or "" if there is none.

    Of a folder of an earlier version, without digests, only what shows in the JSON files and in the
    headers of safetensors is known.

    Args:
        folder: of a checkpoint.
        holds: name of a file that every such folder has.
        may_lack: name of a file that may have been removed since.
        marked: see `write_digests`.

    Raises:
        OSError: a file is there and cannot be read now, which is no damage.
    """
    try:
        for file in folder.glob("*.json"):
            read_json(file, Any)
        for file in folder.glob("*.safetensors"):
            _check_header(file)
        is_new = has_digests(folder, marked=marked)
        known = read_json(folder / _DIGESTS, dict[str, str]) if is_new else {}
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (DamagedFileError, SafetensorError, *NOT_THERE) as error:
        return str(error).splitlines()[0]
    if lacking := {holds, marked}.difference(known) if is_new else ():
        return f"{_DIGESTS} lacks {min(lacking)}"
    for name, digest in {holds: None, **known}.items():
        file = folder / name
        try:
            with reading(file):
                file.stat()
            if digest is not None and _digest(file) != digest:
                return f"{name} has changed"
        except (ValueError, *NOT_THERE):  # the former of a name that no file can have
            if name != may_lack:
                return f"{name} is missing"
    return ""


def _is_marked(file: Path) -> bool:
    return file.exists() and read_json(file, dict[str, Any]).get(MARK) is True


def _check_header(file: Path) -> None:
    """Raise SafetensorError if the file has no header, or is shorter than its header says."""
    with reading(file):
        file.open("rb").close()  # safetensors calls any file missing that it cannot open
        with safe_open(file, "pt"):
            pass


def _digest(file: Path) -> str:
    with reading(file), file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
