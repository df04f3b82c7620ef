"""Items of zero-shot benchmarks: questions with options, of which the model picks one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
        context: read, but not scored; "" for none. A tuple has one for each option.
        groups: (grouping, group) pairs, e.g. ("field", "syntax"); a grouping may come twice.
        human: share of people who prefer the first option, where people do not agree; else None.
        cluster: items of one cluster are the same question asked again: in other words, with its
            sides swapped, or against another wrong side. They are no independent evidence. "" for
            an item by itself.
        covariates: numbers known of it that a figure is made with; () for none.
        example_id: what its benchmark calls it; "" where items have no names.
    """

    task: str
    options: tuple[str, ...]
    right: int = 0
    context: str | tuple[str, ...] = ""
    groups: tuple[tuple[str, str], ...] = ()
    human: float | None = None
    cluster: str = ""
    covariates: tuple[float, ...] = ()
    example_id: str = ""

    @property
    def texts(self) -> list[tuple[str, str]]:
        """The texts of each option: what is read, and what is scored."""
        context = self.context
        contexts = context if isinstance(context, tuple) else (context,) * len(self.options)
        return list(zip(contexts, self.options, strict=True))


@dataclass(frozen=True)
class Answer:
    """A model's answer to one item.

    Attributes:
        value: 1 right, 0 wrong, 1/k where the right option ties with k - 1 others for the best.
            Of an item with `human`: the model's share for the first option. Of a reading time: what
            it contributes to the figure (`reading`).
        choice: index of the chosen option, the first of the best; -1 if a score is not finite.
        tied: whether the best score is shared.
        log_probs: the options' sums of token log-probabilities, nats; GlobalPIQA's means of them.
    """

    value: float
    choice: int
    tied: bool
    log_probs: tuple[float, ...]

    @property
    def finite(self) -> bool:
        """Whether all of the item's scores were finite; if not, `value` is 0."""
        return self.choice >= 0


def grade_each(items: Sequence[Item], log_probs: Sequence[Sequence[np.ndarray]]) -> list[Answer]:
    """The answer to each item by itself, from its options' token log-probabilities (nats)."""
    return list(map(grade, items, log_probs))


def tasks_of(items: Sequence[Item]) -> list[str]:
    """Each item's task."""
    return [item.task for item in items]


def sums_of(log_probs: Sequence[np.ndarray]) -> tuple[float, ...]:
    """Each option's sum of token log-probabilities (nats)."""
    return tuple(float(values.sum(dtype=np.float64)) for values in log_probs)


def grade(item: Item, log_probs: Sequence[np.ndarray]) -> Answer:
    """Compare the options' sums of token log-probabilities (nats).

    Options in which every token has the same probability differ in length only: a model that is
    blind to its input ties them, whatever their lengths.
    """
    scores = sums_of(log_probs)
    if not all(map(math.isfinite, scores)):
        return Answer(0.0, -1, False, scores)
    best = max(scores)
    winners = [index for index, score in enumerate(scores) if best - score < TIE_TOLERANCE]
    is_blind = _is_blind(log_probs)
    if is_blind:
        winners = list(range(len(scores)))
    tied = len(winners) > 1
    value = float(item.right in winners) / len(winners)
    if item.human is not None:
        value = 0.5 if is_blind else 1 / (1 + math.exp(min(scores[1] - scores[0], 700.0)))
    return Answer(value, winners[0], tied, scores)


def _is_blind(log_probs: Sequence[np.ndarray]) -> bool:
    low = min(float(values.min()) for values in log_probs)
    high = max(float(values.max()) for values in log_probs)
    return high - low < TIE_TOLERANCE
