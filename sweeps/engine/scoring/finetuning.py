"""Fine-tune a language model on several tasks at once, on a Ray cluster that the caller entered.

    with ray_cluster(None, dashboard=False):
        results = finetune_tasks("runs/.../checkpoints/step-...", "evaluation_data", ...)

Each task is one Ray trial, and keeps its epochs under its spec's hash: calling again with the same
arguments returns what is finished and continues what is not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console
from rich.markup import escape

import models
from analysis.benchmarks import glue
from analysis.benchmarks.classification import ClassificationTask, MissingFiles
from analysis.benchmarks.protocols import check_protocol
from analysis.errors import without_secret
from analysis.terminal import say
from sweeps.engine.failures import TrialFailure, keep_error
from sweeps.engine.kernel_builds import start_building
from sweeps.engine.scoring.tasks import TaskResult, check_files
from sweeps.engine.trial_process import failures_explained, memory_given_back
from sweeps.engine.tuning import MAX_FAILURES, DriverCallback, OwnSignals
from trainables.checkpoint import bring_model
from trainables.device import default_precision, pick_device
from trainables.finetune import finetune, remove_leftovers
from trainables.finetune_spec import (
    FinetuneSpec,
    model_hash,
    read_outcome,
)
from trainables.kept import bring_folder
from trainables.launches import FinetuningWork

_SELECTION = {"split": "selection split", "reported": "reported examples"}


def finetune_tasks(
    model: Path | str,
    folder: Path,
    tasks: Sequence[str],
    protocol: str,
    *,
    storage: Path,
    cpus: int,
    gpus: float,
    console: Console,
    selection: str = "split",
    precision: str | None = None,
    changes: Mapping[str, Any] = {},
) -> list[TaskResult]:
    """Fine-tune a model on each task.

    Args:
        model: folder of a causal LM (safetensors) and its tokenizer, e.g. a trial's checkpoint.
        folder: of benchmarks; see `check_files`.
        tasks: names of `glue.TASKS`; none for all of the protocol.
        protocol: one of `PROTOCOLS`; see `glue.settings`.
        storage: epochs and outcomes are kept in its folder `glue`, which all nodes of the cluster
            must see.
        cpus, gpus: of each task.
        console: told every epoch, and what failed.
        selection: what epochs are chosen on; see `FinetuneSpec`.
        precision: see `FinetuneSpec`; None: that of `default_precision`.
        changes: see `glue.settings`.

    Returns:
        A result for each task, in their order; a failure of one is its own result.

    Raises:
        ValueError: no model, no task files, an unknown task, protocol or setting.
        KeyboardInterrupt: Ctrl-C stopped a task. Tune itself only returns early.
    """
    check_protocol(protocol)
    model, storage = Path(model).absolute(), storage.absolute() / "glue"
    names = tuple(dict.fromkeys(tasks)) or glue.PROTOCOL_TASKS[protocol]
    place = folder.absolute()
    check_files(str(place), dict.fromkeys(glue.find_task(name).group for name in names))
    if precision is None:
        precision = default_precision(gpus, models.load_config(model).hidden_size)
    # Task, data and settings are filled in by `_plan`.
    base = FinetuneSpec(
        model_hash(model), "", "", protocol, glue.settings(protocol, names[0]), selection, precision
    )
    planned = [_plan(base, place, name, changes) for name in names]
    specs = [spec for spec in planned if isinstance(spec, FinetuneSpec)]
    errors = _run(specs, FinetuningJob(model, place, storage, cpus, gpus), console)
    results = [
        each if isinstance(each, TaskResult) else _result(each, storage, errors) for each in planned
    ]
    if any(result == TaskResult(result.task) for result in results):  # nothing became of it
        raise KeyboardInterrupt
    return results


def check_tasks(folder: Path, tasks: Sequence[str]) -> tuple[ClassificationTask, ...]:
    """Read the tasks' files from a folder of benchmarks; a missing one is no error.

    Returns:
        The tasks, those without labels with the ones of their files, where they are there.

    Raises:
        ValueError: an unknown task, or a bad row (file and line are named).
    """
    return tuple(glue.read_task(folder, name).task for name in tasks)


def _plan(
    base: FinetuneSpec, place: Path, name: str, changes: Mapping[str, Any]
) -> FinetuneSpec | TaskResult:
    """The spec of a task, or its result if it cannot be run."""
    settings = glue.settings(base.protocol, name, changes)
    try:
        data = glue.read_task(place, name)
    except ValueError as error:  # a bad row is no reason to lose the other tasks
        return TaskResult(name, error=str(error))
    if isinstance(data, MissingFiles):
        return TaskResult(name, missing=data.files)
    return dataclasses.replace(base, task=name, data_hash=data.hash, settings=settings)


def _result(spec: FinetuneSpec, storage: Path, errors: Mapping[str, str]) -> TaskResult:
    """The result of a task, with neither an outcome nor an error if it was stopped."""
    outcome = read_outcome(storage, spec)
    return TaskResult(spec.task, outcome, error="" if outcome else errors.get(spec.task, ""))


@dataclass(frozen=True)
class FinetuningJob:
    """Folders and resources of the tasks of one call."""

    model: Path
    folder: Path
    storage: Path
    cpus: int
    gpus: float

    def bring(self) -> None:
        """Bring model and tasks to this machine, where they are kept in a bucket.

        Raises:
            OSError: the bucket does not answer.
        """
        bring_model(self.model)
        bring_folder(self.folder)

    def works(self, specs: Sequence[FinetuneSpec]) -> list[FinetuningWork]:
        """What is done on a GPU with kernels of this project; nothing with models of others."""
        config = models.load_config(self.model)
        of_tasks = [FinetuningWork(config, spec.settings, spec.precision) for spec in specs]
        return of_tasks if models.is_own(config) else []


def task_trial(config: dict[str, Any], job: FinetuningJob) -> None:
    """Fine-tune on one task, as a Tune function."""
    spec = FinetuneSpec.from_dict(config["spec"])
    try:
        job.bring()
        data = glue.read_task(job.folder, spec.task)
        if isinstance(data, MissingFiles):
            raise ValueError(f"{', '.join(map(str, data.files))} vanished: start again")
        with memory_given_back(), failures_explained():
            finetune(
                spec,
                job.model,
                data,
                job.storage,
                device=pick_device(job.gpus),
                threads=job.cpus,
                gpus=job.gpus,
                report=lambda epoch: tune.report(dataclasses.asdict(epoch)),
            )
    except (ValueError, TrialFailure) as error:
        if isinstance(error, TrialFailure) and not error.hopeless:
            raise
        tune.report({"refused": str(error)})  # it would come again: Tune should not retry it


def _run(specs: Sequence[FinetuneSpec], job: FinetuningJob, console: Console) -> dict[str, str]:
    """Run the tasks that have no outcome yet; returns the last error of those that failed."""
    unfinished = []
    for spec in specs:
        if read_outcome(job.storage, spec) is None:
            unfinished.append(spec)
        else:
            remove_leftovers(job.storage, spec)
    if not unfinished:
        return {}
    start_building(job.works(unfinished), job.gpus, "tasks").wait(console)
    watcher = FinetuningDisplay(job.storage, console)
    with _scratch(job.storage, f"tune-{specs[0].model_hash}-") as scratch:
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(task_trial, job=job), {"cpu": job.cpus, "gpu": job.gpus}
            ),
            param_space={"spec": tune.grid_search([spec.to_dict() for spec in unfinished])},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[OwnSignals(), watcher],
            ),
        ).fit()
    return watcher.errors


@contextlib.contextmanager
def _scratch(storage: Path, prefix: str) -> Iterator[str]:
    """A folder for Tune's own state, from which nothing is resumed.

    Raises:
        ValueError: another command uses one of this prefix.
    """
    storage.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(storage / f"{prefix}.lock", timeout=0):
            for leftover in storage.glob(f"{prefix}*/"):  # of a killed process
                shutil.rmtree(leftover, ignore_errors=True)
            with tempfile.TemporaryDirectory(
                prefix=prefix, dir=storage, ignore_cleanup_errors=True
            ) as scratch:
                yield scratch
    except Timeout:
        raise ValueError(
            f"another command is fine-tuning the same model in {storage}: wait for it"
        ) from None


def _trial_name(trial: Trial) -> str:
    spec = FinetuneSpec.from_dict(trial.config["spec"])
    return f"{spec.task}-{spec.hash}-{trial.trial_id}"


class FinetuningDisplay(DriverCallback):
    """Prints a line an epoch, and keeps why a task failed."""

    def __init__(self, storage: Path, console: Console) -> None:
        self._storage, self._console = storage, console
        self._epochs: dict[str, int] = {}
        self.errors: dict[str, str] = {}

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: object,
    ) -> None:
        """Print an epoch's score, again after a restart; or that the task cannot be run."""
        spec = FinetuneSpec.from_dict(trial.config["spec"])
        if "refused" in result:
            self.errors[spec.task] = without_secret(result["refused"])
            self._say(f"{spec.task} failed: {self.errors[spec.task]}")
        if "score" not in result or result["epoch"] <= self._epochs.get(spec.task, 0):
            return
        self._epochs[spec.task] = result["epoch"]
        metric = glue.find_task(spec.task).metric
        self._say(
            f"{spec.task}: epoch {result['epoch']}/{spec.settings.epochs}: loss "
            f"{result['loss']:.3f}, {metric} {result['score']:.1f} on the "
            f"{_SELECTION[spec.selection]}"
        )

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Print that a task ended, perhaps diverged."""
        spec = FinetuneSpec.from_dict(trial.config["spec"])
        outcome = read_outcome(self._storage, spec)
        if outcome is not None:
            self._say(f"{spec.task}: {outcome.kind}{outcome.reason and f' ({outcome.reason})'}")

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Say why a task is started again."""
        self._failed(trial, "will be started again")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Say why a task failed, and keep it for the results."""
        task, last = self._failed(trial, "failed for good")
        self.errors[task] = last

    def _failed(self, trial: Trial, what: str) -> tuple[str, str]:
        """Keep the whole error beside the task's epochs; returns the task and the last line."""
        spec = FinetuneSpec.from_dict(trial.config["spec"])
        error, path = keep_error(trial.error_file, self._storage / spec.hash)
        last = error.splitlines()[-1][:300]
        self._say(f"{spec.task} {what}: {last} (all of it: {path})")
        return spec.task, last

    def _say(self, text: str) -> None:
        clock = time.strftime("%H:%M:%S")
        say(self._console, escape(f"{clock}  {text}"))
