"""The file of a MLflow store, looked at before MLflow opens it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

_TABLES = {"experiments", "runs", "params", "tags", "metrics", "latest_metrics"}
"""Of MLflow, without which nothing can be read."""
PATIENCE = 5.0
"""Seconds for another process to end its writing."""


def check_database(file: Path) -> None:
    """Check that the file of a SQLite store is a whole database of MLflow, or not there yet.

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
            if tables and not tables & _TABLES:
                raise ValueError(
                    f"{file} is no database of MLflow: move it away, or take another storage"
                )
            problem = _damage(database, tables)
    except sqlite3.Error as error:
        if "locked" in str(error):  # somebody writes: MLflow waits for longer
            return
        problem = str(error)
    if problem:
        raise ValueError(
            f"{file} cannot be read as MLflow's database ({problem}): restore it from a backup, or "
            "move it away: a sweep that runs again makes a new one, and records there what its "
            "trials have found"
        )


def _damage(database: sqlite3.Connection, tables: set[str]) -> str:
    """What is wrong inside a database, "" if nothing is: a page, or a table that it lacks."""
    # Half a second for 100 MB. It says "ok", or a line for each fault.
    ((found,),) = database.execute("PRAGMA quick_check(1)").fetchall()
    if found != "ok":
        return " ".join(str(found).split())
    missing = sorted(_TABLES - tables) if tables else []
    return f"it lacks the table {missing[0]}" if missing else ""
