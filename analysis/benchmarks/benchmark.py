"""What all zero-shot benchmarks are made of: a named list of items.

A reader (`minimal_pairs`, `ewok`, `bear`, `later_tasks`, `reading`) turns files into items, and the
suite does the rest: it scores every option, grades every item, and averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from analysis.benchmarks import splits
from analysis.benchmarks.items import Answer, Item
from analysis.benchmarks.kind import BenchmarkKind
from analysis.benchmarks.kinds import kind_named
from analysis.benchmarks.protocols import Encoder
from analysis.benchmarks.scoring import Span


@dataclass(frozen=True)
class Benchmark:
    """A named list of items; the name says of which kind it is.

    `dataset` is the name of the folder or hub's data set that the items come from, `place` is where
    the folder lies.
    """

    name: str
    items: tuple[Item, ...]
    dataset: str = ""
    place: Path | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def kind(self) -> BenchmarkKind:
        """The record of its name."""
        return kind_named(self.name)

    def part(self, indices: Sequence[int]) -> Benchmark:
        """The benchmark of some of the items."""
        return Benchmark(self.name, tuple(self.items[index] for index in indices))

    def content(self) -> list[list[object]]:
        """The inputs that determine a score, as JSON, for the suite's hash."""
        return [
            [i.task, i.context, i.options, i.right, i.groups, i.human, *i.covariates]
            for i in self.items
        ]

    def spans(self, encoder: Encoder) -> list[Span]:
        """One span for each option of each item, in order."""
        texts = [text for item in self.items for text in item.texts]
        names = [
            f"{self.name} {item.task}, item {index}, option {number}"
            for index, item in enumerate(self.items)
            for number in range(len(item.options))
        ]
        return encoder.spans(texts, names)

    def grade(self, log_probs: Sequence[np.ndarray]) -> list[Answer]:
        """The answer to each item, from the token log-probabilities (nats) of `spans`, in order."""
        remaining = iter(log_probs)
        by_item = [[next(remaining) for _ in item.options] for item in self.items]
        return self.kind.grade(self.items, by_item)

    def figure(self, values: Sequence[float]) -> float:
        """The benchmark's figure in percent, from the value of each item."""
        return self.kind.figure.value(self.items, values)

    def error(self, values: Sequence[float]) -> float:
        """Standard error of the figure over other items of the same kind, in percentage points."""
        return self.kind.figure.error(self.items, values)

    @cached_property
    def in_selection(self) -> list[bool]:
        """Whether each item belongs to the selection split."""
        return splits.selection_split(self.items, by_task=not self.kind.clusters_span_tasks)

    @property
    def chance(self) -> float:
        """The figure expected of a model that knows nothing, in percent."""
        return self.kind.figure.chance(self.items)[0]

    @property
    def chance_error(self) -> float:
        """Standard deviation of that figure over models that guess, in percentage points."""
        return self.kind.figure.chance(self.items)[1]

    @property
    def weights(self) -> list[float] | None:
        """Weight of each item's value in the figure: figure = 100 * sum of weight * value.

        None where the figure is not made so: a correlation.
        """
        weights = self.kind.figure.weights
        return weights(self.items) if weights else None

    @property
    def strata(self) -> list[str]:
        """Stratum of each item: what it is drawn anew within, where other items are imagined."""
        return [item.task if self.kind.figure.by_task else "" for item in self.items]
