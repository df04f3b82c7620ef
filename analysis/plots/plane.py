"""Validation loss over two axes of a sweep."""

from __future__ import annotations

import math
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

from analysis.plots.style import HEAT, INK, RC, readable_on
from analysis.points import is_best, point_table
from analysis.schema.axes import Axis

_STEPS = 24  # of the colour bar
_BEST: dict[str, Any] = {"facecolor": "none", "linewidth": 2.2}


@rc_context(RC)
def plane_figure(trials: pd.DataFrame, across: Axis, up: Axis) -> Figure:
    """Draw the mean validation bits/byte of one architecture by two axes.

    The lighter, the better; a frame marks the best point, "diverged" and "stopped" those with such
    a seed. What was not tried is left empty.

    Args:
        trials: frame of `runs.trials`, of one architecture and one point on the other axes
            (`points.along`).
        across, up: the axes from left to right and from below.

    Raises:
        ValueError: no point finished, or see `points.completed`.
    """
    table = point_table(trials)
    finite = table.loc[np.isfinite(table["bits_per_byte"]), "bits_per_byte"]
    if finite.empty:
        raise ValueError("no point of the plane has a finite loss: there is nothing to draw")
    columns, rows = across.in_order(table[across.field]), up.in_order(table[up.field])
    # Against the map's direction: a lower loss is lighter.
    colors = ScalarMappable(
        Normalize(finite.min(), max(finite.max(), finite.min() + 1e-6)),
        matplotlib.colormaps[HEAT].reversed().resampled(_STEPS),
    )
    size = 2.2 + 0.95 * len(columns), 1.4 + 0.55 * len(rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for row in table.to_dict("records"):
        place = columns.index(row[across.field]), rows.index(row[up.field])
        _draw_cell(axes, place, row, colors)
    for axis, values, set_ticks in (
        (across, columns, axes.set_xticks),
        (up, rows, axes.set_yticks),
    ):
        set_ticks(range(len(values)), [axis.show(value) for value in values])
    axes.set_xlabel(across.label)
    axes.set_ylabel(up.label)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(colors, ax=axes, fraction=0.06, pad=0.02)
    bar.set_label("bits/byte")
    sign = Patch(**_BEST, edgecolor=INK, label="best")
    figure.legend(handles=[sign], loc="outside upper right")
    return figure


def _draw_cell(
    axes: Axes, place: tuple[int, int], row: dict[Any, Any], colors: ScalarMappable
) -> None:
    """One point with its figure, in the ink that reads best on it."""
    x, y = place
    loss = float(row["bits_per_byte"])
    if not math.isfinite(loss):
        axes.text(x, y, "diverged", ha="center", va="center", fontsize=8)
        return
    face = colors.to_rgba(np.array([loss]))[0]
    ink = readable_on(face)
    axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=face, linewidth=0))
    if is_best(row):
        axes.add_patch(Rectangle((x - 0.45, y - 0.42), 0.9, 0.84, edgecolor=ink, **_BEST))
    text = f"{loss:.4f}" + ("\nstopped" if row["stopped"] else "")
    axes.text(x, y, text, ha="center", va="center", color=ink, fontsize=9)
