"""The three measurements: steps against the yardstick, cost against length, two trials at once.

A speed is a ratio measured in one run: what is compared takes turns, a ratio is taken between the
turns of one round, and the median over the rounds counts.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.speed.processes import Failed, Process, Row, Shape

TOLERANCES = {"plain": (1e-5, 5e-5), "fp32": (1e-5, 5e-5), "bf16": (1e-3, 5e-2)}
"""Greatest relative errors of the loss and of a gradient, against the library in plain float32."""
SLICED = ("mamba", "hgrn2")
"""Architectures whose library takes minutes or 16 GB for a step: one layer stands for all."""
SLOW_STEP_SECONDS = 5.0

Note = Callable[[str], None]


@dataclass(frozen=True)
class Turns:
    """Rounds, of which slow steps have fewer, and least seconds of a turn, of one step or more."""

    rounds: int
    seconds: float


@dataclass(frozen=True)
class Ratio:
    """Median over the rounds, with the least and the greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, dividends: Sequence[float], divisors: Sequence[float]) -> Ratio:
        """From the values of each round."""
        ratios = [a / b for a, b in zip(dividends, divisors, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))


@dataclass(frozen=True)
class StepResult:
    """A row of the table of steps; without `seconds` if it was wrong or failed.

    Attributes:
        problem: why there are no times; empty if there are.
        estimated: from a slice: all layers as the first one, no memory.
        ratio: of the seconds to the yardstick's.
        peak_share: FLOP/s over those of matrix products of the same precision.
        memory: peak resident GB of the process.
        memory_added: GB of it since the process started.
        memory_ratio: of the peak to the yardstick's.
    """

    row: Row
    problem: str = ""
    loss_error: float = math.nan
    gradient_error: float = math.nan
    seconds: float = math.nan
    tokens_per_second: float = math.nan
    ratio: Ratio | None = None
    peak_share: float = math.nan
    memory: float = math.nan
    memory_added: float = math.nan
    memory_ratio: float = math.nan
    estimated: bool = False


@dataclass(frozen=True)
class LengthResult:
    """Microseconds per token of a training step by context length, and the growth over them."""

    arch: str
    batch: int
    microseconds: dict[int, float] = field(default_factory=dict)
    growth: Ratio | None = None
    problem: str = ""


@dataclass(frozen=True)
class TrialsResult:
    """Tokens/s of two training processes with one thread each, and what they are compared with.

    Attributes:
        together: both at once, summed.
        alone: one of them alone.
        two_threads: one process with two threads.
        against_successive: `together` over `two_threads`: the same two trials one after the other.
        against_alone: `together` over twice `alone`: how much they disturb each other.
    """

    arch: str
    size: str
    together: float = math.nan
    alone: float = math.nan
    two_threads: float = math.nan
    against_successive: Ratio | None = None
    against_alone: Ratio | None = None
    problem: str = ""


class StepMeasurement:
    """Measures rows against the yardstick, which lives from the first to the last of them."""

    def __init__(
        self, shape: Shape, threads: int, turns: Turns, precision: str, peaks: dict[str, float]
    ) -> None:
        """`precision` of the yardstick; `peaks` in FLOP/s by precision."""
        self._shape, self._threads, self._turns, self._peaks = shape, threads, turns, peaks
        self._folder = tempfile.TemporaryDirectory()
        self._references: dict[str, Path] = {}
        row = Row("transformer", "yardstick", precision)
        self._yardstick = Process("Training", row, shape, threads)
        errors = self._yardstick.call("disagreement", self._reference("transformer"))
        problem = disagreement(row, *errors)
        if problem:
            raise Failed(f"the yardstick is wrong: {problem}")
        times = [seconds for (seconds,) in take_turns([self._yardstick], turns)]
        self._memory = self._yardstick.call("memory")
        self.yardstick = self._result(row, times, times, errors, self._yardstick, self._memory)

    def close(self) -> None:
        self._yardstick.close()
        self._folder.cleanup()

    def measure(self, row: Row) -> StepResult:
        """Check a row, and time it if it is right."""
        try:
            reference = self._reference(row.arch)
            with Process("Training", row, self._shape, self._threads) as process:
                errors = process.call("disagreement", reference)
                problem = disagreement(row, *errors)
                if problem:
                    return StepResult(row, problem, *errors)
                if not (row.path == "library" and row.arch in SLICED):
                    rounds = take_turns([process, self._yardstick], self._turns)
                    times, yardstick = zip(*rounds, strict=True)
                    memory = process.call("memory")
                    return self._result(row, times, yardstick, errors, process, memory)
            return self._measure_slice(row, errors)
        except Failed as failure:
            return StepResult(row, failure.reason)

    def _measure_slice(self, row: Row, errors: tuple[float, float]) -> StepResult:
        """A step from those with one layer and with none: all layers take the time of the first."""
        with (
            Process("Training", row, replace(self._shape, layers=1), self._threads) as one,
            Process("Training", row, replace(self._shape, layers=0), self._threads) as none,
        ):
            rounds = take_turns([one, none, self._yardstick], self._turns)
            layers = one.call("layers")
            times = [without + layers * (with_one - without) for with_one, without, _ in rounds]
            yardstick = [seconds for _, _, seconds in rounds]
        with Process("Training", row, self._shape, self._threads) as process:
            result = self._result(row, times, yardstick, errors, process, (math.nan, math.nan))
        return replace(result, estimated=True)

    def _result(
        self,
        row: Row,
        times: Sequence[float],
        yardstick: Sequence[float],
        errors: tuple[float, float],
        process: Process,
        memory: tuple[float, float],
    ) -> StepResult:
        seconds = statistics.median(times)
        flops = process.call("training_flops") / seconds
        return StepResult(
            row,
            "",
            *errors,
            seconds=seconds,
            tokens_per_second=self._shape.tokens / seconds,
            ratio=Ratio.of(times, yardstick),
            peak_share=flops / self._peaks.get(row.precision, self._peaks["fp32"]),
            memory=memory[0],
            memory_added=memory[1],
            memory_ratio=memory[0] / self._memory[0],
        )

    def _reference(self, arch: str) -> Path:
        """The gradients of the architecture's library as it comes, in float32."""
        if arch not in self._references:
            path = Path(self._folder.name) / f"{arch}.safetensors"
            row = Row(arch, "library", "plain")
            with Process("Training", row, self._shape, self._threads) as process:
                process.call("save_gradients", path)
            self._references[arch] = path
        return self._references[arch]


