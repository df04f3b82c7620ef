"""What all zero-shot benchmarks are made of: items with options, of which the model picks one.

A reader (`minimal_pairs`, `ewok`, `bear`, `later_tasks`) turns files into a `Benchmark`, and the
suite does the rest: it scores every option, grades every item, and averages.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from analysis.benchmarks.protocols import Encoder
from analysis.benchmarks.scoring import Span

# Scores closer than this (nats) are a tie: the accuracy of float32 sums over differently padded
# batches. A model blind to word order must not win pairs of permuted words by rounding.
TIE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Item:
    """One question to a model: which of the options is most probable after the context?

    Attributes:
        task: what figures are averaged over: BLiMP's UID, EWoK's domain, BEAR's relation.
        options: the texts to choose from. After a context an option brings its own leading space.
        right: index of the right option.
        context: read, but not scored; "" for none.
        groups: (grouping, group) pairs, e.g. ("field", "syntax"); a grouping may come twice.
        human: share of people who prefer the first option, where people do not agree; else None.
        cluster: items of one cluster are the same question asked again: in other words, or with its
            sides swapped. They are no independent evidence. "" for an item by itself.
    """

    task: str
    options: tuple[str, ...]
    right: int = 0
    context: str = ""
    groups: tuple[tuple[str, str], ...] = ()
    human: float | None = None
    cluster: str = ""


@dataclass(frozen=True)
class Outcome:
    """How one item went.

    Attributes:
        value: 1 right, 0 wrong, 1/k where the right option ties with k - 1 others for the best.
            Of an item with `human`: the model's share for the first option.
        choice: index of the chosen option, the first of the best; -1 if a score is not finite.
        tied: whether the best score is shared.
        log_probs: the options' sums of token log-probabilities, nats.
    """

    value: float
    choice: int
    tied: bool
    log_probs: tuple[float, ...]

    @property
    def finite(self) -> bool:
        """Whether all of the item's scores were finite; if not, `value` is 0."""
        return self.choice >= 0


@dataclass(frozen=True)
class Benchmark:
    """A named list of items; the name decides how their values become its figure.

    `dataset` is the name of the folder or hub's data set that the items come from.
    """

    name: str
    items: tuple[Item, ...]
    dataset: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def part(self, indices: Sequence[int]) -> Benchmark:
        """The benchmark of some of the items."""
        return Benchmark(self.name, tuple(self.items[index] for index in indices))

    def content(self) -> list[list[Any]]:
        """All that determines a score, as JSON, for the suite's hash."""
        return [[i.task, i.context, i.options, i.right, i.groups, i.human] for i in self.items]

    def spans(self, encoder: Encoder) -> list[Span]:
        """One span for each option of each item, in order."""
        options = [(item.context, option) for item in self.items for option in item.options]
        names = [
            f"{self.name} {item.task}, item {index}, option {number}"
            for index, item in enumerate(self.items)
            for number in range(len(item.options))
        ]
        return encoder.spans(options, names)

    def grade(self, log_probs: Sequence[np.ndarray]) -> list[Outcome]:
        """One outcome per item, from the token log-probabilities (nats) of `spans`, in order."""
        remaining = iter(log_probs)
        return [grade(item, [next(remaining) for _ in item.options]) for item in self.items]

    def figure(self, values: Sequence[float]) -> float:
        """The benchmark's figure in percent, from the value of each item."""
        return _RULES.get(self.name, _TASKS).figure(self.items, values)

    def error(self, values: Sequence[float]) -> float:
        """Standard error of the figure over other items of the same kind, in percentage points."""
        return _RULES.get(self.name, _TASKS).error(self.items, values)

    @property
    def chance(self) -> float:
        """The figure expected of a model that knows nothing, in percent."""
        if all(item.human is not None for item in self.items):
            return 0.0  # a correlation
        return self.figure([1 / len(item.options) for item in self.items])


def grade(item: Item, log_probs: Sequence[np.ndarray]) -> Outcome:
    """Compare the options' sums of token log-probabilities (nats).

    Options in which every token has the same probability differ in length only: a model that is
    blind to its input ties them, whatever their lengths.
    """
    scores = tuple(float(values.sum(dtype=np.float64)) for values in log_probs)
    if not all(map(math.isfinite, scores)):
        return Outcome(0.0, -1, False, scores)
    best = max(scores)
    winners = [index for index, score in enumerate(scores) if best - score < TIE_TOLERANCE]
    is_blind = _is_blind(log_probs)
    if is_blind:
        winners = list(range(len(scores)))
    tied = len(winners) > 1
    value = float(item.right in winners) / len(winners)
    if item.human is not None:
        value = 0.5 if is_blind else 1 / (1 + math.exp(min(scores[1] - scores[0], 700.0)))
    return Outcome(value, winners[0], tied, scores)


