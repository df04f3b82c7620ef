"""Which architecture is best, and how sure is that."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from analysis import plots
from analysis.points import uneven
from analysis.reporting.page import Cell, Picture, Section, Table
from analysis.reporting.sections.common import (
    ReportContext,
    ReportPart,
    count,
    interval,
    listed,
    number,
    records,
    with_spread,
)
from analysis.reporting.sections.contenders import (
    Contender,
    contenders_of,
    no_macro_above_chance,
)
from analysis.reporting.sections.differences import loss_table, pair_table, score_pairs
from analysis.reporting.sections.tasks import task_tables
from analysis.reporting.sections.verdict import answer, how
from analysis.schema.axes import in_words
from analysis.selection import Selection
from analysis.study import Study, not_compared
from analysis.wording import OVER_SEEDS


def architectures(context: ReportContext) -> ReportPart:
    """The leaderboard, all pairs of architectures, and what that comes to."""
    contenders = contenders_of(context)
    if not contenders:
        text = "No trial has finished yet, so there is nothing to compare."
        return ReportPart(Section("architectures", "Which architecture", (text,)), warnings=(text,))
    pairs = score_pairs(context, contenders)
    links = {contender.choice.arch: context.link(contender.run_ids) for contender in contenders}
    first_answer = answer(context, contenders, pairs)
    tables = [_leaderboard(context, contenders), *task_tables(context, contenders)]
    details = [_by_seed(context, contenders)]
    paragraphs = [first_answer, how(context, contenders)]
    if pairs:
        tables.append(pair_table(pairs, links))
        first = contenders[0].choice.arch
        if not no_macro_above_chance(contenders):
            paragraphs += [p.sentence for p in pairs if first in (p.first, p.second)]
        words = tuple(
            (Cell(f"{pair.first} - {pair.second}"), Cell(pair.sentence)) for pair in pairs
        )
        details.append(Table("pairs_in_words", "Every pair in words", ("pair", "in words"), words))
    if losses := loss_table(context, contenders):
        details.append(losses)
    section = Section(
        "architectures",
        "Which architecture",
        tuple(paragraphs),
        tuple(tables),
        tuple(_pictures(context, contenders)),
        tuple(details),
    )
    return ReportPart(section, (first_answer,), tuple(_warnings(context, contenders)))


def which_architecture(study: Study) -> str:
    """The report's first answer about a study, "" where there are not two architectures.

    Raises:
        ValueError: scores are damaged.
    """
    context = ReportContext(study, "val_loss", Path())
    contenders = contenders_of(context)
    if len(contenders) < 2:
        return ""
    return answer(context, contenders, score_pairs(context, contenders))


def _leaderboard(context: ReportContext, contenders: list[Contender]) -> Table:
    has_macro = any("macro" in contender.held_out for contender in contenders)
    guessing = no_macro_above_chance(contenders)
    best = "least loss" if guessing else "best"
    columns = ["architecture", "learning rate", "epoch", "seeds", "bits/byte"]
    columns += ["macro", "macro, 95 % interval", "macro, all items"] if has_macro else []
    rows = []
    for place, contender in enumerate(contenders):
        choice, link = contender.choice, context.link(contender.run_ids)
        row = [
            Cell(choice.arch, link=link, mark="" if place or len(contenders) == 1 else best),
            Cell(in_words(choice.point), choice.lr),
            _epochs(choice),
            Cell(str(len(choice.trials)), len(choice.trials)),
            with_spread(choice.mean("bits_per_byte"), choice.spread("bits_per_byte"), 4, link=link),
        ]
        if has_macro:
            row += _macro_cells(contender, link)
        rows.append(tuple(row))
    order = "least loss first: no macro is above chance" if guessing else "best first"
    caption = f"Architectures at their chosen learning rate and epoch, {order}"
    note = f"Mean {OVER_SEEDS}; percent on held-out items."
    return Table("leaderboard", caption, tuple(columns), tuple(rows), note)


def _epochs(choice: Selection) -> Cell:
    epochs = choice.trials["epoch"].astype(int)
    low, high = epochs.min(), epochs.max()
    return Cell(str(low) if low == high else f"{low} to {high}", float(epochs.mean()))


def _macro_cells(contender: Contender, link: str) -> list[Cell]:
    if "macro" not in contender.held_out:
        return [Cell("-"), Cell("-"), Cell("-")]
    held_out, full = contender.held_out["macro"], contender.full["macro"]
    return [
        contender.score("macro", link),
        interval(held_out.low, held_out.high, 1),
        number(full.mean, 1, link=link),
    ]


def _by_seed(context: ReportContext, contenders: list[Contender]) -> Table:
    names = [*dict.fromkeys(name for c in contenders for name in c.held_out)]
    rows = []
    for contender in contenders:
        for row in records(contender.choice.trials):
            link = context.study.link(row["run_id"])
            figures = [
                number(row.get(f"held_out_{name}", math.nan), 1, link=link) for name in names
            ]
            cells = (
                Cell(contender.choice.arch, link=link),
                count(row["seed"]),
                count(row["epoch"]),
            )
            rows.append((*cells, number(row["bits_per_byte"], 4, link=link), *figures))
    columns = ("architecture", "seed", "epoch", "bits/byte", *names)
    return Table("seeds", "Each seed by itself, on held-out items", columns, tuple(rows))


def _pictures(context: ReportContext, contenders: list[Contender]) -> list[Picture]:
    rows = [
        {
            "arch": c.choice.arch,
            "benchmark": name,
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
            "chance": c.chance[name].level,
            "chance_low": c.chance[name].low,
            "chance_high": c.chance[name].high,
            "seeds": found.seeds,
        }
        for c in contenders
        for name, found in c.held_out.items()
    ]
    if not rows:
        return []
    alt = "; ".join(
        f"{row['arch']} {row['mean']:.1f} ({row['low']:.1f} to {row['high']:.1f})"
        for row in rows
        if row["benchmark"] == rows[0]["benchmark"]
    )
    return [
        context.draw(
            plots.leaderboard(pd.DataFrame(rows)),
            "leaderboard",
            "Scores on held-out items with 95 % intervals, and the chance level",
            f"Scores with intervals, {rows[0]['benchmark']}: {alt}",
        )
    ]


def _warnings(context: ReportContext, contenders: list[Contender]) -> list[str]:
    warnings = []
    single = [c.choice.arch for c in contenders if len(c.choice.trials) == 1]
    if single:
        warnings.append(
            f"One seed of {listed(single)}: nothing is known of the spread over seeds, so a "
            "difference may be chance whatever its interval says; add --seeds."
        )
    if context.unreadable:
        warnings.append(
            f"The scores of {listed(context.unreadable[:5])} are missing or of an older version: "
            "the scores of their architectures are left out."
        )
    elif not any(c.held_out for c in contenders):
        warnings.append("No benchmark scores: the sweep was run without --benchmarks.")
    warnings += not_compared(context.study.trials, context.sweep)
    warnings += uneven(context.sweep)
    if context.select == "macro":
        warnings.append("Chosen by the figure that is reported (--select macro): it is optimistic.")
    suites = {c.scores[0]["suite_hash"] for c in contenders if c.scores}
    if len(suites) > 1:
        warnings.append(
            "The architectures were scored on different items: their scores are not compared."
        )
    return warnings
