"""MLflow: one run per trial identity under one parent run per sweep, whatever is killed in between.

experiment = study, parent run = sweep, child run = trial. Parameters are the spec; metrics come by
optimizer step (`train/*`), by epoch (`val/*`, `zero_shot/*` and its two parts `selection/*` and
`held_out/*`; step = epoch, 1-based) and by words seen (`milestone/*`, step = words). All scores are
in the files `scores/epoch-*.json` and `scores/words-*.json`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from analysis.benchmarks import macro_of
from analysis.benchmarks.suite import protocol_of
from analysis.schema.milestone import MilestoneReport
from analysis.store import EARLIEST_FIRST, all_runs, call_with_retries
from analysis.stored_files import check_files
from trainables.mlflow_pages import page, study_tags, trial_note, with_text
from trainables.outbox import Message, Outbox
from trainables.progress import EpochReport, TrialOutcome
from trainables.run_names import telling_fields
from trainables.spec import TrialSpec

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

FLUSH_SECONDS = 2.0
MILESTONE = "milestone/bits_per_byte"
"""The metric of a milestone's validation; step = words seen."""
_AXES = {"step": "train/loss", "epoch": "val/loss", "words": "milestone/"}
"""By axis, how the names of metrics begin that tell how far along it a run is."""
_NOTE = "mlflow.note.content"
UNSENT = "unsent-"
"""How the files begin that hold what a run is to be told when MLflow answers again."""


@dataclass(frozen=True)
class Tracker:
    """The records of a study's results: an MLflow experiment with a parent run per sweep.

    A sweep varies the seed and one or more axes of one setting, so each architecture has its own
    parent run.

    Attributes:
        uri: MLflow tracking URI.
        experiment_id: of the study.
        parents: parent run id by the hash of the sweep (`TrialSpec.sweep_hash`).
        commit: git commit of the code that runs.
        axes: that the sweeps vary.
        told: by the hash of the sweep, the further fields in its trials' names, see
            `telling_fields`.
        files: where the experiment has the files of its runs.
    """

    uri: str
    experiment_id: str
    parents: dict[str, str]
    commit: str = ""
    axes: tuple[str, ...] = ("lr",)
    told: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: str = ""

    @property
    def client(self) -> MlflowClient:
        """A client of the store."""
        return MlflowClient(self.uri)

    @classmethod
    def open(
        cls,
        uri: str,
        artifacts: Path,
        study: str,
        bases: Iterable[TrialSpec],
        kind: str = "lr sweep",
        axes: tuple[str, ...] = ("lr",),
    ) -> Tracker:
        """Find or create the study's experiment and the parent runs, set to running.

        Call it in the sweep's process before any trial starts: the first access creates the
        tables of a new SQLite store, and processes racing for that crash.

        Args:
            uri: MLflow tracking URI.
            artifacts: folder of the artifacts of a SQLite store; a server has its own place.
            study: name of the experiment.
            bases: one spec of each sweep, whatever its seed and its place on the axes.
            kind: what the sweeps are; in their names.
            axes: that the sweeps vary.

        Raises:
            ValueError: the experiment was deleted in the MLflow UI.
        """
        client = MlflowClient(uri)
        commit = _git_commit()
        location = artifacts.as_uri() if uri.startswith("sqlite:") else None
        experiment_id = _open_experiment(client, study, location)
        parents, bases = {}, tuple(bases)
        for base in bases:
            sweep = base.sweep_hash(axes)
            tags = {"babysweep.kind": "sweep", "babysweep.setting": sweep}
            run = _find_run(client, experiment_id, tags)
            if run is None:
                tags |= {
                    "mlflow.runName": f"{kind} {base.setting_name}",
                    "mlflow.source.git.commit": commit,
                    "babysweep.arch": base.arch,
                    "babysweep.size": base.size,
                }
                run = client.create_run(experiment_id, tags=tags)
                fixed = {k: v for k, v in base.to_dict().items() if k not in (*axes, "seed")}
                client.log_batch(run.info.run_id, params=_params(fixed))
            client.update_run(run.info.run_id, status="RUNNING")
            parents[sweep] = run.info.run_id
        experiment = client.get_experiment(experiment_id)
        check_files(uri, experiment.artifact_location)
        for name, value in study_tags(experiment.creation_time or 0).items():
            client.set_experiment_tag(experiment_id, name, value)
        told = _told(client, experiment_id, parents, bases, axes)
        return cls(uri, experiment_id, parents, commit, axes, told, experiment.artifact_location)

    def name_of(self, spec: TrialSpec) -> str:
        """A readable name of a trial of these sweeps, which no other trial of the study has."""
        return spec.name_among((*self.axes, *self.told.get(spec.sweep_hash(self.axes), ())))

    def parent_of(self, spec: TrialSpec) -> str:
        """Run id of the sweep that a trial, or the base of a sweep, belongs to."""
        return self.parents[spec.sweep_hash(self.axes)]

    @property
    def page(self) -> str:
        """The study's page, to be added to the address of MLflow's server."""
        return page(self.experiment_id)

    def describe(self, run_id: str, topic: str, text: str) -> None:
        """Put a Markdown text into a run's description, in place of the one put there before.

        Texts on other topics stay, and what a person wrote around them.
        """
        note = self.client.get_run(run_id).data.tags.get(_NOTE, "")
        self.client.set_tag(run_id, _NOTE, with_text(note, topic, text))

    def describe_study(self, text: str) -> None:
        """Put a Markdown text into the study's description, in place of an earlier one."""
        note = self.client.get_experiment(self.experiment_id).tags.get(_NOTE, "")
        self.client.set_experiment_tag(self.experiment_id, _NOTE, with_text(note, "study", text))

    def trial(self, spec: TrialSpec, facts: dict[str, Any], folder: Path) -> TrialRun:
        """Find or create the run of `spec`, set to running.

        Args:
            spec: its fields become parameters of a new run.
            facts: further parameters of a new run, e.g. the number of model parameters.
            folder: of the trial; for what MLflow does not take at once, see `Outbox`.

        Raises:
            MlflowException: MLflow, or the place of its files, is not open to this process.
        """

        def open_run() -> TrialRun:
            check_files(self.uri, self.files)  # this node's environment may be another
            return TrialRun(self.client, self._run_of(spec, facts), spec, folder)

        return call_with_retries(open_run)

    def fail(self, spec: TrialSpec, error: str) -> None:
        """Mark the run as failed, with the end of the error. A later process may go on with it."""
        run_id = self._run_of(spec, {}).info.run_id
        self.client.set_tag(run_id, "babysweep.reason", error[-4000:])
        self.client.set_terminated(run_id, "FAILED")

    def _run_of(self, spec: TrialSpec, facts: dict[str, Any]) -> Run:
        client = self.client
        tags = {"babysweep.kind": "trial", "babysweep.spec_hash": spec.hash}
        run = _find_run(client, self.experiment_id, tags)
        if run is None:
            name = self._free_name(spec)
            tags |= {
                "mlflow.runName": name,
                "mlflow.parentRunId": self.parent_of(spec),
                "babysweep.arch": spec.arch,
                "babysweep.size": spec.size,
                "babysweep.seed": str(spec.seed),
                "mlflow.source.git.commit": self.commit,
            }
            run = client.create_run(self.experiment_id, tags=tags)
            if len(self._named(name)) > 1:  # another process took it at the same moment
                client.update_run(run.info.run_id, name=_full_name(name, spec))
        elif run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
        # Of a found run, too: a kill may have come before they were recorded.
        params = {**spec.to_dict(), **facts}
        missing = {name: params[name] for name in params if name not in run.data.params}
        client.log_batch(run.info.run_id, params=_params(missing))
        return run

    def _free_name(self, spec: TrialSpec) -> str:
        """The name for a new run; of values that look the same when rounded, with the hash."""
        name = self.name_of(spec)
        return _full_name(name, spec) if self._named(name) else name

    def _named(self, name: str) -> list[Run]:
        """Runs of this name, at most two."""
        condition = f"attributes.run_name = '{name}'"
        return [*self.client.search_runs([self.experiment_id], condition, max_results=2)]

    def has_outcome(self, spec: TrialSpec) -> bool:
        """Whether the store holds the ended run of `spec`."""
        tags = {"babysweep.kind": "trial", "babysweep.spec_hash": spec.hash}
        run = call_with_retries(lambda: _find_run(self.client, self.experiment_id, tags))
        return run is not None and "babysweep.outcome" in run.data.tags

    def log_final(self, spec: TrialSpec, figures: dict[str, float], scores: dict[str, Any]) -> None:
        """Record what was scored once on a trial's best checkpoint: figures, and all in a file."""
        run_id = self._run_of(spec, {}).info.run_id
        for name, value in figures.items():
            self.client.log_metric(run_id, f"final/{name}", value)
        self.client.log_dict(run_id, scores, "final.json")
        self.client.set_terminated(run_id, "FINISHED")

    def trial_runs(self) -> list[Run]:
        """All trial runs of the study."""
        return _runs(self.client, self.experiment_id, "trial")

    def milestones(self, run: Run) -> dict[int, float]:
        """By words seen, ascending, the validation bits per byte of a trial run's milestones."""
        points = self.client.get_metric_history(run.info.run_id, MILESTONE)
        return {point.step: point.value for point in sorted(points, key=lambda each: each.step)}

    def close(self, status: str) -> None:
        """End the parent runs, and mark the trial runs that nobody continues as killed.

        Args:
            status: MLflow's "FINISHED", "FAILED" or "KILLED".
        """
        self.close_trials()
        for run_id in self.parents.values():
            self.client.set_terminated(run_id, status)

    def close_trials(self) -> None:
        """Mark the trial runs of these sweeps that are left running as killed; they can go on."""
        for run in self.trial_runs():
            mine = run.data.tags.get("mlflow.parentRunId") in self.parents.values()
            if mine and run.info.status in ("RUNNING", "SCHEDULED"):
                self.client.set_terminated(run.info.run_id, "KILLED")


