"""How fast checkpoints are scored on this machine, against lm-eval: `make speed-eval`.

Every architecture is trained for a moment, saved, and scored by our engine in a process of its
own. The transformer is scored by lm-eval, too, with each batch size, in the environment that `make
agreement` makes: the same checkpoint, the same texts, one after the other in every round. What is
timed begins with the texts and ends with a log-probability of each; a row of lm-eval is timed only
if none of them differs by more than 1e-3 nats from ours. lm-eval runs as its command does, with
transformers' own model and PyTorch's defaults.

x time   a row's time over that of ours in float32, with the spread over the rounds
changed  share of the items in which another option wins than by ours in float32
added    peak memory beyond what the process held with the model loaded

At the end stand the targets; the status is 1 if one is missed. They hold for the default size.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
import tyro
from rich.console import Console

import models
from analysis.benchmarks import load_suite
from tests.agreement import tools
from tests.agreement.training import train
from tests.speed import speed_report
from tests.speed.model_speed import QUIET_PERCENT, machine, progress, without_nan
from tests.speed.processes import Failed, Process, prepare_server
from tests.speed.scoring_report import table, verdicts
from tests.speed.scoring_speed import ScoringResult, Texts, Way, lm_eval, measure, ours
from tests.speed.targets import Verdict
from trainables.corpus import mini_benchmark, prepare_corpus
from trainables.device import set_up_device

COMPARED = "transformer"
"""The architecture that lm-eval scores, too."""


@dataclass(frozen=True)
class Args:
    """What to measure."""

    benchmarks: Path | None = None
    """Benchmarks to score, as for a sweep: BLiMP's folder, say; by default the built-in pairs."""
    tasks: tuple[str, ...] = ()
    """Which of them; by default those of the macro figure."""
    items: int = 4000
    """Most items, taken evenly from all; 0 for all."""
    archs: tuple[str, ...] = ()
    """Architectures; all by default."""
    batch_sizes: tuple[int, ...] = (1, 64, 256)
    """Of lm-eval; none leaves it out."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 adds a row of ours under autocast to each architecture."""

    size: str = "small"
    """Preset of `python -m models.sizes`."""
    corpus: str = "mini"
    """What the tokenizer and the models are trained on, as for a sweep."""
    vocab: int = 2048
    """Tokens in the vocabulary; the built-in corpus supports few more."""
    context: int = 128
    """Longest text in tokens."""
    train_steps: int = 50
    """Training steps of 16 sequences, so that no probability is that of an untrained model."""

    threads: int = psutil.cpu_count() or 1
    """Threads of each; all cores by default."""
    rounds: int = 3
    """Turns of each; the median counts."""
    peak_width: int = 3072
    """Width of the matrices whose product gives the machine's peak."""

    output: Path | None = None
    """JSON file to write the results to."""
    markdown: Path | None = None
    """File to write the tables to."""


@dataclass
class Results:
    """All that was measured."""

    machine: dict[str, Any]
    texts: int
    rows: list[ScoringResult] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    args = tyro.cli(Args, args=argv, description=__doc__)
    console = Console()
    console.width = max(console.width, 120)  # the widest table, also into a file
    busy = psutil.cpu_percent(interval=1.0)
    if busy > QUIET_PERCENT:
        console.print(
            f"The cores are {busy:.0f}% busy with something else: no ratio of this run can be "
            "relied on.",
            style="yellow",
        )
    try:
        results = run(args, console)
    except (Failed, ValueError) as error:
        console.print(f"nothing measured: {error}", markup=False)
        return 1
    results.machine["busy_percent_before"] = busy
    grids = [table(results.rows)]
    if results.verdicts:
        grids.append(speed_report.verdicts(results.verdicts))
    console.print(machine_line(args, results), style="dim", markup=False, highlight=False)
    for grid in grids:
        grid.show(console)
    if args.output:
        args.output.write_text(json.dumps(without_nan(asdict(results)), indent=1) + "\n")
    if args.markdown:
        parts = [machine_line(args, results), *(f"{g.title}:\n\n{g.markdown()}" for g in grids)]
        args.markdown.write_text("\n\n".join(parts) + "\n")
    right = not any(row.problem for row in results.rows)
    return 0 if right and all(verdict.passes for verdict in results.verdicts) else 1


