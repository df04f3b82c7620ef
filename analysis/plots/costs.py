"""Loss against what it cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from analysis.plots.style import (
    RC,
    LineStyle,
    check,
    in_units,
    ink_sign,
    line_sign,
    line_styles,
    say,
)
from analysis.schema.axes import short

_LOG_FROM = 10.0  # an axis that spans more than this is logarithmic


@rc_context(RC)
def cost_curves(frame: pd.DataFrame) -> Figure:
    """Draw validation bits/byte against training tokens, training FLOPs and wall time.

    Per architecture: a line through the means over the seeds, after each epoch that all of them
    reached, and a thin line for each seed where there are several. A panel names the architectures
    whose cost is not known.

    Args:
        frame: one row per run and epoch, with `arch`, `run_id`, `bits_per_byte` and, since the
            start of training, `tokens`, `seconds` and `flops` (which may be missing). Rows without
            a finite loss are left out.

    Raises:
        ValueError: no row has a finite loss, or a column is missing.
    """
    check(frame, ("arch", "run_id", "tokens", "seconds", "bits_per_byte"), "a cost curve")
    frame = frame[np.isfinite(frame["bits_per_byte"].astype(float))]
    if frame.empty:
        raise ValueError("no epoch has a finite loss: there is nothing to draw")
    frame = frame.sort_values(["run_id", "tokens"])
    frame = frame.assign(_epoch=frame.groupby("run_id").cumcount())
    styles = line_styles(frame["arch"])
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    panels[0].set_ylabel("validation bits/byte (lower is better)")
    for axes, cost in zip(panels, ("tokens", "flops", "seconds"), strict=True):
        values = frame[cost].astype(float) if cost in frame else np.nan
        _draw_panel(axes, frame.assign(**{cost: values}), cost, styles)
    handles = [line_sign(arch, style) for arch, style in styles.items()]
    if (frame.groupby("arch")["run_id"].nunique() > 1).any():
        handles.append(ink_sign("single seeds", linestyle="-", linewidth=0.8, alpha=0.35))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _draw_panel(axes: Axes, frame: pd.DataFrame, cost: str, styles: dict[str, LineStyle]) -> None:
    known = frame[frame[cost].notna()]
    label, unit, in_words = _scale(cost, known[cost].max())
    known = known.assign(**{cost: known[cost] / unit})
    for arch, style in styles.items():
        _draw_seeds(axes, known[known["arch"] == arch], cost, style)
    axes.set_xlabel(label)
    axes.margins(x=0.08, y=0.1)
    axes.grid()
    if known.empty:
        axes.xaxis.set_ticks([])
        say(axes, "no data")
        return
    if missing := [arch for arch in styles if arch not in set(known["arch"])]:
        axes.set_title(f"no data: {', '.join(missing)}", fontsize=9)
    if known[cost].max() > _LOG_FROM * known[cost].min() > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_words(value)))


def _draw_seeds(axes: Axes, mine: pd.DataFrame, cost: str, style: LineStyle) -> None:
    """One architecture: its runs, and the means over them."""
    runs = mine["run_id"].nunique()
    by_epoch = mine.groupby("_epoch")
    means = by_epoch[[cost, "bits_per_byte"]].mean()[by_epoch.size() == runs]
    axes.plot(
        means[cost], means["bits_per_byte"], linewidth=1.6, markersize=5, zorder=3, **style.line
    )
    if runs > 1:
        for _, run in mine.groupby("run_id"):
            axes.plot(run[cost], run["bits_per_byte"], color=style.color, linewidth=0.8, alpha=0.35)


def _scale(cost: str, greatest: float) -> tuple[str, float, Callable[[float], str]]:
    """Label of the axis, what one of its units is, and how to write a number of them."""
    if cost == "tokens":
        return "training tokens", 1.0, in_units
    if cost == "flops":
        return "training FLOPs", 1.0, short
    for name, seconds in (("hours", 3600.0), ("minutes", 60.0)):
        if greatest >= 2 * seconds:
            return f"wall time, {name}", seconds, "{:g}".format
    return "wall time, seconds", 1.0, "{:g}".format
