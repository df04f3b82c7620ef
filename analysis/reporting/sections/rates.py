"""Which learning rate is best for each architecture, how sure is that, and how much it matters."""

from __future__ import annotations

import math

import pandas as pd

from analysis import plots
from analysis.learning_rates import (
    Optimum,
    RateCost,
    Sensitivity,
    compare_best,
    open_edge,
    optimum,
    sensitivity,
)
from analysis.points import along, at, best_points, is_best, point_table, varied
from analysis.reporting.page import Cell, Section, Table
from analysis.reporting.sections.common import (
    ReportContext,
    ReportPart,
    count,
    number,
    rate,
    records,
    value_of,
    with_spread,
)
from analysis.schema.axes import LR, in_words
from analysis.wording import OVER_SEEDS


def rates(context: ReportContext) -> ReportPart:
    """The table and the curves of the learning rates, with fits and what a wrong rate costs.

    Where further axes were swept, the curves run through each architecture's best point.
    """
    ended = context.sweep[context.sweep["outcome"].notna()]
    title = "Which learning rate"
    if ended.empty:
        text = "No trial of a sweep has ended yet."
        return ReportPart(Section("rates", title, (text,)))
    trials = along(ended, LR)
    archs = sorted(trials["arch"].unique())
    fits = {arch: optimum(trials, arch) for arch in archs}
    losses = {arch: sensitivity(trials, arch) for arch in archs}
    sentences = [compare_best(trials, arch).sentence for arch in archs]
    edges = {arch: open_edge(context.sweep, arch) for arch in archs}
    warnings = [warning for warning in edges.values() if warning]
    picture = context.draw(
        plots.axis_figure(trials, fits=fits, chance=context.macro_chance),
        "rates",
        "Score against peak learning rate: means and ranges over seeds, parabolas near the best, "
        "crosses where a seed diverged",
        " ".join(sentences),
    )
    section = Section(
        "rates",
        title,
        (_answer(ended), *sentences, *warnings),
        (_optima(context, trials, fits, losses, edges),),
        (picture,),
        (_fits(fits, losses), _all_points(context, ended)),
    )
    return ReportPart(section, (_answer(ended),), tuple(warnings))


def _answer(trials: pd.DataFrame) -> str:
    best = best_points(trials)
    if not best and point_table(trials)["diverged"].all():
        return "Every learning rate diverged; try lower ones."
    if not best:
        return (
            "No learning rate is the best yet: each diverged on a seed or was stopped early on all."
        )
    found = [f"{arch} {in_words(point)}" for arch, point in best.items()]
    return f"Best learning rate by validation loss: {', '.join(found)}."


def _optima(
    context: ReportContext,
    trials: pd.DataFrame,
    fits: dict[str, Optimum],
    losses: dict[str, Sensitivity],
    edges: dict[str, str],
) -> Table:
    rows = []
    for arch, fit in fits.items():
        mine = trials[trials["arch"] == arch]
        found = losses[arch]
        cells = [Cell("-"), Cell("-")]
        if found.best is not None:
            at_best = mine[mine["lr"] == found.best]
            link = context.link(list(at_best["run_id"]))
            figures = at_best["bits_per_byte"].astype(float)
            cells = [
                Cell(rate(found.best), found.best, link),
                with_spread(figures.mean(), figures.std(), 4, link=link),
            ]
        inside = found.best is not None and mine["lr"].nunique() > 2 and not edges[arch]
        rows.append(
            (
                Cell(arch),
                *cells,
                Cell("yes" if inside else "no", mark="" if inside else "open"),
                Cell(rate(fit.lr), fit.lr) if fit.lr is not None else Cell("-"),
                _range(fit.interval),
                _loss(found.third),
                _loss(found.thrice),
            )
        )
    columns = ("architecture", "best tried", "bits/byte", "inside the grid", "fitted optimum")
    return Table(
        "optima",
        "The best learning rate of each architecture, and what a third and three times of it lose",
        (*columns, "its 95 % interval", "lost at a third", "lost at three times"),
        tuple(rows),
        f"Mean {OVER_SEEDS}. Lost: bits/byte above the best. The parabolas are fitted in log "
        "learning rate.",
    )


def _range(bounds: tuple[float, float] | None) -> Cell:
    if bounds is None:
        return Cell("-")
    low, high = bounds
    return Cell(f"{rate(low)} to {rate(high)}", low, also=(("high", high),))


def _fits(fits: dict[str, Optimum], losses: dict[str, Sensitivity]) -> Table:
    rows = tuple((Cell(a), Cell(fits[a].sentence), Cell(losses[a].sentence)) for a in fits)
    columns = ("architecture", "the fitted parabola", "what other rates lose")
    return Table("fits", "Fits and losses in words", columns, rows)


def _loss(loss: RateCost | None) -> Cell:
    if loss is None:
        return Cell("-")
    if loss.bits_per_byte is None:
        return Cell(loss.source, mark="diverged" if loss.source == "diverged" else "")
    how = " (fit)" if loss.source == "fit" else ""
    return Cell(f"{loss.bits_per_byte:+.4f}{how}", loss.bits_per_byte)


def _all_points(context: ReportContext, trials: pd.DataFrame) -> Table:
    axes = varied(trials)
    names = [axis.field for axis in axes]
    rows = []
    for row in records(point_table(trials).sort_values(["arch", *names])):
        mine = at(trials, {name: row[name] for name in ("arch", *names)})
        link = context.link(list(mine["run_id"]))
        mark = "best" if is_best(row) else ""
        if row["diverged"]:
            figure = Cell(
                f"{row['diverged']} of {row['seeds']} diverged", math.inf, link, "diverged"
            )
        else:
            figure = with_spread(row["bits_per_byte"], row["bits_per_byte_sd"], 4, link=link)
        rows.append(
            (
                Cell(row["arch"]),
                *(value_of(a, row[a.field], mark if a == LR else "") for a in axes),
                count(row["seeds"]),
                figure,
                with_spread(row["macro"], row["macro_sd"], 1, link=link),
                number(row["stopped"], 0),
            )
        )
    columns = ("seeds", "bits/byte", "macro, all items", "stopped")
    tried = "learning rate" if len(axes) == 1 else "point"
    caption = f"Every {tried} that was tried: mean {OVER_SEEDS}"
    labels = [axis.label for axis in axes]
    return Table("rates", caption, ("architecture", *labels, *columns), tuple(rows))
