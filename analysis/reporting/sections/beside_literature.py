"""The published figures that have a counterpart in the study, and ours beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean
from typing import Any

import pandas as pd

from analysis import literature
from analysis.benchmarks.glue import PROTOCOL_TASKS
from analysis.benchmarks.kinds import KINDS, MACRO_WEIGHTS, macro_in_words, macro_weights
from analysis.points import along
from analysis.reporting.page import Cell, Section, Table
from analysis.reporting.sections.common import (
    ReportContext,
    ReportPart,
    count,
    listed,
    number,
    rate,
    records,
)
from analysis.reporting.sections.distillation import Student, best_of, students_of
from analysis.reporting.sections.epoch_study import epoch_study_data
from analysis.schema.axes import LR, in_words
from analysis.selection import choose
from analysis.study import final_scores

_BENCHMARKS = ("blimp", "supplement", "ewok", "macro")
_PROTOCOL = "2024"
"""That the published figures are by."""
_GLUE = PROTOCOL_TASKS[_PROTOCOL]


def beside_literature(context: ReportContext) -> ReportPart | None:
    """Tables of the BabyHGRN study's figures and ours; None without benchmark scores."""
    tables = [
        table
        for table in (_best(context), _by_lr(context), _by_epoch(context), _distilled(context))
        if table.rows
    ]
    if not tables:
        return None
    section = Section(
        "literature",
        "Beside the published figures",
        (
            f"BabyHGRN's figures ({literature.SOURCE}) are of models trained on "
            f"{literature.WORDS:,} words with one seed, and of all items; below each table is how "
            f"large they are and how they were chosen. {_ours(context)}",
        ),
        tuple(tables),
    )
    return ReportPart(section)


def _ours(context: ReportContext) -> str:
    sweep = context.sweep
    words = sweep.get("train_words", pd.Series(dtype=float)).dropna()
    params = sweep.get("params", pd.Series(dtype=float)).dropna()
    if words.empty or params.empty:
        return "They can be compared only where size, corpus and items are alike."
    sizes = dict.fromkeys(f"{size / 1e6:.1f}M" for size in (params.min(), params.max()))
    return (
        f"Here: {' to '.join(sizes)} parameters on "
        f"{int(words.iloc[0]):,} words of {sweep['corpus'].iloc[0]}: compare the order, and how it "
        "depends on rate and epoch, not the level, unless size, corpus and items are alike."
    )


def _best(context: ReportContext) -> Table:
    rows = []
    choices = choose(context.sweep, context.study.epochs, "macro") if _has_macro(context) else {}
    names = [name for name in _BENCHMARKS if name in context.study.epochs]
    for arch in literature.BEST:
        if arch not in choices:
            continue
        ours = choices[arch]
        link = context.link(list(ours.trials["run_id"]))
        our_place = Cell(_place(in_words(ours.point), ours.trials["epoch"].iloc[0]), ours.lr)
        lr, epoch = literature.BEST_AT[arch]
        their_place = _place(rate(lr) if lr else "?", epoch)
        of_them = [(arch, their_place, literature.BEST[arch])]
        if arch in literature.CORRECTED:
            of_them.append((f"{arch}, later correction", "-", literature.CORRECTED[arch]))
        for label, place, published in of_them:
            figures = [
                cell
                for name in names
                for cell in (number(published[name], 2), number(ours.mean(name), 2, link=link))
            ]
            rows.append((Cell(label), Cell(place), our_place, *figures))
    columns = ["architecture", "best at, published", "ours"]
    for name in names:
        columns += [f"{name}, published", f"{name}, ours"]
    caption = "Each architecture at the learning rate and epoch of its greatest macro, all items"
    note = (
        "Both are chosen by the reported macro itself, ours for this table only. "
        f"{_sizes(choices)} {_macros(context, context.sweep)}"
    )
    return Table("published_best", caption, tuple(columns), tuple(rows), note)


