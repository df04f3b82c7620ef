"""Versions of registered models: how promotions tag them, and which checkpoint each holds."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

PREFIX = "babysweep."
"""Of the tags that say where a version comes from."""
WEIGHTS = "model.safetensors"
"""A checkpoint's file of parameters."""


def tag(version: ModelVersion, key: str) -> str:
    """A tag that a version got from its promotion, "" for none."""
    return version.tags.get(PREFIX + key, "")


def aliases_of(client: MlflowClient, name: str) -> dict[str, str] | None:
    """The aliases of a registered model and their versions; None if there is no such model."""
    try:
        return dict(client.get_registered_model(name).aliases)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    return None


def newest_holding(
    client: MlflowClient, name: str, checkpoint: Path, model: str
) -> ModelVersion | None:
    """The newest version that holds the checkpoint."""
    condition = f"name = '{name}' and tags.`{PREFIX}model_hash` = '{model}'"
    versions = client.search_model_versions(condition)
    held = [version for version in versions if holds(client, version, checkpoint, model)]
    return max(held, key=lambda version: int(version.version), default=None)


def holds(client: MlflowClient, version: ModelVersion, checkpoint: Path, model: str) -> bool:
    """Whether a version is of this model hash, and its weights are still in MLflow."""
    if tag(version, "model_hash") != model:
        return False
    size = (checkpoint / WEIGHTS).stat().st_size
    return logged_files(client, version.run_id).get(WEIGHTS) == size


def logged_files(client: MlflowClient, run_id: str | None) -> dict[str, int | None]:
    """Sizes in bytes of the files in a run's artifact `model`; none if the run is gone."""
    try:
        files = client.list_artifacts(run_id or "", "model")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {PurePosixPath(file.path).name: file.file_size for file in files}
