"""What each architecture is good at."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

import pandas as pd

from analysis import plots
from analysis.benchmarks.kinds import kind_named
from analysis.benchmarks.suite import Scores
from analysis.reporting.page import Cell, Section, Table
from analysis.reporting.sections.common import ReportContext, ReportPart, number


def phenomena(context: ReportContext) -> ReportPart | None:
    """Scores by phenomenon and architecture; None without benchmark scores."""
    rows = []
    for arch, choice in context.choices.items():
        scores = context.scores_of(choice)
        for (benchmark, phenomenon), values in _by_phenomenon(scores).items():
            chance = scores[0]["chance"][benchmark]
            row = {"group": benchmark, "phenomenon": phenomenon, "arch": arch}
            rows.append({**row, "score": fmean(values), "chance": chance})
    if not rows:
        return None
    frame = pd.DataFrame(rows)
    archs = list(frame["arch"].unique())
    picture = context.draw(
        plots.heat_map(frame),
        "phenomena",
        "Percent by phenomenon and architecture, all items, mean over seeds",
        "A heat map of the table below: rows are phenomena, columns architectures",
    )
    section = Section(
        "phenomena",
        "What each is good at",
        (_widest(frame), "All items, mean over seeds; single phenomena have few items."),
        pictures=(picture,),
        details=(_table(context, frame, archs),),
    )
    return ReportPart(section)


def _by_phenomenon(scores: list[Scores]) -> dict[tuple[str, str], list[float]]:
    """Percent of each seed, by benchmark and phenomenon."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for of_seed in scores:
        for benchmark, tasks in of_seed["tasks"].items():
            shown_by = kind_named(benchmark).shown_by
            if shown_by is None:
                continue
            groups = of_seed["groups"].get(benchmark, {}).get(shown_by, tasks)
            for phenomenon, score in groups.items():
                found[benchmark, phenomenon].append(score)
    return found


def _widest(frame: pd.DataFrame) -> str:
    """The phenomenon in which the architectures differ the most."""
    scores = frame.groupby(["group", "phenomenon"])["score"]
    spread = scores.max() - scores.min()
    if frame["arch"].nunique() < 2:
        return "One architecture: nothing to compare it with."
    group, phenomenon = spread.idxmax()
    mine = frame[(frame["group"] == group) & (frame["phenomenon"] == phenomenon)]
    best, worst = mine.loc[mine["score"].idxmax()], mine.loc[mine["score"].idxmin()]
    return (
        f"They differ the most in {phenomenon.replace('_', ' ')} ({group}): {best['arch']} "
        f"{best['score']:.1f}, {worst['arch']} {worst['score']:.1f}."
    )


def _table(context: ReportContext, frame: pd.DataFrame, archs: list[str]) -> Table:
    by_arch = frame.set_index(["group", "phenomenon", "arch"])["score"]
    links = {arch: context.link(list(context.choices[arch].trials["run_id"])) for arch in archs}
    rows = []
    for group, phenomenon in dict.fromkeys(zip(frame["group"], frame["phenomenon"], strict=True)):
        scores = [
            number(by_arch.get((group, phenomenon, arch)), 1, link=links[arch]) for arch in archs
        ]
        rows.append((Cell(phenomenon.replace("_", " ")), Cell(group), *scores))
    columns = ("phenomenon", "benchmark", *archs)
    return Table("phenomena", "Percent by phenomenon and architecture", columns, tuple(rows))
