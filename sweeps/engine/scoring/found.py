"""What a folder of benchmarks holds, and what becomes of each part, as a command tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.benchmarks import HUB, Suite
from analysis.benchmarks.classification import ClassificationTask
from analysis.benchmarks.folders import entry_rows, survey
from analysis.commands import is_part
from sweeps.engine.scoring.tasks import benchmark_place


@dataclass(frozen=True)
class Found:
    """A folder of benchmarks that a command was given.

    Attributes:
        place: what the command calls it.
        rows: on everything in it, see `entry_rows`; none where no folder was named.
    """

    place: str = ""
    rows: tuple[tuple[str, str, str], ...] = ()

    def show(self, console: Console) -> None:
        """Print it as a table; nothing within a command that has printed it already."""
        if not self.rows or is_part():
            return
        title = escape(f"In {self.place}")
        table = Table(title=title, title_justify="left", header_style="bold")
        for name in ("folder or file", "benchmark", ""):
            table.add_column(name, overflow="fold")
        for cells in self.rows:
            style = "dim" if cells[2].startswith("left out") else None
            table.add_row(*map(escape, cells), style=style)
        console.print(table)


def look_into(
    place: str | None,
    suites: Sequence[Suite | None],
    tasks: Sequence[ClassificationTask],
    tasks_flag: str,
) -> Found:
    """What a folder of benchmarks holds; nothing where none was named, or the hub.

    Args:
        place: the value of --benchmarks.
        suites: what is scored.
        tasks: those that are fine-tuned on, see `entry_rows`.
        tasks_flag: the flag that asks for those.
    """
    if place is None or place == HUB:
        return Found()
    entries = survey(Path(benchmark_place(place)))
    benchmarks = [each for suite in suites if suite for each in suite.benchmarks]
    return Found(place, tuple(entry_rows(entries, benchmarks, tasks, tasks_flag)))
