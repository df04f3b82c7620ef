"""Which value of each further axis is best, and how all that was varied goes together."""

from __future__ import annotations

from itertools import combinations

import pandas as pd

from analysis import plots
from analysis.learning_rates import compare_best, open_edge
from analysis.points import along, has_plane, point_table, varied
from analysis.reporting.page import Picture, Section
from analysis.reporting.sections.common import ReportContext, ReportPart
from analysis.schema.axes import LR, Axis
from analysis.wording import count


def further_axes(context: ReportContext) -> ReportPart | None:
    """A curve for each axis besides the learning rate, and a heat map of each two axes.

    All go through the best point of each architecture. None where only the rate was swept.
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
        open_ends = [text for arch in archs if (text := open_edge(context.sweep, arch, axis))]
        pictures.append(_curve(context, curves, axis, " ".join(said)))
        sentences += [*said, *open_ends]
        warnings += open_ends
    pairs = combinations(varied(trials), 2)
    planes = [
        _plane(context, trials, arch, pair) for pair in pairs for arch in _archs(trials, *pair)
    ]
    pictures += [picture for picture in planes if picture is not None]
    title = "Which " + ", ".join(axis.label for axis in axes)
    section = Section("axes", title, tuple(sentences), pictures=tuple(pictures))
    return ReportPart(section, warnings=tuple(warnings))


def _archs(trials: pd.DataFrame, *axes: Axis) -> list[str]:
    """The architectures for which all of these axes were varied."""
    values = trials.groupby("arch")[[axis.field for axis in axes]].nunique()
    return sorted(values.index[(values > 1).all(axis="columns")])


def _curve(context: ReportContext, curves: pd.DataFrame, axis: Axis, alt: str) -> Picture:
    return context.draw(
        plots.axis_figure(curves, axis, chance=context.macro_chance),
        f"axis_{axis.field}",
        f"Score against {axis.label}, at each architecture's best values of the other axes",
        alt,
    )


def _plane(
    context: ReportContext, trials: pd.DataFrame, arch: str, pair: tuple[Axis, Axis]
) -> Picture | None:
    """The heat map of an architecture over two axes; None without a finite loss, or where one of
    the two has a single value at the best values of the other axes."""
    plane = along(trials[trials["arch"] == arch], *pair)
    table = point_table(plane)
    if not has_plane(plane, *pair):
        return None
    best = table.iloc[0]
    place = " and ".join(f"{axis.label} {axis.show(best[axis.field])}" for axis in pair)
    return context.draw(
        plots.plane_figure(plane, *pair),
        "_".join(["plane", *(axis.field for axis in pair if axis != LR), arch]),
        f"Validation bits/byte of {arch} by {pair[0].label} and {pair[1].label}",
        f"Best of {count(len(table), 'point')}: {place}, {best['bits_per_byte']:.4f} bits/byte",
    )
