"""A study as MLflow holds it: its trials, what they measured, and which of them belong together."""

from __future__ import annotations

import contextlib
import json
import math
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from analysis import runs
from analysis.benchmarks import SuiteScores
from analysis.benchmarks.suite import FinalScores, Scores, macro_chance
from analysis.errors import without_secret
from analysis.points import point_keys
from analysis.schema.axes import AXES
from analysis.schema.milestone import MilestoneReport
from analysis.schema.typed import parse_json, typed
from analysis.store import open_store
from analysis.stored_files import check_files, files_reached
from analysis.wording import as_flag, count, quoted

_RESULTS = {
    *("run_id", "spec_hash", "name", "parent", "commit", "reason", "outcome", "status"),
    *("best_epoch", "bits_per_byte", "macro", "has_final", "has_milestones"),
}
_FACTS = {
    *("total_steps", "params", "params_non_embedding", "vocab_size", "train_tokens", "train_words"),
    *("tokenizer_hash", "flops_per_token", "began_step", "hardware", "software"),
    *("arithmetic", "kernels", "step"),
}
RECORDED = _RESULTS | _FACTS
"""Columns of `runs.trials` that are no part of a trial's spec."""
_MILESTONE = re.compile(r"scores/words-(\d+)\.json")
_NAMES = {"corpus", "teacher_name"}
_OF_ARCH = ("precision", "revision")
"""Parameters that go with an architecture and a device."""
DISTILLATION = ("teacher", "teacher_name", "alpha", "temperature", "reverse_kl")
"""Parameters of a student that its control has not."""
LENGTH = ("epochs", "schedule", "warmup", "warmup_steps", "decay")
"""Parameters in which the trials of an epoch study differ."""


class OldScoresError(ValueError):
    """Scores of a version that kept no items: they cannot be compared item by item."""


@dataclass(frozen=True)
class Study:
    """One experiment of an MLflow store.

    Attributes:
        name: of the experiment.
        uri: of the store.
        ui: address of MLflow's web pages, without a slash at the end.
        experiment_id: MLflow's.
        trials: see `runs.trials`.
        unrecorded: how many runs are missing there, see `runs.count_unrecorded`.
        epochs: see `runs.epochs`, with the `tokens` seen and the `hours` spent until then.
    """

    name: str
    uri: str
    ui: str
    experiment_id: str
    trials: pd.DataFrame
    epochs: pd.DataFrame
    unrecorded: int = 0

    @classmethod
    def open(cls, uri: str, name: str, ui: str) -> Study:
        """Read a study.

        Raises:
            ValueError: the store has no such study, or it has no trial.
        """
        client = open_store(uri)
        trials = runs.trials(client, name)
        if trials.empty:
            raise ValueError(
                f"study {name!r} in {without_secret(uri)} has no trial yet: run "
                f"sweeps/lr_sweep.py {as_flag('study', quoted(name))}"
            )
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None  # it has trials
        check_files(uri, experiment.artifact_location)
        epochs = _with_costs(runs.epochs(client, name), trials)
        unrecorded = runs.count_unrecorded(client, name)
        return cls(name, uri, ui.rstrip("/"), experiment.experiment_id, trials, epochs, unrecorded)

    def of_runs(self, run_ids: Iterable[str]) -> Study:
        """The same study with these trials only."""
        return replace(self, trials=self.trials[self.trials["run_id"].isin(list(run_ids))])

    @cached_property
    def client(self) -> MlflowClient:
        """A client of the store."""
        return MlflowClient(self.uri)

    def link(self, run_id: str) -> str:
        """Address of a run in MLflow's web pages."""
        page = f"{self.ui}/#/experiments/{self.experiment_id}/runs/{run_id}"
        return f"{page}?workflowType=machine_learning"

    def scores(self, run_id: str, epoch: int) -> Scores | None:
        """Scores of a run after an epoch, see `scores_of_run`."""
        return scores_of_run(self.client, run_id, epoch)

    def milestones(self, run_id: str) -> dict[int, MilestoneReport]:
        """What was measured of a run on the way, see `milestones_of_run`."""
        return milestones_of_run(self.client, run_id)


