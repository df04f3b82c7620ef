"""What all parts of a report use: what they are made from, what they give back, and cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis import plots
from analysis.benchmarks.suite import Scores
from analysis.reporting.page import Cell, Picture, Section
from analysis.schema.axes import Axis, short
from analysis.schema.choices import SelectionRule
from analysis.selection import Selection, choose, spread_over_seeds
from analysis.shared_spread import SharedSpread
from analysis.study import OldScoresError, Study, chance_of_macro, compared
from analysis.wording import with_error

rate = short
"""A learning rate as people write it, as in the pictures."""


@dataclass(frozen=True)
class ReportPart:
    """A part of the report, with what it adds to the top of the page."""

    section: Section
    answers: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportContext:
    """Inputs of a report's parts.

    Attributes:
        study: what MLflow holds.
        select: how learning rate and epoch are chosen.
        folder: where pictures are written.
    """

    study: Study
    select: SelectionRule
    folder: Path
    _scores: dict[tuple[str, int], Scores | None] = field(default_factory=dict)
    _unreadable: dict[str, None] = field(default_factory=dict)
    _shared: dict[str, SharedSpread] = field(default_factory=dict)

    @cached_property
    def sweep(self) -> pd.DataFrame:
        """The trials that are compared between architectures and learning rates."""
        return compared(self.study.trials)

    @property
    def unreadable(self) -> list[str]:
        """Names of trials whose scores were recorded, but are not there or of an older version."""
        known = self.study.trials.set_index("run_id")["name"]
        return [str(known.get(run_id, run_id)) for run_id in self._unreadable]

    @cached_property
    def choices(self) -> dict[str, Selection]:
        """The choice for each architecture."""
        return choose(self.sweep, self.study.epochs, self.select)

    @cached_property
    def macro_chance(self) -> float | None:
        """The macro of a model that knows nothing, of the trials in `sweep`."""
        return chance_of_macro(self.study.client, self.sweep)

    def shared(self, column: str) -> SharedSpread:
        """The spread over seeds of a column of `runs.epochs`, of all points of the sweep."""
        if column not in self._shared:
            self._shared[column] = spread_over_seeds(
                self.sweep, self.study.epochs, self.choices.values(), column
            )
        return self._shared[column]

    def scores_of(self, choice: Selection) -> list[Scores]:
        """The scores of a choice's trials; empty unless all of them have some."""
        found = [self.scores(row["run_id"], row["epoch"]) for row in records(choice.trials)]
        return [scores for scores in found if scores] if all(found) else []

    def scores(self, run_id: str, epoch: int) -> Scores | None:
        """Scores of a run after an epoch as in `Study.scores`; read once."""
        key = run_id, int(epoch)
        if key not in self._scores:
            try:
                self._scores[key] = self.study.scores(*key)
            except OldScoresError:
                self._scores[key] = None
            if self._scores[key] is None and self._was_scored(run_id):
                self._unreadable[run_id] = None
        return self._scores[key]

    def _was_scored(self, run_id: str) -> bool:
        epochs = self.study.epochs
        mine = epochs[epochs["run_id"] == run_id]
        return "macro" in mine and bool(mine["macro"].notna().any())

    def link(self, run_ids: Sequence[str]) -> str:
        """Address for a figure: of one trial its own page, of several their common parent's."""
        if len(run_ids) == 1:
            return self.study.link(run_ids[0])
        trials = self.study.trials
        parents = trials.loc[trials["run_id"].isin(list(run_ids)), "parent"].dropna().unique()
        return self.study.link(parents[0] if len(parents) else run_ids[0])

    def draw(self, figure: Figure, name: str, caption: str, alt: str) -> Picture:
        """Write a picture's files, and give it to the page."""
        svg = plots.inline_svg(figure, name=name, alt=alt)
        plots.save(figure, self.folder, name)
        return Picture(name, caption, alt, svg)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows by column name."""
    rows: list[dict[str, Any]] = frame.to_dict("records")
    return rows


def number(value: float | None, digits: int, *, link: str = "", mark: str = "") -> Cell:
    """A figure; a dash where there is none."""
    if value is None or math.isnan(value):
        return Cell("-")
    return Cell(f"{value:.{digits}f}", value, link, mark)


def with_spread(
    mean: float, deviation: float, digits: int, *, link: str = "", mark: str = ""
) -> Cell:
    """A mean and its standard deviation over seeds, where there is one."""
    if not math.isfinite(mean) or math.isnan(deviation):
        return number(mean, digits, link=link, mark=mark)
    text = with_error(mean, deviation, digits)
    return Cell(text, mean, link, mark, also=(("sd", deviation),))


def value_of(axis: Axis, value: Any, mark: str = "") -> Cell:
    """A value of an axis; a dash where there is none."""
    if value is None:
        return Cell("-")
    return Cell(axis.show(value), float(value) if axis.scale else None, mark=mark)


def interval(low: float, high: float, digits: int) -> Cell:
    """An interval; a dash where there is none."""
    if math.isnan(low) or math.isnan(high):
        return Cell("-")
    return Cell(f"{low:.{digits}f} to {high:.{digits}f}", low, also=(("high", high),))


def probability(value: float) -> Cell:
    """A p-value."""
    if math.isnan(value):
        return Cell("-")
    return Cell("< 0.001" if value < 0.001 else f"{value:.3f}", value)


def count(value: float | None) -> Cell:
    """A whole number; a dash where there is none."""
    if value is None or pd.isna(value):
        return Cell("-")
    return Cell(f"{int(value):,}", float(value))


def listed(words: Sequence[str]) -> str:
    """Join words: a, b and c."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
