"""Promote a run: its checkpoint becomes a version of a registered model, and gets the alias.

A version's source is the artifact `model` that the trial logged; its tags say where it comes from
(`lineage`), and are what later promotions are compared with.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import models
from analysis.config_file import save_config
from analysis.errors import without_secret
from analysis.schema.axes import short
from analysis.store import open_store, reason, tracking_uri
from sweeps.arguments import PromoteArgs
from sweeps.stored.best import Candidate, choose
from sweeps.stored.trials import resolve_storage
from trainables.checkpoint import check_checkpoint
from trainables.corpus.tokenizer import tokenizer_hash
from trainables.finetune_spec import model_hash
from trainables.progress import TrialProgress

_PREFIX = "babysweep."
_NAME, _ALIAS = r"\w[\w. -]{,199}", r"\w[\w-]{,199}"
_WEIGHTS = "model.safetensors"
_FILES = (_WEIGHTS, "config.json", "tokenizer.json", "spec.json")
_NOT_LOGGED = "optimizer.safetensors"


@dataclass(frozen=True)
class Promotion:
    """The version that an alias pointed to, and the one that it points to now.

    Attributes:
        before: None if the model had no such alias; `after` itself if nothing changed.
        is_new: whether `after` was registered by this promotion.
    """

    before: ModelVersion | None
    after: ModelVersion
    is_new: bool = False


def promote(args: PromoteArgs) -> Promotion:
    """Register the checkpoint of the chosen run, unless it is, and move the alias to it.

    Raises:
        ValueError: there is nothing to promote, or it should not be; the message says what to do.
    """
    if args.arch not in models.architectures():
        known = ", ".join(models.architectures())
        raise ValueError(f"--arch: unknown architecture {args.arch!r}: choose from {known}")
    name = args.name or args.arch
    for flag, value, pattern in (("name", name, _NAME), ("alias", args.alias, _ALIAS)):
        reserved = flag == "alias" and re.fullmatch(r"latest|v\d+", value, re.IGNORECASE)
        if reserved or not re.fullmatch(pattern, value):
            raise ValueError(f"--{flag} {value!r} cannot be used in models:/NAME@ALIAS: change it")
    storage = resolve_storage(args.storage, create=False)
    uri = tracking_uri(storage)
    client = open_store(uri)
    try:
        choice = choose(client, storage, args.arch, args.study, args.run_id)
        checkpoint = check_files(choice, client)
        tags = lineage(choice, checkpoint, client)
        aliases = _aliases(client, name)
        before = None
        if args.alias in aliases:
            before = client.get_model_version(name, str(aliases[args.alias]))
            if _holds(client, before, checkpoint, tags["model_hash"]):
                return Promotion(before, before)
            if not args.force:
                _check_better(before, tags, args.alias)
        after = _registered(client, name, checkpoint, tags["model_hash"])
        is_new = after is None
        if after is None:
            after = client.create_model_version(
                name,
                source=f"runs:/{choice.run_id}/model",
                run_id=choice.run_id,
                tags={_PREFIX + key: value for key, value in tags.items()},
            )
        client.set_registered_model_alias(name, args.alias, str(after.version))
        save_config(storage / choice.study, args)
    except MlflowException as error:
        raise ValueError(f"MLflow ({without_secret(uri)}): {reason(error)}") from error
    return Promotion(before, after, is_new)


def check_files(choice: Candidate, client: MlflowClient) -> Path:
    """The folder of the best checkpoint, whose files are all there and in MLflow.

    Raises:
        ValueError: some are not; the message says how to get them back.
    """
    folder = choice.folder
    if folder.outcome is None:
        raise ValueError(f"{folder.path} has no outcome.json: run its sweep again to complete it")
    checkpoint = folder.best_checkpoint
    if missing := [name for name in _FILES if not (checkpoint / name).is_file()]:
        raise ValueError(
            f"the checkpoint {checkpoint} lacks {', '.join(missing)}: restore it from the artifact "
            f"`model` of run {choice.run_id}, or promote another run with --run-id"
        )
    check_checkpoint(checkpoint)
    there = {file.name: file.stat().st_size for file in checkpoint.iterdir()}
    there.pop(_NOT_LOGGED, None)
    logged = _logged(client, choice.run_id)
    if wrong := sorted(name for name, size in there.items() if logged.get(name) != size):
        raise ValueError(
            f"the artifact `model` of run {choice.run_id} lacks {', '.join(wrong)}, or has others "
            f"than {checkpoint}: delete the run in MLflow and run its sweep again, which records it"
            " anew without training"
        )
    return checkpoint


def lineage(choice: Candidate, checkpoint: Path, client: MlflowClient) -> dict[str, str]:
    """Origin and quality of a checkpoint, as tags of its version without the prefix.

    `zero_shot/*` are of the chosen epoch and `final/*` of the end of the sweep, all in percent.
    """
    spec, outcome, run = choice.folder.spec, choice.folder.outcome, client.get_run(choice.run_id)
    assert outcome is not None
    best = TrialProgress(history=list(outcome.history)).best
    assert best is not None
    scores = (best.scores or {}).get("benchmarks", {})
    final = {key: x for key, x in run.data.metrics.items() if key.startswith("final/")}
    tags = {
        "study": choice.study,
        "run_id": choice.run_id,
        "spec_hash": spec.hash,
        "spec": spec.canonical,
        "bits_per_byte": best.bits_per_byte,
        "epoch": best.epoch,
        "macro": best.macro,
        **{f"zero_shot/{benchmark}": score for benchmark, score in scores.items()},
        **final,
        "commit": run.data.tags.get("mlflow.source.git.commit", ""),
        "corpus": spec.corpus,
        "corpus_hash": spec.corpus_hash,
        "tokenizer_hash": tokenizer_hash(checkpoint),
        "model_hash": model_hash(checkpoint),
        "teacher": spec.teacher,
        "teacher_name": spec.teacher_name,
        "init": spec.init,
    }
    return {key: str(value) for key, value in tags.items() if value not in (None, "")}


def show_promotion(promotion: Promotion, alias: str, console: Console) -> None:
    """Print both versions side by side, and what became of the alias."""
    before, after = promotion.before, promotion.after
    versions = {"now": after}
    if before is not None and before is not after:
        versions = {"before": before, "now": after}
    table = Table(header_style="bold")
    table.add_column()
    for title, version in versions.items():
        table.add_column(f"{title}: version {version.version}", overflow="fold")
    for row in zip(*(_cells(version) for version in versions.values()), strict=True):
        table.add_row(row[0][0], *(escape(value) for _, value in row))
    console.print(table)
    uri = f"models:/{after.name}@{alias}"
    if before is after:
        sentence = f"{uri} is this checkpoint already: nothing changed."
    else:
        kind = "a new version" if promotion.is_new else "registered earlier"
        sentence = f"{uri} is version {after.version} now, {kind}."
    console.print(escape(sentence), highlight=False, soft_wrap=True)


def _cells(version: ModelVersion) -> list[tuple[str, str]]:
    """The rows of the table: what a version was tagged with, "-" for what it was not."""
    spec = json.loads(_tag(version, "spec") or "{}")
    created = datetime.fromtimestamp(version.creation_timestamp / 1000).astimezone()
    figures = {}
    for name, digits in (("bits_per_byte", 4), ("macro", 1)):
        value = _tag(version, name)
        figures[name] = f"{float(value):.{digits}f}" if value else "-"
    return [
        ("run", version.run_id or "-"),
        ("lr", short(spec["lr"]) if spec else "-"),
        ("seed", str(spec.get("seed", "-"))),
        ("epochs", f"{_tag(version, 'epoch') or '-'} of {spec.get('epochs', '-')}"),
        ("bits/byte", figures["bits_per_byte"]),
        ("macro", figures["macro"]),
        ("corpus", f"{_tag(version, 'corpus') or '-'} {_tag(version, 'corpus_hash')[:8]}".strip()),
        ("commit", _tag(version, "commit")[:10] or "-"),
        ("date", created.strftime("%Y-%m-%d %H:%M")),
    ]


def _tag(version: ModelVersion, key: str) -> str:
    return version.tags.get(_PREFIX + key, "")


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """The aliases of a registered model, which is created if new."""
    try:
        return dict(client.get_registered_model(name).aliases)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    return dict(client.create_registered_model(name).aliases)


def _check_better(before: ModelVersion, tags: dict[str, str], alias: str) -> None:
    """Check that the new checkpoint may take the alias from `before`."""
    current = f"{before.name}@{alias}, version {before.version},"
    if not _tag(before, "bits_per_byte"):
        raise ValueError(
            f"{current} has no tags to compare with: it was registered in another way; --force "
            "replaces it"
        )
    if _tag(before, "corpus_hash") != tags["corpus_hash"]:
        raise ValueError(
            f"{current} was validated on another corpus ({_tag(before, 'corpus')} "
            f"{_tag(before, 'corpus_hash')[:8]}, not {tags['corpus']} {tags['corpus_hash'][:8]}): "
            "their bits per byte cannot be compared; --force replaces it, --name keeps both"
        )
    old, new = float(_tag(before, "bits_per_byte")), float(tags["bits_per_byte"])
    if new > old:
        raise ValueError(
            f"{current} is better: {old:.4f} bits/byte, not {new:.4f}; sweep on, or replace it "
            "with --force"
        )


def _registered(
    client: MlflowClient, name: str, checkpoint: Path, model: str
) -> ModelVersion | None:
    """The newest version that holds the checkpoint."""
    condition = f"name = '{name}' and tags.`{_PREFIX}model_hash` = '{model}'"
    versions = client.search_model_versions(condition)
    held = [version for version in versions if _holds(client, version, checkpoint, model)]
    return max(held, key=lambda version: int(version.version), default=None)


def _holds(client: MlflowClient, version: ModelVersion, checkpoint: Path, model: str) -> bool:
    """Whether a version is of this model hash, and its weights are still in MLflow."""
    if _tag(version, "model_hash") != model:
        return False
    return _logged(client, version.run_id).get(_WEIGHTS) == (checkpoint / _WEIGHTS).stat().st_size


def _logged(client: MlflowClient, run_id: str | None) -> dict[str, int | None]:
    """Sizes in bytes of the files in a run's artifact `model`; none if the run is gone."""
    try:
        files = client.list_artifacts(run_id or "", "model")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {PurePosixPath(file.path).name: file.file_size for file in files}