def run(args: Args, console: Console) -> Results:
    """Train, score, compare.

    Raises ValueError for what cannot be scored, or without lm-eval; Failed where a process does.
    """
    archs = args.archs or models.architectures()
    if unknown := set(archs) - set(models.architectures()):
        raise ValueError(f"unknown {sorted(unknown)}; choose of {models.architectures()}")
    compares = COMPARED in archs and bool(args.batch_sizes)
    if compares and tools.missing():
        raise ValueError(f"{tools.missing()}; without lm-eval: --batch-sizes")
    prepare_server()
    with Process("Machine", args.threads) as process:
        facts = process.call("facts")
        kinds = {"fp32", args.precision}
        peaks = {kind: process.call("peak_flops", kind, args.peak_width) for kind in kinds}
    with tempfile.TemporaryDirectory() as name, progress(console, len(archs)) as note:
        folder = Path(name)
        note("preparing the corpus")
        corpus = prepare_corpus(args.corpus, vocab_size=args.vocab, cache=folder / "corpora")
        texts = read_texts(args, folder, corpus.tokenizer())
        about = machine(args, facts, peaks)
        if compares:
            about["lm_eval"] = tools.version("lm_eval")
        results = Results(about, len(texts.pairs))
        set_up_device(args.threads)
        for arch in archs:
            note(f"{arch}: training")
            length = {"steps": args.train_steps, "batch": 16, "context": args.context}
            checkpoint = train(arch, args.size, corpus, folder, **length).path
            ways = ways_of(args, arch, checkpoint, with_lm_eval=compares and arch == COMPARED)
            results.rows += measure(ways, texts, args.threads, args.rounds, peaks, note)
    if compares and args.size == Args.size:
        results.verdicts = verdicts(results.rows)
    return results


def read_texts(args: Args, folder: Path, tokenizer: Any) -> Texts:
    """Options of the items, evenly taken from the benchmarks; ValueError if one is too long."""
    if args.benchmarks is None:
        suite = load_suite(mini_benchmark(folder / "benchmarks"), "2024", args.tasks or ("blimp",))
    else:
        suite = load_suite(args.benchmarks, "2024", args.tasks)
    suite.check_fits(tokenizer, args.context)
    items = [item for benchmark in suite.benchmarks for item in benchmark.items]
    count = min(args.items or len(items), len(items))
    items = [items[index * len(items) // count] for index in range(count)]
    return Texts(
        [(item.context, option) for item in items for option in item.options],
        [len(item.options) for item in items],
    )


def ways_of(args: Args, arch: str, checkpoint: Path, with_lm_eval: bool) -> list[Way]:
    """All that score one checkpoint, ours in float32 first."""
    precisions = dict.fromkeys(("fp32", args.precision))
    ways = [ours(Path(sys.executable), arch, checkpoint, precision) for precision in precisions]
    if with_lm_eval:
        ways += [lm_eval(tools.python(), arch, checkpoint, size) for size in args.batch_sizes]
    return ways


def machine_line(args: Args, results: Results) -> str:
    """Hardware, versions and what was scored in one sentence."""
    it = results.machine
    peaks = ", ".join(f"{name} {peak:,}" for name, peak in it["peak_gflops"].items())
    return (
        f"{it['cpu']}, {it['threads']} of {it['cores']} cores, {it['memory_gb']} GB; matrix "
        f"products {peaks} GFLOP/s; torch {it['torch']}, lm-eval {it.get('lm_eval', 'left out')}, "
        f"commit {it['commit']}, {it['date']}. "
        f"Preset {args.size}, vocabulary {args.vocab:,}, {results.texts:,} texts."
    )


if __name__ == "__main__":
    sys.exit(main())
