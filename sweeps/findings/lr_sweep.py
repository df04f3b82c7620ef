"""What a sweep found: the table, the winner and how sure that is, the pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape

from analysis import runs
from analysis.learning_rates import compare_best, open_edge
from analysis.plots import axis_curve, axis_figure, plane_figure
from analysis.plots.style import write
from analysis.points import along, has_plane, is_best, point_table, varied
from analysis.reporting.sections.architectures import which_architecture
from analysis.schema.axes import LR
from analysis.store import ui_of
from analysis.study import Study, compared
from analysis.terminal import say, show_whole
from analysis.wording import with_error
from sweeps.findings.common import (
    describe,
    for_mlflow,
    glue_line,
    macro_chance_of,
    rich_table,
    show_checkpoint,
    winner,
    zero_shot_line,
)
from sweeps.plans.common import SweepPlan
from sweeps.plans.spaces import SweepSearch
from sweeps.stored.trials import study_trials
from trainables.spec import TrialSpec
from trainables.tracking import Tracker


def show_results(plan: SweepPlan, tracker: Tracker, search: SweepSearch, console: Console) -> None:
    """Print what the sweep found, and store it in the parent runs."""
    trials = comparable_trials(plan)
    trials = trials[trials["outcome"].notna()]
    mine = trials[trials["arch"].isin(list(plan.bases))]
    if not mine.empty:
        console.print(rich_table(_cells(mine)))
        for arch in plan.bases:
            console.print()
            for line in _findings(plan, mine, arch):
                say(console, line)
            show_checkpoint(plan, mine, arch, console)
        pictures = _pictures(plan, trials)
        _store(plan, tracker, mine, pictures)
        console.print()
        shown = [str(picture) for picture in pictures if picture.suffix == ".png"]
        show_whole(console, "Pictures" if len(shown) > 1 else "Picture", *shown)
        if verdict := _verdict(plan, trials):
            say(console, f"\n{verdict}")


def _verdict(plan: SweepPlan, trials: pd.DataFrame) -> str:
    """The report's first answer about these trials, "" for those of one architecture."""
    if trials["arch"].nunique() < 2:
        return ""
    study = Study.open(plan.tracking_uri, plan.study, ui_of(plan.tracking_uri))
    try:
        return escape(which_architecture(study.of_runs(trials["run_id"])))
    except (ValueError, OSError) as error:  # what was trained is not lost for damaged scores
        return f"[yellow]The architectures are not compared[/]: {escape(str(error))}"


def comparable_trials(plan: SweepPlan) -> pd.DataFrame:
    """The study's trials, of any architecture, that differ from these in what a sweep compares.

    That is architecture, the plan's axes and seed, and what goes with an architecture: precision
    and revision, of which those with the most trials stand for another architecture.
    """
    settings = {base.without(plan.axes) for base in plan.bases.values()}
    common = {_common(plan, base) for base in plan.bases.values()}
    specs = [trial.spec for trial in study_trials(plan.folder)]
    hashes = {
        spec.hash
        for spec in specs
        if (
            spec.without(plan.axes) in settings
            if spec.arch in plan.bases
            else _common(plan, spec) in common
        )
    }
    frame = runs.trials(plan.tracking_uri, plan.study)
    found = frame[frame["spec_hash"].isin(hashes)]
    is_own = found["arch"].isin(list(plan.bases))
    others = compared(found[~is_own])
    return found[is_own | found["run_id"].isin(others["run_id"])]


def _common(plan: SweepPlan, spec: TrialSpec) -> TrialSpec:
    return spec.without(plan.axes).replace(arch="", precision="fp32", revision=1)


