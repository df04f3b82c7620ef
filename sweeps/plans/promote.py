"""Plan of a promotion: which run gets the alias, and what its version is tagged with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from analysis.flag_values import checked
from analysis.store import explained, open_store, tracking_uri
from sweeps.arguments import PromoteArgs
from sweeps.stored.chosen import StudyRun, choose
from sweeps.stored.trials import resolve_storage
from sweeps.stored.versions import (
    PREFIX,
    WEIGHTS,
    aliases_of,
    holds,
    logged_files,
    newest_holding,
    tag,
)
from trainables.checkpoint import check_checkpoint
from trainables.corpus.tokenizer import tokenizer_hash
from trainables.finetune_spec import model_hash

_NAME, _ALIAS = r"\w[\w. -]{,199}", r"\w[\w-]{,199}"
_FILES = (WEIGHTS, "config.json", "tokenizer.json", "spec.json")
_NOT_LOGGED = "optimizer.safetensors"


@dataclass(frozen=True)
class PromotionPlan:
    """The checkpoint that is to have an alias, with all checked that speaks against it.

    Attributes:
        storage: folder of the studies' folders.
        name: of the registered model.
        is_new_model: whether there is none of this name.
        tags: of its version, see `lineage`.
        before: what the alias points to, if it is there.
        held: the version that holds the checkpoint, `before` itself if that does; None if it is to
            be registered.
    """

    args: PromoteArgs
    client: MlflowClient
    storage: Path
    choice: StudyRun
    name: str
    is_new_model: bool
    tags: dict[str, str]
    before: ModelVersion | None
    held: ModelVersion | None

    @property
    def version_tags(self) -> dict[str, str]:
        """The tags as MLflow has them."""
        return {PREFIX + key: value for key, value in self.tags.items()}


def plan_promotion(args: PromoteArgs) -> PromotionPlan:
    """Choose the run, and see what the alias points to.

    Raises:
        ValueError: there is nothing to promote, or it should not be; the message says what to do.
    """
    args = checked(args)
    name = args.name or args.arch
    _check_words(args, name)
    storage = resolve_storage(args.storage, create=False)
    client = open_store(tracking_uri(storage))
    with explained(client.tracking_uri):
        choice = choose(client, storage, args.arch, args.study, args.run_id)
        checkpoint = check_files(choice, client)
        tags = lineage(choice, checkpoint, client)
        aliases = aliases_of(client, name)
        before, held = None, None
        if aliases is not None and args.alias in aliases:
            before = client.get_model_version(name, str(aliases[args.alias]))
            if holds(client, before, checkpoint, tags["model_hash"]):
                held = before
            elif not args.force:
                _check_better(before, tags, args.alias)
        if aliases is not None and held is None:
            held = newest_holding(client, name, checkpoint, tags["model_hash"])
    return PromotionPlan(args, client, storage, choice, name, aliases is None, tags, before, held)


def _check_words(args: PromoteArgs, name: str) -> None:
    for flag, value, pattern in (("name", name, _NAME), ("alias", args.alias, _ALIAS)):
        reserved = flag == "alias" and re.fullmatch(r"latest|v\d+", value, re.IGNORECASE)
        if reserved or not re.fullmatch(pattern, value):
            raise ValueError(f"--{flag} {value!r} cannot be used in models:/NAME@ALIAS: change it")


def check_files(choice: StudyRun, client: MlflowClient) -> Path:
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
    logged = logged_files(client, choice.run_id)
    if wrong := sorted(name for name, size in there.items() if logged.get(name) != size):
        raise ValueError(
            f"the artifact `model` of run {choice.run_id} lacks {', '.join(wrong)}, or has others "
            f"than {checkpoint}: delete the run in MLflow and run its sweep again, which records it"
            " anew without training"
        )
    return checkpoint


def lineage(choice: StudyRun, checkpoint: Path, client: MlflowClient) -> dict[str, str]:
    """Origin and quality of a checkpoint, as tags of its version without the prefix.

    `zero_shot/*` are of the chosen epoch and `final/*` of the end of the sweep, all in percent.
    """
    spec, outcome, run = choice.folder.spec, choice.folder.outcome, client.get_run(choice.run_id)
    assert outcome is not None
    best = outcome.best
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


def _check_better(before: ModelVersion, tags: dict[str, str], alias: str) -> None:
    """Check that the new checkpoint may take the alias from `before`."""
    current = f"{before.name}@{alias}, version {before.version},"
    if not tag(before, "bits_per_byte"):
        raise ValueError(
            f"{current} has no tags to compare with: it was registered in another way; --force "
            "replaces it"
        )
    if tag(before, "corpus_hash") != tags["corpus_hash"]:
        raise ValueError(
            f"{current} was validated on another corpus ({tag(before, 'corpus')} "
            f"{tag(before, 'corpus_hash')[:8]}, not {tags['corpus']} {tags['corpus_hash'][:8]}): "
            "their bits/byte cannot be compared; --force replaces it, --name keeps both"
        )
    old, new = float(tag(before, "bits_per_byte")), float(tags["bits_per_byte"])
    if new > old:
        raise ValueError(
            f"{current} is better: {old:.4f} bits/byte, not {new:.4f}; add trials to the sweep, or "
            "replace it with --force"
        )
