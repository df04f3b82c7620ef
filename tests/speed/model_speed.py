"""How fast the architectures train on this machine: `make speed-models`.

steps    Whole training steps (forward, loss, backward, AdamW) of every architecture, on every path:
         `library` as the library computes it on a CPU, with all logits at once; `torch` and `cpp`,
         ours without and with a compiler. Each row takes turns with the yardstick, transformers'
         LLaMA in bf16 with PyTorch's attention and the loss in chunks, and is given as a ratio to
         it. A row is timed only if its loss and gradients agree with the library's in float32.
         Of the libraries' HGRN2 and Mamba, which take minutes or 16 GB, one layer is measured.
length   Time per token of a training step at several context lengths, at one number of sequences.
trials   Two training processes with one thread each at once, against one after the other.

Every row has a process of its own, in the environment of a sweep's trial. At the end stand the
targets; the status is 1 if one is missed. They hold for the default shape: with another one the
tables are printed without them. A full run takes about ten minutes of a quiet machine.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.speed import speed_report, targets
from tests.speed.measurements import (
    SLICED,
    LengthResult,
    Note,
    StepMeasurement,
    StepResult,
    TrialsResult,
    Turns,
    measure_lengths,
    measure_trials,
)
from tests.speed.processes import ROOT, Failed, Process, Row, Shape, prepare_server
from trainables.provenance import cpu_name

Part = Literal["steps", "length", "trials"]
PARTS: tuple[Part, ...] = ("steps", "length", "trials")
MINI = Shape("mini", vocab=2048, batch=16, context=64)
FEWER = 4
"""The two trials at once take the batch divided by this, to have short turns."""

QUIET_PERCENT = 10.0


@dataclass(frozen=True)
class Args:
    """What to measure."""

    parts: tuple[Part, ...] = PARTS
    """Which measurements."""
    archs: tuple[str, ...] = ()
    """Architectures; all by default."""
    paths: tuple[Literal["library", "torch", "cpp"], ...] = ("library", "torch", "cpp")
    """Ways to compute a step; cpp needs a compiler."""
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    """fp32 uses the CPU's faster float32 products where they stay exact; bf16 is autocast, and is
    left out where the CPU has no fast bf16. Libraries also run with PyTorch's defaults: plain."""
    compile: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also each row through torch.compile, with 10 to 60 s of warm-up each."""

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
    """Turns of each row; the median counts."""
    turn_seconds: float = 0.5
    """Least length of a turn: one step or more."""
    lengths: tuple[int, ...] = (128, 512, 2048)
    """Context lengths of `length`."""
    length_rounds: int = 2
    """Turns of each length, after one to warm up."""
    peak_width: int = 3072
    """Width of the matrices whose product gives the machine's peak."""

    output: Path | None = None
    """JSON file to write the results to."""
    markdown: Path | None = None
    """File to write the tables to, for a README."""
    picture: Path | None = None
    """Picture of cost against length to write (.svg, .png)."""

    @property
    def shape(self) -> Shape:
        return Shape(self.size, self.vocab, self.batch, self.context)

    @property
    def turns(self) -> Turns:
        return Turns(self.rounds, self.turn_seconds)

    @property
    def is_standard(self) -> bool:
        """Whether the targets hold for what is measured."""
        standard = Args()
        return (self.shape, self.lengths) == (standard.shape, standard.lengths)


@dataclass
class Results:
    """All that was measured."""

    machine: dict[str, Any]
    shape: Shape
    steps: list[StepResult]
    length: list[LengthResult]
    trials: list[TrialsResult]
    verdicts: list[targets.Verdict]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    args = tyro.cli(Args, args=argv, description=__doc__)
    console = Console()
    console.width = max(console.width, 120)  # the widest table, also into a file
    busy = psutil.cpu_percent(interval=1.0)
    if busy > QUIET_PERCENT:
        console.print(
            f"The cores are {busy:.0f}% busy with something else: no ratio of this run can be "
            "relied on, least of all those of two processes at once.",
            style="yellow",
        )
    prepare_server()
    console.print("importing the libraries ...", style="dim")
    try:
        results = measure(args, console)
        results.machine["busy_percent_before"] = busy
    except (Failed, ValueError) as error:
        console.print(f"nothing measured: {error}", markup=False)
        return 1
    grids = tables(results)
    for grid in grids:
        grid.show(console)
    if args.output:
        args.output.write_text(json.dumps(without_nan(asdict(results)), indent=1) + "\n")
    if args.markdown:
        parts = [machine_line(results), *(f"{g.title}:\n\n{g.markdown()}" for g in grids)]
        args.markdown.write_text("\n\n".join(parts) + "\n")
    if args.picture and results.length:
        speed_report.draw_lengths(results.length, args.picture)
    return 0 if all(right(results)) else 1