def _place(point: str, epoch: int) -> str:
    return f"{point}, epoch\N{NO-BREAK SPACE}{epoch}"


def _sizes(archs: Iterable[str]) -> str:
    """Sizes of the published models."""
    sizes = [
        f"{arch} {literature.PARAMETERS[arch] / 1e6:.1f}M"
        for arch in literature.PARAMETERS
        if arch in set(archs)
    ]
    return f"Parameters, published: {', '.join(sizes)}."


def _macros(context: ReportContext, trials: pd.DataFrame) -> str:
    """What the macro averages, there and of these trials of one protocol, and how it is scored."""
    epochs = context.study.epochs
    mine = epochs[epochs["run_id"].isin(trials["run_id"])]
    scored = [name for name in KINDS if name in mine and mine[name].notna().any()]
    ours = macro_weights(str(trials["protocol"].iloc[0]), scored) if scored else {}
    if not ours:
        return ""
    published, others = MACRO_WEIGHTS[_PROTOCOL], _other_protocols(trials)
    if ours == published:
        return (
            f"The macro is the mean of {macro_in_words(published)}. {_how_scored(trials)}".strip()
        )
    alone = " alone" if set(ours) < set(published) else ""
    by = f"; it is by the protocol of {_PROTOCOL}, ours by that of {others}" if others else ""
    return (
        f"The published macro is the mean of {macro_in_words(published)}, ours of "
        f"{macro_in_words(ours)}{alone}{by}: the two cannot be compared."
    )


def _how_scored(trials: pd.DataFrame) -> str:
    """That another protocol asks and counts otherwise; "" for the published one."""
    if not (others := _other_protocols(trials)):
        return ""
    return (
        f"The published figures are by the protocol of {_PROTOCOL}, ours by that of {others}: the "
        "two cannot be compared."
    )


def _other_protocols(trials: pd.DataFrame) -> str:
    return listed(sorted(set(trials["protocol"]) - {_PROTOCOL}))


def _by_lr(context: ReportContext) -> Table:
    """The best macro over the epochs, at learning rates that both studies tried."""
    rows = []
    if _has_macro(context):
        sweep = along(context.sweep, LR)
        finished = sweep[sweep["outcome"] == "finished"]
        epochs = context.study.epochs
        scored = epochs[epochs["run_id"].isin(finished["run_id"])]
        means = (
            scored.groupby(["arch", "lr", "epoch"])["macro"].mean().groupby(["arch", "lr"]).max()
        )
        for (arch, lr), macro in means.items():
            published = literature.BY_LR.get(arch, {})
            known = next((published[p] for p in published if math.isclose(p, lr)), None)
            if known is None:
                continue
            mine = finished[(finished["arch"] == arch) & (finished["lr"] == lr)]
            link = context.link(list(mine["run_id"]))
            cells = (Cell(arch), Cell(rate(lr), lr), number(known, 2), number(macro, 2, link=link))
            rows.append(cells)
    columns = ("architecture", "learning rate", "macro, published", "macro, ours")
    caption = "The greatest macro over the epochs at each learning rate that both tried, all items"
    note = (
        "The epoch is chosen by the reported macro itself, ours for this table only. "
        f"{_sizes(row[0].text for row in rows)} {_macros(context, context.sweep)}"
    )
    return Table("published_lr", caption, columns, tuple(rows), note)


