"""What the findings of all commands have in common: tables, the winner, MLflow, failures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from analysis import runs
from analysis.addresses import shown
from analysis.benchmarks.suite import Scores, macro_chance
from analysis.command_line import to_type
from analysis.plots.style import write
from analysis.points import at, is_best, point_table, varied
from analysis.samples import chance
from analysis.store import how_to_browse
from analysis.terminal import say, show_whole
from analysis.wording import OVER_ITEMS, count, legend, with_error
from sweeps.findings.mlflow_notes import picture_of, study_note, sweep_note, trial_link
from sweeps.plans.common import SweepPlan
from sweeps.plans.spaces import SweepSearch
from sweeps.stored.best import best_trial
from sweeps.stored.trials import study_trials
from trainables.checkpoint import TrialFolder
from trainables.spec import TrialSpec
from trainables.tracking import Tracker


def failed_trials(plan: SweepPlan, search: SweepSearch) -> list[TrialSpec]:
    """Trials that were handed out and came to no end: their processes failed again and again."""
    given = {spec.hash: spec for spec in search.given.values()}
    return [spec for spec in given.values() if TrialFolder.of(plan.folder, spec).outcome is None]


def show_ways_on(plan: SweepPlan, tracker: Tracker, search: SweepSearch, console: Console) -> None:
    """Print which trials failed, and the commands that show what was found."""
    for spec in failed_trials(plan, search):
        error = TrialFolder.of(plan.folder, spec).path / "error.txt"
        say(console, f"[red]{escape(tracker.name_of(spec))} failed[/]; its error is in")
        show_whole(console, "  ", str(error))
    console.print()
    words = ("--study", plan.study, "--storage", shown(plan.storage))
    show_whole(console, "Report", to_type("analysis/report.py", *words))
    show_whole(console, "Browse", *how_to_browse(plan.storage, tracker.page))


def show_checkpoint(plan: SweepPlan, trials: pd.DataFrame, part: str, console: Console) -> None:
    """Print where the checkpoint of a part's best trial is, if there is one."""
    show_whole(console, "Checkpoint", *_checkpoint(plan, trials, part))


def _checkpoint(plan: SweepPlan, trials: pd.DataFrame, part: str) -> list[str]:
    folder = winner(plan, trials, part)
    if folder is None or folder.outcome is None or folder.outcome.checkpoint is None:
        return []
    return [shown(folder.path / "checkpoints" / folder.outcome.checkpoint)]


def rich_table(cells: pd.DataFrame) -> Table:
    """A table of means over seeds for the terminal, all of it text; the best rows are bold."""
    note = legend(map(str, cells.to_numpy().ravel()))
    table = Table(header_style="bold", caption=note or None, caption_justify="left")
    for number, name in enumerate(cells.columns):
        table.add_column(name, justify="left" if number == 0 or not name else "right")
    for row in cells.to_numpy():
        table.add_row(*row, style="bold" if row[-1].startswith("best") else None)
    return table


def winner(plan: SweepPlan, trials: pd.DataFrame, part: str) -> TrialFolder | None:
    """The best trial of a part, see `best_trial`; None if none finished."""
    row = _best_row(plan, trials, part)
    return None if row is None else TrialFolder(plan.folder / "trials" / str(row["spec_hash"]))


def _best_row(plan: SweepPlan, trials: pd.DataFrame, part: str) -> pd.Series | None:
    specs = _specs_of_setting(plan, plan.bases[part])
    return best_trial(trials[trials["spec_hash"].isin(specs)], specs)


def of_setting(plan: SweepPlan, trials: pd.DataFrame, base: TrialSpec) -> pd.DataFrame:
    """The trials that differ from `base` in the plan's axes and the seed only."""
    return trials[trials["spec_hash"].isin(_specs_of_setting(plan, base))]


def _specs_of_setting(plan: SweepPlan, base: TrialSpec) -> dict[str, TrialSpec]:
    """The specs in the study's folder that differ from `base` in these only, by hash."""
    specs = (trial.spec for trial in study_trials(plan.folder))
    return {spec.hash: spec for spec in specs if spec.without(plan.axes) == base.without(plan.axes)}


def macro_chance_of(plan: SweepPlan) -> float | None:
    """The macro, percent, of a model that knows nothing, on the items that the plan's trials are
    scored on; None without any scores."""
    scored_on = {base.benchmarks_hash for base in plan.bases.values()}
    folders = study_trials(plan.folder)
    ended = (each.outcome for each in folders if each.spec.benchmarks_hash in scored_on)
    reports = (report for outcome in ended if outcome for report in outcome.history)
    levels = (macro_chance(each.scores) for each in reports if each.scores)
    return next((level for level in levels if level is not None), None)


