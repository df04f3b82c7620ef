"""Grids over any axes, as a whole or one axis after the other, that go on beyond their edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from analysis.schema.axes import AXES, Edge
from sweeps.plans.spaces import Values
from sweeps.stored.best import best_scored
from trainables.spec import TrialSpec

MAX_EXTENSIONS = 3
"""New values beyond the ends of an axis."""
TrialScores = Mapping[TrialSpec, float]
"""Best validation bits per byte of trials; infinite for a diverged one."""


def point_of(spec: TrialSpec) -> TrialSpec:
    """The spec whatever its seed."""
    return spec.replace(seed=0)


class GridPlan:
    """All combinations of the axes' values, and more beside the best one while it lies on an edge.

    An optimum is trustworthy only when both neighbours along every axis were tried and are worse.
    Where the best point lacks one, it is added: the axis's next value, or beyond its end a new one
    that continues the grid's spacing, of which an axis gets at most `MAX_EXTENSIONS`. All this
    depends on scores alone, so an interrupted sweep arrives at the same points.

    Args:
        base: a spec; the axes and the seed vary.
        values: by axis, one or more. A choice without an order, or one value, is not extended.
        seeds: every point is tried with each of them.
        extend: whether to add points.
        known: scores that the study already holds, of any seed. A point that has one for each of
            `seeds` counts when the edge is judged, and as an extension if beyond the grid.
        points: to begin with, in place of all combinations.
        allowed: whether a point that would be added can be trained.

    Raises:
        ValueError: a value that no trial can have.
    """

    def __init__(
        self,
        base: TrialSpec,
        values: Values,
        seeds: Iterable[int],
        *,
        extend: bool = True,
        known: TrialScores | None = None,
        points: Sequence[TrialSpec] | None = None,
        allowed: Callable[[TrialSpec], bool] = lambda spec: True,
    ) -> None:
        self.seeds = list(dict.fromkeys(seeds))
        requested = {name: AXES[name].in_order(given) for name, given in values.items()}
        if points is None:
            # The first axis varies fastest.
            combinations = product(*reversed(requested.values()))
            names = list(reversed(requested))
            points = [
                point_of(base).replace(**dict(zip(names, combination, strict=True)))
                for combination in combinations
            ]
        known = known or {}
        complete = {
            point
            for point in map(point_of, known)
            if all(point.replace(seed=seed) in known for seed in self.seeds)
        }
        self._scores = dict(known)
        self._known = set(known)
        self.points = list(dict.fromkeys([*points, *complete]))
        self.values = {
            name: AXES[name].in_order([*given, *(getattr(point, name) for point in complete)])
            for name, given in requested.items()
        }
        # Of the requested values alone: what is known must not lead to ever more.
        self._extensions = {name: _extensions(name, given) for name, given in requested.items()}
        self._extend, self._allowed = extend, allowed
        self._queue = [point.replace(seed=seed) for seed in self.seeds for point in points]
        self._open: set[TrialSpec] = set()

    @property
    def specs(self) -> set[TrialSpec]:
        """All trials of the grid so far."""
        return {point.replace(seed=seed) for seed in self.seeds for point in self.points}

    @property
    def finished(self) -> bool:
        self._grow()
        return not self._queue and not self._open

    def ask(self) -> TrialSpec | None:
        self._grow()
        if not self._queue:
            return None
        spec = self._queue.pop(0)
        self._open.add(spec)
        return spec

    def tell(self, spec: TrialSpec, score: float) -> None:
        self._open.discard(spec)
        self._scores[spec] = score

    def remaining(self) -> int:
        return sum(spec not in self._known for spec in [*self._queue, *self._open])

    @property
    def best(self) -> TrialSpec | None:
        """The best point by the rule of `sweeps.stored.best`; None while none is finite."""
        done = set(self._done())
        scores = {spec: score for spec, score in self._scores.items() if point_of(spec) in done}
        return best_scored(scores)

    def _done(self) -> list[TrialSpec]:
        """The points of which every seed of this command has a score."""
        return [
            point
            for point in self.points
            if all(point.replace(seed=seed) in self._scores for seed in self.seeds)
        ]

    def _grow(self) -> None:
        """Queue a missing neighbour of the best point, once every result is in.

        One at a time: a kill leaves a beginning of the same sequence.
        """
        if self._queue or self._open or not self._extend or (best := self.best) is None:
            return
        for name in self.values:
            point = self._missing_beside(best, name)
            if point is not None:
                self.points.append(point)
                self._queue = [point.replace(seed=seed) for seed in self.seeds]
                return

    def _missing_beside(self, best: TrialSpec, name: str) -> TrialSpec | None:
        """A neighbour of a point along an axis that was not tried and can be, if there is one."""
        if not AXES[name].scale or len(self.values[name]) < 2:
            return None
        here = getattr(best, name)
        line = [
            getattr(point, name) for point in self._done() if point.replace(**{name: here}) == best
        ]
        edges: list[Edge] = []
        edges += ["low"] if here == min(line) else []
        edges += ["high"] if here == max(line) else []
        for edge in edges:
            value = self._next(name, here, edge)
            point = None if value is None else _made(best, name, value)
            if point is not None and self._allowed(point):
                self.values[name] = AXES[name].in_order([*self.values[name], value])
                return point
        return None

    def _next(self, name: str, here: Any, edge: Edge) -> Any:
        """The axis's next value in this direction, a new one beyond its end; None if none is due"""
        values, new = self.values[name], self._extensions[name]
        added = sum(value in values for value in new)
        candidates = values if added >= MAX_EXTENSIONS else [*values, *new]
        beside = [v for v in candidates if (v > here if edge == "high" else v < here)]
        if not beside:
            return None
        return min(beside) if edge == "high" else max(beside)


