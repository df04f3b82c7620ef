"""How sure is a score, and does one model beat another: over other seeds and over other items.

A `Sample` holds what models trained alike but for their seed scored on the same items. Other seeds
could have been drawn, and other items of the same kind: by cluster, within subtask. The two-level
bootstrap draws both anew, the same items for every seed. A figure is a weighted mean, and of a mean
the variance of such draws is known without drawing (Efron & Tibshirani 1993, An Introduction to the
Bootstrap, ch. 5), so there are none here, and no noise of theirs; see `variances`. A few seeds know
little of their spread, and the percentiles of draws from them are far too narrow (Hesterberg 2015,
The American Statistician 69:371), so intervals and p-values are those of Student's distribution and
its kin (`Spread.p_value`). A p-value is below 0.05 just when the 95 % interval excludes zero.
What the seeds of one sample do not know of their spread, those of others tell (`SharedSpread`).

`make check-statistics` holds this against data drawn with known truth. Two limits: a figure of
exactly 0 or 100 % shows no variance, and its interval has no width; and the width of an interval
from two or three seeds is itself a matter of luck, right on average only.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy import optimize, special

from analysis.shared_spread import SharedSpread
from analysis.variances import CONFIDENCE, Sample, SeedParts, Spread

LEVEL = 1 - CONFIDENCE
POWER = 0.8  # with which a difference should be shown when asked what that takes
_MOST_SEEDS, _MOST_ITEMS = 10_000, 1_000.0


@dataclass(frozen=True)
class Estimate:
    """A figure and how sure it is, in percent.

    Attributes:
        mean: over seeds.
        low, high: 95 % interval over other items and, with several seeds, other seeds.
        standard_error: over the same. The interval is wider than two of it where few degrees of
            freedom tell it.
        seeds: how many.
        seed_sd: sample standard deviation of the seeds' figures on these items; NaN for one seed.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    seeds: int
    seed_sd: float

    @property
    def sentence(self) -> str:
        """The figure in words."""
        text = f"{self.mean:.1f} (95 % interval {self.low:.1f} to {self.high:.1f} over other items"
        if self.seeds == 1:
            return f"{text}; one seed, which says nothing about other seeds)"
        return f"{text} and seeds; {self.seeds} seeds)"


@dataclass(frozen=True)
class Difference:
    """One figure minus another on the same items, in percentage points.

    Attributes:
        mean: first minus second.
        low, high: 95 % interval over other items and, unless both have one seed, other seeds.
        standard_error: see `Estimate`.
        p_value: two-sided, of no difference.
        mcnemar_p: of `mcnemar` on these items: a cross-check that asks less, since it takes these
            seeds for all there are; NaN where none of them is an answer.
        seeds: of first and second.
        spread: the variance and its parts.
        level: at which a difference is to be shown.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    p_value: float
    mcnemar_p: float
    seeds: tuple[int, int]
    spread: Spread = field(repr=False, compare=False)
    level: float = LEVEL

    @cached_property
    def seeds_needed(self) -> int | None:
        """Seeds of each with which a true difference as large as `mean` would be shown four times
        in five; None where 10,000 do not suffice or nothing tells the spread over seeds."""
        if abs(self.mean) < 1e-9 or self.spread.seeds is None:
            return None
        numbers = range(2, _MOST_SEEDS + 1)
        first = bisect.bisect_left(numbers, True, key=self._suffice)
        return numbers[first] if first < len(numbers) else None

    def _suffice(self, seeds: int) -> bool:
        return self.spread.with_seeds(seeds).least(self.level, POWER) <= abs(self.mean)

    @cached_property
    def items_needed(self) -> float | None:
        """Multiple of the items that would do the same, with the seeds as they are, 1 if no more;
        None where 1,000 times do not suffice."""
        if abs(self.mean) < 1e-9 or self._misses(math.log(_MOST_ITEMS)) > 0:
            return None
        if self._misses(0.0) <= 0:
            return 1.0
        return math.exp(optimize.brentq(self._misses, 0.0, math.log(_MOST_ITEMS), xtol=1e-4))

    def _misses(self, log_items: float) -> float:
        spread = self.spread.with_items(math.exp(log_items))
        return spread.least(self.level, POWER) - abs(self.mean)


@dataclass(frozen=True)
class ScoreComparison:
    """Two of several samples compared; `adjusted_p` is after Holm's correction over all pairs."""

    first: str
    second: str
    difference: Difference
    adjusted_p: float
    sentence: str


