"""How to get these figures again, and every trial by itself."""

from __future__ import annotations

import pandas as pd

from analysis.reporting.page import Cell, Section, Table
from analysis.reporting.sections.common import (
    ReportContext,
    ReportPart,
    count,
    number,
    rate,
    records,
)

_FIXED = (
    *("size", "corpus", "corpus_hash", "tokenizer_hash", "benchmarks_hash", "protocol", "context"),
    *("batch_size", "epochs", "schedule", "warmup", "weight_decay", "dropout", "optimizer"),
    *("grad_clip", "precision"),
    *("hardware", "software", "commit"),
)


def reproduction(context: ReportContext) -> ReportPart:
    """Commands, settings of the sweep, versions, hardware, hashes."""
    commands = _commands(context)
    text = (
        "The commands that made this study, in the order of their starts:"
        if commands
        else "The commands that made this study were not recorded."
    )
    section = Section(
        "reproduction",
        "How to get this again",
        (text,),
        (_settings(context.sweep),),
        commands=tuple(commands),
    )
    return ReportPart(section)


def every_trial(context: ReportContext) -> ReportPart:
    """All trials of the study, whatever became of them."""
    trials = context.study.trials
    outcomes = trials["outcome"].fillna("unfinished").value_counts()
    text = ", ".join(f"{number_of} {outcome}" for outcome, number_of in outcomes.items())
    rows = []
    for row in records(trials):
        link = context.study.link(row["run_id"])
        outcome = "unfinished" if pd.isna(row["outcome"]) else row["outcome"]
        mark = outcome if outcome != "finished" else ""
        rows.append(
            (
                Cell(row["name"] or row["run_id"], link=link),
                Cell(outcome, mark=mark),
                count(row["epochs"]),
                Cell(rate(row["lr"]), row["lr"]),
                count(row["seed"]),
                count(row["best_epoch"]),
                number(_or_none(row["bits_per_byte"]), 4, link=link),
                number(_or_none(row["macro"]), 1, link=link),
                Cell("" if pd.isna(row["reason"]) else str(row["reason"]).splitlines()[-1][:200]),
            )
        )
    columns = ("trial", "outcome", "epochs", "learning rate", "seed", "best epoch", "bits/byte")
    table = Table("trials", "Every trial", (*columns, "macro", "reason"), tuple(rows))
    unfinished = trials[trials["outcome"].isna()]
    warnings: list[str] = []
    if unrecorded := context.study.unrecorded:
        warnings.append(
            f"{unrecorded} run{'s' if unrecorded > 1 else ''} of this study recorded nothing of "
            "what was to be trained, and no trial is counted for it. Run the same command again "
            "to continue."
        )
    if len(unfinished):
        warnings.append(
            f"{len(unfinished)} of {len(trials)} trials have not ended: the figures are of the "
            "others. Run the same command again to continue them."
        )
    diverged = trials[trials["outcome"] == "diverged"]
    if len(diverged):
        names = ", ".join(str(name) for name in diverged["name"][:5])
        more = f" and {len(diverged) - 5} more" if len(diverged) > 5 else ""
        warnings.append(f"Diverged: {names}{more}. A rate at which a seed diverged ranks last.")
    section = Section("trials", "Every trial", (f"{text}.",), details=(table,))
    return ReportPart(section, warnings=tuple(warnings))


def _or_none(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def _commands(context: ReportContext) -> list[str]:
    """The commands recorded with the sweeps' runs, each once."""
    runs = context.study.client.search_runs(
        [context.study.experiment_id],
        "tags.`babysweep.kind` = 'sweep'",
        order_by=["attributes.start_time ASC"],
        max_results=1000,
    )
    lines = (
        line for run in runs for line in run.data.tags.get("babysweep.command", "").splitlines()
    )
    return list(dict.fromkeys(lines))


def _settings(sweep: pd.DataFrame) -> Table:
    """Settings that all compared trials share, and by architecture those that they do not."""
    rows = []
    for name in _FIXED:
        if name not in sweep:
            continue
        known = sweep[sweep[name].notna()]
        values = known[name].astype(str).unique()
        if len(values) == 1:
            text = values[0]
        else:
            by_value = known.groupby(known[name].astype(str))["arch"].unique()
            text = "; ".join(f"{value} ({', '.join(archs)})" for value, archs in by_value.items())
        rows.append((Cell(name), Cell(text or "none")))
    return Table("settings", "What the compared trials share", ("setting", "value"), tuple(rows))
