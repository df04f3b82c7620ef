"""What a person calls a model: a folder, a version in the MLflow registry, an id on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from analysis.addresses import address_in, address_of
from analysis.errors import named, without_secret
from analysis.store import open_store, reason
from analysis.stored_files import check_files, files_reached
from analysis.wording import count
from trainables.checkpoint import bring_model, check_checkpoint
from trainables.files import DamagedFileError, damaged_name, tell, whole_folder
from trainables.kept import put_folder

_OF_RUN = "runs:/"


def resolve_model(name: str, uri: str, storage: Path) -> str:
    """A folder or hub id from what a person calls a model.

    A version in the MLflow registry is copied into the storage, once.

    Args:
        name: folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or hub id.
        uri: MLflow tracking URI.
        storage: the storage folder.

    Raises:
        ValueError: there is no such folder or registered model, or it is damaged.
    """
    if name.startswith("models:/"):
        return str(copy_version(find_version(name, uri), uri, storage))
    folder = Path(os.path.expanduser(name))
    if (address := address_in(name)) is not None:
        folder = _in_copy(address, storage)
    if os.path.isdir(folder):  # False also of a name that is too long, and of no user's home
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} is no model: it has no config.json")
        check_checkpoint(folder)
        return str(folder.resolve())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"no model at {name}")
    return name


def _in_copy(address: str, storage: Path) -> Path:
    """The folder in the storage's copy of a model at an address, brought here.

    Raises:
        ValueError: the address is none in the storage's bucket.
    """
    of_storage = address_of(storage)
    if of_storage is None or not address.startswith(f"{of_storage}/"):
        raise ValueError(f"no model at {address}: give the --storage of its study, an address, too")
    folder = storage / address.removeprefix(f"{of_storage}/")
    bring_model(folder)
    return folder


def find_version(name: str, uri: str) -> ModelVersion:
    """The registered version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` stands for.

    Raises:
        ValueError: there is none, or the name is of another form.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", name)
    if match is None:
        raise ValueError(f"{name!r} is not models:/NAME@ALIAS or models:/NAME/VERSION")
    model, alias, version = match.groups()
    with named(name):
        client = open_store(uri)
    try:
        if alias:
            return client.get_model_version_by_alias(model, alias)
        return client.get_model_version(model, version)
    except MlflowException as error:
        raise ValueError(
            f"no model {name} in {without_secret(uri)}: {error.message} (sweeps/promote.py "
            "registers one)"
        ) from error


def copy_version(version: ModelVersion, uri: str, storage: Path) -> Path:
    """The folder of a registered version's copy in the storage; a damaged one is copied again.

    Raises:
        ValueError: its files cannot be had, or are damaged in the registry, too.
        OSError: the copy is there and cannot be read now.
    """
    name = f"{version.name} version {version.version}"
    folder = storage / "models"
    target = folder / f"{version.name}-{version.version}-{version.creation_timestamp}"
    folder.mkdir(parents=True, exist_ok=True)
    aside = None
    bring_model(target)
    if target.exists():
        problem = _problem(target)
        if not problem:
            put_folder(target)
            return _model_in(target)
        aside = damaged_name(target)
        tell(f"{target} is damaged ({problem}): it is copied again, and kept as {aside.name}")
    try:
        source = _place_of(version, uri)
        with whole_folder(target, aside=aside) as partial, files_reached():
            download_artifacts(source, dst_path=str(partial), tracking_uri=uri)
            if problem := _problem(partial):
                raise ValueError(
                    f"{name} is no model that can be opened: {problem} in {version.source}"
                )
    except (MlflowException, OSError) as error:
        why = reason(error) if isinstance(error, MlflowException) else error
        raise ValueError(
            f"the files of {name} cannot be read from {version.source}: {why}"
        ) from error
    put_folder(target)
    return _model_in(target)


def _place_of(version: ModelVersion, uri: str) -> str:
    """Address of a version's files, which can be reached from here.

    Of one that begins with runs:/ MLflow would say no more than that its path may be wrong.

    Raises:
        MlflowException: they cannot be reached.
    """
    source = version.source or ""
    if not source.startswith(_OF_RUN):
        check_files(uri, source)
        return source
    client = MlflowClient(uri)
    run_id, _, path = source.removeprefix(_OF_RUN).partition("/")
    run = client.get_run(run_id)
    check_files(uri, client.get_experiment(run.info.experiment_id).artifact_location)
    return f"{run.info.artifact_uri}/{path}"


def _problem(copy: Path) -> str:
    """Fault of a copy of a version's files, or "" if there is none."""
    configs = list(copy.rglob("config.json"))
    if len(configs) != 1:
        return f"it has {count(len(configs), 'config.json', 'files config.json')}"
    try:
        check_checkpoint(configs[0].parent)
    except DamagedFileError as damaged:
        return damaged.problem
    return ""


def _model_in(copy: Path) -> Path:
    (config,) = copy.rglob("config.json")
    return config.parent
