"""A sweep of the study's architectures from the command line to its end, over a corpus made for it.

The corpus is the built-in grammar's, with invented words among its own, which alone would not fill
the vocabulary of `small`; the benchmarks are the built-in ones.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ("--arch", "study", "--preset", "small", "--lrs", "1e-3", "3e-3", "--epochs", "1")
ARCHITECTURES = 5
LEARNING_RATES = 2
SHARE = "0.25"
INVENTED = 30_000
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "ol")]
EVERY = 5  # paragraphs of so many words get one that is invented
DEV_SHARE = 0.02

Say = Callable[[str], None]


def run_sweep(words: int, device: str, limit: float, say: Say) -> dict[str, Any]:
    """Seconds of the sweep, and how many of its trials have a score on BLiMP.

    Raises:
        RuntimeError: it failed, a trial has no score, or the limit was reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        corpus, benchmarks = _prepare(words, Path(folder))
        made = time.monotonic() - started
        say(f"{words:,} words generated in {made:.0f} s; the sweep starts ...")
        storage = Path(folder) / "storage"
        seconds = _sweep(corpus, benchmarks, storage, device, limit)
        scored = scored_runs(storage)
    wanted = ARCHITECTURES * LEARNING_RATES
    if scored < wanted:
        raise RuntimeError(f"BLiMP was scored by {scored} of {wanted} trials, in {seconds:.0f} s")
    return {"seconds": seconds, "scored": scored, "words": words, "generated_in": made}


def _prepare(words: int, folder: Path) -> tuple[Path, Path]:
    from trainables.corpus import mini_benchmark

    corpus = folder / "corpus"
    corpus.mkdir()
    write_corpus(corpus, words)
    return corpus, mini_benchmark(folder / "benchmarks")


def _sweep(corpus: Path, benchmarks: Path, storage: Path, device: str, limit: float) -> float:
    command = [sys.executable, "sweeps/lr_sweep.py", *COMMAND, "--corpus", str(corpus)]
    command += ["--gpus-per-trial", SHARE if device == "cuda" else "0"]
    command += ["--benchmarks", str(benchmarks), "--storage", str(storage), "--study", "speed"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRITON_CACHE_DIR": str(storage / "triton")}
    environment.pop("TRITON_INTERPRET", None)
    started = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True) as process:
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the sweep had not ended after {limit:.0f} s") from None
        finally:
            if process.poll() is None:  # with its Ray cluster
                os.killpg(process.pid, signal.SIGTERM)
                time.sleep(5)
                os.killpg(process.pid, signal.SIGKILL)
    if status:
        raise RuntimeError(f"the sweep ended with status {status}")
    return time.monotonic() - started


def scored_runs(storage: Path) -> int:
    """Trials with a score on BLiMP."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("speed")
    if experiment is None:
        return 0
    runs = client.search_runs([experiment.experiment_id], "tags.`babysweep.kind` = 'trial'")
    return sum("zero_shot/blimp" in run.data.metrics for run in runs)


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
