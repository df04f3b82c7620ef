"""How many epochs are best."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis import plots
from analysis.epochs import BestHorizon, agreement, best_horizon, epoch_table
from analysis.reporting.page import Cell, Section, Table
from analysis.reporting.sections.common import (
    ReportContext,
    ReportPart,
    count,
    rate,
    records,
    with_spread,
)
from analysis.study import LENGTH, Study, chance_of_macro, is_plain, setting
from analysis.wording import OVER_SEEDS

DESIGNS = ("independent", "branch", "trajectory")
"""The most trustworthy first."""
_LONGEST = "that is the longest horizon tried; the optimum may lie beyond."
_LAST = {
    "independent": _LONGEST,
    "branch": _LONGEST,
    "trajectory": "its last epoch is its best; the optimum may lie beyond. Train more --epochs.",
}
"""What is said of a design whose best horizon is its longest."""
_PLAN = [name for name in LENGTH if name != "epochs"]
"""What the trials of a design share."""


def epoch_study(context: ReportContext) -> ReportPart | None:
    """Score against the number of epochs, for the architecture that has the most lengths.

    None where no architecture was trained for different numbers of epochs, nor longer than one.
    """
    studied = epoch_study_data(context.study)
    if studied is None:
        return None
    trials, scores = studied.trials, studied.scores
    arch, lr = str(trials["arch"].iloc[0]), float(trials["lr"].iloc[0])
    found = [
        best_horizon(scores, design) for design in DESIGNS if (scores["design"] == design).any()
    ]
    sentences = [f"{arch}, {best.sentence}" for best in found]
    picture = context.draw(
        plots.epoch_figure(scores, chance=chance_of_macro(context.study.client, trials)),
        "epochs",
        f"{arch} at learning rate {rate(lr)}: score against epochs trained",
        "; ".join(sentences),
    )
    section = Section(
        "epochs",
        "How many epochs",
        tuple(filter(None, (*sentences, agreement(scores), _designs(scores)))),
        (_table(context, scores, found),),
        (picture,),
    )
    # A trajectory is read in the middle of its schedule: no answer to how many epochs are best.
    answers = [
        (sentence, best)
        for sentence, best in zip(sentences, found, strict=True)
        if best.horizon is not None and best.design != "trajectory"
    ][:1]
    answering = [best for _, best in answers] or found
    warnings = [
        f"{_subject(arch, best.design)}: {_LAST[best.design]}"
        for best in answering
        if best.is_longest
    ]
    return ReportPart(section, tuple(sentence for sentence, _ in answers), tuple(warnings))


def _subject(arch: str, design: str) -> str:
    """What a sentence is about; to read one long trial at each epoch is no design of a study."""
    return arch if design == "trajectory" else f"{arch}, {design}"


@dataclass(frozen=True)
class EpochStudyData:
    """Trials that differ in length and seed only, and their `scores` (see `epoch_scores`)."""

    trials: pd.DataFrame
    scores: pd.DataFrame


def epoch_study_data(study: Study) -> EpochStudyData | None:
    """The study's trials of different lengths and their scores; None if there are none."""
    trials = _group(study.trials)
    if trials is None:
        return None
    scores = epoch_scores(trials, study.epochs)
    return None if scores.empty else EpochStudyData(trials, scores)


def _group(trials: pd.DataFrame) -> pd.DataFrame | None:
    """The plain trials of one architecture and rate that differ in length and seed only, those
    with the most lengths and seeds; of branches and of whole trials those planned alike."""
    plain = trials[is_plain(trials) & trials["outcome"].isin(["finished", "diverged"])]
    if plain.empty:
        return None
    keys = [setting(plain, without=LENGTH, axes=()), plain["arch"]]
    groups = []
    for _, group in plain.groupby(keys):
        designs = group.groupby(group["schedule"] == "wsd")
        largest = [
            max((alike for _, alike in design.groupby(_PLAN)), key=_size) for _, design in designs
        ]
        groups.append(pd.concat(largest))
    chosen = max(groups, key=_size)
    # Groups of one length are a sweep's: its epochs can be read as well, if there is nothing else.
    lengths, longest, *_ = _size(chosen)
    return None if lengths == longest == 1 else chosen