def zero_shot_line(scores: Scores) -> str:
    """The figures of `SuiteScores.to_dict()` in one line."""
    figures = ", ".join(
        f"{name} {with_error(score, scores['errors'][name], 1)}"
        for name, score in scores["benchmarks"].items()
    )
    macro = ""
    if scores["macro"] is not None:
        mean = with_error(scores["macro"], scores["macro_error"], 1)
        macro = f"macro {mean}{guessed(scores)}, "
    line = f"zero-shot {macro}{figures} ({OVER_ITEMS}), "
    line += count(sum(scores["ties"].values()), "tie")
    if bad := sum(scores["non_finite"].values()):
        line += f", {count(bad, 'score')} not finite"
    return line


def guessed(scores: Scores) -> str:
    """Words that follow a macro that guessing may reach; "" where it is above chance, or where the
    scores are of an older version and do not tell."""
    if scores["macro"] is None or "items" not in scores:
        return ""
    guessing = chance(scores, "macro", "all")
    is_above = guessing.is_below(scores["macro"])
    return "" if is_above else f" (not above chance: {guessing.in_words})"


def glue_line(results: dict[str, Any]) -> str:
    """The scores of `glue.glue_results` in one line, with the tasks that have none."""
    parts = []
    for task, result in results.items():
        score = result.get("score")
        shown = "no score"
        if score is not None:
            shown = f"{score:.1f} (constant answer {result['baseline']:.1f})"
        parts.append(f"{task} {shown}")
    return "of fine-tuning: " + ", ".join(parts)


def for_mlflow(figure: Figure, picture: Path) -> Path:
    """Write a figure beside a picture, as wide as MLflow's pages show it: they cut the rest."""
    figure.set_size_inches(8.5, 3.4)
    return write(figure, picture.with_suffix(".svg"))


def describe(
    plan: SweepPlan,
    tracker: Tracker,
    trials: pd.DataFrame,
    part: str,
    findings: Iterable[str],
    cells: pd.DataFrame,
    picture: str = "",
) -> None:
    """Put the best point's figures and a description into the parent run of a part.

    Args:
        plan, tracker: of the sweep.
        trials: frame of `runs.trials`.
        part: of the plan.
        findings: lines as they are printed, with rich's markup.
        cells: text of the table in the description.
        picture: name of the parent run's artifact to show in it, if any.
    """
    run_id = tracker.parent_of(plan.bases[part])
    mine = of_setting(plan, trials, plan.bases[part])
    mine = mine[mine["outcome"].notna()]
    table = point_table(mine)
    axes = varied(mine)
    recorded = tracker.client.get_run(run_id).data.metrics
    for row in filter(is_best, table.to_dict("records")):
        best = at(mine, {axis.field: row[axis.field] for axis in axes})
        row["epoch"] = float(best["best_epoch"].mean())
        numbers = [axis.field for axis in axes if axis.scale]
        for name in (axis.field for axis in axes if not axis.scale):  # no metric can be a word
            tracker.client.set_tag(run_id, f"best/{name}", row[name])
        for name in (*numbers, "bits_per_byte", "macro", "epoch"):
            if not math.isnan(row[name]) and recorded.get(f"best/{name}") != row[name]:
                tracker.client.log_metric(run_id, f"best/{name}", row[name])
    best = _best_row(plan, trials, part)
    link = "" if best is None else trial_link(tracker.experiment_id, best["run_id"], best["name"])
    lines = [Text.from_markup(line, emoji=False).plain for line in findings]
    lines += [f"Checkpoint: {path}" for path in _checkpoint(plan, trials, part)]
    note = sweep_note(
        lines,
        cells,
        best=link,
        picture=picture_of(run_id, picture) if picture else "",
    )
    tracker.describe(run_id, plan.kind, note)


def describe_study(plan: SweepPlan, tracker: Tracker) -> None:
    """Say in MLflow what the study is and how to read its pages."""
    logged = {name for run in tracker.trial_runs() for name in run.data.metrics}
    scored = {name.partition("/")[2] for name in logged if name.startswith("zero_shot/")}
    trials = runs.trials(plan.tracking_uri, plan.study)
    if not trials.empty:
        text = study_note(trials, sorted(scored - {"macro"}), tracker.experiment_id)
        tracker.describe_study(text)
