"""How the values of a benchmark's items become its figure, and how sure that figure is."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple, TypeAlias

import numpy as np

from analysis.benchmarks.items import Item


class Aggregation(NamedTuple):
    """A way from items' values to one figure.

    Attributes:
        value: the figure, percent.
        error: its standard error, percentage points.
        weights: what each value counts in it; None where it is no weighted mean of values.
        chance: the figure expected of models that know nothing, percent, and its standard deviation
            over them, percentage points.
        by_task: whether other items would be drawn task by task, or from all alike.
        linearized: gives the figure, as a fraction, plus the influence of each item on it, where
            the values themselves are no answers from 0 to 1. The weighted mean of these is the
            figure, and how they vary is its error, by the delta method.
    """

    value: Callable[[Sequence[Item], Sequence[float]], float]
    error: Callable[[Sequence[Item], Sequence[float]], float]
    weights: Callable[[Sequence[Item]], list[float]] | None
    chance: Callable[[Sequence[Item]], tuple[float, float]]
    by_task: bool = True
    linearized: Callable[[Sequence[Item], Sequence[float]], list[float]] | None = None


def by_task(items: Sequence[Item], values: Sequence[float]) -> dict[str, list[float]]:
    """The values of each task's items."""
    tasks = defaultdict(list)
    for item, value in zip(items, values, strict=True):
        tasks[item.task].append(value)
    return dict(tasks)


def percent(values: Sequence[float]) -> float:
    """Mean of values in percent."""
    return 100.0 * fmean(values)


def means(*keys: Callable[[Item], str], by_task: bool = True) -> Aggregation:
    """The mean over what the first key tells apart of the mean over what the next one does, and so
    on, of the mean over items. By chance an option is as good as another."""
    first, *others = keys
    inner = means(*others) if others else None

    def value(items: Sequence[Item], values: Sequence[float]) -> float:
        parts = _parts(items, values, first)
        return fmean(inner.value(*part) if inner else percent(part[1]) for part in parts)

    def error(items: Sequence[Item], values: Sequence[float]) -> float:
        """Standard error of the mean of U independent means: the root of their variances' sum, over
        U (stratified sampling, Cochran 1977, ch. 5)."""
        parts = _parts(items, values, first)
        if inner:
            return math.hypot(*(inner.error(*part) for part in parts)) / len(parts)
        return 100 * math.sqrt(sum(_variance_of_mean(*part) for part in parts)) / len(parts)

    def weights(items: Sequence[Item]) -> list[float]:
        paths = [tuple(key(item) for key in keys) for item in items]
        counts = Counter(paths)
        depths = range(len(keys))
        inside = Counter(start[:-1] for start in {path[: n + 1] for path in counts for n in depths})
        return [1 / (math.prod(inside[path[:n]] for n in depths) * counts[path]) for path in paths]

    def chance(items: Sequence[Item]) -> tuple[float, float]:
        """The items of a cluster count as one guess, which is the worst case."""
        shares = [1 / len(item.options) for item in items]
        by_cluster: dict[str | int, float] = defaultdict(float)
        for index, (item, weight, share) in enumerate(
            zip(items, weights(items), shares, strict=True)
        ):
            by_cluster[item.cluster or index] += weight * math.sqrt(share * (1 - share))
        return value(items, shares), 100 * math.hypot(*by_cluster.values())

    return Aggregation(value, error, weights, chance, by_task)


def _correlation(items: Sequence[Item], values: Sequence[float]) -> float:
    """100 times Spearman's correlation of the model's shares with people's; 0 if it is constant."""
    if np.ptp(values) == 0:
        return 0.0
    from scipy import stats  # 60 MB: only for those who use it

    return 100.0 * float(stats.spearmanr(values, [item.human for item in items]).statistic)


def _error_of_correlation(items: Sequence[Item], values: Sequence[float]) -> float:
    """Standard error of a rank correlation r: that of Fisher's z, sqrt((1 + r^2 / 2) / (n - 3))
    (Bonett & Wright 2000), taken back to r by the delta method; of fewer than four items the
    largest that it can be."""
    if len(values) < 4:
        return 100.0
    r = _correlation(items, values) / 100
    return 100 * (1 - r**2) * math.sqrt((1 + r**2 / 2) / (len(values) - 3))


def _chance_of_correlation(items: Sequence[Item]) -> tuple[float, float]:
    return 0.0, 100 / math.sqrt(max(len(items) - 1, 1))


_Scored: TypeAlias = "tuple[list[Item], list[float]]"
"""Items and their values."""


def _parts(
    items: Sequence[Item], values: Sequence[float], key: Callable[[Item], str]
) -> list[_Scored]:
    parts: dict[str, _Scored] = defaultdict(lambda: ([], []))
    for item, value in zip(items, values, strict=True):
        part, of_part = parts[key(item)]
        part.append(item)
        of_part.append(value)
    return list(parts.values())


def _variance_of_mean(items: Sequence[Item], values: Sequence[float]) -> float:
    """Variance of the mean of values whose clusters are independent (Liang & Zeger 1986):
    C / (C - 1) sum_c (sum of the cluster's deviations)^2 / n^2."""
    mean = fmean(values)
    deviations: dict[str | int, float] = defaultdict(float)
    for index, (item, value) in enumerate(zip(items, values, strict=True)):
        deviations[item.cluster or index] += value - mean
    count = len(deviations)
    if count == 1:  # shows no variance: take the largest that values within 0..1 can have
        return 0.25
    return count / (count - 1) * sum(d**2 for d in deviations.values()) / len(values) ** 2


def task_of(item: Item) -> str:
    """The item's task, as a key for `means`."""
    return item.task


def _split(item: Item) -> str:
    """The split of an item whose task is called `<split>_<n>_ops`."""
    return item.task.rsplit("_", 2)[0]


MEAN_OF_TASKS = means(task_of)
MEAN_OF_ITEMS = means(lambda item: "", by_task=False)
MEAN_OF_SPLITS = means(_split, task_of)
CORRELATION = Aggregation(
    _correlation, _error_of_correlation, None, _chance_of_correlation, by_task=False
)