def estimate(sample: Sample, shared: SharedSpread | None = None) -> Estimate:
    """The figure of a sample with its 95 % interval; with one seed, over items only.

    Args:
        sample: what was scored.
        shared: the spread over seeds of samples like this one, itself among them, in percent.
    """
    figures = sample.figures
    seeds = SeedParts.of(figures, sample.deviations, sample.design)
    if seeds is not None and shared is not None and shared.groups > 1:
        seeds = seeds.moderated(shared)
    # 1/4 is the greatest variance of values from 0 to 1.
    spread = Spread.of(sample.deviations.mean(axis=0), sample, seeds, 0.25)
    mean, half = float(figures.mean()), spread.half_width()
    return Estimate(
        mean=mean,
        low=max(mean - half, 0.0),
        high=min(mean + half, 100.0),
        standard_error=math.sqrt(spread.variance),
        seeds=sample.seeds,
        seed_sd=float(figures.std(ddof=1)) if sample.seeds > 1 else math.nan,
    )


def difference(
    first: Sample,
    second: Sample,
    *,
    paired: bool = False,
    comparisons: int = 1,
    shared: SharedSpread | None = None,
) -> Difference:
    """Compare two samples on the same items.

    Items are always paired: what makes one hard for both cancels. Where one side has a single seed,
    its spread over seeds is taken to be that of the other; where both have, the interval is over
    items only.

    Args:
        first: one sample.
        second: another, of the same items in the same order.
        paired: whether seed i of one belongs to seed i of the other (a student and its control),
            so that what the seed does to both cancels, too.
        comparisons: how many are made at once. What would be needed is to show the difference at
            0.05 over this number.
        shared: the spread over seeds of samples like these or, of paired ones, of differences like
            this one, in percentage points.

    Raises:
        ValueError: the items are not the same, or paired samples do not have as many seeds.
    """
    _check_comparable(first, second, paired)
    if shared is not None and shared.groups == 1:
        shared = None
    spread = _spread_of_difference(first, second, paired, shared)
    mean, half = float(first.figures.mean() - second.figures.mean()), spread.half_width()
    return Difference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        standard_error=math.sqrt(spread.variance),
        p_value=spread.p_value(mean),
        mcnemar_p=mcnemar(first, second),
        seeds=(first.seeds, second.seeds),
        spread=spread,
        level=LEVEL / comparisons,
    )


def _check_comparable(first: Sample, second: Sample, paired: bool) -> None:
    for name in ("weights", "strata", "clusters"):
        if not np.array_equal(getattr(first, name), getattr(second, name)):
            raise ValueError(
                f"the samples differ in the {name} of their items: only scores of the same items "
                "in the same order can be compared"
            )
    if paired and first.seeds != second.seeds:
        raise ValueError(
            f"paired samples must have the same seeds, but one has {first.seeds} and the other "
            f"{second.seeds}: keep the seeds that both have"
        )


def _spread_of_difference(
    first: Sample, second: Sample, paired: bool, shared: SharedSpread | None
) -> Spread:
    design = first.design
    if paired:
        deviations = first.deviations - second.deviations
        seeds = SeedParts.of(first.figures - second.figures, deviations, design)
        if seeds is not None and shared is not None:
            seeds = seeds.moderated(shared)
    else:
        sides = [SeedParts.of(one.figures, one.deviations, design) for one in (first, second)]
        seeds = SeedParts.of_both(sides[0], sides[1], (first.seeds, second.seeds), shared)
    means = first.deviations.mean(axis=0) - second.deviations.mean(axis=0)
    # 1 is the greatest variance of differences from -1 to 1.
    return Spread.of(means, first, seeds, 1.0)


