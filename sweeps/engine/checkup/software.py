"""Python, packages and source files of the machine that this runs on.

Nothing is imported for it: a node answers though it lacks what trials import.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

COMPUTING = (
    *("torch", "triton", "transformers", "tokenizers", "flash-linear-attention", "fla-core"),
    *("xlstm", "mamba-ssm", "causal-conv1d", "numpy", "safetensors"),
)
"""Packages whose version may change what a trial computes."""
RECORDING = ("ray", "mlflow", "pandas", "pyarrow", "datasets", "filelock")
"""Packages that run and record it."""
ROOT = Path(__file__).resolve().parents[3]
_PARTS = ("analysis", "models", "sweeps", "trainables")
_SOURCES = {".py", ".cpp", ".h"}


@dataclass(frozen=True)
class Software:
    """What computes and records on a machine.

    Attributes:
        python: its version.
        packages: by name, the versions of those of `COMPUTING` and `RECORDING` that are installed.
        root: folder of the project.
        sources: by path in it, digests of the project's files.
        settings: by name, the values of environment variables that are set.
    """

    python: str
    packages: dict[str, str]
    root: str
    sources: dict[str, str]
    settings: dict[str, str]


def look_at_software(variables: Sequence[str], root: Path = ROOT) -> Software:
    """Find out what this process would train with.

    Args:
        variables: names of environment variables that change how a trial computes.
        root: folder of the project.
    """
    return Software(
        platform.python_version(),
        {name: version for name in (*COMPUTING, *RECORDING) if (version := _version(name))},
        str(root),
        _digests(root),
        {name: value for name in variables if (value := os.environ.get(name))},
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _digests(root: Path) -> dict[str, str]:
    files = (file for part in _PARTS for file in (root / part).rglob("*"))
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        for file in sorted(files)
        if file.suffix in _SOURCES
    }
