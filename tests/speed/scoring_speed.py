"""The measurement of scoring: who scores the same texts of one checkpoint takes turns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.agreement.remote import Remote
from tests.speed.measurements import Note, Ratio
from tests.speed.scorers import LM_EVAL, OURS

TOLERANCE = 1e-3
"""Greatest difference (nats) of a text's log-probability between lm-eval and us."""
BF16_TOLERANCE = 0.05
"""The same of our bf16 against our float32, over the root mean square of the log-probabilities."""

WARM_UP = 256
"""Texts scored before the first round: the largest batch of anyone."""


@dataclass(frozen=True)
class Way:
    """A way to score a checkpoint.

    Attributes:
        arch: the checkpoint's architecture.
        tool: "ours" or "lm-eval".
        setting: "fp32" or "bf16" of ours, "batch 64" of lm-eval.
        python: the interpreter.
        served: the class of `scorers`.
        arguments: of its constructor.
    """

    arch: str
    tool: str
    setting: str
    python: Path
    served: str
    arguments: dict[str, str | int]

    def start(self, threads: int) -> Remote:
        """The process."""
        environment = {"OMP_NUM_THREADS": str(threads)}
        return Remote(self.python, self.served, environment, threads=threads, **self.arguments)


def ours(python: Path, arch: str, checkpoint: Path, precision: str) -> Way:
    """Our engine in float32 or under bf16 autocast."""
    arguments: dict[str, str | int] = {"checkpoint": str(checkpoint), "precision": precision}
    return Way(arch, "ours", precision, python, OURS, arguments)


def lm_eval(python: Path, arch: str, checkpoint: Path, batch_size: int) -> Way:
    """lm-eval with a batch size, in float32, which it takes from the checkpoint."""
    arguments: dict[str, str | int] = {"checkpoint": str(checkpoint), "batch_size": batch_size}
    return Way(arch, "lm-eval", f"batch {batch_size}", python, LM_EVAL, arguments)


@dataclass(frozen=True)
class Texts:
    """What is scored: (context, text) pairs, of which `counts[i]` are the options of item i."""

    pairs: list[tuple[str, str]]
    counts: list[int]

    def choices(self, scores: Sequence[float]) -> np.ndarray:
        """Index of the most probable option of every item."""
        options = np.split(np.asarray(scores), np.cumsum(self.counts)[:-1])
        return np.array([each.argmax() for each in options])


@dataclass(frozen=True)
class ScoringResult:
    """A row of the table; without `seconds` if it was wrong or failed.

    Attributes:
        problem: why there are no times; empty if there are.
        error: greatest difference (nats) of a text's log-probability from ours in float32.
        changed: share of the items in which another option is chosen than by ours in float32.
        ratio: of the seconds to those of ours in float32.
        peak_share: FLOP/s over those of matrix products of the same precision; every text counts in
            full, also where a part that it shares with others was computed once.
        memory: peak resident GB of the process while it scored.
        memory_added: GB of it beyond what it held with the model loaded.
    """

    arch: str
    tool: str
    setting: str
    problem: str = ""
    error: float = math.nan
    changed: float = math.nan
    seconds: float = math.nan
    texts_per_second: float = math.nan
    tokens_per_second: float = math.nan
    ratio: Ratio | None = None
    peak_share: float = math.nan
    memory: float = math.nan
    memory_added: float = math.nan


@dataclass
class Turns:
    """What a way did: seconds of each round, the last scores, peak and added memory in GB."""

    seconds: list[float]
    scores: list[float]
    memory: tuple[float, float] = (math.nan, math.nan)


def measure(
    ways: Sequence[Way],
    texts: Texts,
    threads: int,
    rounds: int,
    peaks: dict[str, float],
    note: Note,
) -> list[ScoringResult]:
    """Score with every way in every round; the first way is ours in float32, the reference.

    `peaks` are FLOP/s of matrix products by precision. A way whose scores are wrong gets a row that
    says so. Raises Failed if a process fails.
    """
    with ExitStack() as stack:
        processes = []
        for way in ways:
            note(f"{way.arch}: loading, {way.tool} {way.setting}")
            processes.append(stack.enter_context(way.start(threads)))
            processes[-1].call("take", texts=texts.pairs, warm_up=WARM_UP)
        turns = [Turns([], []) for _ in ways]
        for index in range(rounds):
            for way, process, turn in zip(ways, processes, turns, strict=True):
                note(f"{way.arch}: round {index + 1}/{rounds}, {way.tool} {way.setting}")
                taken, turn.scores = process.call("run")
                turn.seconds.append(taken)
        for process, turn in zip(processes, turns, strict=True):
            turn.memory = process.call("memory")
        tokens, flops = processes[0].call("work")
    return [
        result(way, texts, turn, turns[0], tokens, flops / peaks.get(way.setting, peaks["fp32"]))
        for way, turn in zip(ways, turns, strict=True)
    ]


def result(
    way: Way, texts: Texts, turns: Turns, reference: Turns, tokens: int, least_seconds: float
) -> ScoringResult:
    """The row of a way; `least_seconds` would do if all were matrix products."""
    error = float(np.abs(np.subtract(turns.scores, reference.scores)).max())
    problem = disagreement(way, error, reference.scores)
    changed = float((texts.choices(turns.scores) != texts.choices(reference.scores)).mean())
    if problem:
        return ScoringResult(way.arch, way.tool, way.setting, problem, error, changed)
    seconds = statistics.median(turns.seconds)
    return ScoringResult(
        way.arch,
        way.tool,
        way.setting,
        error=error,
        changed=changed,
        seconds=seconds,
        texts_per_second=len(texts.pairs) / seconds,
        tokens_per_second=tokens / seconds,
        ratio=Ratio.of(turns.seconds, reference.seconds),
        peak_share=least_seconds / seconds,
        memory=turns.memory[0],
        memory_added=turns.memory[1],
    )


def disagreement(way: Way, error: float, reference: Sequence[float]) -> str:
    """What is wrong with the scores of a way, or nothing."""
    limit = TOLERANCE
    if way.setting == "bf16":
        limit = BF16_TOLERANCE * float(np.sqrt(np.mean(np.square(reference))))
    if not error <= limit:  # NaN as well
        return f"wrong: a log-probability is off by {error:.1e} nats, more than {limit:.0e}"
    return ""