class TrialRun:
    """The MLflow run of one trial. Points are buffered and sent in batches.

    While MLflow does not answer they wait in a file of the run; only the end of the trial waits
    with them.
    """

    def __init__(self, client: MlflowClient, run: Run, spec: TrialSpec, folder: Path) -> None:
        self._client, self._spec = client, spec
        self.run_id: str = run.info.run_id
        # Another store, or a run that was deleted: what waits for that one is not for this one.
        self._outbox = Outbox(folder / f"{UNSENT}{self.run_id}.jsonl", self._send)
        waiting = self._outbox.waiting
        self._facts = {
            *run.data.params,
            *(name for each in waiting for name in each.get("params", ())),
        }
        self._points: list[list[Any]] = []  # arguments of Metric
        self._flushed = time.monotonic()
        points = [point for message in waiting for point in message.get("points", ())]
        self._last = {
            axis: max((step for name, *_, step in points if _is_of(axis, name)), default=-1)
            for axis in _AXES
        }
        for axis in _AXES:
            for name in filter(functools.partial(_is_of, axis), run.data.metrics):
                self._last[axis] = max(self._last[axis], _last_step(client, run, name))

    def log_fact(self, name: str, value: str) -> None:
        """Record a parameter that was not known at the start, unless it is there already."""
        if name not in self._facts:
            self._facts.add(name)
            self._outbox.post({"params": {name: value}})

    def log_step(self, step: int, values: dict[str, float]) -> None:
        """Record values of an optimizer step, unless an earlier process recorded it."""
        self._add("step", step, {f"train/{name}": value for name, value in values.items()})
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def log_epoch(self, report: EpochReport) -> None:
        """Record a finished epoch, once."""
        values = {
            "val/loss": report.val_loss,
            "val/perplexity": math.exp(report.val_loss),
            "val/bits_per_byte": report.bits_per_byte,
            "epoch/train_loss": report.train_loss,
            "epoch/seconds": report.seconds,
            "epoch/tokens_per_second": report.tokens / report.epoch / report.train_seconds,
        }
        if report.scores is not None:
            protocol = protocol_of(report.scores)
            values |= _with_macro("zero_shot", report.scores["benchmarks"], protocol)
            for part in ("selection", "held_out"):
                # An epoch of a trial that an older version began has no such parts.
                values |= _with_macro(part, report.scores.get(part, {}), protocol)
        self._add("epoch", report.epoch, values)
        self.flush()
        if report.scores is not None:
            name = f"scores/epoch-{report.epoch:03d}.json"
            self._outbox.post({"files": {name: report.scores}})

    def log_milestone(self, words: int, report: MilestoneReport) -> None:
        """Record what was measured after so many words, once, in ascending order."""
        values: dict[str, float] = {}
        if report.scores is not None:
            scores = report.scores
            values |= _with_macro("milestone", scores["benchmarks"], protocol_of(scores))
        if report.val_loss is not None and report.bits_per_byte is not None:
            values["milestone/val_loss"] = report.val_loss
            values[MILESTONE] = report.bits_per_byte
        self._add("words", words, values)
        self.flush()
        content = dataclasses.asdict(report)
        self._outbox.post({"files": {f"scores/words-{words}.json": content}})

    def flush(self) -> None:
        """Hand on the buffered points; they are in MLflow then, or on the disk."""
        for start in range(0, len(self._points), 1000):
            self._outbox.post({"points": self._points[start : start + 1000]})
        self._points.clear()
        self._flushed = time.monotonic()

    def finish(self, outcome: TrialOutcome, checkpoint: Path | None) -> None:
        """Record how the trial ended, with its best checkpoint as the artifact `model`."""
        self.flush()
        self._outbox.drain()
        call_with_retries(lambda: self._finish(outcome, checkpoint))

    def _finish(self, outcome: TrialOutcome, checkpoint: Path | None) -> None:
        best = outcome.best
        if best is not None:
            values = {
                "lr": self._spec.lr,
                "epoch": best.epoch,
                "bits_per_byte": best.bits_per_byte,
            }
            if best.macro is not None:
                values["macro"] = best.macro
            now = int(time.time() * 1000)
            recorded = self._client.get_run(self.run_id).data.metrics
            metrics = [
                Metric(f"best/{name}", float(value), now, 0)
                for name, value in values.items()
                if recorded.get(f"best/{name}") != float(value)
            ]
            if metrics:  # a trial that goes on after its end has another best; the newest counts
                self._client.log_batch(self.run_id, metrics=metrics)
        if checkpoint is not None:
            for file in checkpoint.iterdir():
                if file.name != "optimizer.safetensors":
                    self._client.log_artifact(self.run_id, str(file), "model")
        tags = {"babysweep.outcome": outcome.kind, "babysweep.reason": outcome.reason}
        if _NOTE not in self._client.get_run(self.run_id).data.tags:  # a person's stays
            tags[_NOTE] = trial_note(self._spec, outcome.kind, best)
        self._client.log_batch(
            self.run_id, tags=[RunTag(name, value) for name, value in tags.items() if value]
        )
        self._client.set_terminated(self.run_id, "FINISHED")

    def _send(self, message: Message) -> None:
        points = [Metric(*point) for point in message.get("points", ())]
        params = _params(message.get("params", {}))
        if points or params:
            self._client.log_batch(self.run_id, points, params)
        for name, content in message.get("files", {}).items():
            self._client.log_dict(self.run_id, content, name)

    def _add(self, axis: str, step: int, values: dict[str, float]) -> None:
        if step <= self._last[axis]:
            return
        self._last[axis] = step
        now = int(time.time() * 1000)
        self._points += [[name, float(value), now, step] for name, value in values.items()]


