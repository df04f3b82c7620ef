"""Figures of two kinds of training, paired by seed: how far apart, and how sure is that.

Pairing removes what a seed does to both. How much a difference varies from seed to seed is learnt
from all pairs of a study that have nothing in common, see `SharedSpread`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.points import at, completed, point_table, varied
from analysis.shared_spread import Share, SharedSpread
from analysis.variances import CONFIDENCE
from analysis.wording import count


class Pair(NamedTuple):
    """Two groups of trials that share their seeds.

    Attributes:
        trials: labels of the trials of both in their frame.
        differences: second minus first, one for each seed that both have.
    """

    trials: frozenset[Hashable]
    differences: np.ndarray

    @classmethod
    def of(cls, first: pd.DataFrame, second: pd.DataFrame, column: str = "bits_per_byte") -> Pair:
        """Of trials at one point each; without a difference where a figure is missing."""
        trials = frozenset(first.index) | frozenset(second.index)
        if column not in first or column not in second:
            return cls(trials, np.array([]))
        left, right = (each.set_index("seed")[column].astype(float) for each in (first, second))
        return cls(trials, (right - left).dropna().to_numpy())


def pairs_of_points(trials: pd.DataFrame) -> Iterator[Pair]:
    """Of each architecture every two points next to each other in rank, the best ones first, where
    no seed diverged or was stopped; `trials` as in `analysis.points`.

    Raises:
        ValueError: see `point_table`.
    """
    done, table = completed(trials), point_table(trials)
    names = ["arch", *(axis.field for axis in varied(done))]
    sound = table[(table["diverged"] == 0) & (table["stopped"] == 0)]
    for _, ranked in sound.groupby("arch", sort=False):
        for better, worse in pairwise(ranked[names].to_dict("records")):
            yield Pair.of(at(done, better), at(done, worse))


def spread_of_pairs(own: Pair, others: Iterable[Pair]) -> SharedSpread:
    """The spread over seeds of a pair's differences, learnt from others', too.

    Of the others each is taken that has no trial in common with those before it: a trial that
    served twice would be counted as two.
    """
    differences, used = [own.differences], own.trials
    for other in others:
        if used.isdisjoint(other.trials):
            differences.append(other.differences)
            used = used | other.trials
    return SharedSpread.of(differences)


def learnt_from(shared: SharedSpread | None, kind: str, kinds: str | None = None) -> str:
    """Words on how many groups told the spread, to follow an interval; "" if it was the own one.

    Args:
        shared: the spread.
        kind, kinds: what a group is, and several are.
    """
    if shared is None or shared.groups == 1:
        return ""
    return f"; the spread over seeds is learnt from {count(shared.groups, kind, kinds)}"


def mean_interval(
    values: Sequence[float] | np.ndarray, shared: SharedSpread | None = None
) -> tuple[float, float]:
    """The 95 % t interval of the mean of two or more values, one for each seed."""
    sample = np.asarray(values, dtype=float)
    return _interval(float(sample.mean()), *_error_of_mean(sample, shared))


def _interval(mean: float, error: float, degrees: float) -> tuple[float, float]:
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * error
    return mean - half, mean + half


def _error_of_mean(sample: np.ndarray, shared: SharedSpread | None) -> tuple[float, float]:
    """The standard error and its degrees of freedom."""
    variance, degrees = (shared or SharedSpread.of([sample])).moderated(Share.of_mean(sample))
    return math.sqrt(variance), degrees


@dataclass(frozen=True)
class Gain:
    """The gain of a change over its control, paired by seed.

    Attributes:
        seeds: seeds that both were trained with.
        mean: mean of control minus changed, so that positive is better where less is better.
        interval: 95 % t interval of the mean; None with fewer than two seeds.
        p_value: two-sided, of no gain, by the t-test that `interval` is of; NaN without one.
        shared: the spread over seeds of gains like this; None if it is this one's own.
    """

    seeds: int
    mean: float
    interval: tuple[float, float] | None
    p_value: float = math.nan
    shared: SharedSpread | None = None

    def in_words(self, change: str, reason: str) -> str:
        """The gain in bits/byte, as a sentence without its full stop.

        Args:
            change: what was changed, such as "the teacher".
            reason: why no seed was trained to the end with and without it, where none was.
        """
        if self.seeds == 0:
            return f"what {change} gains is not known: {reason}"
        verb = "gains" if self.mean > 0 else "loses"
        text = f"{change} {verb} {abs(self.mean):.4f} bits/byte"
        if self.interval is None:
            return f"{text} on one seed: the spread is unknown, so this may be chance; add --seeds"
        low, high = self.interval
        verdict = "the interval includes zero, so this may be chance"
        if low * high > 0:
            verdict = "the interval excludes zero"
        learnt = learnt_from(self.shared, "pair of student and control", "such pairs")
        return (
            f"{text} (95 % interval of the gain {low:.4f} to {high:.4f}, paired over "
            f"{count(self.seeds, 'seed')}{learnt}): {verdict}"
        )


def paired_gain(changed: pd.Series, control: pd.Series, shared: SharedSpread | None = None) -> Gain:
    """The gain of one figure per seed over another, both indexed by seed; less is better.

    Args:
        changed, control: the figures.
        shared: the spread over seeds of gains like this, itself among them.
    """
    both = pd.concat([changed, control], axis=1, keys=["changed", "control"]).dropna()
    differences = (both["control"] - both["changed"]).to_numpy(dtype=float)
    seeds = len(differences)
    if not seeds:
        return Gain(0, math.nan, None)
    mean = float(differences.mean())
    if seeds == 1:
        return Gain(1, mean, None)
    error, degrees = _error_of_mean(differences, shared)
    # Seeds that are all alike leave no doubt, unless others' spread is known.
    p_value = 2 * float(stats.t.sf(abs(mean) / error, degrees)) if error else float(mean == 0)
    return Gain(seeds, mean, _interval(mean, error, degrees), p_value, shared)
