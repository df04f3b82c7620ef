"""Which value of each further axis is best, and how it goes together with the learning rate."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import plots
from analysis.axes import LR, Axis
from analysis.learning_rates import compare_best, open_edge
from analysis.points import along, point_table, varied
from analysis.reporting.page import Picture, Section
from analysis.reporting.sections.common import Context, ReportPart


def further_axes(context: Context) -> ReportPart | None:
    """A curve for each axis besides the learning rate, and a heat map of it and the learning rate.

    Both go through the best point of each architecture. None where only the rate was swept.
    """
    trials = context.sweep[context.sweep["outcome"].notna()]
    axes = varied(trials)[1:]
    if not axes:
        return None
    sentences: list[str] = []
    warnings: list[str] = []
    pictures: list[Picture] = []
    for axis in axes:
        archs = _archs(trials, axis)
        curves = along(trials[trials["arch"].isin(archs)], axis)
        said = [compare_best(curves, arch, axis).sentence for arch in archs]
        open_ends = [text for arch in archs if (text := open_edge(curves, arch, axis))]
        pictures.append(_curve(context, curves, axis, " ".join(said)))
        planes = (_plane(context, trials, arch, axis) for arch in archs)
        pictures += [picture for picture in planes if picture is not None]
        sentences += [*said, *open_ends]
        warnings += open_ends
    title = "Which " + ", ".join(axis.label for axis in axes)
    section = Section("axes", title, tuple(sentences), pictures=tuple(pictures))
    return ReportPart(section, warnings=tuple(warnings))


def _archs(trials: pd.DataFrame, axis: Axis) -> list[str]:
    """The architectures for which an axis was varied."""
    values = trials.groupby("arch")[axis.field].nunique()
    return sorted(values.index[values > 1])


def _curve(context: Context, curves: pd.DataFrame, axis: Axis, alt: str) -> Picture:
    return context.draw(
        plots.axis_figure(curves, axis),
        f"axis_{axis.field}",
        f"Score against {axis.label}, at each architecture's best values of the other axes",
        alt,
    )


def _plane(context: Context, trials: pd.DataFrame, arch: str, axis: Axis) -> Picture | None:
    """The heat map of an architecture; None where it has one learning rate, or no finite loss."""
    plane = along(trials[trials["arch"] == arch], LR, axis)
    table = point_table(plane)
    if plane["lr"].nunique() < 2 or not np.isfinite(table["bits_per_byte"]).any():
        return None
    best = table.iloc[0]
    return context.draw(
        plots.plane_figure(plane, LR, axis),
        f"plane_{axis.field}_{arch}",
        f"Validation bits per byte of {arch} by learning rate and {axis.label}",
        f"Best of {len(table)} points: learning rate {LR.show(best['lr'])} and {axis.label} "
        f"{axis.show(best[axis.field])}, {best['bits_per_byte']:.4f} bits per byte",
    )
