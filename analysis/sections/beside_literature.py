"""The published figures that have a counterpart in the study, and ours beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import pandas as pd

from analysis import literature
from analysis.report_page import Cell, Section, Table
from analysis.sections.common import Context, Part, number, rate
from analysis.sections.epoch_study import studied_epochs
from analysis.selection import choose
from analysis.study import final_scores, is_plain

_BENCHMARKS = ("blimp", "supplement", "ewok", "macro")


def beside_literature(context: Context) -> Part | None:
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
            f"BabyHGRN's figures ({literature.SOURCE}) are of 330-360M parameters on "
            f"{literature.WORDS:,} words, chosen by the reported score itself, on all items, with "
            f"one seed. Ours are chosen in the same way for these tables only. {_ours(context)}",
        ),
        tuple(tables),
    )
    return Part(section)


def _ours(context: Context) -> str:
    sweep = context.sweep
    words = sweep.get("train_words", pd.Series(dtype=float)).dropna()
    params = sweep.get("params", pd.Series(dtype=float)).dropna()
    if words.empty or params.empty:
        return "They can be compared only where size, corpus and items are alike."
    return (
        f"Here: {params.min() / 1e6:.1f}M to {params.max() / 1e6:.1f}M parameters on "
        f"{int(words.iloc[0]):,} words of {sweep['corpus'].iloc[0]}: compare the order, and how it "
        "depends on rate and epoch, not the level, unless size, corpus and items are alike."
    )


def _best(context: Context) -> Table:
    rows = []
    choices = choose(context.sweep, context.study.epochs, "macro") if _has_macro(context) else {}
    names = [name for name in _BENCHMARKS if name in context.study.epochs]
    for arch, published in literature.BEST.items():
        if arch not in choices:
            continue
        ours = choices[arch]
        lr, epoch = literature.BEST_AT[arch]
        link = context.link(list(ours.trials["run_id"]))
        place = Cell(f"{rate(lr) if lr else '?'}, epoch\N{NO-BREAK SPACE}{epoch}")
        our_place = Cell(
            f"{rate(ours.lr)}, epoch\N{NO-BREAK SPACE}{ours.trials['epoch'].iloc[0]}", ours.lr
        )
        figures = [
            cell
            for name in names
            for cell in (number(published[name], 2), number(ours.mean(name), 2, link=link))
        ]
        rows.append((Cell(arch), place, our_place, *figures))
    columns = ["architecture", "best at, published", "ours"]
    for name in names:
        columns += [f"{name}, published", f"{name}, ours"]
    caption = "Each architecture at the learning rate and epoch of its greatest macro, all items"
    return Table("published_best", caption, tuple(columns), tuple(rows))


def _by_lr(context: Context) -> Table:
    """The best macro over the epochs, at learning rates that both studies tried."""
    rows = []
    if _has_macro(context):
        finished = context.sweep[context.sweep["outcome"] == "finished"]
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
    return Table("published_lr", caption, columns, tuple(rows))


def _by_epoch(context: Context) -> Table:
    """HGRN2's epochs: the published trajectory, and the study's own designs."""
    found = studied_epochs(context.study)
    rows: list[tuple[Cell, ...]] = []
    if found is not None and str(found.trials["arch"].iloc[0]) == "hgrn2":
        columns = ["trajectory", "independent", "branch"]
        by_design = found.scores.groupby(["design", "horizon"])["macro"].mean()
        for epoch, published in enumerate(literature.BY_EPOCH["macro"], start=1):
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
    )


def _epoch_link(context: Context, scores: pd.DataFrame, design: str, horizon: int) -> str:
    mine = scores[(scores["design"] == design) & (scores["horizon"] == horizon)]
    return context.link(list(mine["run_id"])) if len(mine) else ""


def _distilled(context: Context) -> Table:
    """HGRN2 without and with distillation: the best of each by validation loss."""
    rows = []
    for label, trials in _with_and_without(context.study.trials):
        published = literature.DISTILLED[label]
        best = trials.sort_values("bits_per_byte").iloc[0].to_dict()
        ours = _figures(context, best)
        link = context.study.link(best["run_id"])
        rows += [
            (
                Cell(f"{label} distillation"),
                Cell(name),
                number(published[name], 1),
                number(ours[name], 1, link=link),
            )
            for name in published
            if name in ours
        ]
    columns = ("HGRN2", "benchmark", "published", "ours")
    caption = "The final HGRN2 with and without distillation, all items"
    return Table("published_distillation", caption, columns, tuple(rows))


def _figures(context: Context, trial: dict[str, Any]) -> dict[str, float]:
    """A model's figures on all items: those scored once, else those of its best epoch."""
    scores = context.scores(trial["run_id"], trial["best_epoch"]) or {}
    final = final_scores(context.study.client, trial["run_id"])
    glue = [task["score"] for task in final.get("glue", {}).values() if task.get("score")]
    return {
        **scores.get("benchmarks", {}),
        **final.get("zero_shot", {}).get("benchmarks", {}),
        **({"glue": fmean(glue)} if glue else {}),
    }


def _with_and_without(trials: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    done = trials[(trials["arch"] == "hgrn2") & (trials["outcome"] == "finished")]
    if "teacher" in done:
        taught = done["teacher"].fillna("") != ""
        if taught.any():
            yield "without", done[~taught & is_plain(done)]
            yield "with", done[taught]


def _has_macro(context: Context) -> bool:
    epochs = context.study.epochs
    mine = epochs[epochs["run_id"].isin(context.sweep["run_id"])]
    return "macro" in mine and bool(mine.loc[mine["outcome"] == "finished", "macro"].notna().any())