def mcnemar(first: Sample, second: Sample) -> float:
    """The p-value of the exact McNemar test (McNemar 1947, Psychometrika 12:153), as a sign test.

    Of binary values, one seed each and no clusters: of the items that just one side has right, does
    either have too many? Otherwise of the clusters (of items that count) on which one side has the
    greater sum of values, averaged over seeds. Every cluster counts as much as any other. Items of
    figures that are linearized are no answers, and are left out; NaN if there are no others.
    """
    per_item = first.values.mean(axis=0) - second.values.mean(axis=0)
    answers = ~first.linearized
    if not answers.any():
        return math.nan
    sums = np.bincount(first.design.cluster, (per_item * answers)[first.weights > 0])
    apart = sums[np.abs(sums) > 1e-9]  # means over seeds that are equal but for rounding are ties
    if not len(apart):
        return 1.0
    fewer = min((apart > 0).sum(), (apart < 0).sum())
    return min(2 * float(special.bdtr(fewer, len(apart), 0.5)), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values after Holm's correction (1979, Scandinavian Journal of Statistics 6:65), in the
    order given: rejecting those below 0.05 rejects any true hypothesis in at most 5 % of cases."""
    ordered = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [1.0] * len(p_values)
    greatest = 0.0
    for rank, index in enumerate(ordered):
        greatest = max(greatest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(greatest, 1.0)
    return adjusted


def compare_all(
    samples: dict[str, Sample], shared: SharedSpread | None = None
) -> list[ScoreComparison]:
    """All pairs of samples of the same items, with Holm's correction and a sentence for each.

    Args:
        samples: by name.
        shared: see `difference`.

    Raises:
        ValueError: see `difference`.
    """
    names = list(itertools.combinations(samples, 2))
    differences = [
        difference(samples[first], samples[second], comparisons=len(names), shared=shared)
        for first, second in names
    ]
    adjusted = holm([one.p_value for one in differences])
    return [
        ScoreComparison(
            first, second, one, p_value, in_words(first, second, one, p_value, len(names))
        )
        for (first, second), one, p_value in zip(names, differences, adjusted, strict=True)
    ]


def in_words(
    first: str, second: str, one: Difference, adjusted_p: float, comparisons: int = 1
) -> str:
    """A sentence on whether one sample beats the other, and what it would take to show it."""
    ahead, behind = (first, second) if one.mean >= 0 else (second, first)
    low, high = (one.low, one.high) if one.mean >= 0 else (-one.high, -one.low)
    chance = "p < 0.0001" if adjusted_p < 1e-4 else f"p = {adjusted_p:.2g}"
    holms = f" after Holm over {comparisons} pairs" if comparisons > 1 else ""
    figures = f"(95 % interval {low:.2f} to {high:.2f}, {chance}{holms})"
    if adjusted_p < LEVEL:
        text = f"{ahead} beats {behind} by {abs(one.mean):.2f} points {figures}."
    else:
        text = f"{first} and {second} score the same {figures}."
        if one.mean:
            text = (
                f"This study is too small to separate {first} from {second}: {ahead} is "
                f"{abs(one.mean):.2f} points above {figures}.{_needed_in_words(one)}"
            )
    return text + _seeds_in_words(first, second, one.seeds)


def _needed_in_words(one: Difference) -> str:
    ways = []
    if one.seeds_needed is not None:
        ways.append(f"about {one.seeds_needed} seeds each")
    if one.items_needed is not None:
        ways.append(f"{one.items_needed:.1f} times the items")
    if not ways:
        return " Neither more seeds nor more items alone would show a difference this small."
    return (
        f" To show a difference of this size four times in five, {' or '.join(ways)} would be "
        "needed."
    )


def _seeds_in_words(first: str, second: str, seeds: tuple[int, int]) -> str:
    if seeds == (1, 1):
        return (
            " With one seed each this is about these two models, and says nothing of other seeds."
        )
    if 1 in seeds:
        single, other = (first, second) if seeds[0] == 1 else (second, first)
        return f" {single} has one seed; its spread over seeds is taken to be that of {other}."
    return ""
