"""The spread over seeds, learnt from all groups of trials of a study and not from one alone.

Two or three seeds know little of their own spread, but a study has many groups of them: one for
each architecture and learning rate. Smyth (2004, Statistical Applications in Genetics and Molecular
Biology 3:3) takes the groups' true variances for draws from one distribution,

    d0 s0^2 / variance ~ chi-squared of d0 degrees of freedom,

so that a group whose own variance s^2 has d degrees gets the moderated variance

    (d0 s0^2 + d s^2) / (d0 + d)    with d0 + d degrees of freedom.

The more alike the groups, the larger d0. His estimate of d0, by the moments of log s^2, is made for
thousands of groups. With two to eight it is often infinite where the groups do differ, and taken
for known it makes intervals too narrow: they hold the truth in 91 to 93 % of cases where there are
two or three seeds. So d0 and s0^2 are not estimated here but summed over, weighted by how well they
explain the variances seen: the "empirical Bayes" of Smyth with the doubt about d0 that is left. As
with his, an interval is right for the average group (Morris 1983, Journal of the American
Statistical Association 78:47): where spreads differ, the calmer groups' intervals are too wide, and
those of the others too narrow. `make check-statistics` says by how much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

_DEGREES = np.geomspace(0.3, 1e4, 32)[:, None]  # d0, as good as infinite in the end
_TAU = np.sqrt(special.polygamma(1, _DEGREES / 2))
"""Standard deviation of the logarithm of the groups' true variances, of each d0."""
_SCALE = 0.25
_LOG_PRIOR = -_TAU / _SCALE + np.log(-np.gradient(_TAU[:, 0]))[:, None]
"""Exponential in tau: groups are thought alike until they show that they differ. The scale was
found by simulation of 2 to 8 groups, alike and differing twofold; data of more groups outweigh it.
"""
_CONFIDENCE = 0.95
_FEW, _MANY = 0.3, 1e6  # degrees of freedom between which any are found
_ROUNDING = 1e-9  # of a figure
_NEGLIGIBLE = 1e-3  # of the greatest weight
_BELOW, _ABOVE, _STEP = 3.0, 6.0, 0.25  # log s0^2 beyond the least and greatest variance


class Share(NamedTuple):
    """What a group adds to a variance.

    Attributes:
        variance: sample variance of the group's figures.
        degrees: its degrees of freedom.
        weight: what the group's true variance counts in the sum: 1/n for that of a mean.
    """

    variance: float
    degrees: float
    weight: float = 1.0

    @classmethod
    def of_mean(cls, figures: np.ndarray) -> Share:
        """The share of the mean of a group's figures, two or more."""
        return cls(float(figures.var(ddof=1)), len(figures) - 1, 1 / len(figures))


