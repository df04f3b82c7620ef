"""How far architectures are apart in score and in loss, pair by pair, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy import stats

from analysis.inference import LEVEL, ScoreComparison, compare_all, holm
from analysis.reporting.page import Cell, Table
from analysis.reporting.sections.common import ReportContext, count, interval, probability
from analysis.reporting.sections.contenders import Contender
from analysis.samples import sample
from analysis.selection import Selection
from analysis.shared_spread import Share, SharedSpread
from analysis.variances import CONFIDENCE


def score_pairs(context: ReportContext, contenders: list[Contender]) -> list[ScoreComparison]:
    """All pairs on the macro of the held-out items, the largest differences first.

    None where there are fewer than two, or they were scored on different items.
    """
    suites = {c.scores[0]["suite_hash"] for c in contenders if c.scores}
    scored = [c for c in contenders if "macro" in c.held_out]
    if len(scored) < 2 or len(suites) > 1:
        return []
    samples = {c.choice.arch: sample(c.scores, "macro", "held_out") for c in scored}
    pairs = compare_all(samples, context.shared("held_out_macro"))
    return sorted(pairs, key=lambda pair: -abs(pair.difference.mean))


def is_shown(adjusted_p: float) -> bool:
    """Whether a difference is significant."""
    return adjusted_p < LEVEL


def pair_table(pairs: list[ScoreComparison], links: dict[str, str]) -> Table:
    """The pairs of scores; `links` by architecture."""
    columns = (
        "pair",
        "difference",
        "95 % interval",
        "p",
        "p after Holm",
        "McNemar p",
        "seeds needed",
    )
    rows = []
    for pair in pairs:
        it = pair.difference
        mark = "shown" if is_shown(pair.adjusted_p) else ""
        rows.append(
            (
                Cell(f"{pair.first} - {pair.second}", link=links[pair.first]),
                Cell(f"{it.mean:+.2f}", it.mean, links[pair.second], mark),
                interval(it.low, it.high, 2),
                probability(it.p_value),
                probability(pair.adjusted_p),
                probability(it.mcnemar_p),
                count(it.seeds_needed),
            )
        )
    return Table(
        "pairs",
        "Differences in macro between all pairs of architectures, on the same held-out items",
        columns,
        tuple(rows),
        "Links: the first and the second. Percentage points; paired by items, over seeds of both. "
        "Holm's correction covers all pairs of this table. McNemar's exact test asks about the "
        "items only, as a cross-check. "
        "Seeds needed: of each, to show a difference of the size seen four times in five.",
    )


@dataclass(frozen=True)
class LossDifference:
    """Mean validation bits/byte of one choice minus another's, over two seeds or more of each.

    Attributes:
        first, second: architectures.
        mean: first minus second, bits/byte; negative favours the first.
        low, high: 95 % interval over seeds.
        p_value: two-sided, of no difference.
    """

    first: str
    second: str
    mean: float
    low: float
    high: float
    p_value: float

    @classmethod
    def of(cls, first: Selection, second: Selection, shared: SharedSpread) -> LossDifference | None:
        """A t test with the spread that all points share; None where one of the two has a single
        seed, or none shows any spread."""
        samples = [each.trials["bits_per_byte"].to_numpy(float) for each in (first, second)]
        if min(map(len, samples)) < 2:
            return None
        variance, degrees = shared.moderated(*map(Share.of_mean, samples))
        if variance == 0:
            return None
        error, mean = math.sqrt(variance), float(samples[0].mean() - samples[1].mean())
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * error
        p_value = 2 * float(stats.t.sf(abs(mean) / error, degrees))
        return cls(first.arch, second.arch, mean, mean - half, mean + half, p_value)


def loss_differences(
    choices: Iterable[Selection], shared: SharedSpread
) -> Sequence[LossDifference]:
    """Of all pairs that can be compared."""
    pairs = combinations(choices, 2)
    return [found for pair in pairs if (found := LossDifference.of(*pair, shared)) is not None]


def loss_table(context: ReportContext, contenders: list[Contender]) -> Table | None:
    """The pairs of losses, with Holm's correction; None without any."""
    choices = [contender.choice for contender in contenders]
    found = loss_differences(choices, context.shared("bits_per_byte"))
    if not found:
        return None
    adjusted = holm([one.p_value for one in found])
    rows = tuple(
        (
            Cell(f"{one.first} - {one.second}"),
            Cell(f"{one.mean:+.4f}", one.mean, mark="shown" if is_shown(p_holm) else ""),
            interval(one.low, one.high, 4),
            probability(one.p_value),
            probability(p_holm),
        )
        for one, p_holm in zip(found, adjusted, strict=True)
    )
    columns = ("pair", "difference", "95 % interval", "p", "p after Holm")
    caption = "Differences in validation bits/byte, over seeds (t tests); less is better"
    return Table("loss_pairs", caption, columns, rows)