def _open_experiment(client: MlflowClient, study: str, location: str | None) -> str:
    """Id of a study's experiment, made if there is none; `location` is for its artifacts."""
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        try:
            return client.create_experiment(study, artifact_location=location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # Another command made it at the same moment, or it is one that this user may not see.
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            raise ValueError(f"the MLflow experiment {study!r} is not yours: take another --study")
    if experiment.lifecycle_stage == "deleted":
        raise ValueError(
            f"the MLflow experiment {study!r} was deleted; restore it (mlflow experiments restore "
            f"-x {experiment.experiment_id}) or choose another --study"
        )
    return experiment.experiment_id


def _full_name(name: str, spec: TrialSpec) -> str:
    return f"{name} {spec.hash[:8]}"


def _find_run(client: MlflowClient, experiment_id: str, tags: dict[str, str]) -> Run | None:
    condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    runs = client.search_runs([experiment_id], condition, order_by=[EARLIEST_FIRST])
    return runs[0] if runs else None


def _told(
    client: MlflowClient,
    experiment_id: str,
    parents: dict[str, str],
    bases: tuple[TrialSpec, ...],
    axes: tuple[str, ...],
) -> dict[str, tuple[str, ...]]:
    """By sweep, what its names tell, so that they differ from those of each other and of sweeps
    that began earlier: later ones tell what makes them differ from this one."""
    runs = _runs(client, experiment_id, "sweep")
    order = [run.info.run_id for run in runs]
    told = {}
    for base in bases:
        sweep = base.sweep_hash(axes)
        earlier = [run.data.params for run in runs[: order.index(parents[sweep])]]
        others = [*earlier, *(each.to_dict() for each in bases)]
        told[sweep] = telling_fields(base, axes, others)
    return told


def _runs(client: MlflowClient, experiment_id: str, kind: str) -> list[Run]:
    """All runs of a kind, the earliest first."""
    condition = f"tags.`babysweep.kind` = '{kind}'"
    return [*all_runs(client, experiment_id, condition, EARLIEST_FIRST)]


def _with_macro(prefix: str, figures: dict[str, float], protocol: str) -> dict[str, float]:
    macro = macro_of(figures, protocol)
    named = figures if macro is None else {**figures, "macro": macro}
    return {f"{prefix}/{name}": value for name, value in named.items()}


def _params(values: dict[str, object]) -> list[Param]:
    return [Param(name, str(value)) for name, value in values.items()]


def _is_of(axis: str, metric: str) -> bool:
    return metric.startswith(_AXES[axis])


def _last_step(client: MlflowClient, run: Run, metric: str) -> int:
    history = client.get_metric_history(run.info.run_id, metric)
    return max(point.step for point in history)


def _git_commit() -> str:
    """The commit of the code that runs, or "" where it is not a git checkout."""
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or an installed package
        return ""
