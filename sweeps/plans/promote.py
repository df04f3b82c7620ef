"""Plan of a promotion: which run gets the alias, and what its version is tagged with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

import models
from analysis import runs
from analysis.errors import without_secret
from analysis.store import open_store, tracking_uri
from sweeps.arguments import PromoteArgs
from sweeps.stored.best import best_trial
from sweeps.stored.trials import resolve_storage
from sweeps.stored.versions import (
    WEIGHTS,
    aliases_of,
    failures_named,
    holds,
    logged_files,
    newest_holding,
    tag,
)
from trainables.checkpoint import TrialFolder, check_checkpoint
from trainables.corpus.tokenizer import tokenizer_hash
from trainables.finetune_spec import model_hash
from trainables.progress import Progress

_NAME, _ALIAS = r"\w[\w. -]{,199}", r"\w[\w-]{,199}"
_FILES = (WEIGHTS, "config.json", "tokenizer.json", "spec.json")
_NOT_LOGGED = "optimizer.safetensors"


@dataclass(frozen=True)
class Candidate:
    """The finished trial to promote: its study, its MLflow run, its folder."""

    study: str
    run_id: str
    folder: TrialFolder


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
    choice: Candidate
    name: str
    is_new_model: bool
    tags: dict[str, str]
    before: ModelVersion | None
    held: ModelVersion | None


def plan_promotion(args: PromoteArgs) -> PromotionPlan:
    """Choose the run, and see what the alias points to.

    Raises:
        ValueError: there is nothing to promote, or it should not be; the message says what to do.
    """
    name = args.name or args.arch
    _check_words(args, name)
    storage = resolve_storage(args.storage, create=False)
    client = open_store(tracking_uri(storage))
    with failures_named(client):
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
    if args.arch not in models.architectures():
        known = ", ".join(models.architectures())
        raise ValueError(f"--arch: unknown architecture {args.arch!r}: choose from {known}")
    for flag, value, pattern in (("name", name, _NAME), ("alias", args.alias, _ALIAS)):
        reserved = flag == "alias" and re.fullmatch(r"latest|v\d+", value, re.IGNORECASE)
        if reserved or not re.fullmatch(pattern, value):
            raise ValueError(f"--{flag} {value!r} cannot be used in models:/NAME@ALIAS: change it")


def choose(
    client: MlflowClient, storage: Path, arch: str, study: str | None, run_id: str | None
) -> Candidate:
    """The run of this id, or the best of the study's runs of an architecture.

    Args:
        client: of the MLflow store.
        storage: folder of the studies' folders.
        arch: the architecture, of a named run as well.
        study: its name; None for that of the run, or the only one there is.
        run_id: None for the best run.

    Raises:
        ValueError: no such study or run, or it did not finish.
    """
    study = study or _default_study(client, run_id)
    trials = runs.trials(client, study)
    if run_id is not None:
        row = _named(trials, study, arch, run_id)
    else:
        row = _best(trials, study, arch, storage / study)
    return Candidate(study, str(row["run_id"]), _folder(storage / study, str(row["spec_hash"])))


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
    logged = logged_files(client, choice.run_id)
    if wrong := sorted(name for name, size in there.items() if logged.get(name) != size):
        raise ValueError(
            f"the artifact `model` of run {choice.run_id} lacks {', '.join(wrong)}, or has others "
            f"than {checkpoint}: delete the run in MLflow and run its sweep again, which records it"
            " anew without training"
        )
    return checkpoint


def lineage(choice: Candidate, checkpoint: Path, client: MlflowClient) -> dict[str, str]:
    """Where a checkpoint comes from and how good it is, as tags of its version without the prefix.

    `zero_shot/*` are of the chosen epoch and `final/*` of the end of the sweep, all in percent.
    """
    spec, outcome, run = choice.folder.spec, choice.folder.outcome, client.get_run(choice.run_id)
    assert outcome is not None
    best = Progress(history=list(outcome.history)).best
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
            "their bits per byte cannot be compared; --force replaces it, --name keeps both"
        )
    old, new = float(tag(before, "bits_per_byte")), float(tags["bits_per_byte"])
    if new > old:
        raise ValueError(
            f"{current} is better: {old:.4f} bits/byte, not {new:.4f}; sweep on, or replace it "
            "with --force"
        )


def _default_study(client: MlflowClient, run_id: str | None) -> str:
    if run_id is not None:
        try:
            experiment_id = client.get_run(run_id).info.experiment_id
        except MlflowException as error:
            raise ValueError(
                f"--run-id: no MLflow run {run_id!r} in {without_secret(client.tracking_uri)}: "
                f"copy its id from MLflow's pages ({error.message})"
            ) from error
        return client.get_experiment(experiment_id).name
    found = sorted(
        experiment.name
        for experiment in client.search_experiments()
        if client.search_runs(
            [experiment.experiment_id], "tags.`babysweep.kind` = 'trial'", max_results=1
        )
    )
    if not found:
        raise ValueError(
            f"no study in {without_secret(client.tracking_uri)}: run sweeps/lr_sweep.py "
            "first, or give the --storage that it had"
        )
    if len(found) > 1:
        raise ValueError(f"there are {len(found)} studies: choose --study {', '.join(found)}")
    return found[0]


def _named(trials: pd.DataFrame, study: str, arch: str, run_id: str) -> pd.Series:
    """The row of this run, if it may be promoted."""
    rows = trials[trials["run_id"] == run_id]
    if rows.empty:
        raise ValueError(
            f"run {run_id} is no trial of study {study!r}: leave out --run-id for the best one"
        )
    row = rows.iloc[0]
    if row["arch"] != arch:
        raise ValueError(
            f"run {run_id} is of {row['arch']}, not of {arch}: add --arch {row['arch']}"
        )
    if row["outcome"] == "finished":
        return row
    if pd.isna(row["outcome"]):
        raise ValueError(f"run {run_id} is unfinished: run its sweep again, which continues it")
    how = "was stopped early" if row["outcome"] == "stopped" else row["outcome"]
    raise ValueError(
        f"run {run_id} {how}: only a finished one can be promoted; leave out --run-id for the best"
    )


def _best(trials: pd.DataFrame, study: str, arch: str, folder: Path) -> pd.Series:
    """The row of the study's best run of an architecture."""
    mine = trials[trials["arch"] == arch]
    finished = mine[mine["outcome"] == "finished"]
    if finished.empty:
        counts = mine["outcome"].fillna("unfinished").value_counts()
        others = ", ".join(sorted(trials["arch"].dropna().unique()))
        there = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        raise ValueError(
            f"study {study!r} has no finished run of {arch}: it has "
            f"{there or f'runs of {others}' if others else 'no runs'}. Run the sweep of {arch} "
            "again, or choose another --arch or --study"
        )
    if finished["corpus_hash"].nunique() > 1:
        raise ValueError(
            f"the runs of {arch} in study {study!r} are of {finished['corpus_hash'].nunique()} "
            "corpora, between which bits per byte cannot be compared: choose one with --run-id"
        )
    mine = mine[mine["corpus_hash"] == finished["corpus_hash"].iloc[0]]
    specs = {key: _folder(folder, key).spec for key in mine["spec_hash"]}
    best = best_trial(mine, specs)
    if best is None:
        raise ValueError(
            f"every learning rate of {arch} in study {study!r} diverged on at least one seed: "
            "sweep lower ones, or choose a finished run with --run-id"
        )
    return best


def _folder(study: Path, spec_hash: str) -> TrialFolder:
    folder = TrialFolder(study / "trials" / spec_hash)
    if not folder.path.is_dir():
        raise ValueError(
            f"MLflow has a trial {spec_hash} that is not in {study}: give the --storage of its "
            "sweep"
        )
    return folder
