"""The stages of a whole study: each is a command of its own, run when its inputs have changed.

<study>/paper.json    by stage, the hash of the inputs that it was last finished with, and when
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis import runs
from analysis.arguments import ReportArgs
from analysis.config_file import save_config
from analysis.errors import say_error
from analysis.reporting.writing import run_report
from analysis.schema.ranges import check
from analysis.signals import EXIT_INTERRUPTED, ending_on_signals
from analysis.store import tracking_uri
from analysis.wording import count
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
from sweeps.distill import run_distillation
from sweeps.epoch_study import run_epoch_study
from sweeps.evaluate import run_evaluation
from sweeps.lr_sweep import run_lr_sweep
from sweeps.plans.common import TrainingSetup, chosen_archs, final_tasks, prepare
from sweeps.promote import run_promotion
from sweeps.stored.finalists import Finalists
from sweeps.stored.model_names import find_version
from sweeps.stored.trials import study_trials
from trainables.checkpoint import TrialFolder
from trainables.files import read_json, read_or_set_aside, write_json

ALIAS = "teacher"


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


@dataclass(frozen=True)
class StageRecord:
    """The time at which a stage was finished, and the hash of its inputs then."""

    inputs: str
    finished: str


def run_study(args: PaperArgs) -> int:
    """Run what is to be run, or say what it would take, or where the study stands."""
    console = Console() if sys.stdout.isatty() else Console(width=120)
    try:
        with ending_on_signals():
            return _run_study(args, console)
    except KeyboardInterrupt:
        console.print("\nStopped. Run it again; stages that are done are not run again.")
        return EXIT_INTERRUPTED


def _run_study(args: PaperArgs, console: Console) -> int:
    try:
        with console.status("Preparing"):
            for name in ("sweep_seeds", "designs", "alphas", "temperatures"):
                if not getattr(args, name):
                    raise ValueError(f"--{name.replace('_', '-')} needs a value")
            check(args, flags=True)  # by the names that were typed
            args = set_single(args)
            archs = chosen_archs(args.arch)
            if args.teacher_arch not in archs:
                raise ValueError(
                    f"--teacher-arch {args.teacher_arch} is not among --arch {', '.join(archs)}: "
                    "the teacher's learning rate comes from its sweep"
                )
            setup = prepare(args, lambda text: None)
            final_tasks(args, setup.benchmarks)  # hours before their turn
            folder = setup.storage / setup.study(setup.spec(args.teacher_arch))
    except (ValueError, OSError) as error:
        return say_error(error)
    stages = plan_stages(args, setup, folder)
    if args.status:
        show_status(stages, folder, console)
        return 0
    if args.dry_run:
        return _dry_run(args, setup, console)
    save_config(folder, args)
    return run_stages(stages, folder, console)


def run_stages(stages: Sequence[Stage], folder: Path, console: Console) -> int:
    """Run the stages whose inputs are not those that they were finished with, in their order."""
    for number, stage in enumerate(stages, start=1):
        title = f"{number}/{len(stages)} {stage.name}"
        # Only now: a stage's inputs are what the earlier ones left.
        inputs = _hash(stage.inputs())
        record = _finished(folder).get(stage.name)
        if record is not None and record.inputs == inputs:
            console.print(f"[bold]{title}[/]: done, nothing has changed", highlight=False)
            continue
        console.rule(f"[bold]{title}", align="left")
        status = stage.run()
        if status != 0:
            return status
        time = datetime.now(UTC).isoformat(timespec="seconds")
        done = {**_finished(folder), stage.name: StageRecord(inputs, time)}
        folder.mkdir(parents=True, exist_ok=True)
        records = {name: dataclasses.asdict(each) for name, each in done.items()}
        write_json(folder / "paper.json", records)
    return 0


def show_status(stages: Sequence[Stage], folder: Path, console: Console) -> None:
    """Print each stage's state, and how many trials the study has."""
    table = Table(header_style="bold")
    for name in ("stage", "state", "finished"):
        table.add_column(name)
    records, is_open = _finished(folder), False
    for stage in stages:
        record = records.get(stage.name)
        is_same = record is not None and not is_open and record.inputs == _hash(stage.inputs())
        state = "done" if is_same else "to do" if record is None else "to do again: inputs changed"
        is_open = is_open or not is_same
        table.add_row(stage.name, state, record.finished if record else "")
    console.print(table)
    trials = study_trials(folder)
    ended = sum(trial.outcome is not None for trial in trials)
    console.print(
        escape(
            f"{count(len(trials), 'trial was', 'trials were')} begun, {ended} of them ended; the "
            f"study is in {folder}"
        ),
        highlight=False,
        soft_wrap=True,
    )


