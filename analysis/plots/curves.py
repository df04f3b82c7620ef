"""Figures by learning rate and by epochs trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from analysis.learning_rates import Optimum
from analysis.plots.style import (
    DESIGN_STYLES,
    INK,
    RC,
    LineStyle,
    ink_sign,
    line_sign,
    line_styles,
    say,
    write,
)
from analysis.points import completed
from analysis.schema.axes import LR, Axis

_MOST_TICKS = 8
_ROW = 0.05  # height of a row of crosses or of bars, in parts of the axis
_LOSS = "validation bits/byte (lower is better)"
_MACRO = "zero-shot macro, % (higher is better)"
_NOTHING = "no trial has an outcome yet: there is nothing to draw"


def axis_curve(
    trials: pd.DataFrame,
    path: Path | str,
    axis: Axis = LR,
    *,
    title: str = "",
    chance: float | None = None,
) -> Path:
    """Write `axis_figure` of the trials to `path`, whose ending chooses the format."""
    return write(axis_figure(trials, axis, title, chance=chance), path)


def epoch_curve(
    scores: pd.DataFrame, path: Path | str, *, title: str = "", chance: float | None = None
) -> Path:
    """Write `epoch_figure` of the scores to `path`, whose ending chooses the format."""
    return write(epoch_figure(scores, title, chance=chance), path)


@rc_context(RC)
def axis_figure(
    trials: pd.DataFrame,
    axis: Axis = LR,
    title: str = "",
    fits: Mapping[str, Optimum] | None = None,
    *,
    chance: float | None = None,
) -> Figure:
    """Draw validation bits/byte, and the zero-shot macro if there is one, along an axis.

    Per architecture: a line through the means over the seeds that finished, and a band from the
    least to the greatest of them. Hollow markers are trials stopped early. A cross on the edge of
    the bad side marks a value with a diverged seed; where only some diverged it says how many.

    Args:
        trials: frame of `runs.trials`, of one point on the other axes (`points.along`); rows
            without an outcome are left out.
        axis: along which they differ.
        title: above the panels.
        fits: `learning_rates.optimum` by architecture: its parabola is drawn as a thin line over
            the rates of the fit, its minimum and the interval of that as a marker and a bar at the
            foot of the panel, with an arrow where the interval goes on beyond.
        chance: the macro of a model that knows nothing, percent (`study.chance_of_macro`): a dotted
            line; None draws none.

    Raises:
        ValueError: no trial has an outcome yet, or see `points.completed`.
    """
    done = completed(trials)
    if done.empty:
        raise ValueError(_NOTHING)
    figure, panels = _panels(done, title, chance)
    styles = line_styles(done["arch"])
    for axes, metric in zip(panels, ("bits_per_byte", "macro"), strict=False):
        _draw_panel(axes, done, metric, styles, group="arch", by=axis.field)
        _scale(axes, axis, done[axis.field])
    shown = {arch: fits[arch] for arch in styles if fits and arch in fits}
    _draw_fits(panels[0], shown, styles)
    handles = _legend(done, styles, ["arch", axis.field])
    if any(fit.coefficients for fit in shown.values()):
        handles.append(ink_sign("parabola", linestyle="-", linewidth=0.8))
    if any(fit.interval for fit in shown.values()):
        handles.append(ink_sign("its minimum, 95 % interval", linestyle="-", linewidth=3))
    figure.legend(handles=handles, loc="outside right upper")
    return figure


@rc_context(RC)
def epoch_figure(scores: pd.DataFrame, title: str = "", *, chance: float | None = None) -> Figure:
    """Draw validation bits/byte, and the zero-shot macro if there is one, by epochs trained.

    Per design: a line through the means over the seeds that did not diverge, and a band from the
    least to the greatest of them. A cross on the edge of the bad side marks a horizon with a
    diverged seed; where only some diverged it says how many.

    Args:
        scores: see `analysis.epochs`.
        title: above the panels.
        chance: see `axis_figure`.

    Raises:
        ValueError: there are no scores.
    """
    if scores.empty:
        raise ValueError(_NOTHING)
    finite = np.isfinite(scores["bits_per_byte"].astype(float))
    scores = scores.assign(outcome=np.where(finite, "finished", "diverged"))
    figure, panels = _panels(scores, title, chance)
    styles = line_styles(scores["design"], DESIGN_STYLES)
    for axes, metric in zip(panels, ("bits_per_byte", "macro"), strict=False):
        _draw_panel(axes, scores, metric, styles, group="design", by="horizon")
        lengths = sorted(scores["horizon"].unique())
        is_few = len(lengths) <= _MOST_TICKS
        axes.xaxis.set_major_locator(FixedLocator(lengths) if is_few else MaxNLocator(integer=True))
        axes.set_xlabel("epochs trained")
    handles = _legend(scores, styles, ["design", "horizon"])
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _panels(done: pd.DataFrame, title: str, chance: float | None) -> tuple[Figure, list[Axes]]:
    """One panel for the loss and, if there is any, one for the macro."""
    has_macro = "macro" in done and bool(done["macro"].notna().any())
    figure = Figure(figsize=(11 if has_macro else 6.5, 4), layout="constrained")
    panels = list(figure.subplots(1, 2 if has_macro else 1, squeeze=False)[0])
    panels[0].set_ylabel(_LOSS)
    if has_macro:
        panels[1].set_ylabel(_MACRO)
        if chance is not None:
            draw_chance(panels[1], chance)  # first, so that the axis reaches down to it
    if title:
        figure.suptitle(title)
    return figure, panels


def _draw_panel(
    axes: Axes,
    done: pd.DataFrame,
    metric: str,
    styles: dict[str, LineStyle],
    *,
    group: str,
    by: str,
) -> None:
    """One metric of all groups along the column `by`."""
    is_lost = done["outcome"] == "diverged"
    rows = [name for name in styles if (is_lost & (done[group] == name)).any()]
    from_top = metric == "bits_per_byte"  # the crosses stand on the bad side
    for name, style in styles.items():
        mine = done[done[group] == name]
        draw_line(axes, mine[mine["outcome"] == "finished"], metric, style, by)
        stopped = mine[mine["outcome"] == "stopped"]
        axes.plot(
            stopped[by], stopped[metric], style.marker, color=style.color, mfc="none", zorder=2
        )
        if name in rows:
            # One row of crosses per group, so that none hides another.
            height = 0.03 + _ROW * rows.index(name)
            _draw_diverged(axes, mine, by, style.color, 1 - height if from_top else height)
    axes.margins(x=0.08, y=0.1)
    axes.grid()
    if not done.loc[~is_lost, metric].notna().any():
        axes.yaxis.set_major_locator(NullLocator())
        say(axes, "all trials diverged" if is_lost.all() else "no data")
    _leave_room(axes, len(rows), at_top=from_top)


def draw_line(axes: Axes, finished: pd.DataFrame, metric: str, style: LineStyle, by: str) -> None:
    """A line through the means of a column along another, and a band from the least to the greatest
    of its rows, the seeds."""
    over_seeds = finished.dropna(subset=[metric]).groupby(by)[metric]
    mean, low, high = over_seeds.mean(), over_seeds.min(), over_seeds.max()
    axes.plot(mean.index, mean, linewidth=1.6, markersize=6, zorder=3, **style.line)
    if (high > low).any():
        axes.fill_between(mean.index, low, high, color=style.color, alpha=0.18, linewidth=0)
        # A band has no width at a point without neighbours: bars show the same range there.
        axes.vlines(mean.index, low, high, color=style.color, linewidth=1, alpha=0.6)


def _draw_diverged(axes: Axes, mine: pd.DataFrame, by: str, color: str, height: float) -> None:
    place = axes.get_xaxis_transform()  # x in data, y in parts of the axis
    for x, seeds in mine.groupby(by):
        diverged = int((seeds["outcome"] == "diverged").sum())
        if not diverged:
            continue
        axes.plot(x, height, "x", color=color, markersize=8, markeredgewidth=2, transform=place)
        if diverged < len(seeds):
            axes.annotate(
                f"{diverged}/{len(seeds)}",
                (x, height),
                xycoords=place,
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )


def _leave_room(axes: Axes, rows: int, *, at_top: bool) -> None:
    """Keep the lines out of the rows at an edge of the panel."""
    if not rows:
        return
    share = 0.03 + _ROW * rows
    low, high = axes.get_ylim()
    room = (high - low) * share / (1 - share)
    axes.set_ylim((low, high + room) if at_top else (low - room, high))


def draw_chance(axes: Axes, level: float) -> None:
    """A dotted line at the score of a model that guesses, with its name."""
    axes.axhline(level, color=INK, alpha=0.7, linestyle=":", linewidth=1.2, zorder=1)
    axes.annotate(
        "chance",
        (1, level),
        xycoords=axes.get_yaxis_transform(),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )


def _draw_fits(axes: Axes, fits: dict[str, Optimum], styles: dict[str, LineStyle]) -> None:
    """The parabolas within the panel, and under them a row for the minimum of each."""
    rows = [arch for arch, fit in fits.items() if fit.lr or fit.interval]
    _leave_room(axes, len(rows), at_top=False)
    limits, edges = axes.get_ylim(), axes.get_xlim()
    for arch, fit in fits.items():
        if fit.fitted:
            lrs = np.geomspace(*fit.fitted, 101)
            axes.plot(lrs, [fit.at(lr) for lr in lrs], color=styles[arch].color, linewidth=0.8)
    for row, arch in enumerate(reversed(rows)):  # as in the legend
        _draw_minimum(axes, fits[arch], styles[arch], 0.03 + _ROW * row, edges)
    axes.set_ylim(limits)
    axes.set_xlim(edges)


def _draw_minimum(
    axes: Axes, fit: Optimum, style: LineStyle, height: float, edges: tuple[float, float]
) -> None:
    """A marker at the minimum and a bar over its interval, as far as they lie between the edges."""
    place = axes.get_xaxis_transform()  # x in learning rate, y in parts of the axis
    if fit.interval:
        low, high = np.clip(fit.interval, *edges)
        axes.plot([low, high], [height] * 2, color=style.color, linewidth=3, transform=place)
        for end, arrow, beyond in (
            (edges[0], "<", fit.interval[0] < edges[0]),
            (edges[1], ">", fit.interval[1] > edges[1]),
        ):
            if beyond:
                axes.plot(end, height, arrow, color=style.color, transform=place, clip_on=False)
    if fit.lr and edges[0] <= fit.lr <= edges[1]:
        axes.plot(fit.lr, height, markersize=6, transform=place, **style.line)


def _scale(axes: Axes, axis: Axis, values: pd.Series) -> None:
    """Space the values as their axis has it, and label those that were tried, unless they are too
    many for that."""
    axes.set_xlabel("peak learning rate" if axis == LR else axis.label)
    if not axis.scale:
        return  # matplotlib spaces texts evenly
    grid = sorted(values.unique())
    is_log = axis.scale == "log" and grid[0] > 0
    axes.set_xscale("log" if is_log else "linear")
    many = LogLocator() if is_log else MaxNLocator()
    axes.xaxis.set_major_locator(FixedLocator(grid) if len(grid) <= _MOST_TICKS else many)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: axis.show(value)))
    if len(grid) <= _MOST_TICKS:
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(
    done: pd.DataFrame, styles: dict[str, LineStyle], point: list[str]
) -> list[Line2D | Patch]:
    """Signs of the groups and of what else is drawn; `point`: columns that make up a point."""
    handles: list[Line2D | Patch] = [line_sign(name, style) for name, style in styles.items()]
    if (done["outcome"] == "stopped").any():
        handles.append(ink_sign("stopped early", marker="o", markerfacecolor="none"))
    if (done["outcome"] == "diverged").any():
        handles.append(ink_sign("diverged (n of seeds)", marker="x"))
    finished = done[done["outcome"] == "finished"]
    if finished.duplicated(point).any():
        handles.append(Patch(color=INK, alpha=0.25, linewidth=0, label="min to max of seeds"))
    return handles
