"""Smyth's moderated variances as he estimates them: a reference, and what is compared with.

Smyth (2004), Statistical Applications in Genetics and Molecular Biology 3:3, section 6.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special, stats


def prior_by_moments(variances: np.ndarray, degrees: float) -> tuple[float, float]:
    """d0 and s0^2 from (groups,) sample variances, which have as many degrees of freedom each.

    Mean and variance of log s^2 are set equal to what they would be; where the variance is less
    than that of equal groups, d0 is infinite, and s0^2 the mean variance.
    """
    half = degrees / 2
    logs = np.log(variances) - special.digamma(half) + math.log(half)
    beyond = float(logs.var(ddof=1)) - float(special.polygamma(1, half))
    if beyond <= 1e-6:
        return math.inf, float(variances.mean())
    root = optimize.brentq(
        lambda log: float(special.polygamma(1, math.exp(log))) - beyond, -20.0, 20.0
    )
    half_prior = math.exp(root)
    middle = float(logs.mean()) + float(special.digamma(half_prior)) - math.log(half_prior)
    return 2 * half_prior, math.exp(middle)


def moderated_by_moments(variances: np.ndarray, degrees: float) -> tuple[np.ndarray, float]:
    """(groups,) moderated variances and their degrees of freedom, at most those of all groups."""
    prior, middle = prior_by_moments(variances, degrees)
    if math.isinf(prior):
        return np.full(len(variances), middle), degrees * len(variances)
    moderated = (prior * middle + degrees * variances) / (prior + degrees)
    return moderated, min(prior + degrees, degrees * len(variances))


def intervals_by_moments(groups: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """The 95 % intervals of the means of groups with as many figures each."""
    seeds = len(groups[0])
    variances = np.array([group.var(ddof=1) for group in groups])
    moderated, degrees = moderated_by_moments(variances, seeds - 1)
    halves = stats.t.ppf(0.975, degrees) * np.sqrt(moderated / seeds)
    return [(group.mean() - h, group.mean() + h) for group, h in zip(groups, halves, strict=True)]
