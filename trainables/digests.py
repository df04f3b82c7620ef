"""Digests of a folder's files: whether they are still as they were written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from trainables.files import NOT_THERE, Damaged, read_json, reading, write_json

_DIGESTS = "digests.json"


def write_digests(folder: Path) -> None:
    """Write the SHA-256 of every file into the folder."""
    files = [file for file in folder.iterdir() if file.is_file()]
    write_json(folder / _DIGESTS, {file.name: _digest(file) for file in files})


def has_digests(folder: Path) -> bool:
    """Whether the folder's files were written with their digests."""
    return (folder / _DIGESTS).exists()


def damage(folder: Path, *, holds: str, may_lack: str) -> str:
    """The problem with a folder's files, or "" if there is none.

    Of a folder of an earlier version, without digests, only what shows in the JSON files and in the
    headers of safetensors is known.

    Args:
        folder: of a checkpoint.
        holds: name of a file that every such folder has.
        may_lack: name of a file that may have been removed since.

    Raises:
        OSError: a file is there and cannot be read now, which is no damage.
    """
    try:
        for file in folder.glob("*.json"):
            read_json(file, Any)
        for file in folder.glob("*.safetensors"):
            _check_header(file)
        known = read_json(folder / _DIGESTS, dict[str, str]) if has_digests(folder) else {}
    except (Damaged, SafetensorError, *NOT_THERE) as error:
        return str(error).splitlines()[0]
    for name, digest in {holds: None, **known}.items():
        file = folder / name
        try:
            file.stat()
            if digest is not None and _digest(file) != digest:
                return f"{name} has changed"
        except NOT_THERE:
            if name != may_lack:
                return f"{name} is missing"
    return ""


def _check_header(file: Path) -> None:
    """Raises SafetensorError if the file has none, or is shorter than it says."""
    with reading(file):
        file.open("rb").close()  # safetensors calls any file missing that it cannot open
        with safe_open(file, "pt"):
            pass


def _digest(file: Path) -> str:
    with reading(file), file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
