"""What a teacher was worth: each student beside its control, seed by seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from rich.console import Console
from rich.markup import escape

from analysis import runs
from analysis.gains import at_best_point, pairs_by_point, why_no_gain
from analysis.paired import Gain, Pair, paired_gain, spread_of_pairs
from analysis.points import completed
from analysis.schema.axes import AXES, Axis
from analysis.terminal import say
from analysis.wording import with_error
from sweeps.findings.common import (
    describe,
    glue_line,
    of_setting,
    rich_table,
    show_checkpoint,
    winner,
    zero_shot_line,
)
from sweeps.plans.common import SweepPlan
from sweeps.plans.distill import CONTROL
from sweeps.plans.grids import GridPlan
from sweeps.plans.spaces import SweepSearch
from trainables.spec import TrialSpec
from trainables.tracking import Tracker


def show_gains(plan: SweepPlan, tracker: Tracker, search: SweepSearch, console: Console) -> None:
    """Print each part's figures and its gain over the control, and store them in its MLflow run."""
    trials = runs.trials(plan.tracking_uri, plan.study)
    ended = {part: _ended(plan, trials, part) for part in plan.bases}
    figures = {part: at_best_point(frame) for part, frame in ended.items()}
    cells = _cells(figures, [AXES[name] for name in plan.axes])
    console.print(rich_table(cells))
    for part, base in plan.bases.items():
        lines = []
        if part != CONTROL and CONTROL in plan.bases:
            pairs = [
                pair
                for other in plan.bases
                if other != CONTROL
                for pair in pairs_by_point(ended[other], ended[CONTROL])
            ]
            gain = gain_over_control(figures[part], figures[CONTROL], pairs)
            reason = "" if gain.seeds else why_no_gain(ended[part], ended[CONTROL])
            lines.append(f"{part}: {gain.in_words('the teacher', reason)}.")
            _store(tracker, base, gain)
        lines += _winner_lines(plan, trials, part)
        for line in lines:
            say(console, line)
        show_checkpoint(plan, trials, part, console)
        describe(plan, tracker, trials, part, lines or [f"{part}: no trial has finished."], cells)


def _ended(plan: SweepPlan, trials: pd.DataFrame, part: str) -> pd.DataFrame:
    """The completed trials of a part at the plan's points and seeds."""
    asked = plan.plans[part]
    assert isinstance(asked, GridPlan)
    mine = completed(of_setting(plan, trials, plan.bases[part]))
    return mine[mine["spec_hash"].isin({spec.hash for spec in asked.specs})]


def gain_over_control(
    distilled: pd.DataFrame, control: pd.DataFrame, others: Iterable[Pair] = ()
) -> Gain:
    """Bits per byte that are gained over the control, each at its best point, by seed.

    Args:
        distilled, control: trials at one point each.
        others: pairs of students and controls, whose differences tell how much seeds vary.
    """
    shared = spread_of_pairs(Pair.of(distilled, control), others)
    left, right = (frame.set_index("seed")["bits_per_byte"] for frame in (distilled, control))
    return paired_gain(left, right, shared)


def _cells(figures: dict[str, pd.DataFrame], axes: Sequence[Axis]) -> pd.DataFrame:
    """One row of text for each part, with its best point."""
    rows = []
    for part, frame in figures.items():
        point = ["" if frame.empty else axis.show(frame[axis.field].iloc[0]) for axis in axes]
        bits, macro = (
            with_error(values.mean(), values.std(), digits)
            for name, digits in (("bits_per_byte", 4), ("macro", 1))
            for values in [frame[name].dropna().astype(float)]
        )
        rows.append([part, *point, str(len(frame)), bits, macro])
    columns = ["", *(axis.column for axis in axes), "seeds", "bits/byte", "macro"]
    return pd.DataFrame(rows, columns=columns)


def _winner_lines(plan: SweepPlan, trials: pd.DataFrame, part: str) -> list[str]:
    """The scores of a part's best trial, with rich's markup."""
    folder = winner(plan, trials, part)
    if folder is None or folder.outcome is None:
        return []
    best = folder.outcome.best
    lines = []
    if best is not None and best.scores is not None:
        lines.append(f"{part}: {zero_shot_line(best.scores)}")
    final = folder.final_scores
    lines += [f"{part}: final {zero_shot_line(final['zero_shot'])}"] if "zero_shot" in final else []
    lines += [f"{part}: final {glue_line(final['glue'])}"] if "glue" in final else []
    return [escape(line) for line in lines]


def _store(tracker: Tracker, base: TrialSpec, gain: Gain) -> None:
    """Put the gain into the part's parent run."""
    if gain.seeds == 0:
        return
    run_id = tracker.parent_of(base)
    values = {"gain/bits_per_byte": gain.mean, "gain/seeds": float(gain.seeds)}
    if gain.interval is not None:
        values |= {"gain/low": gain.interval[0], "gain/high": gain.interval[1]}
    for name, value in values.items():
        tracker.client.log_metric(run_id, name, value)
