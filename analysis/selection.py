"""Choosing a learning rate (and what else was swept) and an epoch for each architecture, apart from
reporting.

val_loss          the point of least mean validation bits/byte, each trial at its best epoch
selection-split   point and epoch of the greatest mean macro on the selection split of the items
macro             the same on all items: the very figure that is reported, as is often done
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd

from analysis.points import at, best_points, on_common_seeds, point_keys, varied
from analysis.schema.choices import SelectionRule
from analysis.shared_spread import SharedSpread

RULES: tuple[SelectionRule, ...] = get_args(SelectionRule)
_COLUMNS = {"selection-split": "selection_macro", "macro": "macro"}


@dataclass(frozen=True)
class Selection:
    """The point and the epoch chosen for an architecture.

    Attributes:
        arch: the architecture.
        point: peak learning rate (`lr`), and the values of further axes that were swept.
        trials: one row for each seed, in their order: `run_id`, `seed`, `epoch` (the chosen one)
            and all columns of `runs.epochs` at that epoch.
    """

    arch: str
    point: dict[str, Any]
    trials: pd.DataFrame

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        return float(self.point["lr"])

    def mean(self, column: str) -> float:
        """Mean of a column over the seeds; NaN where it was not measured."""
        if column not in self.trials:
            return float("nan")
        return float(self.trials[column].astype(float).mean())

    def spread(self, column: str) -> float:
        """Standard deviation over the seeds; NaN with one."""
        return float(self.trials[column].astype(float).std()) if column in self.trials else np.nan


def choose(trials: pd.DataFrame, epochs: pd.DataFrame, rule: SelectionRule) -> dict[str, Selection]:
    """Choose by a rule for each architecture that has a finished trial.

    Args:
        trials: of one sweep, see `study.compared`.
        epochs: see `runs.epochs`.
        rule: one of `RULES`.

    Raises:
        ValueError: the rule wants benchmark scores, and there are none.
    """
    finished = _at_sound_points(trials)
    finished = finished[finished["outcome"] == "finished"]
    chosen = _by_loss(trials, finished) if rule == "val_loss" else _by_macro(finished, epochs, rule)
    choices = {}
    for arch, (point, pairs) in chosen.items():
        rows = epochs.merge(pairs, on=["run_id", "epoch"]).sort_values("seed", ignore_index=True)
        choices[arch] = Selection(arch, point, rows)
    return choices


def spread_over_seeds(
    trials: pd.DataFrame, epochs: pd.DataFrame, choices: Iterable[Selection], column: str
) -> SharedSpread:
    """The spread over seeds of a column of `epochs`, of the points at which all seeds finished.

    Of a trial that was chosen the figure at the chosen epoch counts, of another that at its best.

    Args:
        trials, epochs: see `choose`.
        choices: what was chosen.
        column: percent, or bits/byte.
    """
    finished = _at_sound_points(trials)
    finished = finished[finished["outcome"] == "finished"]
    best = finished[["run_id", "best_epoch"]].rename(columns={"best_epoch": "epoch"})
    chosen = [choice.trials[["run_id", "epoch"]] for choice in choices]
    at_epoch = pd.concat([*chosen, best]).drop_duplicates("run_id").astype({"epoch": int})
    if column not in epochs:
        return SharedSpread.of(())
    figures = epochs.merge(at_epoch, on=["run_id", "epoch"]).set_index("run_id")[column]
    points = point_keys(finished).set_axis(finished["run_id"])
    return SharedSpread.of(group.to_numpy() for _, group in figures.groupby(points))


_Chosen = dict[str, tuple[dict[str, Any], pd.DataFrame]]
"""By architecture the point, and the pairs of `run_id` and `epoch`."""


def _at_sound_points(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials of points at which no seed diverged or was stopped: what the others reached was luck.

    An architecture that has no such point keeps those at which seeds were stopped.
    """
    points = point_keys(trials)
    diverged, stopped = (
        points.isin(points[trials["outcome"] == end]) for end in ("diverged", "stopped")
    )
    sound = trials[~diverged & ~stopped]
    return pd.concat([sound, trials[~diverged & ~trials["arch"].isin(sound["arch"])]])


def _by_loss(trials: pd.DataFrame, finished: pd.DataFrame) -> _Chosen:
    chosen: _Chosen = {}
    for arch, point in best_points(trials).items():
        mine = at(finished, {"arch": arch, **point})
        if len(mine):
            pairs = mine[["run_id", "best_epoch"]].rename(columns={"best_epoch": "epoch"})
            chosen[arch] = point, pairs.astype({"epoch": int})
    return chosen


def _by_macro(finished: pd.DataFrame, epochs: pd.DataFrame, rule: SelectionRule) -> _Chosen:
    column = _COLUMNS[rule]
    names = [axis.field for axis in varied(finished)]
    scored = epochs[epochs["run_id"].isin(finished["run_id"])]
    scored = scored.drop(columns="lr").merge(finished[["run_id", *names]], on="run_id")
    if column not in scored or not scored[column].notna().any():
        raise ValueError(
            f"--select {rule} chooses by benchmark scores, and no finished trial has any: use "
            "--select val_loss, or give the sweep --benchmarks"
        )
    means = (
        on_common_seeds(scored.dropna(subset=[column]))
        .groupby(["arch", *names, "epoch"])[column]
        .agg(["mean", "size"])
        .reset_index()
    )
    # Only epochs that all seeds of a point were scored after: fewer reach extremes more easily.
    whole = means["size"] == means.groupby(["arch", *names])["size"].transform("max")
    order = ["mean", "epoch", *names]
    ranked = means[whole].sort_values(order, ascending=[False, *[True] * (len(order) - 1)])
    chosen: _Chosen = {}
    for best in ranked.drop_duplicates("arch").to_dict("records"):
        point = {name: best[name] for name in names}
        mine = at(scored, {"arch": best["arch"], "epoch": best["epoch"], **point})
        chosen[best["arch"]] = point, mine.loc[mine[column].notna(), ["run_id", "epoch"]]
    return chosen