def plan_stages(args: PaperArgs, setup: TrainingSetup, folder: Path) -> list[Stage]:
    """The stages of the study."""
    teacher = f"models:/{args.teacher_arch}@{ALIAS}"
    commands = StageArguments.of(args, setup, folder, teacher)
    data = [setup.corpus.hash, setup.suite_hash]

    def swept() -> object:
        return [data, _plain(commands.sweep)]

    def studied() -> object:
        return [swept(), _plain(commands.epochs)]

    def taught() -> object:
        version = _version(teacher, tracking_uri(setup.storage))
        return [studied(), version, _plain(commands.distill)]

    def scored() -> object:
        return [taught(), args.final_tasks, args.protocol]

    return [
        Stage("sweep", lambda: run_lr_sweep(commands.sweep), swept),
        Stage("epochs", lambda: run_epoch_study(commands.epochs), studied),
        Stage("promote", lambda: run_promotion(commands.promote), studied),
        Stage("distill", lambda: run_distillation(commands.distill), taught),
        Stage("final", lambda: score_finally(args, setup, folder), scored),
        Stage(
            "report",
            lambda: run_report(ReportArgs(study=folder.name, storage=setup.storage)),
            lambda: [scored(), [trial.spec.hash for trial in study_trials(folder)]],
        ),
    ]


@dataclass(frozen=True)
class StageArguments:
    """The arguments of the stages' commands."""

    sweep: LrSweepArgs
    epochs: EpochStudyArgs
    promote: PromoteArgs
    distill: DistillArgs

    @classmethod
    def of(
        cls, args: PaperArgs, setup: TrainingSetup, folder: Path, teacher: str
    ) -> StageArguments:
        """Make the arguments for a study."""
        common = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainingArgs)}
        common |= {"study": folder.name, "storage": setup.storage, "final_tasks": ()}
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
            PromoteArgs(
                arch=args.teacher_arch, study=folder.name, alias=ALIAS, storage=setup.storage
            ),
            DistillArgs(
                **{**common, **unset},
                teacher=(teacher,),
                alphas=args.alphas,
                temperatures=args.temperatures,
            ),
        )


def score_finally(args: PaperArgs, setup: TrainingSetup, folder: Path) -> int:
    """Score the best trials on all tasks, log the figures to their runs, and print them."""
    console = Console() if sys.stdout.isatty() else Console(width=120)
    if setup.benchmarks is None:
        console.print("no benchmarks: give --benchmarks to have final scores")
        return 0
    recorded = runs.trials(tracking_uri(setup.storage), folder.name)
    run_ids = dict(zip(recorded["spec_hash"], recorded["run_id"], strict=True))
    finalists = Finalists(folder, [setup.spec(arch) for arch in chosen_archs(args.arch)])
    scored = []
    for found_by, trial in finalists.rows:
        output = folder / "final" / trial.spec.hash
        status = run_evaluation(
            EvaluateArgs(
                model=str(trial.best_checkpoint),
                benchmarks=setup.benchmarks.path,
                tasks=args.final_tasks,
                protocol=trial.spec.protocol,  # type: ignore[arg-type]
                ewok_password=args.ewok_password,
                long_texts="truncate",
                storage=setup.storage,
                output=output,
                run_id=run_ids[trial.spec.hash],
            )
        )
        if status != 0:
            return status
        scored.append((found_by, trial, read_json(output / "scores.json", dict[str, Any])))
    console.print(final_table(scored))
    for sentence in finalists.warnings:
        console.print(f"[yellow]{sentence}[/]", highlight=False, soft_wrap=True)
    return 0


