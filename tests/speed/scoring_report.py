"""The measurements of scoring as a table, and what they must show."""

from __future__ import annotations

from collections.abc import Sequence

from tests.speed.scoring_speed import ScoringResult
from tests.speed.speed_report import Grid, number, ratio
from tests.speed.targets import Verdict

SINGLE = 4.0
"""Least time of lm-eval with one text a batch over ours."""
BEST = 1.2
"""Least time of lm-eval with its best batch size over ours."""
MEMORY = 1.0
"""Greatest memory of ours over that of lm-eval with its best batch size."""


def table(results: Sequence[ScoringResult]) -> Grid:
    """Times, shares and memory; rows that were wrong say so."""
    return Grid(
        "Scoring; x: over ours in fp32, with the spread over the rounds",
        (
            *("architecture", "path", "type", "s", "texts/s", "tokens/s", "x time", "% peak"),
            *("GB", "added", "error", "% changed", "note"),
        ),
        [_row(result) for result in results],
    )


def _row(result: ScoringResult) -> tuple[str, ...]:
    return (
        result.arch,
        result.tool,
        result.setting,
        number(result.seconds, ".2f"),
        number(result.texts_per_second, ",.0f"),
        number(result.tokens_per_second, ",.0f"),
        ratio(result.ratio),
        number(100 * result.peak_share, ".0f"),
        number(result.memory, ".2f"),
        number(result.memory_added, ".3f"),
        number(result.error, ".0e"),
        number(100 * result.changed, ".2f"),
        result.problem,
    )


def verdicts(results: Sequence[ScoringResult]) -> list[Verdict]:
    """Ours in float32 against lm-eval's rows; a row that is wrong or missing misses."""
    right = {(r.tool, r.setting): r for r in results if r.ratio and r.arch == "transformer"}
    theirs = [result for (tool, _), result in right.items() if tool == "lm-eval"]
    nothing = ScoringResult("transformer", "lm-eval", "not measured: wrong or failed")
    single = right.get(("lm-eval", "batch 1"), nothing)
    best = min(theirs, key=lambda result: result.seconds, default=nothing)
    mine = right.get(("ours", "fp32"), nothing)
    return [
        Verdict("lm-eval's time, batch 1 / ours", _median(single), SINGLE, False, single.setting),
        Verdict("lm-eval's least time / ours", _median(best), BEST, False, best.setting),
        Verdict(
            "our peak memory / lm-eval's", mine.memory / best.memory, MEMORY, True, best.setting
        ),
        Verdict(
            "our added memory / lm-eval's",
            mine.memory_added / best.memory_added,
            MEMORY,
            True,
            best.setting,
        ),
    ]


def _median(result: ScoringResult) -> float:
    return result.ratio.median if result.ratio else float("nan")