@dataclass(frozen=True, eq=False)
class SharedSpread:
    """Variances over seeds of groups of trials, each of one architecture and point.

    Attributes:
        variances: (groups,), sample variances.
        degrees: (groups,), their degrees of freedom, one or more.
    """

    variances: np.ndarray
    degrees: np.ndarray

    @classmethod
    def of(cls, groups: Iterable[Sequence[float] | np.ndarray]) -> SharedSpread:
        """Of the figures of each group's seeds.

        Figures that are missing or not finite are left out, and groups with fewer than two.
        """
        finite = [figures[np.isfinite(figures)] for figures in map(_floats, groups)]
        several = [figures for figures in finite if len(figures) > 1]
        return cls(
            np.array([_variance(figures) for figures in several]),
            np.array([len(figures) - 1.0 for figures in several]),
        )

    @property
    def groups(self) -> int:
        """How many there are to learn from; 1 where nothing can be borrowed.

        That is where there are fewer than two, or none shows any spread.
        """
        return len(self.variances) if len(self.variances) > 1 and self.variances.any() else 1

    def moderated(self, *shares: Share) -> tuple[float, float]:
        """The variance sum(weight * variance of the group) and its degrees of freedom.

        The shares are of different groups, which should be among those that this was made of. Where
        nothing can be borrowed, the variance is that of the groups' own, and the degrees are
        Satterthwaite's (1946, Biometrics Bulletin 2:110).

        For each d0 and s0^2 the figure's error is Student's, exactly for one share and by
        Satterthwaite for several. What is returned stands for the Student's distribution that has
        the median and the 95 % point of all of these together.
        """
        if self.groups == 1:
            return _own(shares)
        degrees, middle, weights = self._explanations
        total, doubt = np.zeros(weights.shape), np.zeros(weights.shape)
        for share in shares:
            known = degrees + share.degrees
            part = share.weight * (degrees * middle + share.degrees * share.variance) / known
            total, doubt = total + part, doubt + part**2 / known
        matter = weights > _NEGLIGIBLE * weights.max()
        errors = np.sqrt(total[matter]), (total**2 / doubt)[matter]
        return _as_one(*errors, weights[matter] / weights[matter].sum())

    @cached_property
    def _explanations(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """d0 (a column), s0^2 (a row) and how likely both together are, (d0, s0^2)."""
        positive = np.log(self.variances[self.variances > 0])
        lowest, highest = positive.min() - _BELOW, positive.max() + _ABOVE
        count = math.ceil((highest - lowest) / _STEP)
        log_middle = np.linspace(lowest, highest, count)[None, :]
        likely = np.broadcast_to(_LOG_PRIOR, (len(_DEGREES), count)).copy()
        # A variance over s0^2 has Fisher's distribution of d and d0 degrees.
        half = _DEGREES / 2
        for variance, degrees in zip(self.variances, self.degrees, strict=True):
            own = degrees / 2
            likely += special.gammaln(own + half) - special.gammaln(half) - own * np.log(half)
            likely -= own * log_middle
            likely -= (own + half) * np.log1p(own * variance / half * np.exp(-log_middle))
        weights = np.exp(likely - likely.max())
        return _DEGREES, np.exp(log_middle), weights / weights.sum()


def _variance(figures: np.ndarray) -> float:
    """The sample variance; 0 where figures are equal but for rounding."""
    variance = float(figures.var(ddof=1))
    return variance if variance > (_ROUNDING * np.abs(figures).max()) ** 2 else 0.0


def _own(shares: Sequence[Share]) -> tuple[float, float]:
    """The variance and its degrees of freedom, with nothing borrowed."""
    parts = [share.weight * share.variance for share in shares]
    total = sum(parts)
    if total == 0:
        return 0.0, min(share.degrees for share in shares)
    doubt = sum(part**2 / share.degrees for part, share in zip(parts, shares, strict=True))
    return total, total**2 / doubt


def _as_one(scales: np.ndarray, degrees: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Variance and degrees of the one Student's distribution that is most like these, weighted."""
    median, outermost = (
        _point(scales, degrees, weights, share) for share in (0.5, 1 - _CONFIDENCE)
    )
    most, least = math.log(_MANY), math.log(_FEW)
    ratio = min(max(outermost / median, _ratio(most)), _ratio(least))
    found = float(optimize.brentq(lambda log: _ratio(log) - ratio, least, most))
    one = math.exp(found)
    return (outermost / float(special.stdtrit(one, (1 + _CONFIDENCE) / 2))) ** 2, one


def _point(scales: np.ndarray, degrees: np.ndarray, weights: np.ndarray, share: float) -> float:
    """What the size of an error exceeds in such a share of cases."""
    points = scales * special.stdtrit(degrees, 1 - share / 2)

    def excess(size: float) -> float:
        return float(weights @ special.stdtr(degrees, -size / scales)) - share / 2

    lowest, highest = (1 - 1e-9) * float(points.min()), (1 + 1e-9) * float(points.max())
    return float(optimize.brentq(excess, lowest, highest, xtol=1e-5 * lowest))


def _ratio(log_degrees: float) -> float:
    """The 95 % point of the size of Student's error over its median."""
    low, high = special.stdtrit(math.exp(log_degrees), [0.75, (1 + _CONFIDENCE) / 2])
    return float(high / low)


def _floats(figures: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(figures, dtype=float)
