"""The variance of a figure over other seeds and other items, from what a few seeds scored.

Three parts, all in percentage points squared, all unbiased:

    seeds    of the mean of the seeds' figures on these items,
    items    of the mean over these seeds, were the items others,
    answers  what is in both: how a seed's answers differ from item to item beyond what seeds and
             items explain.

The variance is seeds + items - answers, which has `answers` once. A two-level bootstrap, which
draws seeds and items anew, has the sum of all three, with `answers` three times (Owen 2007, The
pigeonhole bootstrap, Annals of Applied Statistics 1:386): too much where seeds differ little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from analysis.shared_spread import Share, SharedSpread

CONFIDENCE = 0.95
_MANY = 1e9  # degrees of freedom: as good as a normal distribution
_NORMAL = np.linspace(-8, 8, 161)  # where a normal density is summed, by the trapezoidal rule
_DENSITY = np.exp(-(_NORMAL**2) / 2) / np.exp(-(_NORMAL**2) / 2).sum()


class SamplingDesign(NamedTuple):
    """Clusters and strata of the items that count.

    Attributes:
        cluster: (items,), index of each item's cluster.
        stratum: (clusters,), index of each cluster's stratum.
        counts: (strata,), clusters in each.
    """

    cluster: np.ndarray
    stratum: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, eq=False)
class Sample:
    """Scores on the same items of models trained alike but for their seed.

    Attributes:
        values: (seeds, items), 0 to 1; of an item of a figure that is linearized, that figure plus
            the item's influence on it.
        weights: (items,), what an item counts: the figure of a seed is 100 * values @ weights
            percent. Items of weight 0 are as if they were not there.
        strata: (items,) int; items are drawn anew within these (subtasks).
        clusters: (items,) int, unique over strata; items of one cluster are drawn together.
        linearized: (items,) bool, which items are of such figures; none by default.
        design: how the items that count lie in these.

    Raises:
        ValueError: the shapes do not fit, a value is not from 0 to 1 (a linearized one not finite),
            a weight is negative, or a cluster lies in two strata.
    """

    values: np.ndarray
    weights: np.ndarray
    strata: np.ndarray
    clusters: np.ndarray
    linearized: np.ndarray = field(default_factory=lambda: np.array(False))
    design: SamplingDesign = field(init=False, repr=False)

    def __post_init__(self) -> None:
        seeds, items = self.values.shape if self.values.ndim == 2 else (0, 0)
        if not seeds or not items:
            raise ValueError(f"values must be (seeds, items), one or more, not {self.values.shape}")
        object.__setattr__(self, "linearized", np.broadcast_to(self.linearized, (items,)))
        for name in ("weights", "strata", "clusters"):
            if (shape := getattr(self, name).shape) != (items,):
                raise ValueError(f"{name} must be one for each of {items} items, not {shape}")
        within = (self.values >= 0) & (self.values <= 1)  # NaN is not, either
        if not (within | (np.isfinite(self.values) & self.linearized)).all():
            raise ValueError("an item's value must be a number from 0 to 1")
        if not (self.weights.min() >= 0 and 0 < self.weights.sum() < math.inf):
            raise ValueError("weights must be numbers of at least 0, and not all 0")
        strata, clusters = self._counting(self.strata), self._counting(self.clusters)
        _, first, cluster = np.unique(clusters, return_index=True, return_inverse=True)
        if not np.array_equal(strata[first][cluster], strata):
            raise ValueError("a cluster lies in two strata: give each stratum numbers of its own")
        _, stratum, counts = np.unique(strata[first], return_inverse=True, return_counts=True)
        object.__setattr__(self, "design", SamplingDesign(cluster, stratum, counts))

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @property
    def figures(self) -> np.ndarray:
        """Figures of the seeds, (seeds,), percent."""
        return np.asarray(100 * self.values @ self.weights)

    @cached_property
    def deviations(self) -> np.ndarray:
        """(seeds, clusters), percentage points: what each cluster adds to its seed's figure beyond
        what it would if its items were like their stratum's mean.

        Sums over a stratum are 0. The variance of the figure, a mean of ratios where clusters
        differ in size, is that of a sum of these (Liang & Zeger 1986, Biometrika 73:13).
        """
        design, weights = self.design, self._counting(self.weights)
        stratum = design.stratum[design.cluster]
        totals = np.bincount(stratum, weights)
        rows = []
        for row in self.values:
            values = self._counting(row)
            means = np.bincount(stratum, weights * values) / totals
            rows.append(np.bincount(design.cluster, weights * (values - means[stratum])))
        return 100 * np.array(rows)

    @cached_property
    def unseen(self) -> float:
        """Squared percentage points that strata of a single cluster weigh: they show no variance,
        so that it is the largest possible one times this."""
        stratum = self.design.stratum[self.design.cluster]
        shares = np.bincount(stratum, self._counting(self.weights))
        return 1e4 * float((shares[self.design.counts == 1] ** 2).sum())

    def _counting(self, of_items: np.ndarray) -> np.ndarray:
        return of_items[self.weights > 0]


@dataclass(frozen=True)
class SeedParts:
    """The variance that drawing other seeds adds.

    Attributes:
        variance: of the mean of the seeds' figures on these items, percentage points squared.
        degrees: its degrees of freedom.
        answers: what of it the items have, too.
        one: variance of the figure of a single seed (of each side of a difference, added).
        sides: 2 where the seeds of two samples vary independently, else 1.
        borrowed: how many of the degrees are other groups', see `SharedSpread`.
    """

    variance: float
    degrees: float
    answers: float
    one: float
    sides: int = 1
    borrowed: float = 0.0

    @classmethod
    def of(
        cls, figures: np.ndarray, deviations: np.ndarray, design: SamplingDesign
    ) -> SeedParts | None:
        """Estimate from (seeds,) figures and (seeds, clusters) deviations; None for one seed."""
        count = len(figures)
        if count == 1:
            return None
        one = float(figures.var(ddof=1))
        squares = ((deviations - deviations.mean(axis=0)) ** 2).sum(axis=0)
        answers = over_strata(squares / (count * (count - 1)), design).sum()
        return cls(one / count, count - 1, float(answers), one)

    def moderated(self, shared: SharedSpread) -> SeedParts:
        """Of the same sample, with the variance learnt from all groups."""
        one, degrees = shared.moderated(Share(self.one, self.degrees))
        return replace(
            self,
            variance=one / (self.degrees + 1),
            degrees=degrees,
            one=one,
            borrowed=max(degrees - self.degrees, 0.0),
        )

    @classmethod
    def of_both(
        cls,
        first: SeedParts | None,
        second: SeedParts | None,
        counts: tuple[int, int],
        shared: SharedSpread | None = None,
    ) -> SeedParts | None:
        """Estimate for a difference of two samples with independent seeds.

        The degrees of freedom are Welch's (1947, Biometrika 34:28), 1 / sum (share^2 / (degrees +
        2)) - 2. Satterthwaite's formula, made for many degrees, finds too few: between equal
        architectures of three seeds each it would see a difference in 3.5 % of cases instead of 5.
        Where one side has fewer seeds and they agree by luck, either trusts the other's seeds too
        much, so that side's share has a lower power: 2 - sqrt(share) (3 / degrees - 4 / degrees of
        the other), found by simulation. Without it, 5 seeds against 2 would see one in 8.3 %.

        A side with one seed is taken to vary as the other. With a spread that is shared the
        variances are `SharedSpread.moderated`, whose degrees need none of this.
        """
        if first is None or second is None:
            known = first or second
            if known is None:
                return None
            known = known.moderated(shared) if shared else known
            factor = 1 + max(counts)
            return replace(
                known,
                variance=known.variance * factor,
                answers=known.answers * factor,
                one=2 * known.one,
                sides=2,
            )
        if shared is not None:
            return cls._of_both_moderated(first, second, shared)
        variance = first.variance + second.variance
        degrees = first.degrees + second.degrees
        if variance > 0:
            doubt = 0.0
            for one, other in ((first, second), (second, first)):
                share = one.variance / variance
                lowered = math.sqrt(share) * max(3 / one.degrees - 4 / other.degrees, 0.0)
                doubt += share ** max(2 - lowered, 0.0) / (one.degrees + 2)
            degrees = max(1 / doubt - 2, min(first.degrees, second.degrees))
        return cls(
            variance, degrees, first.answers + second.answers, first.one + second.one, sides=2
        )

    @classmethod
    def _of_both_moderated(
        cls, first: SeedParts, second: SeedParts, shared: SharedSpread
    ) -> SeedParts:
        sides = (first, second)
        own = [Share(side.one, side.degrees, 1 / (side.degrees + 1)) for side in sides]
        variance, degrees = shared.moderated(*own)
        # Of one seed each: exact where both have as many, else as if both varied alike.
        one = variance * 2 / sum(share.weight for share in own)
        borrowed = max(degrees - first.degrees - second.degrees, 0.0)
        answers = first.answers + second.answers
        return cls(variance, degrees, answers, one, sides=2, borrowed=borrowed)


def over_strata(squares: np.ndarray, design: SamplingDesign) -> np.ndarray:
    """(strata,) variances of sums of independent (clusters,) deviations with these squares.

    Each stratum of C clusters counts C / (C - 1) times the sum of its squares (Cochran 1977,
    Sampling Techniques, ch. 5).
    """
    factors = design.counts / np.maximum(design.counts - 1, 1)
    return np.asarray(np.bincount(design.stratum, squares) * factors)


@dataclass(frozen=True)
class Spread:
    """The variance of a figure or difference over other items and seeds.

    Attributes:
        items: variance of the mean over these seeds, were the items others.
        items_degrees: its degrees of freedom.
        seeds: what other seeds add; None where there is one seed, so that nothing shows it.
    """

    items: float
    items_degrees: float
    seeds: SeedParts | None

    @classmethod
    def of(
        cls, deviations: np.ndarray, sample: Sample, seeds: SeedParts | None, largest: float
    ) -> Spread:
        """Estimate from the (clusters,) mean deviations over seeds.

        `largest` is the greatest variance that an item's value can have: that of the items of a
        stratum whose single cluster shows none.
        """
        design = sample.design
        variances = over_strata(deviations**2, design)
        doubt = float((variances**2 / np.maximum(design.counts - 1, 1)).sum())
        items = float(variances.sum()) + largest * sample.unseen
        return cls(items, items**2 / doubt if doubt > 0 else _MANY, seeds)

    @property
    def variance(self) -> float:
        """Total variance."""
        return self.beyond + (0.0 if self.seeds is None else self.seeds.variance)

    @property
    def beyond(self) -> float:
        """The variance that items add to that of seeds, at least nothing."""
        return max(self.items - (0.0 if self.seeds is None else self.seeds.answers), 0.0)

    @property
    def degrees(self) -> float:
        """Satterthwaite's degrees of freedom of the variance (1946, Biometrics Bulletin 2:110)."""
        variance = self.variance
        if variance == 0:
            return _MANY
        doubt = (self.beyond / variance) ** 2 / self.items_degrees
        if self.seeds is not None:
            doubt += (self.seeds.variance / variance) ** 2 / self.seeds.degrees
        return min(1 / doubt, _MANY)

    def p_value(self, mean: float) -> float:
        """Two-sided p-value of a mean of zero.

        With Satterthwaite's degrees of freedom alone, a few seeds that agree by luck would make the
        t distribution trust the many degrees of the items: with three seeds and items that add a
        tenth to their variance, a difference that is not there would be found in 7.8 % of cases
        instead of 5. The distribution of Behrens and Fisher, of a normal error of items plus
        Student's of seeds, errs the other way: 2.4 % where items matter most. So the p-value is
        their mean, with the share of the seeds in the variance as Behrens and Fisher's weight
        (raised to a power below 1 that takes less notice of it the fewer the seeds). By numerical
        integration, which a test repeats, that makes 3.7 to 5.3 % for three seeds, and 2.6 to
        6.6 % for two, whatever the items add; at the level of 0.005 that Holm's correction asks of
        ten pairs at most 0.9 and 1.5 %, where Satterthwaite's alone would make 2.8 and 7 %.
        """
        if abs(mean) < 1e-9:  # equal but for rounding
            return 1.0
        if self.variance == 0:
            return 0.0
        statistic = abs(mean) / math.sqrt(self.variance)
        satterthwaite = 2 * float(special.stdtr(self.degrees, -statistic))
        if self.seeds is None or self.seeds.variance == 0:
            return satterthwaite
        degrees, share = self.seeds.degrees, self.seeds.variance / self.variance
        from_items = math.sqrt(1 - share) * _NORMAL
        tails = special.stdtr(degrees, -(statistic + from_items) / math.sqrt(share))
        behrens_fisher = 2 * float(tails @ _DENSITY)
        weight = share ** (degrees / (degrees + 2))
        return float(weight * behrens_fisher + (1 - weight) * satterthwaite)

    def half_width(self, level: float = 1 - CONFIDENCE) -> float:
        """The mean of which the p-value is `level`: half the width of the interval."""
        if self.variance == 0:
            return 0.0
        if self.seeds is None or self.seeds.variance == 0:
            quantile = special.stdtrit(self.degrees, 1 - level / 2)
            return float(quantile) * math.sqrt(self.variance)
        # A sum of two errors exceeds both their quantiles at half the level together more rarely
        # than at the level.
        degrees = min(self.seeds.degrees, self.items_degrees)
        parts = math.sqrt(self.beyond) + math.sqrt(self.seeds.variance)
        most = float(special.stdtrit(degrees, 1 - level / 4)) * parts
        return float(optimize.brentq(lambda mean: self.p_value(mean) - level, 0.0, most))

    def least(self, level: float, power: float) -> float:
        """The least true mean that is found at this two-sided level with this probability."""
        beyond = float(special.stdtrit(self.degrees, power)) * math.sqrt(self.variance)
        return self.half_width(level) + beyond

    def with_seeds(self, count: int) -> Spread:
        """The spread with so many seeds (of each side), two or more."""
        assert self.seeds is not None
        one, sides, borrowed = self.seeds.one, self.seeds.sides, self.seeds.borrowed
        degrees = sides * (count - 1) + borrowed
        seeds = SeedParts(one / count, degrees, 0.0, one, sides, borrowed)
        return Spread(self.beyond, self.items_degrees, seeds)

    def with_items(self, factor: float) -> Spread:
        """The spread with so many times the items, the seeds as they are."""
        seeds = self.seeds
        if seeds is not None:
            kept = max(seeds.variance - seeds.answers, 0.0)
            variance = kept + min(seeds.variance, seeds.answers) / factor
            seeds = replace(seeds, variance=variance, answers=seeds.answers / factor)
        return Spread(self.items / factor, self.items_degrees * factor, seeds)
