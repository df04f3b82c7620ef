"""An MLflow store without studies, which MLflow itself takes seconds to make."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from mlflow import MlflowClient


def empty_store(folder: Path) -> str:
    """Put a SQLite store into a folder, unless it has one; returns its tracking URI."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mlflow.db"
    if not file.exists():
        file.write_bytes(_content())
    return f"sqlite:///{file}"


@cache
def _content() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{file}").search_experiments()
        return file.read_bytes()
