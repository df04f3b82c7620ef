"""Figures along a training: what was measured after so many words."""

from __future__ import annotations

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.plots.curves import draw_chance, draw_line
from analysis.plots.style import INK, RC, check, in_units, line_sign, line_styles

_MOST_ACROSS = 4  # panels in a row
_FEW_LABELS = 100  # an axis that spans less has labels between the powers of ten


@rc_context(RC)
def milestone_figure(frame: pd.DataFrame) -> Figure:
    """Draw figures over the words seen, on a logarithmic axis, a panel for each kind of them.

    Per architecture: a line through the means over the seeds, and a band from the least to the
    greatest of them. A dotted line is the chance level.

    Args:
        frame: one row per panel, architecture, seed and milestone, with `panel` (its title), `unit`
            (beside its axis), `arch`, `words`, `value`, and `chance` (NaN where there is none).

    Raises:
        ValueError: the frame has no rows, or lacks a column.
    """
    check(frame, ("panel", "unit", "arch", "words", "value", "chance"), "a figure of milestones")
    styles = line_styles(frame["arch"])
    names = list(dict.fromkeys(frame["panel"]))
    across = min(len(names), _MOST_ACROSS)
    down = -(-len(names) // across)
    size = (max(3.2 * across, 6.4), 0.8 + 2.7 * down)
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False, sharex=True).flat)
    for unused in panels[len(names) :]:
        unused.remove()
    is_short = frame["words"].max() < _FEW_LABELS * frame["words"].min()
    for axes, name in zip(panels, names, strict=False):
        mine = frame[frame["panel"] == name]
        if mine["chance"].notna().any():
            draw_chance(axes, float(mine["chance"].max()))
        for arch, style in styles.items():
            draw_line(axes, mine[mine["arch"] == arch], "value", style, "words")
        axes.set_title(name, fontsize=10)
        axes.set_ylabel(mine["unit"].iloc[0])
        axes.set_xlabel("words seen")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_units(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(labelbottom=True)
        axes.margins(x=0.08, y=0.1)
        axes.grid()
    handles: list[Line2D | Patch] = [line_sign(arch, style) for arch, style in styles.items()]
    if frame.duplicated(["panel", "arch", "words"]).any():
        handles.append(Patch(color=INK, alpha=0.25, linewidth=0, label="min to max of seeds"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure
