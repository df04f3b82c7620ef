"""Points proposed by Optuna, over one axis or several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from analysis.schema.axes import AXES
from sweeps.plans.grids import point_of
from sweeps.plans.spaces import Values
from trainables.spec import TrialSpec

_REDRAWS = 20
"""Draws of a sampler that may repeat points already tried before its space counts as used up."""


class OptunaPlan:
    """Points proposed by Optuna, each tried with every seed, of which Optuna sees the mean.

    Args:
        base: a spec; the axes and the seed vary.
        values: by axis: of real numbers the least and the greatest value is the range, searched on
            the axis's scale; of whole numbers and choices those given are tried.
        num_samples: points to try, known ones included.
        seeds: every point is tried with each of them.
        sampler: "gp" (Gaussian process) or "tpe".
        known: scores that the study already holds, None for an unfinished trial. Their points
            come first: Optuna learns from them, and none is trained again.

    Raises:
        ValueError: a range is empty, or a value is one that no trial can have.
    """

    def __init__(
        self,
        base: TrialSpec,
        values: Values,
        num_samples: int,
        seeds: Iterable[int],
        *,
        sampler: str = "gp",
        known: Mapping[TrialSpec, float | None] | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.seeds = list(dict.fromkeys(seeds))
        self.values: Values = {}
        self._base = point_of(base)
        self._space: dict[str, BaseDistribution] = {
            name: _distribution(name, given) for name, given in values.items()
        }
        for name, given in values.items():
            for value in given:
                base.replace(**{name: value})  # checks it
        known = known or {}
        self._finished = {spec for spec, score in known.items() if score is not None}
        self._first = [point for point in dict.fromkeys(map(point_of, known)) if self._holds(point)]
        self._to_propose = max(num_samples, len(self._first))
        # A few random points first; seeded by what is known, so that a rerun draws others.
        draw, start = len(self._first), max(2, min(4, num_samples // 2))
        self._study = optuna.create_study(
            sampler=optuna.samplers.GPSampler(seed=draw, n_startup_trials=start)
            if sampler == "gp"
            else optuna.samplers.TPESampler(seed=draw, n_startup_trials=start),
            direction="minimize",
        )
        self._open: dict[TrialSpec, optuna.trial.Trial] = {}
        self._queue: list[TrialSpec] = []
        self._scores: dict[TrialSpec, float] = {}

    @property
    def finished(self) -> bool:
        return not self._queue and not self._open and self._to_propose == 0

    def ask(self) -> TrialSpec | None:
        if not self._queue and self._to_propose:
            self._propose()
        return self._queue.pop(0) if self._queue else None

    def tell(self, spec: TrialSpec, score: float) -> None:
        self._scores[spec] = score
        point = point_of(spec)
        trials = [point.replace(seed=seed) for seed in self.seeds]
        scores = [self._scores[trial] for trial in trials if trial in self._scores]
        if len(scores) == len(self.seeds):
            # Optuna takes no infinity: a diverged point is told as far worse than any other.
            finite = [score for score in self._scores.values() if math.isfinite(score)]
            worst = 2.0 * max(finite, default=10.0)
            self._study.tell(self._open.pop(point), min(fmean(scores), worst))

    def remaining(self) -> int:
        specs = {
            point.replace(seed=seed) for point in [*self._open, *self._first] for seed in self.seeds
        }
        new = self._to_propose - len(self._first)
        return new * len(self.seeds) + len(specs - self._scores.keys() - self._finished)

    def _holds(self, point: TrialSpec) -> bool:
        """Whether a point lies in the space."""
        return all(_lies_in(getattr(point, name), space) for name, space in self._space.items())

    def _propose(self) -> None:
        """Queue the next point with every seed."""
        self._to_propose -= 1
        for _ in range(_REDRAWS):
            if self._first:
                point = self._first.pop(0)
                self._study.enqueue_trial({name: getattr(point, name) for name in self._space})
            trial = self._study.ask(self._space)
            point = self._base.replace(
                **{name: _rounded(value, self._space[name]) for name, value in trial.params.items()}
            )
            if point not in self._open and all(point != point_of(spec) for spec in self._scores):
                self._open[point] = trial
                self._queue = [point.replace(seed=seed) for seed in self.seeds]
                return
            # Rounding met a point that was tried: it would teach nothing new.
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        self._to_propose = 0  # the space holds no further points of three digits


def _distribution(name: str, values: Iterable[Any]) -> BaseDistribution:
    """The distribution from which Optuna draws an axis's values.

    Raises:
        ValueError: the range is empty.
    """
    axis, given = AXES[name], list(dict.fromkeys(values))
    if axis.kind is not float:
        return CategoricalDistribution(given)
    low, high = min(given), max(given)
    if not low < high:
        raise ValueError(
            f"{axis.flag} with --search optuna takes the ends of a range, not "
            f"{axis.show(given[0])} alone"
        )
    return FloatDistribution(low, high, log=axis.scale == "log" and low > 0)


def _lies_in(value: Any, space: BaseDistribution) -> bool:
    if isinstance(space, CategoricalDistribution):
        return value in space.choices
    assert isinstance(space, FloatDistribution)
    return bool(space.low <= value <= space.high)


def _rounded(value: Any, space: BaseDistribution) -> Any:
    """A real number with three digits, in its range."""
    if not isinstance(space, FloatDistribution):
        return value
    return min(max(float(f"{value:.3g}"), space.low), space.high)
