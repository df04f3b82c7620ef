"""Whether MLflow answers the machine that this runs on, and takes its artifacts."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from analysis.errors import without_secret
from analysis.store import open_store, reason, server_version, short_timeouts
from analysis.stored_files import files_reached, limit_waits
from analysis.whole_files import write_text

HERE = "here"
"""Name of the artifact of who asks, which every node reads."""
_DEFAULT = "0"
"""MLflow's first experiment, whose artifacts lie where those of new studies will."""


@dataclass(frozen=True)
class StoreUse:
    """What MLflow answered.

    Attributes:
        problem: why it cannot be used, "" if it can.
        seconds: that one request took.
        server: its version, "" where that cannot be known.
        artifacts: why artifacts cannot be written and read back, "" if they can.
        left: an artifact that could not be removed, "" for none.
    """

    problem: str
    seconds: float = 0.0
    server: str = ""
    artifacts: str = ""
    left: str = ""


def use_store(uri: str, place: str, name: str) -> StoreUse:
    """Ask MLflow for something, and log a small artifact as a trial would.

    Args:
        uri: of the store.
        place: of `artifact_place`, "" to log none.
        name: of this node's artifact, or `HERE`, which stays until `remove_artifacts`.
    """
    try:
        client = open_store(uri)
        with short_timeouts():
            started = time.monotonic()
            client.search_experiments(max_results=1)
            seconds = time.monotonic() - started
    except (ValueError, MlflowException) as error:
        return StoreUse(problem=without_secret(str(error)))
    server = _version(uri)
    if not place:
        return StoreUse("", seconds, server)
    with short_timeouts():
        problem, left = _try_artifacts(uri, place, name)
    return StoreUse("", seconds, server, problem, left)


def artifact_place(uri: str, folder: str) -> str:
    """Address of a folder beside the artifacts of studies; "" where none is to be tried: those of a
    SQLite store lie in the storage, and a server that does not answer has no place.

    Args:
        uri: of the store.
        folder: its name.
    """
    if not uri.startswith("http"):
        return ""
    try:
        with short_timeouts():
            location = MlflowClient(uri).get_experiment(_DEFAULT).artifact_location
    except MlflowException:  # is said by `use_store`, or there is no such experiment any more
        return ""
    return f"{location.rstrip('/')}/{folder}" if location else ""


def remove_artifacts(uri: str, place: str) -> str:
    """Remove what was logged to a place; says what is left if it cannot be, else ""."""
    limit_waits()
    try:
        with short_timeouts(), files_reached():
            location, _, folder = place.rpartition("/")
            repository: Any = get_artifact_repository(location, tracking_uri=uri)
            repository.delete_artifacts(folder)
    except Exception as error:  # each kind of place has its own
        return f"{without_secret(place)} ({reason(error)})"
    return ""


def _try_artifacts(uri: str, place: str, name: str) -> tuple[str, str]:
    """Why artifacts cannot be had at a place, and what is left there."""
    own = f"{name}.txt"
    limit_waits()
    try:
        repository: Any = get_artifact_repository(place, tracking_uri=uri)
        with tempfile.TemporaryDirectory() as folder, files_reached():
            file = Path(folder) / own
            write_text(file, name)
            repository.log_artifact(str(file))
            for each, text in ((own, name), (f"{HERE}.txt", HERE)):
                copy = Path(folder) / "read"
                copy.mkdir(exist_ok=True)
                read = Path(repository.download_artifacts(each, str(copy)))
                if read.read_text() != text:
                    return f"what was logged as {each} is not what is read", ""
    except Exception as error:  # each kind of place has its own
        return reason(error), ""
    if name == HERE:
        return "", ""
    try:
        with files_reached():
            repository.delete_artifacts(own)
    except Exception as error:
        return "", f"{without_secret(place)}/{own} ({reason(error)})"
    return "", ""


def _version(uri: str) -> str:
    try:
        with short_timeouts():
            return server_version(uri) if uri.startswith("http") else ""
    except MlflowException:  # a service that is no server of MLflow's own need not tell
        return ""