class CoordinatePlan:
    """One axis after the other, each from the best point so far; then what is missing beside it.

    The sum of the axes' values instead of their product. Axes that are not yet looked at have the
    value of the base. Arguments as of `GridPlan`; the axes in the order of `values`.
    """

    def __init__(
        self,
        base: TrialSpec,
        values: Values,
        seeds: Iterable[int],
        *,
        extend: bool = True,
        known: TrialScores | None = None,
        allowed: Callable[[TrialSpec], bool] = lambda spec: True,
    ) -> None:
        self.seeds = list(dict.fromkeys(seeds))
        self.values, self._extend, self._allowed = values, extend, allowed
        self._told: dict[TrialSpec, float] = dict(known or {})
        self._left = list(values)
        self._closing = extend
        self._at = point_of(base)
        self._grid = self._line()

    @property
    def points(self) -> list[TrialSpec]:
        """All points so far that have a score."""
        return list(dict.fromkeys(map(point_of, self._told)))

    @property
    def finished(self) -> bool:
        self._go_on()
        return self._grid.finished

    def ask(self) -> TrialSpec | None:
        self._go_on()
        return self._grid.ask()

    def tell(self, spec: TrialSpec, score: float) -> None:
        self._told[spec] = score
        self._grid.tell(spec, score)

    def remaining(self) -> int:
        later = sum(len(self.values[name]) for name in self._left) * len(self.seeds)
        return self._grid.remaining() + later

    def _go_on(self) -> None:
        """Turn to the next axis when the present one has all its results."""
        while self._grid.finished and (self._left or self._closing):
            if (best := self._grid.best) is None:  # nothing to go on from
                self._left, self._closing = [], False
                return
            self._at = best
            if self._left:
                self._grid = self._line()
            else:
                self._closing = False
                self._grid = self._make(self.values, self._told, points=[self._at])

    def _line(self) -> GridPlan:
        """The next axis, through the best point so far."""
        name = self._left.pop(0)
        here = {
            spec: score
            for spec, score in self._told.items()
            if point_of(spec).replace(**{name: getattr(self._at, name)}) == self._at
        }
        return self._make({name: self.values[name]}, here)

    def _make(
        self, values: Values, known: TrialScores, points: Sequence[TrialSpec] | None = None
    ) -> GridPlan:
        return GridPlan(
            self._at,
            values,
            self.seeds,
            extend=self._extend,
            known=known,
            points=points,
            allowed=self._allowed,
        )


def _made(point: TrialSpec, name: str, value: Any) -> TrialSpec | None:
    """The point with this value; None where no trial can have both."""
    try:
        return point.replace(**{name: value})
    except ValueError:
        return None


def _extensions(name: str, values: list[Any]) -> list[Any]:
    """The values by which an axis may have been extended."""
    found: list[Any] = []
    if not AXES[name].scale or len(values) < 2:
        return found
    edges: tuple[Edge, ...] = ("low", "high")
    for edge in edges:
        grid = values
        for _ in range(MAX_EXTENSIONS):
            value = AXES[name].beyond(grid, edge)
            if value is None:
                break
            found.append(value)
            grid = sorted([*grid, value])
    return found
