"""Stored scores (`SuiteScores.to_dict()`) as samples for statistics, on all items or a part."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import get_args

import numpy as np

from analysis.benchmarks import MACRO, Benchmark, from_facts
from analysis.benchmarks.kinds import kind_named
from analysis.benchmarks.suite import Scores
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
    """Names for `sample`: "macro" if the scores have one, and each benchmark with item values that
    add up to its figure (no correlation, nor what is explained)."""
    names = [name for name in scores["benchmarks"] if kind_named(name).figure.weights]
    return (*(["macro"] if scores["macro"] is not None else []), *names)


@dataclass(frozen=True)
class Layout:
    """The items of a benchmark, or of all the macro's, in a part: what a sample is laid out by.

    Attributes:
        indices: of each benchmark its items of the part, among all of its items.
        weights, strata, clusters: see `variances.Sample`.
        chance: what models that guess score.
    """

    indices: dict[str, list[int]]
    weights: np.ndarray
    strata: np.ndarray
    clusters: np.ndarray
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
    values = [
        np.array([_values(scores, name) for scores in seeds])[:, indices]
        for name, indices in layout.indices.items()
    ]
    return Sample(np.concatenate(values, axis=1), layout.weights, layout.strata, layout.clusters)


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
    names = members(scores, benchmark)
    parts = {name: _part(scores, name, part) for name in names}
    weights: list[float] = []
    strata: list[tuple[str, str]] = []
    clusters: list[tuple[str, str | int]] = []
    for name, (items, indices) in parts.items():
        if not indices:
            raise ValueError(f"{name} has no item in the part {part!r}")
        weights += [weight / len(names) for weight in items.weights or ()]
        strata += [(name, stratum) for stratum in items.strata]
        clusters += [(name, item.cluster or index) for index, item in enumerate(items.items)]
    level = fmean(items.chance for items, _ in parts.values())
    half = 1.96 * math.hypot(*(items.chance_error for items, _ in parts.values())) / len(parts)
    return Layout(
        {name: indices for name, (_, indices) in parts.items()},
        np.array(weights),
        _numbers(strata),
        _numbers(clusters),
        Chance(level, level - half, level + half),
    )


def members(scores: Scores, benchmark: str) -> list[str]:
    """The benchmarks that a figure averages: those of the macro, or the one."""
    if benchmark != "macro":
        return [benchmark]
    return [name for name in MACRO if name in scores["benchmarks"]]


def _part(scores: Scores, name: str, part: ItemPart) -> tuple[Benchmark, list[int]]:
    """The benchmark of a part's items, and their positions among all."""
    if part not in get_args(ItemPart):
        raise ValueError(f"part must be one of {', '.join(get_args(ItemPart))}, not {part!r}")
    benchmark, in_selection = from_facts(name, scores["items"][name])
    if part == "all":
        return benchmark, list(range(len(benchmark)))
    indices = [i for i, chosen in enumerate(in_selection) if chosen == (part == "selection")]
    return benchmark.part(indices), indices


def _values(scores: Scores, name: str) -> list[float]:
    """All items' values, in the order of `from_facts`."""
    return [value for task in scores["items"][name] for value in scores["outcomes"][name][task]]


def _numbers(names: Sequence[Hashable]) -> np.ndarray:
    """Consecutive numbers for equal names."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names])
