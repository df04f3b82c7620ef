"""What the measurements must show, and whether they do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.speed.measurements import LengthResult, StepResult, TrialsResult

STEP = {
    "cpp": {"transformer": 0.9, "hgrn2": 0.95, "lstm": 1.0, "mamba": 1.25, "xlstm": 1.6},
    "torch": {"hgrn2": 1.2, "lstm": 1.0, "mamba": 3.5, "xlstm": 2.3},
}
"""Greatest time of a step over the yardstick's."""
MEMORY = {"cpp": {}, "torch": {"mamba": 2.8, "xlstm": 2.2}}
"""Greatest peak memory over the yardstick's, where it is not the common one."""
COMMON_MEMORY = 1.5
LIBRARY = {
    "cpp": {"mamba": 50.0, "hgrn2": 5.0, "xlstm": 3.5},
    "torch": {"hgrn2": 5.0, "xlstm": 2.5},
}
"""Least time of the library's step over ours. Mamba's needs the compiler: the 3.5 yardsticks that
are allowed without one are less than 20 times faster than the library."""
GROWTH = 1.2
"""Greatest time per token at the longest context over that at the shortest, without attention."""
TOGETHER = 0.9
"""Least tokens/s of two trials at once over those of one after the other."""
PATHS = {"cpp": "with a compiler", "torch": "without a compiler"}


@dataclass(frozen=True)
class Verdict:
    """One target: `measured` must be at most (or at least) `bound`."""

    target: str
    measured: float
    bound: float
    at_most: bool
    remark: str = ""

    @property
    def passes(self) -> bool:
        if self.at_most:
            return self.measured <= self.bound
        return self.measured >= self.bound


def of_steps(results: Sequence[StepResult]) -> list[Verdict]:
    """Time and memory of our paths, at the precision in which each is faster."""
    verdicts = []
    for path, archs in STEP.items():
        mine = [r for r in results if r.row.path == path]
        for arch in dict.fromkeys(r.row.arch for r in mine):
            best = _fastest(mine, arch)
            place = f"{arch}, {PATHS[path]}"
            time = best.ratio.median if best and best.ratio else float("nan")
            memory = best.memory_ratio if best else float("nan")
            remark = best.row.precision if best else "not measured: wrong or failed"
            if arch in archs:
                bound = archs[arch]
                verdicts.append(Verdict(f"{place}: time / yardstick", time, bound, True, remark))
            bound = MEMORY[path].get(arch, COMMON_MEMORY)
            verdicts.append(Verdict(f"{place}: memory / yardstick", memory, bound, True, remark))
    return sorted(verdicts, key=lambda verdict: verdict.target.split(": ")[1], reverse=True)


def of_libraries(results: Sequence[StepResult]) -> list[Verdict]:
    """The libraries' paths as they come against ours at the precision in which they are faster."""
    verdicts = []
    for path, archs in LIBRARY.items():
        for arch, bound in archs.items():
            ours = _fastest([r for r in results if r.row.path == path], arch)
            library = _fastest([r for r in results if r.row.precision == "plain"], arch)
            if ours and library and ours.ratio and library.ratio:
                speedup = library.ratio.median / ours.ratio.median
                remark = f"library plain, ours {ours.row.precision}"
                target = f"{arch}, {PATHS[path]}: library's time / ours"
                verdicts.append(Verdict(target, speedup, bound, False, remark))
    return verdicts


def of_lengths(results: Iterable[LengthResult]) -> list[Verdict]:
    """The growth of the recurrent architectures' time per token."""
    return [
        Verdict(
            f"{result.arch}: time per token, longest / shortest context",
            result.growth.median if result.growth else float("nan"),
            GROWTH,
            True,
            result.problem,
        )
        for result in results
        if result.arch != "transformer"
    ]


def of_trials(results: Iterable[TrialsResult]) -> list[Verdict]:
    """Two trials at once against one after the other."""
    return [
        Verdict(
            f"{result.arch} {result.size}: tokens/s, two at once / one after the other",
            result.against_successive.median if result.against_successive else float("nan"),
            TOGETHER,
            False,
            result.problem,
        )
        for result in results
    ]


def _fastest(results: Sequence[StepResult], arch: str) -> StepResult | None:
    timed = [r for r in results if r.row.arch == arch and r.ratio and not r.row.compiled]
    return min(timed, key=lambda result: result.seconds, default=None)
