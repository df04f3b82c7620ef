"""What is learned when: figures over the words seen, of the chosen trials."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis import plots
from analysis.benchmarks.minimal_pairs import GROUPINGS
from analysis.benchmarks.suite import Scores, macro_chance
from analysis.reporting.page import Cell, Picture, Section, Table
from analysis.reporting.sections.common import (
    ReportContext,
    ReportPart,
    count,
    listed,
    with_spread,
)
from analysis.schema.milestone import MilestoneReport
from analysis.wording import OVER_SEEDS
from analysis.wording import count as counted

_LOSS = "bits/byte"
_ALL = "all tasks"
_KEY = ["benchmark", "grouping", "name"]
"""Columns of `milestone_frame` that tell its figures apart."""
_ERRORS = 1.96
"""So many standard errors lie on either side of a score in its 95 % interval."""


def milestones(context: ReportContext) -> ReportPart | None:
    """Loss and scores after so many words, and from when on a score is above chance; None where no
    chosen trial was measured on the way."""
    frame = milestone_frame(context)
    if frame.empty:
        return None
    learned = learned_when(frame)
    loss = frame[frame["name"] == _LOSS]
    whole = frame[frame["name"] == _ALL]
    groups = frame[~frame["name"].isin([_LOSS, _ALL])]
    shown = groups[groups["grouping"] == next(iter(groups["grouping"]), "")]  # the widest ones
    pictures = [
        _picture(context, pd.concat([loss, whole]), "milestones", "Loss and scores"),
        *([_picture(context, shown, "milestone_groups", "Groups of tasks")] if len(shown) else []),
    ]
    details = [_figures(context, pd.concat([loss, whole]), "milestones", "Loss and scores")]
    if len(groups):
        details.append(_figures(context, groups, "milestone_groups", "Groups of tasks"))
    section = Section(
        "milestones",
        "What is learned when",
        (
            *(_sentence(arch, mine) for arch, mine in learned.groupby("arch", sort=False)),
            "The models on the way are read in mid-schedule, before their learning rate has "
            "decayed: one that was trained for so many words only would be better. The figures are "
            "of the trials chosen above, on all items.",
        ),
        (_learned_table(context, learned),) if len(learned) else (),
        tuple(pictures),
        tuple(details),
    )
    return ReportPart(section)


def milestone_frame(context: ReportContext) -> pd.DataFrame:
    """What was measured of each architecture's chosen trials after so many words.

    Only at milestones that all its seeds have, of those with any. Columns: `arch`, `run_id`,
    `words`; `benchmark`, `grouping` and `name` of the figure, which is the loss, a benchmark's or
    the macro's figure, or that of a group of tasks, wider groupings first; its `value` (bits/byte,
    or percent), its standard `error` over items and its `chance` level, NaN where there is none.
    """
    trials = context.study.trials
    measured = set(trials.loc[trials["has_milestones"], "run_id"])
    rows: list[dict[str, Any]] = []
    for arch, choice in context.choices.items():
        run_ids = [run_id for run_id in choice.trials["run_id"] if run_id in measured]
        found = {run_id: context.study.milestones(run_id) for run_id in run_ids}
        found = {run_id: reports for run_id, reports in found.items() if reports}
        common = set.intersection(*map(set, found.values())) if found else set()
        rows += [
            {"arch": arch, "run_id": run_id, "words": words, **row}
            for words in sorted(common)
            for run_id, reports in found.items()
            for row in _rows(reports[words])
        ]
    columns = ["arch", "run_id", "words", *_KEY, "value", "error", "chance"]
    frame = pd.DataFrame(rows, columns=columns)
    order = {name: place for place, name in enumerate(["", *GROUPINGS])}
    return frame.sort_values("grouping", key=lambda names: names.map(order), kind="stable")


def _rows(report: MilestoneReport) -> Iterator[dict[str, Any]]:
    if report.bits_per_byte is not None:
        yield _row("", "", _LOSS, report.bits_per_byte)
    scores = report.scores
    if scores is None:
        return
    if (of_macro := macro_chance(scores)) is not None:
        yield _row("macro", "", _ALL, scores["macro"], scores["macro_error"], of_macro)
    for benchmark, value in scores["benchmarks"].items():
        chance = scores["chance"][benchmark]
        yield _row(benchmark, "", _ALL, value, scores["errors"][benchmark], chance)
        yield from _rows_of_groups(benchmark, scores, report.group_errors.get(benchmark, {}))


def _rows_of_groups(
    benchmark: str, scores: Scores, errors: dict[str, dict[str, float]]
) -> Iterator[dict[str, Any]]:
    """Of the groupings of minimal pairs, whose items all have the chance of their benchmark."""
    for grouping, groups in scores["groups"].get(benchmark, {}).items():
        for group, value in groups.items() if grouping in GROUPINGS else ():
            error = errors.get(grouping, {}).get(group, math.nan)
            yield _row(benchmark, grouping, group, value, error, scores["chance"][benchmark])


def _row(
    benchmark: str,
    grouping: str,
    name: str,
    value: float,
    error: float = math.nan,
    chance: float = math.nan,
) -> dict[str, Any]:
    key = dict(zip(_KEY, (benchmark, grouping, name), strict=True))
    return {**key, "value": value, "error": error, "chance": chance}


def learned_when(frame: pd.DataFrame) -> pd.DataFrame:
    """From when on each score is above chance.

    A milestone counts where the mean over seeds, less 1.96 standard errors over items, is above the
    chance level there and at all later milestones. The seeds share their items, so that their
    errors are averaged and not made smaller.

    Returns:
        One row per architecture and score: `arch`, `benchmark`, `grouping`, `name`, `words` (of the
        first such milestone; NaN where the last one does not count), `last` (the score at the last
        milestone, percent), `last_words`.
    """
    rows = []
    scored = frame[frame["chance"].notna()]
    for key, mine in scored.groupby(["arch", *_KEY], sort=False):
        means = mine.groupby("words")[["value", "error", "chance"]].mean()  # ascending
        is_above = means["value"] - _ERRORS * means["error"] > means["chance"]
        stays = is_above[::-1].cummin()[::-1]
        first = float(stays.idxmax()) if stays.any() else math.nan
        last = {"last": means["value"].iloc[-1], "last_words": int(means.index[-1])}
        rows.append({**dict(zip(["arch", *_KEY], key, strict=True)), "words": first, **last})
    return pd.DataFrame(rows, columns=["arch", *_KEY, "words", "last", "last_words"])


def _sentence(arch: str, learned: pd.DataFrame) -> str:
    """From when on an architecture is above chance on each benchmark."""
    whole = learned[learned["name"] == _ALL]
    parts = [
        f"from {counted(int(words), 'word')} on in {listed(list(mine['benchmark']))}"
        for words, mine in whole.groupby("words")  # ascending, without those not yet learned
    ]
    if missing := list(whole.loc[whole["words"].isna(), "benchmark"]):
        after = counted(int(whole["last_words"].iloc[0]), "word")
        parts.append(f"not yet after {after} in {listed(missing)}")
    return f"{arch} is above chance {'; '.join(parts)}."


def _learned_table(context: ReportContext, learned: pd.DataFrame) -> Table:
    archs = list(dict.fromkeys(learned["arch"]))
    rows = []
    for key, mine in learned.groupby(_KEY, sort=False):
        of_arch = mine.set_index("arch").reindex(archs)
        cells = [_learned(row, _link(context, str(arch))) for arch, row in of_arch.iterrows()]
        rows.append((*_names(key), *cells))
    note = (
        "The first milestone at which the score, a mean over seeds, is above the chance level by "
        f"more than {_ERRORS} standard errors over items, there and at every later one. Not yet: "
        "not so at the last milestone."
    )
    return Table(
        "learned_when",
        "Words seen when each score is above chance, and stays so",
        ("score", "benchmark", "grouping", *archs),
        tuple(rows),
        note,
    )


def _learned(row: pd.Series, link: str) -> Cell:
    if math.isnan(row["last"]):
        return Cell("-")
    last = (("last score", float(row["last"])),)
    if math.isnan(row["words"]):
        return Cell("not yet", link=link, also=last)
    return Cell(f"{int(row['words']):,}", float(row["words"]), link, also=last)


def _names(key: tuple[str, str, str]) -> tuple[Cell, Cell, Cell]:
    """The cells that say which figure a row is of."""
    benchmark, grouping, name = key
    words = (name.replace("_", " "), benchmark or "-", grouping.replace("_", " ") or "-")
    first, second, third = map(Cell, words)
    return first, second, third


def _link(context: ReportContext, arch: str) -> str:
    return context.link(list(context.choices[arch].trials["run_id"]))


def _title(benchmark: str, grouping: str, name: str) -> str:
    """What a figure is called where it stands by itself; no two are called alike."""
    if name == _LOSS:
        return f"validation {_LOSS}"
    if name == _ALL:
        return benchmark
    return f"{benchmark}: {name.replace('_', ' ')} ({grouping.replace('_', ' ')})"


def _with_titles(frame: pd.DataFrame) -> pd.DataFrame:
    keys = frame[_KEY].itertuples(index=False)
    return frame.assign(panel=[_title(*each) for each in keys])


def _picture(context: ReportContext, frame: pd.DataFrame, name: str, what: str) -> Picture:
    titled = _with_titles(frame)
    titled["unit"] = ["lower is better" if name == _LOSS else "%" for name in titled["name"]]
    dotted = "; dotted: chance" if titled["chance"].notna().any() else ""
    return context.draw(
        plots.milestone_figure(titled),
        name,
        f"{what} over the words seen, mean over seeds{dotted}",
        "Curves of the figures in a table below, over a logarithmic axis of words seen",
    )


def _figures(context: ReportContext, frame: pd.DataFrame, name: str, what: str) -> Table:
    """All figures: a row for each architecture and milestone."""
    titled = _with_titles(frame)
    columns = list(dict.fromkeys(titled["panel"]))
    rows = []
    for (arch, words), mine in titled.groupby(["arch", "words"], sort=False):
        values = mine.groupby("panel")["value"].agg(["mean", "std"]).reindex(columns)
        link = _link(context, arch)
        cells = [
            with_spread(mean, spread, 4 if _LOSS in column else 1, link=link)
            for column, (mean, spread) in zip(columns, values.to_numpy(), strict=True)
        ]
        rows.append((Cell(arch), count(words), *cells))
    return Table(
        name,
        f"{what} after so many words, mean {OVER_SEEDS}",
        ("architecture", "words seen", *columns),
        tuple(rows),
    )
