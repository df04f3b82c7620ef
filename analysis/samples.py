"""Stored scores (`SuiteScores.to_dict()`) as samples for statistics, on all items or a part."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from analysis.benchmarks import Benchmark, Item, from_facts
from analysis.benchmarks.kinds import kind_named, macro_weights
from analysis.benchmarks.suite import Scores, protocol_of
from analysis.schema.choices import ItemPart
from analysis.variances import Sample


@dataclass(frozen=True)
class Chance:
    """Score of models that guess.

    Attributes:
        level: the figure expected of them, percent.
        low, high: between these lie 95 % of them.
    """

    level: float
    low: float
    high: float

    def holds(self, score: float) -> bool:
        """Whether a score cannot be told from guessing."""
        return self.low <= score <= self.high

    def is_below(self, score: float) -> bool:
        """Whether a score is better than guessing."""
        return score > self.high

    @property
    def in_words(self) -> str:
        """What a score above chance is above."""
        return f"95 % of models that guess score {self.low:.1f} to {self.high:.1f}"


def benchmarks_of(scores: Scores) -> tuple[str, ...]:
    """Names for `sample`: "macro" if the scores have one, and each benchmark whose items add up to
    its figure (no correlation)."""
    names = [name for name in scores["benchmarks"] if kind_named(name).figure.weights]
    return (*(["macro"] if scores["macro"] is not None else []), *names)


@dataclass(frozen=True)
class Layout:
    """The items of a benchmark, or of all the macro's, in a part: what a sample is laid out by.

    Attributes:
        indices: of each benchmark its items of the part, among all of its items.
        items: of the benchmarks whose figures are linearized (`Aggregation.linearized`) those.
        weights, strata, clusters, linearized: see `variances.Sample`.
        chance: what models that guess score.
    """

    indices: dict[str, list[int]]
    items: dict[str, tuple[Item, ...]]
    weights: np.ndarray
    strata: np.ndarray
    clusters: np.ndarray
    linearized: np.ndarray
    chance: Chance


_layouts: dict[tuple[str, str, str], Layout] = {}
"""By hash of the suite, benchmark and part: all models of a study share them."""


def sample(seeds: Sequence[Scores], benchmark: str, part: ItemPart = "held_out") -> Sample:
    """The values of a benchmark's items, or of all the macro's, by models trained alike.

    Args:
        seeds: the scores of each model.
        benchmark: its name, or "macro".
        part: which of the items.

    Raises:
        ValueError: the models were scored on different items, or a benchmark has no item in the
            part.
    """
    if len({scores["suite_hash"] for scores in seeds}) > 1:
        raise ValueError("these models were scored on different items: score them on the same")
    layout = layout_of(seeds[0], benchmark, part)
    values = np.array(
        [
            [value for name in layout.indices for value in _contributions(scores, name, layout)]
            for scores in seeds
        ]
    )
    return Sample(values, layout.weights, layout.strata, layout.clusters, layout.linearized)


def chance(scores: Scores, benchmark: str, part: ItemPart = "held_out") -> Chance:
    """Score of models that guess on a benchmark, or on the macro; arguments as for `sample`."""
    return layout_of(scores, benchmark, part).chance


def layout_of(scores: Scores, benchmark: str, part: ItemPart) -> Layout:
    """The layout of a benchmark's items in a part; errors as for `sample`."""
    key = scores["suite_hash"], benchmark, part
    if key not in _layouts:
        _layouts[key] = _layout(scores, benchmark, part)
    return _layouts[key]


def _layout(scores: Scores, benchmark: str, part: ItemPart) -> Layout:
    shares = members(scores, benchmark)
    whole = sum(shares.values())
    parts = {name: _part(scores, name, part) for name in shares}
    weights: list[float] = []
    strata: list[tuple[str, str]] = []
    clusters: list[tuple[str, str | int]] = []
    for name, (items, indices) in parts.items():
        if not indices:
            raise ValueError(f"{name} has no item in the part {part!r}")
        weights += [weight * shares[name] / whole for weight in items.weights or ()]
        strata += [(name, stratum) for stratum in items.strata]
        clusters += [(name, item.cluster or index) for index, item in enumerate(items.items)]
    level = math.fsum(shares[name] * items.chance for name, (items, _) in parts.items()) / whole
    errors = (shares[name] * items.chance_error for name, (items, _) in parts.items())
    half = 1.96 * math.hypot(*errors) / whole
    linearized = {
        name: items.items for name, (items, _) in parts.items() if items.kind.figure.linearized
    }
    return Layout(
        {name: indices for name, (_, indices) in parts.items()},
        linearized,
        np.array(weights),
        _numbers(strata),
        _numbers(clusters),
        np.array([name in linearized for name, (items, _) in parts.items() for _ in items.items]),
        Chance(level, level - half, level + half),
    )


def members(scores: Scores, benchmark: str) -> dict[str, float]:
    """What each benchmark counts in a figure: in the macro, or in its own."""
    if benchmark != "macro":
        return {benchmark: 1.0}
    return macro_weights(protocol_of(scores), scores["benchmarks"])


def _part(scores: Scores, name: str, part: ItemPart) -> tuple[Benchmark, list[int]]:
    """The benchmark of a part's items, and their positions among all."""
    if part not in get_args(ItemPart):
        raise ValueError(f"part must be one of {', '.join(get_args(ItemPart))}, not {part!r}")
    benchmark, in_selection = from_facts(name, scores["items"][name])
    if part == "all":
        return benchmark, list(range(len(benchmark)))
    indices = [i for i, chosen in enumerate(in_selection) if chosen == (part == "selection")]
    return benchmark.part(indices), indices


def _contributions(scores: Scores, name: str, layout: Layout) -> list[float]:
    """What the items of a benchmark's part add to its figure, in the order of `from_facts`."""
    tasks = scores["items"][name]
    values = [value for task in tasks for value in scores["outcomes"][name][task]]
    of_part = [values[index] for index in layout.indices[name]]
    linearized = kind_named(name).figure.linearized
    return linearized(layout.items[name], of_part) if linearized else of_part


def _numbers(names: Sequence[Hashable]) -> np.ndarray:
    """Consecutive numbers for equal names."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names])
