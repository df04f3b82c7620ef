"""Pictures of a study, drawn without a display or global state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.statistics import completed

# Okabe & Ito's palette for all kinds of colour vision; markers tell the lines apart in grey.
STYLES = {
    "transformer": ("#0072B2", "o"),
    "lstm": ("#D55E00", "s"),
    "xlstm": ("#009E73", "^"),
    "mamba": ("#CC79A7", "D"),
    "hgrn2": ("#E69F00", "v"),
}
_OTHER_STYLES = [("#56B4E9", "P"), ("#000000", "X"), ("#7F7F7F", "*")]
DESIGN_STYLES = {
    "trajectory": ("#0072B2", "o"),
    "independent": ("#D55E00", "s"),
    "branch": ("#E69F00", "v"),
}
CHANCE = 50.0
_MOST_TICKS = 8


def lr_curve(trials: pd.DataFrame, path: Path | str, *, title: str = "") -> Path:
    """Draw validation bits-per-byte, and the zero-shot macro if there is one, by learning rate.

    Per architecture: a line through the means over the seeds that finished, and a band from the
    least to the greatest of them. Hollow markers are trials stopped early. A cross on the edge of
    the bad side marks a rate with a diverged seed; where only some diverged it says how many.

    Args:
        trials: frame of `runs.trials`; rows without an outcome are left out.
        path: file to write; its ending chooses the format (.png, .svg, .pdf).
        title: above the panels.

    Returns:
        The path written.

    Raises:
        ValueError: no trial has an outcome yet, or see `statistics.completed`.
    """
    done = completed(trials)
    if done.empty:
        raise ValueError("no trial has an outcome yet: there is nothing to draw")
    has_macro = "macro" in done and bool(done["macro"].notna().any())
    figure = Figure(figsize=(10.5 if has_macro else 6, 4), layout="constrained")
    panels = figure.subplots(1, 2 if has_macro else 1, squeeze=False)[0]
    _draw_panel(panels[0], done, "bits_per_byte", worst_edge=1.0)
    panels[0].set_ylabel("validation bits per byte (lower is better)")
    if has_macro:
        _draw_chance(panels[1])  # first, so that the axis reaches down to it
        _draw_panel(panels[1], done, "macro", worst_edge=0.0)
        panels[1].set_ylabel("zero-shot macro, % (higher is better)")
    figure.legend(handles=_legend(done), loc="outside right upper", frameon=False)
    if title:
        figure.suptitle(title)
    path = Path(path)
    figure.savefig(path, dpi=150)
    return path


def epoch_curve(scores: pd.DataFrame, path: Path | str, *, title: str = "") -> Path:
    """Draw validation bits-per-byte, and the zero-shot macro if there is one, by epochs trained.

    Per design: a line through the means over the seeds that did not diverge, and a band from the
    least to the greatest of them. A cross on the upper edge marks a horizon with a diverged seed.

    Args:
        scores: see `analysis.epochs`.
        path: file to write; its ending chooses the format (.png, .svg, .pdf).
        title: above the panels.

    Returns:
        The path written.

    Raises:
        ValueError: there are no scores.
    """
    if scores.empty:
        raise ValueError("no trial has an outcome yet: there is nothing to draw")
    has_macro = bool(scores["macro"].notna().any())
    figure = Figure(figsize=(10.5 if has_macro else 6, 4), layout="constrained")
    panels = figure.subplots(1, 2 if has_macro else 1, squeeze=False)[0]
    _draw_epochs(panels[0], scores, "bits_per_byte")
    panels[0].set_ylabel("validation bits per byte (lower is better)")
    if has_macro:
        _draw_chance(panels[1])  # first, so that the axis reaches down to it
        _draw_epochs(panels[1], scores, "macro")
        panels[1].set_ylabel("zero-shot macro, % (higher is better)")
    designs = [design for design in DESIGN_STYLES if (scores["design"] == design).any()]
    handles = [_line_sign(design, *DESIGN_STYLES[design]) for design in designs]
    if scores.duplicated(["design", "horizon"]).any():
        handles.append(_band_sign())
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    if title:
        figure.suptitle(title)
    path = Path(path)
    figure.savefig(path, dpi=150)
    return path


def _draw_epochs(axes: Axes, scores: pd.DataFrame, metric: str) -> None:
    """One metric of all designs."""
    is_finite = np.isfinite(scores["bits_per_byte"])
    for design, style in DESIGN_STYLES.items():
        mine = scores["design"] == design
        _draw_line(axes, scores[mine & is_finite], metric, *style, by="horizon")
        for horizon in scores.loc[mine & ~is_finite, "horizon"].unique():
            place = axes.get_xaxis_transform()
            axes.plot(horizon, 0.98, "x", color=style[0], markersize=8, transform=place)
    axes.set_xlabel("epochs trained")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.08, y=0.1)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_panel(axes: Axes, done: pd.DataFrame, metric: str, worst_edge: float) -> None:
    """One metric of all architectures; `worst_edge` is the bad end of the axis, 0 or 1."""
    diverged = set(done.loc[done["outcome"] == "diverged", "arch"])
    rows = [arch for arch in _styles(done) if arch in diverged]
    for arch, style in _styles(done).items():
        mine = done[done["arch"] == arch]
        _draw_line(axes, mine[mine["outcome"] == "finished"], metric, *style)
        stopped = mine[mine["outcome"] == "stopped"]
        color, marker = style
        axes.plot(
            stopped["lr"], stopped[metric], marker, color=color, markerfacecolor="none", zorder=2
        )
        if arch in diverged:
            # One row of crosses per architecture, so that none hides another.
            _draw_diverged(axes, mine, color, abs(worst_edge - 0.03 - 0.05 * rows.index(arch)))
    axes.set_xscale("log")
    axes.set_xlabel("peak learning rate")
    axes.margins(x=0.08, y=0.1)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if not done.loc[done["outcome"] != "diverged", metric].notna().any():
        axes.yaxis.set_major_locator(NullLocator())  # nothing has a value
    _leave_room(axes, len(rows), worst_edge)
    _set_lr_ticks(axes, done["lr"])


def _draw_line(
    axes: Axes, finished: pd.DataFrame, metric: str, color: str, marker: str, *, by: str = "lr"
) -> None:
    over_seeds = finished.dropna(subset=[metric]).groupby(by)[metric]
    mean, low, high = over_seeds.mean(), over_seeds.min(), over_seeds.max()
    axes.plot(mean.index, mean, marker=marker, color=color, linewidth=1.6, markersize=6, zorder=3)
    axes.fill_between(mean.index, low, high, color=color, alpha=0.18, linewidth=0)
    # A band has no width at a point without neighbours: bars show the same range there.
    axes.vlines(mean.index, low, high, color=color, linewidth=1, alpha=0.6)


def _draw_diverged(axes: Axes, mine: pd.DataFrame, color: str, height: float) -> None:
    place = axes.get_xaxis_transform()  # x in learning rate, y in parts of the axis
    for lr, seeds in mine.groupby("lr"):
        diverged = int((seeds["outcome"] == "diverged").sum())
        if not diverged:
            continue
        axes.plot(lr, height, "x", color=color, markersize=8, markeredgewidth=2, transform=place)
        if diverged < len(seeds):
            axes.annotate(
                f"{diverged}/{len(seeds)}",
                (lr, height),
                xycoords=place,
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=color,
            )


def _leave_room(axes: Axes, rows: int, worst_edge: float) -> None:
    """Keep the lines out of the rows of crosses."""
    if not rows:
        return
    share = 0.03 + 0.05 * rows
    low, high = axes.get_ylim()
    room = (high - low) * share / (1 - share)
    axes.set_ylim((low, high + room) if worst_edge else (low - room, high))


def _draw_chance(axes: Axes) -> None:
    axes.axhline(CHANCE, color="0.4", linestyle=":", linewidth=1.2, zorder=1)
    axes.annotate(
        "chance",
        (1, CHANCE),
        xycoords=axes.get_yaxis_transform(),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color="0.4",
    )


def _set_lr_ticks(axes: Axes, lrs: pd.Series) -> None:
    """Label the rates that were tried, unless they are too many for that."""
    grid = sorted(lrs.unique())
    if len(grid) <= _MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(grid))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda lr, _: _short(lr)))


def _short(lr: float) -> str:
    """0.0003 -> 3e-4"""
    digits, exponent = f"{lr:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def _styles(done: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Colour and marker by architecture, the known ones in fixed order before any others."""
    present = set(done["arch"])
    others = sorted(present - set(STYLES))
    extra = {arch: _OTHER_STYLES[i % len(_OTHER_STYLES)] for i, arch in enumerate(others)}
    return {arch: style for arch, style in STYLES.items() if arch in present} | extra


def _legend(done: pd.DataFrame) -> list[Line2D]:
    handles = [_line_sign(arch, *style) for arch, style in _styles(done).items()]
    for outcome, label, marker in (
        ("stopped", "stopped early", "o"),
        ("diverged", "diverged (n of seeds)", "x"),
    ):
        if (done["outcome"] == outcome).any():
            sign = Line2D([], [], color="0.3", linestyle="none", marker=marker, label=label)
            sign.set_markerfacecolor("none")
            handles.append(sign)
    if done[done["outcome"] == "finished"].duplicated(["arch", "lr"]).any():
        handles.append(_band_sign())
    return handles


def _line_sign(label: str, color: str, marker: str) -> Line2D:
    return Line2D([], [], color=color, marker=marker, label=label)


def _band_sign() -> Line2D:
    return Line2D([], [], color="0.3", alpha=0.25, linewidth=8, label="min to max of seeds")