def disagreement(row: Row, loss_error: float, gradient_error: float) -> str:
    """What is wrong with a row, or nothing."""
    for what, error, limit in zip(
        ("loss", "gradient"), (loss_error, gradient_error), TOLERANCES[row.precision], strict=True
    ):
        if not error <= limit:  # NaN as well
            return f"wrong: the {what} is off by {error:.1e}, more than {limit:.0e}"
    return ""


def take_turns(processes: Sequence[Process], turns: Turns) -> list[tuple[float, ...]]:
    """Seconds of a step of each process in each round, after a first step that is not counted."""
    first = [process.call("steps", 1) for process in processes]
    rounds = turns.rounds if max(first) < SLOW_STEP_SECONDS else min(turns.rounds, 2)
    counts = [math.ceil(turns.seconds / seconds) for seconds in first]
    return [
        tuple(
            process.call("steps", count) for process, count in zip(processes, counts, strict=True)
        )
        for _ in range(rounds)
    ]


def measure_lengths(
    row: Row, shape: Shape, lengths: Sequence[int], threads: int, rounds: int
) -> LengthResult:
    """Time per token of batches of the shape's number of sequences, at each length.

    Not of equally many tokens: fewer sequences share each reading of an LSTM's weights, which would
    count the batch, not the length.
    """
    shape = replace(shape, context=max(lengths))
    try:
        with Process("Training", row, shape, threads) as process:
            times = [
                [process.call("steps", 1, shape.batch, t) / t for t in lengths]
                for _ in range(1 + rounds)
            ]
    except Failed as failure:
        return LengthResult(row.arch, shape.batch, problem=failure.reason)
    by_length = list(zip(*times[1:], strict=True))  # the first round warms up
    return LengthResult(
        row.arch,
        shape.batch,
        {
            length: 1e6 * statistics.median(each) / shape.batch
            for length, each in zip(lengths, by_length, strict=True)
        },
        Ratio.of(by_length[-1], by_length[0]),
    )


def measure_trials(row: Row, shape: Shape, turns: Turns) -> TrialsResult:
    """Two processes with one thread each, against one of them alone and one with two threads."""
    try:
        with (
            Process("Training", row, shape, 1) as first,
            Process("Training", row, shape, 1) as second,
            Process("Training", row, shape, 2) as wide,
        ):
            for process in (first, second, wide):
                process.call("steps", 2)
            seconds = max(2 * turns.seconds, 3 * first.call("steps", 1))
            together, alone, two_threads = [], [], []
            for _ in range(turns.rounds):
                both = (first, second)
                for process in both:
                    process.start("tokens_per_second", seconds)
                together.append(sum(process.result() for process in both))
                alone.append(first.call("tokens_per_second", seconds))
                two_threads.append(wide.call("tokens_per_second", seconds))
    except Failed as failure:
        return TrialsResult(row.arch, shape.size, problem=failure.reason)
    return TrialsResult(
        row.arch,
        shape.size,
        statistics.median(together),
        statistics.median(alone),
        statistics.median(two_threads),
        Ratio.of(together, two_threads),
        Ratio.of(together, [2 * rate for rate in alone]),
    )