def scores_of_run(client: MlflowClient, run_id: str, epoch: int) -> Scores | None:
    """Scores of a trial after an epoch (`SuiteScores.to_dict()`); None without benchmarks.

    Raises:
        ValueError: the scores are damaged, or of a version that kept no items.
    """
    file = f"scores/epoch-{epoch:03d}.json"
    scores = _artifact(client, run_id, file)
    if scores is not None and "items" not in scores:
        raise OldScoresError(
            f"the scores of run {run_id} ({file}) were recorded by an older version and cannot be "
            "compared item by item: run the sweep in a new --study"
        )
    return None if scores is None else _checked(scores, SuiteScores, file, run_id)


def chance_of_macro(client: MlflowClient, trials: pd.DataFrame) -> float | None:
    """The macro, percent, of a model that knows nothing, on the items that all these trials were
    scored on; None where they have no macro, or no scores of them tell.

    Args:
        client: of the store.
        trials: frame of `runs.trials`.

    Raises:
        ValueError: scores are damaged.
    """
    scored = trials[trials["macro"].notna()]
    for run_id, epoch in zip(scored["run_id"], scored["best_epoch"], strict=True):
        file = f"scores/epoch-{epoch:03d}.json"
        scores = _artifact(client, run_id, file)
        if scores is not None:
            chance = macro_chance(_checked(scores, Scores, file, run_id))
            if chance is not None:  # as in those of an early version
                return chance
    return None


def milestones_of_run(client: MlflowClient, run_id: str) -> dict[int, MilestoneReport]:
    """What was measured of a trial on the way, by number of words seen, ascending; nothing of a
    version that recorded no files of it.

    Raises:
        ValueError: a file is damaged, or cannot be had.
    """
    files = {
        int(match[1]): file
        for file in _files(client, run_id, "scores")
        if (match := _MILESTONE.fullmatch(file))
    }
    return {
        words: _typed(_content(client, run_id, file), MilestoneReport, file, run_id)
        for words, file in sorted(files.items())
    }


