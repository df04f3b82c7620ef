"""How to reproduce these figures, and every trial by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.arguments import ReportArgs
from analysis.commands import CUT, STORAGE, Recorded, recorded, typed
from analysis.reporting.page import Cell, Section, Table
from analysis.reporting.sections.common import (
    ReportContext,
    ReportPart,
    count,
    number,
    rate,
    records,
)
from analysis.schema.axes import AXES, LR
from analysis.schema.choices import SelectionRule
from analysis.study import Study
from analysis.wording import count as count_of

_SETTINGS = (
    *("size", "corpus", "corpus_hash", "tokenizer_hash", "benchmarks_hash", "protocol", "context"),
    *(name for name in AXES if name != LR.field),
    *("epochs", "grad_clip", "precision", "hardware", "software", "commit"),
)


def reproduction(context: ReportContext) -> ReportPart:
    """Commands, settings of the sweep, versions, hardware, hashes."""
    study = context.study
    found = recorded(study.client, study.experiment_id)
    section = Section(
        "reproduction",
        "How to reproduce this",
        tuple(_on_commands(found, _teachers_from_elsewhere(study))),
        (_settings(context.sweep),),
        commands=tuple(_to_type(found, study.name, context.select)),
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
            f"{count_of(unrecorded, 'run')} of this study recorded nothing of "
            "what was to be trained, and no trial is counted for it. Run the same command again "
            "to continue."
        )
    if len(unfinished):
        warnings.append(
            f"{count_of(len(unfinished), 'trial has', 'trials have')} not ended, of "
            f"{len(trials):,}: the figures are of the others. Run the same command again to go on."
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


def _on_commands(found: Sequence[Recorded], teachers: Sequence[str]) -> Iterator[str]:
    """Sentences on what the commands are, and on what they need besides."""
    if not found:
        yield "The commands that made this study were not recorded."
        return
    yield (
        "The commands that made this study, in the order of time. Typed one after another in the "
        "project's folder they make it again, in a storage of its own. What a command took from "
        "the study, as a learning rate or the run to promote, stands in it."
    )
    if any(each.is_as_typed for each in found):
        yield (
            "Some were recorded by an earlier version, as they were typed: with the storage and "
            "the files of then, and without those that promoted or scored a model."
        )
    if any(each.line == CUT for each in found):
        yield "More commands ran than were kept: the earliest are missing."
    if teachers:
        yield (
            f"{', '.join(teachers)} taught here, of another study: its report has the commands to "
            "type before these."
        )


def _to_type(found: Sequence[Recorded], study: str, select: SelectionRule) -> Iterator[str]:
    """The lines for a shell: a storage of its own, the commands, this report."""
    if not found:
        return
    yield f'export {STORAGE}="$PWD/again"; unset MLFLOW_TRACKING_URI'
    yield from (each.line for each in found if each.line != CUT)
    yield typed(ReportArgs(study=study, select=select))


def _teachers_from_elsewhere(study: Study) -> list[str]:
    """The registered teachers of the study's students that another study trained, and which."""
    hashes = {part for text in study.trials["teacher"].dropna() for part in text.split("+") if part}
    names = set()
    for model_hash in sorted(hashes):
        condition = f"tags.`babysweep.model_hash` = '{model_hash}'"
        versions = study.client.search_model_versions(condition)
        origins = {version.tags.get("babysweep.study"): version for version in versions}
        if origins and study.name not in origins:
            names |= {f"{it.name} version {it.version} ({of})" for of, it in origins.items()}
    return sorted(names)


def _settings(sweep: pd.DataFrame) -> Table:
    """Settings that all compared trials share, and by architecture those that they do not."""
    rows = []
    for name in _SETTINGS:
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