def _pictures(plan: SweepPlan, trials: pd.DataFrame) -> list[Path]:
    """Curves through the best points, heat maps of each two axes of every architecture, and at
    last the curve of the rate as MLflow's pages show it."""
    title = plan.study
    chance = macro_chance_of(plan)
    rates = along(trials, LR)
    first = axis_curve(rates, plan.folder / "lr_curve.png", title=title, chance=chance)
    pictures = [first]
    for axis in varied(trials)[1:]:
        curves, file = along(trials, axis), plan.folder / f"{axis.field}_curve.png"
        pictures.append(axis_curve(curves, file, axis, title=title, chance=chance))
    pictures += _planes(plan, trials)
    return [*pictures, for_mlflow(axis_figure(rates, title=title, chance=chance), first)]


def _planes(plan: SweepPlan, trials: pd.DataFrame) -> Iterator[Path]:
    for across, up in combinations(varied(trials), 2):
        for arch in plan.bases:
            plane = along(trials[trials["arch"] == arch], across, up)
            if has_plane(plane, across, up):
                file = plan.folder / f"{across.field}_{up.field}_{arch}.png"
                yield write(plane_figure(plane, across, up), file)


def _cells(trials: pd.DataFrame) -> pd.DataFrame:
    """One row of text for each point, sorted by architecture and place on the axes."""
    axes = varied(trials)
    rows = []
    order = ["arch", *(axis.field for axis in axes)]
    for row in point_table(trials).sort_values(order).to_dict("records"):
        notes = ["best"] if is_best(row) else []
        notes += [f"{row[kind]} {kind}" for kind in ("diverged", "stopped") if row[kind]]
        rows.append(
            {
                "arch": row["arch"],
                **{axis.column: axis.show(row[axis.field]) for axis in axes},
                "seeds": str(row["seeds"]),
                "bits/byte": with_error(row["bits_per_byte"], row["bits_per_byte_sd"], 4),
                "macro": with_error(row["macro"], row["macro_sd"], 1),
                "": ", ".join(notes),
            }
        )
    return pd.DataFrame(rows)


def _findings(plan: SweepPlan, trials: pd.DataFrame, arch: str) -> list[str]:
    """Sentences about one architecture: the winner, how sure, and whether the grid bounds it."""
    mine = trials[(trials["arch"] == arch) & trials["outcome"].notna()]
    if mine.empty:
        return [f"{arch}: no trial has finished."]
    lines = []
    for axis in varied(mine):
        comparison = compare_best(trials, arch, axis)
        lines.append(comparison.sentence)
        if comparison.best is None:
            return lines
        if warning := open_edge(mine, arch, axis):
            lines.append(f"[yellow]{warning}[/]")
    folder = winner(plan, trials, arch)
    if folder is None or folder.outcome is None:  # all were stopped early
        return lines
    outcome = folder.outcome
    best = outcome.best
    assert best is not None
    if best.scores is not None:
        epochs = folder.spec.epochs
        lines.append(f"{arch}: {zero_shot_line(best.scores)}, epoch {best.epoch} of {epochs}")
    final = folder.final_scores
    if "zero_shot" in final:
        lines.append(f"{arch}: final {zero_shot_line(final['zero_shot'])}")
    if "glue" in final:
        lines.append(f"{arch}: final {glue_line(final['glue'])}")
    return lines


def _store(
    plan: SweepPlan, tracker: Tracker, trials: pd.DataFrame, pictures: Sequence[Path]
) -> None:
    """Put the winner, the table and the pictures into each architecture's parent run.

    The last one is shown in its description.
    """
    table = point_table(trials)
    for arch, base in plan.bases.items():
        run_id = tracker.parent_of(base)
        mine = table[table["arch"] == arch]
        tracker.client.log_text(run_id, mine.to_csv(index=False), "lr_table.csv")
        for picture in pictures:
            tracker.client.log_artifact(run_id, str(picture))
        cells = _cells(trials[trials["arch"] == arch]).drop(columns="arch", errors="ignore")
        findings = _findings(plan, trials, arch)
        describe(plan, tracker, trials, arch, findings, cells, pictures[-1].name)
