"""Plan of a whole study: its stages' commands, what each stage depends on, what is scored last."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.flag_values import checked
from analysis.schema.ranges import flag_of
from analysis.store import tracking_uri
from sweeps.arguments import (
    DistillArgs,
    EpochStudyArgs,
    EvaluateArgs,
    GridArgs,
    LrSweepArgs,
    PaperArgs,
    PromoteArgs,
    TrainingArgs,
)
from sweeps.arguments.axes import set_single, values_of
from sweeps.engine.scoring.found import Found
from sweeps.plans.common import TrainingSetup, chosen_archs, final_tasks, prepare
from sweeps.stored.finalists import Finalists
from sweeps.stored.model_names import find_version
from sweeps.stored.trials import study_trials
from trainables.checkpoint import TrialFolder

ALIAS = "teacher"
_NO_INPUT = {
    *("storage", "address", "max_concurrent", "checkpoint_minutes", "keep", "dry_run"),
    *("cpus_per_trial", "gpus_per_trial", "workers_per_trial", "runner", "micro_batch", "study"),
    "ewok_password",
}
"""Arguments that change where and how fast a stage runs, not what it finds."""


@dataclass(frozen=True)
class Stage:
    """A part of the study.

    Attributes:
        name: what it is called.
        run: runs it, from wherever it stands; returns its exit status.
        inputs: all that its result depends on, JSON-ready, as it is when the stage's turn comes.
    """

    name: str
    run: Callable[[], int]
    inputs: Callable[[], object]

    def hash_inputs(self) -> str:
        """A hash of the inputs as they are now."""
        canonical = json.dumps(self.inputs(), sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StageArguments:
    """The arguments of the stages' commands."""

    sweep: LrSweepArgs
    epochs: EpochStudyArgs
    promote: PromoteArgs
    distill: DistillArgs

    @classmethod
    def of(cls, args: PaperArgs, storage: Path, study: str) -> StageArguments:
        """Make the arguments for a study of this name."""
        common = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainingArgs)}
        common |= {"study": study, "storage": storage, "final_tasks": ()}
        # The student is trained like its teacher.
        unset = {"arch": (), "epochs": None, "size": None, "context": None, "batch_size": None}
        grid = {f.name: getattr(args, f.name) for f in dataclasses.fields(GridArgs)}
        return cls(
            LrSweepArgs(**{**common, **grid, "seeds": args.sweep_seeds}),
            EpochStudyArgs(
                **{**common, "arch": (args.teacher_arch,)},
                designs=args.designs,
                horizons=args.horizons,
            ),
            PromoteArgs(arch=args.teacher_arch, study=study, alias=ALIAS, storage=storage),
            DistillArgs(
                **{**common, **unset},
                teacher=(f"models:/{args.teacher_arch}@{ALIAS}",),
                alphas=args.alphas,
                temperatures=args.temperatures,
            ),
        )


@dataclass(frozen=True)
class StudyPlan:
    """A whole study, with all checked that can be before its first stage.

    Attributes:
        args: with single values of axes moved to the flags that set them.
        setup: what the stages that train have in common.
        commands: the arguments of each.
        found: what the folder of benchmarks holds, if one was named.
    """

    args: PaperArgs
    setup: TrainingSetup
    commands: StageArguments
    found: Found = Found()

    @property
    def folder(self) -> Path:
        """The study's folder."""
        assert self.commands.sweep.study is not None
        return self.setup.storage / self.commands.sweep.study

    @property
    def uri(self) -> str:
        """The MLflow store."""
        return tracking_uri(self.setup.storage)

    @property
    def inputs(self) -> dict[str, Callable[[], object]]:
        """Inputs by stage, in the stages' order; see `Stage.inputs`."""
        data = [self.setup.corpus.hash, self.setup.suite_hash]

        def swept() -> object:
            return [data, _plain(self.commands.sweep)]

        def studied() -> object:
            return [swept(), _plain(self.commands.epochs)]

        def taught() -> object:
            version = _version(self.commands.distill.teacher[0], self.uri)
            return [studied(), version, _plain(self.commands.distill)]

        def scored() -> object:
            return [taught(), self.args.final_tasks, self.args.protocol]

        def reported() -> object:
            return [scored(), [trial.spec.hash for trial in study_trials(self.folder)]]

        return {
            "sweep": swept,
            "epochs": studied,
            "promote": studied,
            "distill": taught,
            "final": scored,
            "report": reported,
        }

    @property
    def measured_epochs(self) -> EpochStudyArgs:
        """The epoch study's arguments for a dry run: the sweep's middle value of every axis stands
        for the best one, which nobody knows yet."""
        values = values_of(self.args)
        values["lr"] = values["lr"] or self.setup.preset.lrs
        middle = {name: given[len(given) // 2] for name, given in values.items()}
        epochs = self.commands.epochs
        flags = {name: value for name, value in middle.items() if hasattr(epochs, name)}
        return dataclasses.replace(epochs, **flags, dry_run=True)

    @property
    def finalists(self) -> Finalists:
        """The trials to score at last, of those that are there now."""
        bases = [self.setup.spec(arch) for arch in chosen_archs(self.args.arch)]
        return Finalists(self.folder, bases)

    def evaluation(self, trial: TrialFolder, run_id: str) -> EvaluateArgs:
        """Arguments to score a finalist with this MLflow run."""
        assert self.setup.benchmarks is not None
        return EvaluateArgs(
            model=str(trial.best_checkpoint),
            benchmarks=self.setup.benchmarks.path,
            tasks=self.args.final_tasks,
            depth=self.args.depth or "full",
            layout=self.args.layout,
            protocol=trial.spec.protocol,  # type: ignore[arg-type]
            ewok_password=self.args.ewok_password,
            long_texts="truncate",
            storage=self.setup.storage,
            output=self.folder / "final" / trial.spec.hash,
            run_id=run_id,
        )


def plan_study(args: PaperArgs) -> StudyPlan:
    """The plan of a whole study.

    Raises:
        ValueError: something asked for cannot be; the message says what to do.
    """
    args = checked(args)
    for name in ("sweep_seeds", "designs", "alphas", "temperatures"):
        if not getattr(args, name):
            raise ValueError(f"{flag_of(name)} needs a value")
    args = set_single(args)
    archs = chosen_archs(args.arch)
    if args.teacher_arch not in archs:
        raise ValueError(
            f"--teacher-arch {args.teacher_arch} is not among --arch {', '.join(archs)}: "
            "the teacher's learning rate comes from its sweep"
        )
    setup = prepare(args, lambda text: None)
    final, suite = final_tasks(args, setup.benchmarks)  # hours before their turn
    study = setup.study(setup.spec(args.teacher_arch))
    commands = StageArguments.of(args, setup.storage, study)
    return StudyPlan(args, setup, commands, setup.found(final, suite))


def _version(teacher: str, uri: str) -> list[str | None] | None:
    """The version that the alias points to, None as long as it points to nothing."""
    try:
        version = find_version(teacher, uri)
    except ValueError:
        return None
    return [str(version.version), version.run_id]


def _plain(args: Any) -> dict[str, Any]:
    values = dataclasses.asdict(args)
    return {name: value for name, value in values.items() if name not in _NO_INPUT}
