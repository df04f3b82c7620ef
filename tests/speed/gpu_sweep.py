"""A sweep of all architectures from the command line to its end, over a corpus made for it.

The corpus is the built-in grammar's, with invented words among its own, which alone would not fill
the vocabulary of `small`; the benchmarks are the built-in ones. Before the sweep the same command
says with `--dry-run` how long it would take, in a storage and with kernels of its own, so that the
sweep finds nothing that it did not make itself.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import models

ROOT = Path(__file__).resolve().parents[2]
SIZE = "small"
RATES = ("1e-3", "3e-3")
COMMAND = ("--arch", "all", "--preset", SIZE, "--lrs", *RATES, "--epochs", "1")
TRIALS = len(RATES) * len(models.architectures())
"""Those of the grid; it may go on with further rates, which no dry run foretells."""
STUDY = "speed"
SHARE = "0.25"
DRY_RUN_LIMIT = 240.0  # it measures steps beside each other, from an empty cache
INVENTED = 30_000
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "ol")]
EVERY = 5  # paragraphs of so many words get one that is invented
DEV_SHARE = 0.02

Say = Callable[[str], None]
Row = dict[str, Any]


def run_sweep(words: int, device: str, limit: float, say: Say) -> Iterator[Row]:
    """What the dry run foretells, the seconds of the sweep, and those to each first step.

    Raises:
        RuntimeError: the sweep failed, a trial has no score, or the limit was reached.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, started = Path(name), time.monotonic()
        corpus, benchmarks = _prepare(words, folder)
        made = time.monotonic() - started

        def command(storage: str) -> list[str]:
            return command_of(corpus, benchmarks, folder / storage, device)

        say(f"{words:,} words generated in {made:.0f} s; the dry run starts ...")
        yield {"what": "dry run", **_dry_run(command("dry"), folder / "dry", folder / "printed")}
        say("the sweep starts ...")
        began, storage = time.time(), folder / "storage"
        seconds = _call(command("storage"), storage, limit)
        trials = trials_of(storage)
        yield from first_steps(trials, began)
        scored = sum(trial.is_scored and trial.is_planned for trial in trials)
        if scored < TRIALS:
            raise RuntimeError(f"BLiMP was scored by {scored} of {TRIALS} trials, {seconds:.0f} s")
        facts = {"scored": scored, "words": words, "generated_in": made, "trials": len(trials)}
        yield {"what": "sweep", "seconds": seconds, "trained": trained(trials), **facts}


def _prepare(words: int, folder: Path) -> tuple[Path, Path]:
    from trainables.corpus import mini_benchmark

    corpus = folder / "corpus"
    corpus.mkdir()
    write_corpus(corpus, words)
    return corpus, mini_benchmark(folder / "benchmarks")


def command_of(corpus: Path, benchmarks: Path, storage: Path, device: str) -> list[str]:
    """As a person types it, but for the folders."""
    command = [sys.executable, "sweeps/lr_sweep.py", *COMMAND, "--corpus", str(corpus)]
    command += ["--gpus-per-trial", SHARE if device == "cuda" else "0"]
    return [*command, "--benchmarks", str(benchmarks), "--storage", str(storage), "--study", STUDY]


def _call(
    command: Sequence[str], storage: Path, limit: float, output: IO[bytes] | None = None
) -> float:
    """Seconds of a command, which prints to `output` or where this process does.

    Raises:
        RuntimeError: it failed, or the limit was reached.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRITON_CACHE_DIR": str(storage / "triton")}
    environment.pop("TRITON_INTERPRET", None)
    options: dict[str, Any] = {"stdout": output, "stderr": subprocess.STDOUT} if output else {}
    started = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, start_new_session=True, **options
    ) as process:
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"it had not ended after {limit:.0f} s") from None
        finally:
            if process.poll() is None:  # with its Ray cluster
                for number in (signal.SIGTERM, signal.SIGKILL):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
                        time.sleep(5 * (number == signal.SIGTERM))
    if status:
        raise RuntimeError(f"it ended with status {status}")
    return time.monotonic() - started


def _dry_run(command: Sequence[str], storage: Path, printed: Path) -> Row:
    """Seconds of training that it foretells, or why it does not."""
    with printed.open("wb") as output:
        try:
            seconds = _call([*command, "--dry-run"], storage, DRY_RUN_LIMIT, output)
        except RuntimeError as error:
            said = printed.read_text(errors="replace").strip().splitlines()
            return {"problem": f"dry run: {error}: {said[-1].strip() if said else 'no word'}"}
    found = foretold(printed.read_text(errors="replace"))
    if found is None:
        return {"problem": "dry run: it did not say how long the training takes"}
    return {"foretold": found, "seconds": seconds}


def foretold(text: str) -> float | None:
    """Seconds of training by what a dry run prints; None where it has no figure."""
    # A line may break anywhere.
    found = re.search(r"About ([\d:]+) of training", " ".join(text.split()))
    return None if found is None else _seconds(found[1])


def _seconds(duration: str) -> float:
    """Of h:mm:ss or m:ss."""
    total = 0
    for part in duration.split(":"):
        total = 60 * total + int(part)
    return float(total)


@dataclass(frozen=True)
class Trial:
    """What MLflow has of a trial; times in seconds since 1970, NaN where it has none.

    Attributes:
        first_step: when the loss of the first step was read.
        ended: when the trial was over.
        train_seconds: in which it trained, without validation and scores.
        is_planned: whether its learning rate is one of the command's.
    """

    arch: str
    first_step: float
    ended: float
    train_seconds: float
    is_scored: bool
    is_planned: bool = True


def trials_of(storage: Path) -> list[Trial]:
    """The trials of the sweep in a storage."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name(STUDY)
    if experiment is None:
        return []
    runs = client.search_runs([experiment.experiment_id], "tags.`babysweep.kind` = 'trial'")
    return [_trial_of(client, run) for run in runs]