def final_scores(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """Scores taken once on a trial's best checkpoint: `zero_shot` (`SuiteScores.to_dict()`) and
    `glue` (by task, with `score` and the constant answer's `baseline`), as far as there is any.

    Raises:
        ValueError: they are damaged.
    """
    found: FinalScores = {}
    kinds: tuple[str, ...] = ("zero_shot", "glue")
    for file in ("final.json", "eval/scores.json"):  # during the sweep, and afterwards
        content = _artifact(client, run_id, file) or {}
        scores = {kind: content[kind] for kind in kinds if kind in content}
        found |= _checked(scores, FinalScores, file, run_id)
    return found


def _checked(scores: dict[str, Any], kind: Any, file: str, run_id: str) -> dict[str, Any]:
    """The scores of a file, which must be what `kind` says; a ValueError names file and run."""
    _typed(scores, kind, file, run_id)
    return scores


def _typed(content: Any, kind: Any, file: str, run_id: str) -> Any:
    """The content of a file as what it is; a ValueError names file and run."""
    try:
        return typed(content, kind)
    except ValueError as error:
        raise ValueError(f"{file} of run {run_id} is damaged: {error}") from error


def _artifact(client: MlflowClient, run_id: str, file: str) -> dict[str, Any] | None:
    """A JSON file of a run, None if it has no such file.

    Raises:
        ValueError: the file cannot be had, or is no JSON.
    """
    is_there = file in _files(client, run_id, file.rpartition("/")[0])
    return _content(client, run_id, file) if is_there else None


def _files(client: MlflowClient, run_id: str, folder: str) -> list[str]:
    """The files in a folder of a run's, "" for those in none; errors as of `_artifact`."""
    with _read(folder or "the list of files", run_id):
        return [artifact.path for artifact in client.list_artifacts(run_id, folder or None)]


@contextlib.contextmanager
def _read(what: str, run_id: str) -> Iterator[None]:
    """Let errors of the store be ValueErrors that name the run, and what is not to be had of it."""
    try:
        with files_reached():
            yield
    except (MlflowException, OSError, ValueError) as error:
        text = f"{what} of run {run_id} cannot be read from the MLflow store: {error}"
        raise ValueError(without_secret(text)) from error


def _content(client: MlflowClient, run_id: str, file: str) -> dict[str, Any]:
    """A JSON file that a run has; errors as of `_artifact`."""
    with _read(file, run_id), tempfile.TemporaryDirectory() as place:
        text = Path(client.download_artifacts(run_id, file, place)).read_text(encoding="utf-8")
        content: dict[str, Any] = typed(parse_json(text), dict[str, Any])
        return content


def setting(
    trials: pd.DataFrame, *, without: tuple[str, ...] = (), axes: Iterable[str] = AXES
) -> pd.Series:
    """Settings that compared trials have in common, as one text for each trial.

    That is the whole spec but for the architecture, the seed, the axes along which trials are
    compared, and the parameters in `without`.
    """
    left_out = RECORDED | _NAMES | {"arch", "seed", *axes, *without}
    columns = sorted(set(trials.columns) - left_out)
    rows = trials[columns].astype(object).where(trials[columns].notna(), "")
    texts = [json.dumps(row, sort_keys=True, default=str) for row in rows.to_dict("records")]
    return pd.Series(texts, index=trials.index, dtype=object)


def is_plain(trials: pd.DataFrame) -> pd.Series:
    """Whether trials learn from text alone, from random weights."""
    return (trials["teacher"] == "") & (trials["init"] == "")


def compared(trials: pd.DataFrame) -> pd.DataFrame:
    """The study's sweep: of all trials the plain ones of the setting that compares the most.

    The most points over all architectures; of equals the most trials. Of an architecture
    that was trained in several precisions or revisions, the one with the most trials.
    """
    plain = trials[is_plain(trials)]
    if plain.empty:
        return plain
    settings = setting(plain, without=_OF_ARCH)
    sizes = plain.groupby(settings).apply(lambda group: (point_keys(group).nunique(), len(group)))
    sweep = plain[settings == sizes.idxmax()]
    kinds = setting(sweep)
    counts = kinds.groupby([sweep["arch"], kinds]).transform("size")
    most = counts == counts.groupby(sweep["arch"]).transform("max")
    first = kinds[most].groupby(sweep["arch"][most]).transform("first")
    return sweep[most & (kinds == first.reindex(kinds.index))]


def not_compared(trials: pd.DataFrame, sweep: pd.DataFrame) -> list[str]:
    """Sentences on plain trials beside the sweep that one would expect in it: those of another
    architecture, and those of several points."""
    others = trials[is_plain(trials) & ~trials["run_id"].isin(sweep["run_id"])]
    left_out = RECORDED | _NAMES | {"seed", *AXES}
    sentences = []
    for _, group in others.groupby(setting(others) + others["arch"]) if len(others) else ():
        arch = group["arch"].iloc[0]
        if arch in set(sweep["arch"]) and point_keys(group).nunique() < 2:
            continue
        known = [name for name in sorted(group.columns) if name not in left_out]
        differing = [
            f"{name} {group[name].iloc[0]}, not {sweep[name].iloc[0]}"
            for name in known
            if name != "arch" and str(group[name].iloc[0]) != str(sweep[name].iloc[0])
        ]
        sentences.append(
            f"{count(len(group), 'trial')} of {arch} cannot be compared with the others, because "
            f"of another setting: {'; '.join(differing)}."
        )
    return sentences


def _with_costs(epochs: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Add the training tokens until each epoch's end, and the hours, validation included."""
    steps = {row["run_id"]: _tokens_per_epoch(row) for row in trials.to_dict("records")}
    tokens = epochs["epoch"] * epochs["run_id"].map(steps)
    hours = epochs.groupby("run_id")["seconds"].cumsum() / 3600
    return epochs.assign(tokens=tokens.astype(float), hours=hours.astype(float))


def _tokens_per_epoch(trial: dict[str, Any]) -> float:
    numbers = [trial.get(name) for name in ("total_steps", "epochs", "batch_size", "context")]
    if any(number is None or pd.isna(number) for number in numbers):
        return math.nan
    total_steps, epochs, batch_size, context = map(int, numbers)  # type: ignore[arg-type]
    return total_steps // epochs * batch_size * context
