"""Figures of benchmark scores and of what distillation gains: dots with intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.plots.style import INK, RC, LineStyle, check, ink_sign, line_styles, say
from analysis.wording import between

_MOST_ACROSS = 4  # panels in a row
_LABEL = 36  # characters in a line of a label
_BAND: dict[str, Any] = {
    "facecolor": "none",
    "edgecolor": INK,
    "hatch": "////",
    "alpha": 0.6,
    "linewidth": 0,
}
_LEADERBOARD = ("arch", "benchmark", "mean", "low", "high", "chance", "chance_low", "chance_high")


@rc_context(RC)
def leaderboard(frame: pd.DataFrame) -> Figure:
    """Draw each architecture's score with its interval, a panel for each benchmark.

    The architectures stand in the order of their macro, or of their mean over the benchmarks if
    there is none, the best on top. A dotted line is the chance level, the hatched band about it its
    interval.

    Args:
        frame: one row per architecture and benchmark ("macro" is one), with `arch`, `benchmark`,
            `seeds` and, in percent, `mean`, `low`, `high`, `chance`, `chance_low`, `chance_high`;
            any of these may be NaN.

    Raises:
        ValueError: the frame has no rows, lacks a column, or has two rows for the same cell.
    """
    check(frame, (*_LEADERBOARD, "seeds"), "a leaderboard")
    if frame.duplicated(["arch", "benchmark"]).any():
        twice = frame[frame.duplicated(["arch", "benchmark"])].iloc[0]
        raise ValueError(
            f"a leaderboard needs one row for each cell: {twice['arch']} has several for "
            f"{twice['benchmark']}; keep one"
        )
    archs = _ranked(frame)
    styles = line_styles(archs)
    names = sorted(frame["benchmark"].unique(), key=lambda name: name != "macro")
    figure, panels = _rows_of_panels(len(names), [_with_seeds(frame, arch) for arch in archs])
    for axes, name in zip(panels, names, strict=True):
        mine = frame[frame["benchmark"] == name].set_index("arch").reindex(archs)
        axes.set_title(name, fontsize=10)
        if not mine["mean"].notna().any():
            axes.xaxis.set_ticks([])
            say(axes, "no data")
            continue
        axes.set_xlabel("%")
        _draw_chance(axes, mine)
        for row, (arch, score) in enumerate(mine.iterrows()):
            _draw_dot(axes, row, score, styles[str(arch)], f"{score['mean']:.1f}", filled=True)
    handles: list[Line2D | Patch] = [
        ink_sign("mean and 95 % interval", marker="o", linestyle="-", linewidth=2)
    ]
    if frame["chance"].notna().any():
        handles.append(ink_sign("chance", linestyle=":"))
    if frame[["chance_low", "chance_high"]].notna().all(axis=1).any():
        handles.append(Patch(**_BAND, label="95 % interval of chance"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


@rc_context(RC)
def gain_figure(frame: pd.DataFrame) -> Figure:
    """Draw what students gain over the same trials without a teacher, a panel for each metric.

    To the right of the zero line is better. A filled marker is a gain or loss whose interval
    excludes zero; a hollow one has an interval that includes it, or none.

    Args:
        frame: one row per student and metric, with `student` (a label that begins with the
            architecture), `metric` (with its unit), `gain` (positive is better), `low`, `high`
            (NaN without an interval).

    Raises:
        ValueError: the frame has no rows or lacks a column, or no gain is known.
    """
    check(frame, ("student", "metric", "gain", "low", "high"), "a figure of gains")
    if not frame["gain"].notna().any():
        raise ValueError("no gain is known: train the students and their controls first")
    students = list(dict.fromkeys(frame["student"]))
    archs = {student: re.split(r"[\s,:(]", student, maxsplit=1)[0] for student in students}
    styles = line_styles(archs.values())
    metrics = list(dict.fromkeys(frame["metric"]))
    figure, panels = _rows_of_panels(len(metrics), [_wrapped(label) for label in students])
    for axes, metric in zip(panels, metrics, strict=True):
        axes.set_title(metric, fontsize=10)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_xlabel("gain (positive is better)")
        rows = frame[frame["metric"] == metric].rename(columns={"gain": "mean"})
        decimals = _decimals(rows["mean"])
        for row in rows.to_dict("records"):
            style = styles[archs[row["student"]]]
            excludes_zero = row["low"] * row["high"] > 0
            label = f"{row['mean']:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")
            _draw_dot(axes, students.index(row["student"]), row, style, label, filled=excludes_zero)
        if not rows["mean"].notna().any():
            axes.xaxis.set_ticks([])
            say(axes, "no data")
    handles = [
        ink_sign("95 % interval excludes zero", marker="o"),
        ink_sign("includes zero, or no interval", marker="o", markerfacecolor="none"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _wrapped(label: str) -> str:
    """A long label in several lines, what is in brackets in its own."""
    if len(label) <= _LABEL:
        return label
    return "\n".join(fill(line, _LABEL) for line in label.replace(" (", "\n(").splitlines())


def _decimals(values: pd.Series) -> int:
    """Number of decimals that show three digits of the greatest value."""
    greatest = values.abs().max()
    return max(0, 2 - math.floor(math.log10(greatest))) if greatest > 0 else 0


def _ranked(frame: pd.DataFrame) -> list[str]:
    """Architectures, the best macro first; those without any figure last."""
    macro = frame[frame["benchmark"] == "macro"]
    ranking = macro if macro["mean"].notna().any() else frame
    means = ranking.groupby("arch")["mean"].mean().reindex(sorted(frame["arch"].unique()))
    return list(means.sort_values(ascending=False, kind="stable", na_position="last").index)


def _with_seeds(frame: pd.DataFrame, arch: str) -> str:
    """Name of the architecture and how many seeds its figures are of."""
    seeds = frame.loc[frame["arch"] == arch, "seeds"].dropna()
    if seeds.empty:
        return arch
    low, high = int(seeds.min()), int(seeds.max())
    return f"{arch}, {between(low, high, 'seed')}"


def _rows_of_panels(count: int, labels: list[str]) -> tuple[Figure, list[Axes]]:
    """Panels that share their rows, which have these labels, the first one on top."""
    across = min(count, _MOST_ACROSS)
    down = -(-count // across)
    lines = [line for label in labels for line in label.splitlines()]
    width = 1.2 + 0.07 * max(map(len, lines)) + 2.3 * across
    height = 0.9 + (0.42 if len(lines) == len(labels) else 0.55) * len(labels)
    figure = Figure(figsize=(max(width, 6.4), 0.6 + height * down), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    for unused in panels[count:]:
        unused.remove()
    for axes in panels[:count]:
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.7)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.grid(axis="x")
    return figure, panels[:count]


def _draw_chance(axes: Axes, scores: pd.DataFrame) -> None:
    known = scores.dropna(subset=["chance"])
    if known.empty:
        return
    chance, low, high = known.iloc[0][["chance", "chance_low", "chance_high"]].astype(float)
    axes.axvline(chance, color=INK, linestyle=":", linewidth=1.2, zorder=1)
    if math.isfinite(low) and math.isfinite(high):
        axes.axvspan(low, high, zorder=0, **_BAND)


def _draw_dot(
    axes: Axes,
    row: int,
    score: Mapping[Hashable, Any] | pd.Series,
    style: LineStyle,
    text: str,
    *,
    filled: bool,
) -> None:
    """A mean with its number over it, and its interval if it has one."""
    if not math.isfinite(score["mean"]):
        place = axes.get_yaxis_transform()  # x in parts of the axis, y in rows
        axes.text(0.98, row, "no data", transform=place, va="center", ha="right", fontsize=8)
        return
    if math.isfinite(score["low"]) and math.isfinite(score["high"]):
        axes.hlines(row, score["low"], score["high"], color=style.color, linewidth=2.2, zorder=2)
    keywords = style.line if filled else {**style.line, "mfc": "none", "markeredgewidth": 1.4}
    axes.plot(score["mean"], row, markersize=7, zorder=3, **keywords)
    axes.annotate(
        text,
        (score["mean"], row),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        fontsize=8,
    )
