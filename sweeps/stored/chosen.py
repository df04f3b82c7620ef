"""The run that is meant: the one that is named, or the best of a study's runs of an architecture.

What a sweep found is read back so from Python, too:

    best = best_run("lstm", "mini-mini")
    best.folder.spec.lr, best.folder.outcome.score, best.folder.best_checkpoint
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from analysis import runs
from analysis.errors import without_secret
from analysis.store import open_store, tracking_uri
from analysis.wording import quoted
from sweeps.stored.best import best_trial
from sweeps.stored.trials import resolve_storage
from trainables.checkpoint import TrialFolder, look_at_all

_HASH = re.compile("[0-9a-f]{16}")
"""Of a trial; ids of MLflow's runs are longer."""


@dataclass(frozen=True)
class StudyRun:
    """A finished trial: its study, its MLflow run, its folder."""

    study: str
    run_id: str
    folder: TrialFolder


def best_run(arch: str, study: str | None = None, storage: Path | None = None) -> StudyRun:
    """The best run of an architecture in a study, by the rule of `sweeps.stored.best`.

    Args:
        arch: the architecture.
        study: its name; None for the only one there is.
        storage: folder of the studies' folders; None as for the commands' --storage.

    Raises:
        ValueError: no such storage or study, or no run of the architecture finished.
    """
    storage = resolve_storage(storage, create=False)
    return choose(open_store(tracking_uri(storage)), storage, arch, study, None)


def choose(
    client: MlflowClient, storage: Path, arch: str, study: str | None, run_id: str | None
) -> StudyRun:
    """The run of this id, or the best of the study's runs of an architecture.

    Args:
        client: of the MLflow store.
        storage: folder of the studies' folders.
        arch: the architecture, of a named run as well.
        study: its name; None for that of the run, or the only one there is.
        run_id: see `run_id_of`; None for the best run.

    Raises:
        ValueError: no such study or run, or it did not finish.
    """
    if run_id is not None:
        run_id = run_id_of(client, run_id, study)
    study = study or _default_study(client, run_id)
    trials = runs.trials(client, study)
    look_at_all(storage / study / "trials")
    if run_id is not None:
        row = _named(trials, study, arch, run_id)
    else:
        row = _best(trials, study, arch, storage / study)
    return StudyRun(study, str(row["run_id"]), _folder(storage / study, str(row["spec_hash"])))


def run_id_of(client: MlflowClient, named: str, study: str | None = None) -> str:
    """MLflow's id of a run that is named by it, or by the hash of its trial, which is the same in
    every store.

    Args:
        client: of the MLflow store.
        named: either; what is no trial's hash is given back.
        study: its name; None for any.

    Raises:
        ValueError: trials of several studies have this hash.
    """
    if not _HASH.fullmatch(named):
        return named
    studies = {
        experiment.experiment_id: experiment.name
        for experiment in client.search_experiments()
        if study in (None, experiment.name)
    }
    found = client.search_runs([*studies], f"tags.`babysweep.spec_hash` = '{named}'")
    if len(found) > 1:
        runs = ", ".join(
            f"{run.info.run_id} of {studies[run.info.experiment_id]!r}" for run in found
        )
        raise ValueError(f"--run-id: several runs are of trial {named}: give the id of one: {runs}")
    return found[0].info.run_id if found else named


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
        names = ", ".join(map(quoted, found))
        raise ValueError(f"there are {len(found)} studies: choose --study {names}")
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
            "corpora, between which bits/byte cannot be compared: choose one with --run-id"
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
