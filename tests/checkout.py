"""A checkout of the project as git has it, and what lies about in people's checkouts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import ROOT

LARGE = 300 * 2**20
"""Bytes of each thing that lies about; nothing on the disk, since they are zeros."""
PACKAGES = ("analysis", "models", "sweeps", "trainables")


def tracked(*folders: str) -> set[str]:
    """The files of these folders, by default all, that are in git's index."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git's")
    words = ["git", "ls-files", "-z", *folders]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


def crowded_checkout(folder: Path) -> Path:
    """Make a checkout in which data, results, models and environments lie in every folder."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    _large(folder / "my runs" / "study" / "trials" / "1a2b" / "model.safetensors")
    _large(folder / "my-env" / "lib" / "torch" / "__init__.py")
    (folder / "my-env" / "src").mkdir()
    places = [folder, *(Path(path) for name in PACKAGES for path, *_ in os.walk(folder / name))]
    for place in places:
        for name in ("text.txt", "Untitled.ipynb", ".swp", "blob", "of_mine/table.csv"):
            _large(place / name)
        _large(place / "env" / "lib" / "library.py")
    return folder


def _large(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, LARGE)
