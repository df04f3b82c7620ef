"""The measurements as tables, for the terminal and for Markdown, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.speed.measurements import LengthResult, Ratio, StepResult, TrialsResult
from tests.speed.targets import Verdict

TEXT_COLUMNS = ("architecture", "path", "type", "size", "verdict", "target", "remark", "note")


@dataclass
class Grid:
    """A table of texts. Its last column is left out where it is empty in all rows."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def __post_init__(self) -> None:
        if not any(row[-1] for row in self.rows):
            self.columns, self.rows = self.columns[:-1], [row[:-1] for row in self.rows]

    def show(self, console: Console) -> None:
        """Print it to a terminal."""
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in self.columns:
            is_text = column in TEXT_COLUMNS
            table.add_column(column, justify="left" if is_text else "right")
        for row in self.rows:
            table.add_row(*map(escape, row))
        console.print(table)

    def markdown(self) -> str:
        """The table in Markdown."""
        rules = ["---" if column in TEXT_COLUMNS else "---:" for column in self.columns]
        lines = [self.columns, rules, *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def steps(results: Sequence[StepResult]) -> Grid:
    """Times, shares and memory of a step; rows that were wrong say so."""
    return Grid(
        "Whole training step; x: over the yardstick's, with the spread over the rounds",
        (
            *("architecture", "path", "type", "ms", "tokens/s", "x time", "% peak"),
            *("GB", "x GB", "added", "error", "note"),
        ),
        [_step(result) for result in results],
    )


def _step(result: StepResult) -> tuple[str, ...]:
    row = result.row
    return (
        row.arch,
        row.path + " compiled" * row.compiled,
        row.precision,
        number(1e3 * result.seconds, ",.0f"),
        number(result.tokens_per_second, ",.0f"),
        ratio(result.ratio),
        number(100 * result.peak_share, ".0f"),
        number(result.memory, ".2f"),
        number(result.memory_ratio, ".2f"),
        number(result.memory_added, ".2f"),
        number(result.gradient_error, ".0e"),
        "1 layer measured" if result.estimated else result.problem,
    )


def lengths(results: Sequence[LengthResult]) -> Grid:
    """Microseconds per token by context length."""
    contexts = next((tuple(r.microseconds) for r in results if not r.problem), ())
    batch = results[0].batch
    return Grid(
        f"Microseconds per token of a training step by context length, {batch} sequences a batch",
        ("architecture", *(f"T = {t}" for t in contexts), "growth", "note"),
        [
            (
                result.arch,
                *(number(result.microseconds.get(t, float("nan")), ".0f") for t in contexts),
                ratio(result.growth),
                result.problem,
            )
            for result in results
        ],
    )


def trials(results: Sequence[TrialsResult]) -> Grid:
    """Tokens/s of two trials at once."""
    return Grid(
        "Tokens/s of training processes: two with one thread at once (A), one of them alone (B), "
        "one with two threads (C)",
        ("architecture", "size", "A", "B", "C", "A / C", "A / 2B", "note"),
        [
            (
                result.arch,
                result.size,
                number(result.together, ",.0f"),
                number(result.alone, ",.0f"),
                number(result.two_threads, ",.0f"),
                ratio(result.against_successive),
                ratio(result.against_alone),
                result.problem,
            )
            for result in results
        ],
    )


def verdicts(results: Sequence[Verdict]) -> Grid:
    """Every target with what was measured."""
    return Grid(
        "Targets",
        ("verdict", "target", "measured", "bound", "remark"),
        [
            (
                "pass" if verdict.passes else "MISS",
                verdict.target,
                number(verdict.measured, ".2f"),
                f"{'<=' if verdict.at_most else '>='} {verdict.bound:g}",
                verdict.remark,
            )
            for verdict in results
        ],
    )


def draw_lengths(results: Sequence[LengthResult], path: Path) -> None:
    """Time per token by context length, a line per architecture."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from analysis.plots import STYLES

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for result in results:
        if result.problem:
            continue
        color, marker = STYLES[result.arch]
        contexts, times = zip(*result.microseconds.items(), strict=True)
        axes.plot(contexts, times, color=color, marker=marker, label=result.arch)
        axes.set_xscale("log", base=2)
        axes.set_xticks(contexts, [str(context) for context in contexts])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("context length in tokens")
    axes.set_ylabel("µs per token of a training step")
    axes.set_title(f"Cost against length, {results[0].batch} sequences a batch", fontsize=11)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.minorticks_off()
    figure.legend(loc="outside right upper", frameon=False)
    with rc_context({"svg.hashsalt": "babysweep"}):  # the same drawing gives the same file
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def number(value: float, form: str) -> str:
    """The value in this form; a dash for what was not measured."""
    return "-" if value != value else format(value, form)


def ratio(measured: Ratio | None) -> str:
    """The median, and half the distance from the least to the greatest."""
    if measured is None:
        return "-"
    return f"{measured.median:.2f} ±{(measured.high - measured.low) / 2:.2f}"
