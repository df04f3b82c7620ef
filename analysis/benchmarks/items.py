"""What all zero-shot benchmarks are made of: items with options, of which the model picks one.

A reader (`minimal_pairs`, `ewok`, `bear`, `later_tasks`) turns files into a `Benchmark`, and the
suite does the rest: it scores every option, grades every item, and averages.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from analysis.benchmarks import figures, splits
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
        return figures.rule(self.name).figure(self.items, values)

    def error(self, values: Sequence[float]) -> float:
        """Standard error of the figure over other items of the same kind, in percentage points."""
        return figures.rule(self.name).error(self.items, values)

    @cached_property
    def in_selection(self) -> list[bool]:
        """Whether each item belongs to the selection split."""
        return splits.selection_split(self.items)

    @property
    def chance(self) -> float:
        """The figure expected of a model that knows nothing, in percent."""
        if all(item.human is not None for item in self.items):
            return 0.0  # a correlation
        return self.figure([1 / len(item.options) for item in self.items])

    @property
    def chance_error(self) -> float:
        """Standard deviation of that figure over models that guess, in percentage points.

        The items of a cluster count as one guess, which is the worst case.
        """
        if self.weights is None:
            return 100 / math.sqrt(max(len(self) - 1, 1))  # a rank correlation's
        by_cluster: dict[str | int, float] = defaultdict(float)
        for index, (item, weight) in enumerate(zip(self.items, self.weights, strict=True)):
            share = 1 / len(item.options)
            by_cluster[item.cluster or index] += weight * math.sqrt(share * (1 - share))
        return 100 * math.hypot(*by_cluster.values())

    @property
    def weights(self) -> list[float] | None:
        """What each item's value counts in the figure: figure = 100 * sum of weight * value.

        None where the figure is a correlation.
        """
        return figures.rule(self.name).weights(self.items)

    @property
    def strata(self) -> list[str]:
        """What each item is drawn anew within, where other items of the same kind are imagined."""
        by_task = figures.rule(self.name).by_task
        return [item.task if by_task else "" for item in self.items]


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
