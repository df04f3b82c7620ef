"""What a teacher costs: `make speed-distill`.

A step of distillation (forward of the teacher, forward and backward of the student, AdamW) takes
turns with a step of pretraining of the same student; the teacher has the student's architecture
and size. A row is timed only if the loss agrees with its definition in float64. The floor is 4/3: a
backward pass costs two forward passes, a teacher's forward pass is a third one.

The status is 1 if a target is missed.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
import tyro
from rich.console import Console

from tests.speed import speed_report
from tests.speed.measurements import Ratio
from tests.speed.model_speed import QUIET_PERCENT, progress
from tests.speed.processes import Failed, Process, Row, Shape, prepare_server

MOST_TIME, MOST_MEMORY = 1.5, 1.3
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-3}


@dataclass(frozen=True)
class Args:
    """What to measure."""

    archs: tuple[str, ...] = ("hgrn2", "transformer", "lstm", "xlstm", "mamba")
    """Architectures of teacher and student."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Of both."""
    size: str = "small"
    """Preset of `python -m models.sizes`."""
    vocab: int = 8192
    """Tokens in the vocabulary."""
    batch: int = 16
    """Sequences in a step."""
    context: int = 256
    """Tokens in a sequence."""
    threads: int = psutil.cpu_count() or 1
    """Threads of a step; all cores by default."""
    rounds: int = 4
    """Turns of each; the median counts."""
    output: Path | None = None
    """JSON file to write the results to."""


@dataclass(frozen=True)
class Result:
    """A student with a teacher against the same student alone; without `time` if it failed."""

    arch: str
    problem: str = ""
    error: float = float("nan")
    seconds: float = float("nan")
    seconds_alone: float = float("nan")
    time: Ratio | None = None
    memory: float = float("nan")

    @property
    def passes(self) -> bool:
        """Whether the targets are met."""
        return (
            self.time is not None and self.time.median <= MOST_TIME and self.memory <= MOST_MEMORY
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    args = tyro.cli(Args, args=argv, description=__doc__)
    console = Console()
    busy = psutil.cpu_percent(interval=1.0)
    if busy > QUIET_PERCENT:
        console.print(f"The cores are {busy:.0f}% busy: no ratio can be relied on.", style="yellow")
    prepare_server()
    results = []
    with progress(console, 1) as note:
        for arch in args.archs:
            note(f"distillation: {arch}")
            results.append(measure(arch, args))
    grid(results, args).show(console)
    if args.output:
        rows = [asdict(result) for result in results]
        args.output.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(result.passes for result in results) else 1


def measure(arch: str, args: Args) -> Result:
    """Turns of a step with a teacher and one without."""
    row = Row(arch, "cpp", args.precision)
    shape = Shape(args.size, args.vocab, args.batch, args.context)
    try:
        with (
            Process("Training", row, shape, args.threads) as alone,
            Process("Distillation", row, shape, args.threads) as taught,
        ):
            error = taught.call("error")
            if not error < TOLERANCES[args.precision]:
                return Result(arch, f"the loss is wrong by {error:.1e}", error)
            for process in (alone, taught):
                process.call("steps", 1)
            rounds = [(taught.call("steps", 1), alone.call("steps", 1)) for _ in range(args.rounds)]
            memory = taught.call("memory")[0] / alone.call("memory")[0]
    except Failed as failure:
        return Result(arch, failure.reason)
    with_teacher, without = zip(*rounds, strict=True)
    return Result(
        arch,
        "",
        error,
        statistics.median(with_teacher),
        statistics.median(without),
        Ratio.of(with_teacher, without),
        memory,
    )


def grid(results: Sequence[Result], args: Args) -> speed_report.Grid:
    """The table."""
    return speed_report.Grid(
        f"A step with a teacher against one without: {args.size}, {args.batch} x {args.context} "
        f"tokens, {args.precision}; at most {MOST_TIME} x time, {MOST_MEMORY} x memory",
        ("architecture", "ms", "ms alone", "x time", "x memory", "error", "verdict"),
        [
            (
                result.arch,
                speed_report.number(1e3 * result.seconds, ",.0f"),
                speed_report.number(1e3 * result.seconds_alone, ",.0f"),
                speed_report.ratio(result.time),
                speed_report.number(result.memory, ".2f"),
                speed_report.number(result.error, ".0e"),
                result.problem or ("pass" if result.passes else "MISS"),
            )
            for result in results
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
