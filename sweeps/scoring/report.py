"""What an evaluation found, as tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.benchmarks import MACRO
from analysis.benchmarks.kinds import kind_named
from analysis.benchmarks.suite import Scores
from analysis.wording import count


def show_found(fates: Iterable[tuple[str, str, str]], folder: str, console: Console) -> None:
    """Print what a folder of benchmarks holds, and what becomes of it: cells as of `fates`."""
    table = Table(title=escape(f"In {folder}"), title_justify="left", header_style="bold")
    for name in ("folder or file", "benchmark", ""):
        table.add_column(name, overflow="fold")
    for cells in fates:
        style = "dim" if cells[2].startswith("left out") else None
        table.add_row(*map(escape, cells), style=style)
    console.print(table)


def show_results(
    results: dict[str, Any], output: Path, has_submission: bool, console: Console
) -> None:
    """Print the results of `evaluation.evaluate`, and where they were written."""
    if "zero_shot" in results:
        _show_scores(results, console)
    if has_submission:
        console.print(
            "[yellow]The predictions.json files hold the benchmarks' texts, EWoK's too: keep them "
            "off the public web.[/]"
        )
    console.print(escape(f"\nWritten to  {output}"), highlight=False, soft_wrap=True)


def _show_scores(results: dict[str, Any], console: Console) -> None:
    scores = results["zero_shot"]
    title = f"\n{results['model']}, protocol {results['protocol']}, {results['precision']}"
    console.print(escape(title), highlight=False, soft_wrap=True)
    console.print(_benchmarks(scores))
    for benchmark, groupings in scores["groups"].items():
        for grouping, groups in groupings.items():
            console.print(_groups(f"{benchmark} by {grouping.replace('_', ' ')}", groups))
    for benchmark, tasks in scores["tasks"].items():
        if task := kind_named(benchmark).listed_as:
            console.print(_groups(f"{benchmark} by {task}", tasks))
    for benchmark, ties in scores["ties"].items():
        if ties == scores["num_items"][benchmark]:
            console.print(f"[yellow]{benchmark}: all were ties; the model sees no difference.[/]")
    if results["truncated"]:
        console.print(
            f"{count(results['truncated'], 'text was', 'texts were')} longer than the model's "
            "context: only the last tokens were scored."
        )


def _benchmarks(scores: Scores) -> Table:
    table = Table(header_style="bold")
    columns = ("benchmark", "data set", "score", "± (items)", "chance", "items", "ties")
    for name in (*columns, "not finite"):
        table.add_column(name, justify="left" if name in columns[:2] else "right")
    for name, score in scores["benchmarks"].items():
        table.add_row(
            name,
            scores["datasets"][name],
            f"{score:.2f}",
            f"{scores['errors'][name]:.2f}",
            f"{scores['chance'][name]:.2f}",
            f"{scores['num_items'][name]:,}",
            f"{scores['ties'][name]:,}",
            f"{scores['non_finite'][name]:,}",
            style="red" if scores["non_finite"][name] else None,
        )
    if scores["macro"] is not None:
        there = sum(name in scores["benchmarks"] for name in MACRO)
        label = "macro" if there == len(MACRO) else f"macro, {there} of {len(MACRO)}"
        figures = (f"{scores['macro']:.2f}", f"{scores['macro_error']:.2f}")
        table.add_row(label, "", *figures, style="bold")
    return table


def _groups(title: str, groups: dict[str, float]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, score in groups.items():
        table.add_row(name, f"{score:.2f}")
    return table