def _size(trials: pd.DataFrame) -> tuple[int, int, int, float]:
    """Lengths, the longest of them, trials, and of equals the best first."""
    lengths, loss = trials["epochs"], trials["bits_per_byte"].fillna(math.inf).mean()
    return lengths.nunique(), int(lengths.max()), len(trials), -float(loss)


def epoch_scores(trials: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """The frame `scores` of `analysis.epochs` from trials that differ in length and seed.

    A trial with a stable phase ("wsd") is a branch, any other stands for its own length; the
    longest of the latter are also a trajectory, read at each epoch.
    """
    columns = ["design", "horizon", "seed", "run_id", "bits_per_byte", "macro", "tokens"]
    rows: list[dict[str, Any]] = []
    whole = trials[trials["schedule"] != "wsd"]
    longest = whole["epochs"].max() if len(whole) else 0
    several = whole["epochs"].nunique() > 1
    by_run = dict(list(epochs.groupby("run_id")))
    for trial in records(trials):
        history = by_run.get(trial["run_id"], epochs.iloc[:0])
        if trial["schedule"] == "wsd":
            rows += _rows("branch", trial, history, [trial["epochs"]])
        elif several:
            rows += _rows("independent", trial, history, [trial["epochs"]])
        if trial["schedule"] != "wsd" and trial["epochs"] == longest:
            rows += _rows("trajectory", trial, history, range(1, longest + 1))
    return pd.DataFrame(rows, columns=columns).sort_values(
        ["design", "horizon", "seed"], ignore_index=True
    )


def _rows(
    design: str, trial: dict[str, Any], history: pd.DataFrame, horizons: Any
) -> list[dict[str, Any]]:
    """A row for each horizon that the trial reached; infinite figures where it diverged before."""
    reached = history.set_index("epoch")
    rows = []
    for horizon in horizons:
        row = {"design": design, "horizon": int(horizon), "seed": int(trial["seed"])}
        row["run_id"] = trial["run_id"]
        if horizon in reached.index:
            at = reached.loc[horizon]
            macro = at.get("macro", math.nan)
            figures = {"bits_per_byte": at["bits_per_byte"], "macro": macro, "tokens": at["tokens"]}
            rows.append({**row, **figures})
        elif trial["outcome"] == "diverged":
            rows.append({**row, "bits_per_byte": math.inf, "macro": math.nan, "tokens": math.nan})
    return rows


def _designs(scores: pd.DataFrame) -> str:
    meanings = {
        "branch": "branch: all lengths share a warm-up and a plateau, and each has its own decay",
        "independent": "independent: a trial of its own for each length, with its whole schedule",
        "trajectory": "trajectory: the longest trial read after each epoch, in mid-schedule",
    }
    present = [meanings[design] for design in meanings if (scores["design"] == design).any()]
    return f"{'; '.join(present)}. The epoch is chosen by validation loss."


def _table(context: ReportContext, scores: pd.DataFrame, found: list[BestHorizon]) -> Table:
    best = {(each.design, each.horizon) for each in found}
    rows = []
    for row in records(epoch_table(scores)):
        key = row["design"], row["horizon"]
        mine = scores[(scores["design"] == key[0]) & (scores["horizon"] == key[1])]
        link = context.link(list(mine["run_id"]))
        mark = "diverged" if row["diverged"] else "best" if key in best else ""
        rows.append(
            (
                Cell(row["design"]),
                Cell(str(row["horizon"]), row["horizon"], mark=mark),
                Cell(str(row["seeds"]), row["seeds"]),
                with_spread(row["bits_per_byte"], row["bits_per_byte_sd"], 4, link=link),
                with_spread(row["macro"], row["macro_sd"], 1, link=link),
                replace(count(row["tokens"]), link=link),
            )
        )
    columns = ("design", "epochs", "seeds", "bits/byte", "macro, all items", "tokens seen")
    caption = f"Mean {OVER_SEEDS}, after each number of epochs"
    return Table("epochs", caption, columns, tuple(rows))