def _trial_of(client: Any, run: Any) -> Trial:
    points = client.get_metric_history(run.info.run_id, "train/loss")
    params, metrics = run.data.params, run.data.metrics
    last = max((point.step for point in points), default=0)
    tokens = last * int(params["batch_size"]) * int(params["context"])
    return Trial(
        arch=params["arch"],
        first_step=min((p.timestamp / 1e3 for p in points if p.step == 1), default=math.nan),
        ended=math.nan if run.info.end_time is None else run.info.end_time / 1e3,
        train_seconds=tokens / metrics.get("epoch/tokens_per_second", math.nan),
        is_scored="zero_shot/blimp" in metrics,
        is_planned=float(params["lr"]) in map(float, RATES),
    )


def first_steps(trials: Sequence[Trial], began: float) -> Iterator[Row]:
    """Seconds to the first step that each architecture took in the sweep that began then.

    From the command where the trial was among the first; else from the moment at which there was a
    place for it, for it takes that of the trial that ended so many before.
    """
    begun = sorted((t for t in trials if t.first_step > 0), key=lambda trial: trial.first_step)
    ends = sorted(trial.ended for trial in trials if trial.ended > 0)
    places = at_once(trials)
    seen = set()
    for index, trial in enumerate(begun):
        if trial.arch in seen:
            continue
        seen.add(trial.arch)
        is_first = index < places
        since = began if is_first else ends[index - places]
        yield {
            "what": "first step in a sweep",
            "size": SIZE,
            "arch": trial.arch,
            "seconds": trial.first_step - since,
            "since": "the command" if is_first else "a place was free",
            "since_command": trial.first_step - began,
        }


def at_once(trials: Sequence[Trial]) -> int:
    """Trials that had begun before one ended."""
    first = min((trial.ended for trial in trials if trial.ended > 0), default=math.inf)
    return sum(trial.first_step < first for trial in trials)


def trained(trials: Sequence[Trial]) -> float:
    """Seconds of the grid's training, so many trials at once: what a dry run foretells."""
    planned = [trial.train_seconds for trial in trials if trial.is_planned]
    return sum(planned) / max(1, at_once(trials))


def write_corpus(folder: Path, words: int) -> None:
    """Write `made.train` and `made.dev`, in processes side by side."""
    cores = len(os.sched_getaffinity(0))
    share = -(-words // cores)
    with ProcessPoolExecutor(cores) as pool:
        pieces = list(pool.map(_piece, range(cores), itertools.repeat(share)))
    (folder / "made.train").write_text("".join(pieces))
    (folder / "made.dev").write_text(_piece(cores, max(200, int(DEV_SHARE * words))))


def _piece(seed: int, words: int) -> str:
    """About so many words, a paragraph a line."""
    lines, count = [], 0
    for line in paragraphs(seed):
        lines.append(line)
        count += len(line.split())
        if count >= words:
            break
    return "\n".join(lines) + "\n"


def paragraphs(seed: int) -> Iterator[str]:
    """The grammar's, without end, with invented words here and there."""
    from trainables.corpus.builtin.grammar import Grammar
    from trainables.corpus.builtin.paragraphs import CORPUS_SKEW, paragraph

    grammar, chance = Grammar(seed, skew=CORPUS_SKEW), random.Random(seed)
    invented = invented_words()
    while True:
        text = paragraph(grammar)
        # Rare ones are drawn less often than common ones, as in any text.
        some = [
            invented[int(INVENTED * chance.random() ** 3)]
            for _ in range(len(text.split()) // EVERY)
        ]
        yield f"{text} {' '.join(some)}." if some else text


def invented_words() -> list[str]:
    """Different words of two to four syllables, the same everywhere."""
    chance = random.Random(0)
    words: dict[str, None] = {}
    while len(words) < INVENTED:
        words["".join(chance.choices(SYLLABLES, k=chance.randint(2, 4)))] = None
    return list(words)