def _is_blind(log_probs: Sequence[np.ndarray]) -> bool:
    low = min(float(values.min()) for values in log_probs)
    high = max(float(values.max()) for values in log_probs)
    return high - low < TIE_TOLERANCE


def by_task(items: Sequence[Item], values: Sequence[float]) -> dict[str, list[float]]:
    """The values of each task's items."""
    tasks = defaultdict(list)
    for item, value in zip(items, values, strict=True):
        tasks[item.task].append(value)
    return dict(tasks)


def percent(values: Sequence[float]) -> float:
    """Their mean in percent."""
    return 100.0 * fmean(values)


def _mean_of_tasks(items: Sequence[Item], values: Sequence[float]) -> float:
    return fmean(map(percent, by_task(items, values).values()))


def _error_of_tasks(items: Sequence[Item], values: Sequence[float]) -> float:
    """Of the mean of U tasks' means: the root of their variances' sum, over U (stratified sampling,
    Cochran 1977, ch. 5)."""
    variances = [_variance_of_mean(part, of_part) for part, of_part in _tasks(items, values)]
    return 100 * math.sqrt(sum(variances)) / len(variances)


def _mean_of_items(items: Sequence[Item], values: Sequence[float]) -> float:
    return percent(values)


def _error_of_items(items: Sequence[Item], values: Sequence[float]) -> float:
    return 100 * math.sqrt(_variance_of_mean(items, values))


def _mean_of_splits(items: Sequence[Item], values: Sequence[float]) -> float:
    """Mean over splits of the mean over a split's tasks, which are called `<split>_<n>_ops`."""
    return fmean(_mean_of_tasks(part, of_part) for part, of_part in _splits(items, values))


def _error_of_splits(items: Sequence[Item], values: Sequence[float]) -> float:
    errors = [_error_of_tasks(part, of_part) for part, of_part in _splits(items, values)]
    return math.hypot(*errors) / len(errors)


def _correlation(items: Sequence[Item], values: Sequence[float]) -> float:
    """100 times Spearman's correlation of the model's shares with people's; 0 if it is constant."""
    if np.ptp(values) == 0:
        return 0.0
    from scipy import stats  # 60 MB: only for those who use it

    return 100.0 * float(stats.spearmanr(values, [item.human for item in items]).statistic)


def _error_of_correlation(items: Sequence[Item], values: Sequence[float]) -> float:
    """Of Fisher's z, sqrt((1 + r^2 / 2) / (n - 3)) for ranks (Bonett & Wright 2000), taken back to
    r by the delta method; of fewer than four items the largest that it can be."""
    if len(values) < 4:
        return 100.0
    r = _correlation(items, values) / 100
    return 100 * (1 - r**2) * math.sqrt((1 + r**2 / 2) / (len(values) - 3))


Part = tuple[list[Item], list[float]]


def _tasks(items: Sequence[Item], values: Sequence[float]) -> list[Part]:
    return _parts(items, values, lambda item: item.task)


def _splits(items: Sequence[Item], values: Sequence[float]) -> list[Part]:
    return _parts(items, values, lambda item: item.task.rsplit("_", 2)[0])


def _parts(
    items: Sequence[Item], values: Sequence[float], key: Callable[[Item], str]
) -> list[Part]:
    parts: dict[str, Part] = defaultdict(lambda: ([], []))
    for item, value in zip(items, values, strict=True):
        part, of_part = parts[key(item)]
        part.append(item)
        of_part.append(value)
    return list(parts.values())


def _variance_of_mean(items: Sequence[Item], values: Sequence[float]) -> float:
    """Of the mean of values whose clusters are independent (Liang & Zeger 1986):
    C / (C - 1) sum_c (sum of the cluster's deviations)^2 / n^2."""
    mean = fmean(values)
    deviations: dict[str | int, float] = defaultdict(float)
    for index, (item, value) in enumerate(zip(items, values, strict=True)):
        deviations[item.cluster or index] += value - mean
    count = len(deviations)
    if count == 1:  # shows no variance: take the largest that values within 0..1 can have
        return 0.25
    return count / (count - 1) * sum(d**2 for d in deviations.values()) / len(values) ** 2


class _Rule(NamedTuple):
    """How the values of items become a figure, and that figure's standard error."""

    figure: Callable[[Sequence[Item], Sequence[float]], float]
    error: Callable[[Sequence[Item], Sequence[float]], float]


_TASKS = _Rule(_mean_of_tasks, _error_of_tasks)
_RULES = {
    "bear": _Rule(_mean_of_items, _error_of_items),
    "entity_tracking": _Rule(_mean_of_splits, _error_of_splits),
    "wug": _Rule(_correlation, _error_of_correlation),
}
"""By benchmark; the unweighted mean over tasks for all others."""