def _by_epoch(context: ReportContext) -> Table:
    """HGRN2's epochs: the published trajectory, and the study's own designs."""
    found = epoch_study_data(context.study)
    rows: list[tuple[Cell, ...]] = []
    at = macros = ""
    if found is not None and str(found.trials["arch"].iloc[0]) == "hgrn2":
        at = f" (ours: {rate(float(found.trials['lr'].iloc[0]))})"
        macros = _macros(context, found.trials)
        columns = ["trajectory", "independent", "branch"]
        by_design = found.scores.groupby(["design", "horizon"])["macro"].mean()
        for epoch, published in enumerate(literature.BY_EPOCH, start=1):
            ours = [by_design.get((design, epoch), math.nan) for design in columns]
            if any(figure == figure for figure in ours):
                cells = [
                    number(figure, 2, link=_epoch_link(context, found.scores, design, epoch))
                    for design, figure in zip(columns, ours, strict=True)
                ]
                rows.append((Cell(str(epoch), epoch), number(published, 2), *cells))
    return Table(
        "published_epochs",
        "HGRN2's macro against the number of epochs, all items",
        ("epochs", "published", "ours: trajectory", "ours: independent", "ours: branch"),
        tuple(rows),
        f"No epoch is chosen: each is at its own length, at one learning rate{at}. "
        f"{_sizes(['hgrn2'])} {macros}",
    )


def _epoch_link(context: ReportContext, scores: pd.DataFrame, design: str, horizon: int) -> str:
    mine = scores[(scores["design"] == design) & (scores["horizon"] == horizon)]
    return context.link(list(mine["run_id"])) if len(mine) else ""


def _distilled(context: ReportContext) -> Table:
    """HGRN2 without and with distillation: the student of the greatest gain, and its control."""
    students = [student for student in students_of(context) if student.arch == "hgrn2"]
    best = best_of(students)
    rows = []
    if best is not None:
        common = set(best.control["seed"]) & set(best.taught["seed"])
        for label, trials in (("without", best.control), ("with", best.taught)):
            figures = _figures(context, trials[trials["seed"].isin(common)])
            for name, published in literature.DISTILLED[label].items():
                mine = figures[figures["benchmark"] == name]
                if len(mine):
                    cells = (Cell(f"{label} distillation"), Cell(name), number(published, 1))
                    link = context.link(list(mine["run_id"]))
                    ours = number(mine["figure"].mean(), 1, link=link)
                    rows.append((*cells, ours, count(len(mine))))
    columns = ("HGRN2", "benchmark", "published", "ours", "seeds, ours")
    caption = "The final HGRN2 with and without distillation, all items"
    return Table("published_distillation", caption, columns, tuple(rows), _which(best))


def _which(best: Student | None) -> str:
    if best is None:
        return ""
    return (
        f"Published: {literature.PARAMETERS_DISTILLED / 1e6:.1f}M parameters by their "
        "configuration (the text says 330M and 1.2B). Ours: the mean over seeds of "
        f"{best.label}, whose gain in bits/byte is the greatest of those tried, and of its "
        "control, each at the learning rate and epoch of least validation loss. GLUE is the mean "
        f"of all {len(_GLUE)} tasks, and left out where one has no score. "
        f"{_how_scored(best.taught)}"
    ).strip()


def _figures(context: ReportContext, trials: pd.DataFrame) -> pd.DataFrame:
    """Columns `run_id`, `benchmark`, `figure`: each model's on all items, scored once on its best
    checkpoint, else after its best epoch."""
    rows = []
    for trial in records(trials):
        scores = context.scores(trial["run_id"], trial["best_epoch"]) or {}
        final = final_scores(context.study.client, trial["run_id"])
        figures = {
            **scores.get("benchmarks", {}),
            **final.get("zero_shot", {}).get("benchmarks", {}),
            "glue": _glue(final.get("glue", {})),
        }
        rows += [(trial["run_id"], name, figure) for name, figure in figures.items()]
    return pd.DataFrame(rows, columns=["run_id", "benchmark", "figure"]).dropna()


def _glue(outcomes: dict[str, dict[str, Any]]) -> float | None:
    """The mean over all tasks; None where one has no score."""
    scores = [outcomes.get(task, {}).get("score") for task in _GLUE]
    known = [score for score in scores if score is not None]
    return fmean(known) if len(known) == len(_GLUE) else None


def _has_macro(context: ReportContext) -> bool:
    epochs = context.study.epochs
    mine = epochs[epochs["run_id"].isin(context.sweep["run_id"])]
    return "macro" in mine and bool(mine.loc[mine["outcome"] == "finished", "macro"].notna().any())
