"""Phenomena by architecture."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.plots.style import HEAT, INK, RC, check, line_styles, readable_on

_STEPS = 24  # of the colour bar
_BELOW: dict[str, Any] = {"facecolor": "none", "linestyle": (0, (2, 1.5)), "linewidth": 1.0}


@rc_context(RC)
def heat_map(frame: pd.DataFrame) -> Figure:
    """Draw how far above chance each architecture is on each phenomenon, with the score in percent.

    The lighter, the better; a dashed frame marks what is at or below chance, a dash what was not
    measured.

    Args:
        frame: one row per phenomenon and architecture: `group` (the heading over its phenomena:
            the benchmark), `phenomenon`, `arch`, and in percent `score` and `chance`; groups and
            phenomena stand in the order of their first row.

    Raises:
        ValueError: the frame has no rows, lacks a column, has two rows for the same cell, or none
            with a score and a chance level.
    """
    check(frame, ("group", "phenomenon", "arch", "score", "chance"), "a heat map")
    cell = ["group", "phenomenon", "arch"]
    if frame.duplicated(cell).any():
        twice = frame[frame.duplicated(cell)].iloc[0]
        raise ValueError(
            f"a heat map needs one row for each cell: {twice['arch']} has several for "
            f"{twice['phenomenon']}; take their mean, or keep one"
        )
    cells = frame.set_index(cell).astype({"score": float, "chance": float})
    above = cells["score"] - cells["chance"]
    if above.isna().all():
        raise ValueError("no cell has a score and a chance level: there is nothing to draw")
    rows, archs = _rows(frame), list(line_styles(frame["arch"]))
    colors = ScalarMappable(
        Normalize(min(above.min(), 0.0), max(above.max(), 1.0)),
        matplotlib.colormaps[HEAT].resampled(_STEPS),
    )
    width = 2.0 + 0.08 * max(len(name) for _, name in rows) + 0.9 * len(archs)
    figure = Figure(figsize=(width, max(2.6, 1.0 + 0.3 * len(rows))), layout="constrained")
    axes = figure.subplots()
    for (y, (group, phenomenon)), (x, arch) in product(enumerate(rows), enumerate(archs)):
        if phenomenon:
            place = group, phenomenon, arch
            _draw_cell(axes, x, y, cells["score"].get(place), above.get(place), colors)
    _label(axes, rows, archs)
    bar = figure.colorbar(colors, ax=axes, fraction=0.06, pad=0.02, aspect=30)
    bar.set_label("points above chance")
    bar.locator = MaxNLocator(6)
    bar.formatter = FuncFormatter(lambda points, _: _points(points))
    bar.update_ticks()
    if (above <= 0).any():
        sign = Patch(**_BELOW, edgecolor=INK, label="at or below chance")
        figure.legend(handles=[sign], loc="outside lower center")
    return figure


def _rows(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """(group, phenomenon) from the top, and (group, "") for the heading over each group."""
    rows = []
    for group in dict.fromkeys(frame["group"]):
        mine = frame.loc[frame["group"] == group, "phenomenon"]
        rows += [(group, ""), *((group, phenomenon) for phenomenon in dict.fromkeys(mine))]
    return rows


def _draw_cell(
    axes: Axes, x: int, y: int, score: float | None, above: float | None, colors: ScalarMappable
) -> None:
    """One cell with its number, in the ink that reads best on it."""
    text = "-" if score is None or math.isnan(score) else f"{score:.1f}"
    if above is None or math.isnan(above):
        axes.text(x, y, text, ha="center", va="center", fontsize=9)
        return
    face = colors.to_rgba(np.array([above]))[0]
    ink = readable_on(face)
    axes.add_patch(Rectangle((x - 0.49, y - 0.48), 0.98, 0.96, facecolor=face, linewidth=0))
    if above <= 0:
        axes.add_patch(Rectangle((x - 0.45, y - 0.4), 0.9, 0.8, edgecolor=ink, **_BELOW))
    axes.text(x, y, text, ha="center", va="center", color=ink, fontsize=9)


def _points(points: float) -> str:
    return f"{points:+g}".replace("-", "\N{MINUS SIGN}") if points else "chance"


def _label(axes: Axes, rows: list[tuple[str, str]], archs: list[str]) -> None:
    axes.set_xlim(-0.5, len(archs) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(
        range(len(rows)), [phenomenon.replace("_", " ") or group for group, phenomenon in rows]
    )
    for label, (_, phenomenon) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("normal" if phenomenon else "bold")
    axes.set_xticks(range(len(archs)), archs)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
