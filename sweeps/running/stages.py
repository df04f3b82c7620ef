"""The stages of a whole study: each is a command of its own, run when its inputs have changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis import runs
from analysis.arguments import ReportArgs
from analysis.commands import part_of, say_how_to_continue
from analysis.errors import say_error
from analysis.reporting.writing import run_report
from analysis.signals import ending_on_signals
from analysis.terminal import open_console, say, show_title, showing
from analysis.wording import count
from sweeps.arguments import (
    DistillArgs,
    EpochStudyArgs,
    EvaluateArgs,
    LrSweepArgs,
    PaperArgs,
    PromoteArgs,
)
from sweeps.findings.paper import final_table, finished_stages, record_stage, show_status
from sweeps.plans.common import keep_config
from sweeps.plans.paper import Stage, StudyPlan, plan_study
from trainables.files import read_json


@dataclass(frozen=True)
class Commands:
    """The other commands, which stand above this floor: each from its arguments to its status."""

    sweep: Callable[[LrSweepArgs], int]
    epochs: Callable[[EpochStudyArgs], int]
    promote: Callable[[PromoteArgs], int]
    distill: Callable[[DistillArgs], int]
    evaluate: Callable[[EvaluateArgs], int]


def run_study(args: PaperArgs, run: Commands) -> int:
    """Run what is to be run, or say what it would take, or where the study stands."""
    console = open_console()
    try:
        with ending_on_signals():
            try:
                with showing(console, "Preparing"):
                    plan = plan_study(args)
            except (ValueError, OSError) as error:
                return say_error(error)
            stages = stages_of(plan, run, console)
            if args.status:
                show_status(stages, plan.folder, console)
                return 0
            plan.found.show(console)
            with part_of(args):
                if args.dry_run:
                    return _dry_run(plan, run, console)
                keep_config(plan.folder, plan.args)
                return run_stages(stages, plan.folder, console)
    except KeyboardInterrupt:
        say(console, "\nStages that are done are not run again.")
        return say_how_to_continue(console)


def stages_of(plan: StudyPlan, run: Commands, console: Console) -> list[Stage]:
    """The stages of a study, in their order."""
    commands = plan.commands
    report = ReportArgs(study=plan.folder.name, storage=plan.setup.storage)
    steps: dict[str, Callable[[], int]] = {
        "sweep": lambda: run.sweep(commands.sweep),
        "epochs": lambda: run.epochs(commands.epochs),
        "promote": lambda: run.promote(commands.promote),
        "distill": lambda: run.distill(commands.distill),
        "final": lambda: score_finally(plan, run, console),
        "report": lambda: run_report(report),
    }
    return [Stage(name, steps[name], inputs) for name, inputs in plan.inputs.items()]


def run_stages(stages: Sequence[Stage], folder: Path, console: Console) -> int:
    """Run the stages whose inputs are not those that they were finished with, in their order."""
    for number, stage in enumerate(stages, start=1):
        title = f"{number}/{len(stages)} {stage.name}"
        # Only now: a stage's inputs are what the earlier ones left.
        inputs = stage.hash_inputs()
        record = finished_stages(folder).get(stage.name)
        if record is not None and record.inputs == inputs:
            say(console, f"[bold]{title}[/]: done, nothing has changed")
            continue
        show_title(console, title)
        status = stage.run()
        if status != 0:
            return status
        record_stage(folder, stage.name, inputs)
    return 0


def score_finally(plan: StudyPlan, run: Commands, console: Console) -> int:
    """Score the best trials on all tasks, log the figures to their runs, and print them."""
    if plan.setup.benchmarks is None:
        say(console, "no benchmarks: give --benchmarks to have final scores")
        return 0
    recorded = runs.trials(plan.uri, plan.folder.name)
    run_ids = dict(zip(recorded["spec_hash"], recorded["run_id"], strict=True))
    finalists = plan.finalists
    scored = []
    for found_by, trial in finalists.rows:
        evaluation = plan.evaluation(trial, run_ids[trial.spec.hash])
        status = run.evaluate(evaluation)
        if status != 0:
            return status
        assert evaluation.output is not None
        scores = read_json(evaluation.output / "scores.json", dict[str, Any])
        scored.append((found_by, trial, scores))
    console.print(final_table(scored))
    for sentence in finalists.warnings:
        say(console, f"[yellow]{sentence}[/]")
    return 0


def _dry_run(plan: StudyPlan, run: Commands, console: Console) -> int:
    """Print what each stage would take, from measured steps; nothing is run."""
    args = plan.args
    show_title(console, "1/6 sweep")
    status = run.sweep(dataclasses.replace(plan.commands.sweep, dry_run=True))
    if status != 0:
        return status
    show_title(console, "2/6 epochs")
    status = run.epochs(plan.measured_epochs)
    if status != 0:
        return status
    students = len(args.seeds) * len(args.alphas) * len(args.temperatures)
    show_title(console, "3-6 promote, distill, final, report")
    say(
        console,
        f"{count(students, 'student')} and {count(len(args.seeds), 'control')} of "
        f"{args.teacher_arch}, each trained like the teacher: a student's step takes about "
        "1.3 times as long as the sweep's. Then the best models are scored on all tasks, "
        "and the report is written.",
    )
    return 0