def final_table(scored: Sequence[tuple[str, TrialFolder, dict[str, Any]]]) -> Table:
    """A row for each model: what it was found by and trained as, bits per byte, figures.

    Best first among those found by the same, which alone had the same chances.
    """
    zero_shot = [scores.get("zero_shot", {"benchmarks": {}}) for *_, scores in scored]
    names = list(dict.fromkeys(name for found in zero_shot for name in found["benchmarks"]))
    table = Table(title="Final scores", title_justify="left", header_style="bold")
    for name in ("found by", "model", "epochs", "bits/byte", *names):
        table.add_column(name, justify="left" if name in ("found by", "model") else "right")
    for part in dict.fromkeys(found_by for found_by, *_ in scored):
        table.add_section()
        mine = [(trial, scores) for found_by, trial, scores in scored if found_by == part]
        for trial, scores in sorted(mine, key=lambda pair: _score(pair[0])):
            figures = scores.get("zero_shot", {"benchmarks": {}})["benchmarks"]
            shown = [f"{figures[name]:.1f}" if name in figures else "" for name in names]
            cells = (part, trial.spec.name, str(trial.spec.epochs), f"{_score(trial):.4f}")
            table.add_row(*cells, *shown)
    return table


def _dry_run(args: PaperArgs, setup: TrainingSetup, console: Console) -> int:
    """Print what each stage would take, from measured steps; nothing is run."""
    commands = StageArguments.of(args, setup, Path(setup.study(setup.spec(args.teacher_arch))), "")
    values = values_of(args)
    values["lr"] = values["lr"] or setup.preset.lrs
    middle = {name: given[len(given) // 2] for name, given in values.items()}
    console.rule("[bold]1/6 sweep", align="left")
    status = run_lr_sweep(dataclasses.replace(commands.sweep, dry_run=True))
    if status != 0:
        return status
    console.rule("[bold]2/6 epochs", align="left")
    flags = {name: value for name, value in middle.items() if hasattr(commands.epochs, name)}
    epochs = dataclasses.replace(commands.epochs, **flags, dry_run=True)
    status = run_epoch_study(epochs)
    if status != 0:
        return status
    students = len(args.seeds) * len(args.alphas) * len(args.temperatures)
    console.rule("[bold]3-6 promote, distill, final, report", align="left")
    console.print(
        f"{count(students, 'student')} and {count(len(args.seeds), 'control')} of "
        f"{args.teacher_arch}, each trained like the teacher: a student's step takes about "
        "1.3 times as long as the sweep's. Then the best models are scored on all tasks, "
        "and the report is written.",
        highlight=False,
    )
    return 0


def _version(teacher: str, uri: str) -> list[str | None] | None:
    """The version that the alias points to, None as long as it points to nothing."""
    try:
        version = find_version(teacher, uri)
    except ValueError:
        return None
    return [str(version.version), version.run_id]


def _finished(folder: Path) -> dict[str, StageRecord]:
    return read_or_set_aside(
        folder / "paper.json",
        dict[str, StageRecord],
        {},
        then="every stage is looked at again: what is there is not trained again",
    )


_NO_INPUT = {
    *("storage", "address", "max_concurrent", "checkpoint_minutes", "dry_run", "ewok_password"),
    *("cpus_per_trial", "gpus_per_trial", "workers_per_trial", "runner", "micro_batch", "study"),
}
"""Arguments that change where and how fast a stage runs, not what it finds."""


def _plain(args: Any) -> dict[str, Any]:
    values = dataclasses.asdict(args)
    return {name: value for name, value in values.items() if name not in _NO_INPUT}


def _hash(inputs: object) -> str:
    canonical = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _score(trial: TrialFolder) -> float:
    assert trial.outcome is not None
    return trial.outcome.score