def measure(args: Args, console: Console) -> Results:
    """Run the parts one after the other.

    Raises ValueError for an unknown architecture, Failed if even the yardstick does not run.
    """
    with Process("Machine", args.threads) as process:
        facts = process.call("facts")
        peaks = {p: process.call("peak_flops", p, args.peak_width) for p in facts["precisions"]}
    unknown = set(args.archs) - set(facts["architectures"])
    if unknown:
        raise ValueError(f"unknown {sorted(unknown)}; choose of {facts['architectures']}")
    archs = args.archs or facts["architectures"]
    results = Results(machine(args, facts, peaks), args.shape, [], [], [], [])
    console.print(machine_line(results), style="dim", markup=False, highlight=False)
    fastest = facts["paths"][-1]
    with progress(console, len(args.parts)) as note:
        if "steps" in args.parts:
            results.steps = measure_steps(args, archs, facts, peaks, note)
            results.verdicts += targets.of_steps(results.steps)
            results.verdicts += targets.of_libraries(results.steps)
        if "length" in args.parts:
            for arch in archs:
                note(f"length: {arch}")
                row = Row(arch, fastest, "trial")
                results.length.append(
                    measure_lengths(row, args.shape, args.lengths, args.threads, args.length_rounds)
                )
            results.verdicts += targets.of_lengths(results.length)
        if "trials" in args.parts:
            small = Shape(args.size, args.vocab, max(1, args.batch // FEWER), args.context)
            for shape in (small,) if args.size == MINI.size else (MINI, small):
                for arch in archs:
                    note(f"two trials at once: {arch} {shape.size}")
                    row = Row(arch, fastest, "trial")
                    results.trials.append(measure_trials(row, shape, args.turns))
            results.verdicts += targets.of_trials(results.trials)
    if not args.is_standard:
        results.verdicts = []
    return results


def measure_steps(
    args: Args,
    archs: Sequence[str],
    facts: dict[str, Any],
    peaks: dict[str, float],
    note: Note,
) -> list[StepResult]:
    """The yardstick, and every row against it."""
    precisions = [name for name in facts["precisions"] if name in args.precisions]
    rows = [
        row
        for arch in archs
        for path in facts["paths"]
        if path in args.paths
        for row in rows_of(arch, path, precisions, args.compile)
    ]
    note("steps: the yardstick")
    measurement = StepMeasurement(
        args.shape, args.threads, args.turns, facts["precisions"][-1], peaks
    )
    try:
        results = [measurement.yardstick]
        for index, row in enumerate(rows, 1):
            note(f"steps: {row.name} ({index}/{len(rows)})")
            results.append(measurement.measure(row))
    finally:
        measurement.close()
    return results


def rows_of(arch: str, path: str, precisions: Sequence[str], compiled: bool) -> list[Row]:
    """The rows of a path; a library comes with PyTorch's default products first."""
    if path == "library":
        # Where a library takes minutes, its products are not what takes them.
        slow = arch in SLICED
        precisions = ["plain", *(name for name in precisions if not slow or name == "bf16")]
        compiled = compiled and arch == "transformer"  # the others loop over time in Python
    rows = [Row(arch, path, precision) for precision in precisions]
    return rows + [replace(row, compiled=True) for row in rows if compiled]


def tables(results: Results) -> list[speed_report.Grid]:
    """Those of the parts that were measured."""
    grids = []
    if results.steps:
        grids.append(speed_report.steps(results.steps))
    if results.length:
        grids.append(speed_report.lengths(results.length))
    if results.trials:
        grids.append(speed_report.trials(results.trials))
    if results.verdicts:
        grids.append(speed_report.verdicts(results.verdicts))
    return grids


def right(results: Results) -> Iterator[bool]:
    """Of every measurement whether it came about, of every target whether it is met."""
    for measured in (results.steps, results.length, results.trials):
        yield from (not result.problem for result in measured)
    for verdict in results.verdicts:
        yield verdict.passes


def machine(args: Args, facts: dict[str, Any], peaks: dict[str, float]) -> dict[str, Any]:
    """Hardware, versions and commit."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return {
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "threads": args.threads,
        "peak_gflops": {precision: round(peak / 1e9) for precision, peak in peaks.items()},
        "torch": facts["torch"],
        "float32_products": facts["matmul"],
        "python": platform.python_version(),
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def machine_line(results: Results) -> str:
    """Hardware, versions and shape in one sentence."""
    it, shape = results.machine, results.shape
    peaks = ", ".join(f"{name} {peak:,}" for name, peak in it["peak_gflops"].items())
    return (
        f"{it['cpu']}, {it['threads']} of {it['cores']} cores, {it['memory_gb']} GB; matrix "
        f"products {peaks} GFLOP/s; torch {it['torch']}, commit {it['commit']}, {it['date']}. "
        f"Preset {shape.size}, {shape.batch} x {shape.context} tokens, vocabulary {shape.vocab:,}."
    )


def without_nan(value: Any) -> Any:
    """JSON has no NaN: what was not measured is null."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if value != value else value


@contextmanager
def progress(console: Console, parts: int) -> Iterator[Note]:
    """Show what is being measured and for how long already."""
    columns = (BarColumn(12), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda text: bar.update(task, description=text)


if __name__ == "__main__":
    sys.exit(main())
