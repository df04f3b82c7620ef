"""Results of fine-tuning: the table, the figures, the challenge's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.benchmarks import glue
from analysis.whole_files import write_text
from analysis.wording import OVER_ITEMS, with_error
from sweeps.engine.scoring.tasks import TaskResult

_CAPTION = {
    "split": f"Epochs chosen on a tenth of the training examples; {OVER_ITEMS}.",
    "reported": "Epochs chosen on the reported examples, as leaderboards do: each score is the "
    f"best of several tries; {OVER_ITEMS}.",
}


def glue_results(results: Sequence[TaskResult]) -> dict[str, Any]:
    """The result of each task, JSON-ready."""
    return {
        result.task: asdict(result.outcome)
        if result.outcome
        else {"missing": [str(path) for path in result.missing], "error": result.error}
        for result in results
    }


def glue_figures(results: Sequence[TaskResult]) -> dict[str, float]:
    """The scores of the tasks that have one, percent, by `<group>/<task>`."""
    return {
        f"{glue.find_task(result.task).group}/{result.task}": result.outcome.score
        for result in results
        if result.outcome is not None and result.outcome.score is not None
    }


def write_glue_submission(results: Sequence[TaskResult], folder: Path) -> list[Path]:
    """Write `finetune/<task>/predictions.json` as BabyLM's pipelines of 2025 and 2026 do.

    A file holds {<task>: {"predictions": [{"id": "<task>_<n>", "pred": <label index>}, ...]}}, one
    entry for each reported example, in the file's order. A task without predictions (it lacks
    files, failed or diverged) is left out, and so are those of the multilingual track, whose
    pipeline collects none.

    Returns:
        The files written.
    """
    written = []
    for result in results:
        if result.outcome is None or not result.outcome.predictions:
            continue
        if glue.find_task(result.task).language:
            continue
        file = folder / "finetune" / result.task / "predictions.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        predictions = [
            {"id": f"{result.task}_{index}", "pred": label}
            for index, label in enumerate(result.outcome.predictions)
        ]
        values = {result.task: {"predictions": predictions}}
        write_text(file, json.dumps(values))
        written.append(file)
    return written


def show_tasks(results: Sequence[TaskResult], selection: str, console: Console) -> None:
    """Print one row a task, and the mean of each group over those that have a score."""
    table = Table(header_style="bold", caption=_CAPTION[selection])
    for name in ("task", "metric", "score", "constant answer", "epoch", "items", ""):
        table.add_column(name, justify="left" if name in ("task", "metric", "") else "right")
    for result in results:
        table.add_row(*_cells(result))
    groups: dict[str, list[TaskResult]] = {}
    for result in results:
        groups.setdefault(glue.find_task(result.task).group, []).append(result)
    table.add_section()
    for group, of_group in groups.items():
        finished = [r.outcome for r in of_group if r.outcome and r.outcome.score is not None]
        if len(finished) > 1:
            name = "mean" if len(groups) == 1 else f"mean of {group}"
            scores = f"{fmean(outcome.score or 0.0 for outcome in finished):.1f}"
            constants = f"{fmean(outcome.baseline for outcome in finished):.1f}"
            is_whole = len(finished) == len(of_group)
            note = "" if is_whole else f"{len(finished)} of {len(of_group)} tasks"
            table.add_row(name, "", scores, constants, "", "", note)
    console.print(table)


def _cells(result: TaskResult) -> list[str]:
    metric = glue.find_task(result.task).metric
    if result.missing:
        files = ", ".join(file.name for file in result.missing)
        return [result.task, metric, "", "", "", "", f"missing: {escape(files)}"]
    outcome = result.outcome
    if outcome is None:
        return [result.task, metric, "", "", "", "", f"[red]{escape(result.error)}[/]"]
    baseline, items = f"{outcome.baseline:.1f}", f"{outcome.num_reported:,}"
    if outcome.score is None or outcome.error is None:
        note = f"[yellow]diverged[/]: {escape(outcome.reason)}"
        return [result.task, metric, "", baseline, "", items, note]
    # Not a test, a warning: both figures are of the same items.
    is_close = outcome.score < outcome.baseline + 2 * outcome.error
    return [
        result.task,
        metric,
        with_error(outcome.score, outcome.error, 1),
        baseline,
        f"{outcome.epoch}/{len(outcome.history)}",
        items,
        "not clearly better than a constant answer" if is_close else "",
    ]
