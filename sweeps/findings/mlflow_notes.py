"""Descriptions on MLflow's pages, in Markdown: what a study is, and what its sweeps found."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from analysis.benchmarks.kinds import macro_in_words, macro_weights
from analysis.wording import count, legend
from trainables.mlflow_pages import TRIALS, page

MOST_ROWS = 30
"""Of a table in a description: MLflow keeps 8,000 characters."""
_SPECIAL = re.compile(r"([\\`*\[\]<>|])")


def sweep_note(
    findings: Sequence[str], cells: pd.DataFrame, *, best: str = "", picture: str = ""
) -> str:
    """A sweep's description: its findings; the first sentence is the answer.

    Args:
        findings: sentences, as the command prints them.
        cells: the table that it prints, all of it text.
        best: a link to the best trial, see `trial_link`.
        picture: see `picture_of`.
    """
    first, *others = [_escape(line) for line in findings if line]
    parts = [first, f"Best trial: {best}" if best else "", markdown_table(cells), picture]
    parts.append("\n".join(f"- {line}" for line in others))
    return "\n\n".join(part for part in parts if part)


def study_note(trials: pd.DataFrame, benchmarks: Sequence[str], experiment_id: str) -> str:
    """A study's description: its subject, and how its pages are read.

    Args:
        trials: frame of `analysis.runs.trials`.
        benchmarks: names of those scored after every epoch.
        experiment_id: of the study.
    """
    outcomes = trials["outcome"].fillna("unfinished").value_counts()
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(outcomes.items()))
    sweeps, best = page(experiment_id), page(experiment_id, TRIALS)
    charts = page(experiment_id, TRIALS, charts=True)
    lines = [
        f"{_named(trials, 'arch')} trained on {_named(trials, 'corpus')}, size "
        f"{_named(trials, 'size')}: {count(len(trials), 'trial')} ({counts}). Look at "
        f"[sweeps]({sweeps}), [trials, best first]({best}), [charts]({charts})",
        "- A sweep is a row that unfolds into its trials, one for each point (a learning rate, and "
        "a value of whatever else was swept) and seed. Its description says what it found.",
        "- `best/bits_per_byte` (lower is better) and `best/macro` (percent, higher is better): of "
        "a trial, after the epoch of its least validation loss, `best/epoch`; of a sweep, the mean "
        "over the seeds at its best point (`best/lr`, and so on), and so is its `best/epoch`.",
        "- `val/bits_per_byte`, after every epoch, is what learning rate and epoch are chosen on; "
        "`zero_shot/...`, scored at the same moments, is only reported.",
    ]
    if benchmarks:
        lines.append(f"- Benchmarks: {', '.join(benchmarks)}{_macro(trials, benchmarks)}.")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _macro(trials: pd.DataFrame, benchmarks: Sequence[str]) -> str:
    """Words on what the macro averages, under each protocol that the trials were scored by."""
    protocols = sorted(trials["protocol"].dropna().astype(str).unique())
    found = [(each, macro_weights(each, benchmarks)) for each in protocols]
    several = len({tuple(weights) for _, weights in found}) > 1
    return "".join(
        f"; macro is the mean of {macro_in_words(weights)}"
        + (f" under the protocol of {protocol}" if several else "")
        for protocol, weights in (found if several else found[:1])
        if weights
    )


def trial_link(experiment_id: str, run_id: str, name: str) -> str:
    """A link to a trial's page, on whatever server."""
    address = f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"[{_escape(name)}]({address})"


def picture_of(run_id: str, file: str) -> str:
    """A picture among a run's artifacts, relative to the address of MLflow's server."""
    return f"![{file}](get-artifact?path={file}&run_uuid={run_id})"


def markdown_table(cells: pd.DataFrame) -> str:
    """A table of text, means over seeds among it; long ones are cut, and say so."""
    if cells.empty:
        return ""
    header = [_escape(str(name)) for name in cells.columns]
    rows = [[_escape(str(cell)) for cell in row] for row in cells.to_numpy()[:MOST_ROWS]]
    lines = [header, ["---"] * len(header), *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    left = len(cells) - MOST_ROWS
    more = f"... and {count(left, 'more row')}: see the run's artifacts." if left > 0 else ""
    note = legend(map(str, cells.to_numpy().ravel()))
    return "\n\n".join(filter(None, (text, more, note)))


def _named(trials: pd.DataFrame, column: str) -> str:
    """The values of a column, each once."""
    return ", ".join(_escape(str(value)) for value in sorted(trials[column].dropna().unique()))


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
