"""The file of a MLflow store, looked at before MLflow opens it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

_TABLE = "experiments"
PATIENCE = 5.0
"""Seconds for another process to end its writing."""


def check_database(file: Path) -> None:
    """Check that the file of a SQLite store is a database of MLflow, or not there yet.

    MLflow itself answers with a traceback, or tries a folder again for minutes.

    Raises:
        ValueError: it is something else; the message says what to do.
    """
    if not file.exists():
        return
    if file.is_dir():
        raise ValueError(f"{file} is a folder, not MLflow's database: move it away")
    # Only who may write can take back what a killed process left half written.
    mode = "rw" if os.access(file, os.W_OK) and os.access(file.parent, os.W_OK) else "ro"
    try:
        place = f"{file.resolve().as_uri()}?mode={mode}"
        with contextlib.closing(sqlite3.connect(place, timeout=PATIENCE, uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        if "locked" in str(error):  # somebody writes: MLflow waits for longer
            return
        raise ValueError(
            f"{file} cannot be read as MLflow's database ({error}): restore it from a backup, or "
            "move it away: a sweep that runs again makes a new one, and records there what its "
            "trials have found"
        ) from error
    if tables and _TABLE not in tables:
        raise ValueError(f"{file} is no database of MLflow: move it away, or take another storage")
