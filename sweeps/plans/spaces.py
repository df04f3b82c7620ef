"""Which learning rates to try: a grid that extends itself, or Optuna; and a Tune searcher.

A plan varies the learning rate and the seed of one spec. It hands out (lr, seed) pairs and is told
their scores; it keeps no state on disk: told the finished trials of an interrupted sweep, it goes
on where that stood.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any, Protocol

import optuna
from ray.tune.search import Searcher

from analysis.learning_rates import edge_of_grid
from trainables.spec import TrialSpec

MAX_EXTENSIONS = 3
SAMPLERS = ("gp", "tpe")
_HALF_DECADES = (1.0, 3.0)
_REDRAWS = 20
"""Draws of a sampler that may repeat rates already tried before its range counts as used up."""


class Plan(Protocol):
    """The order in which the trials of one spec are tried."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to hand out, now or after further results."""

    def ask(self) -> tuple[float, int] | None:
        """The next (lr, seed), or None when there is none before further results."""

    def tell(self, lr: float, seed: int, score: float) -> None:
        """The score of a finished trial, lower is better; infinite for a diverged one."""

    def remaining(self) -> int:
        """Trials still to be trained as far as known, those handed out included."""


class GridPlan:
    """A grid of learning rates, extended while the best one lies on its edge.

    The optimum of a grid is trustworthy only when both neighbours were tried and are worse. A new
    point continues the grid's spacing; there are at most `MAX_EXTENSIONS` of them. They depend on
    scores alone, so an interrupted sweep arrives at the same ones.

    Args:
        lrs: the grid, at least one.
        seeds: every learning rate is tried with each of them.
        extend: whether to add points beyond the edge.
        known: scores that the study already holds, by (lr, seed). A learning rate that has one for
            each seed counts when the edge is judged, and as an extension if beyond the grid.
    """

    def __init__(
        self,
        lrs: Iterable[float],
        seeds: Iterable[int],
        *,
        extend: bool = True,
        known: Mapping[tuple[float, int], float] | None = None,
    ) -> None:
        requested = sorted(set(lrs))
        self.seeds = list(dict.fromkeys(seeds))
        known = known or {}
        complete = {lr for lr, _ in known if all((lr, seed) in known for seed in self.seeds)}
        self._scores = {pair: score for pair, score in known.items() if pair[0] in complete}
        self.lrs = sorted({*requested, *complete})
        self._known = set(known)
        made = _extensions(requested, "low") + _extensions(requested, "high")
        self._extensions = sum(lr in complete for lr in made)
        self._extend = extend and len(self.lrs) > 1
        self._queue = [(lr, seed) for seed in self.seeds for lr in requested]
        self._open: set[tuple[float, int]] = set()

    @property
    def finished(self) -> bool:
        self._grow()
        return not self._queue and not self._open

    def ask(self) -> tuple[float, int] | None:
        self._grow()
        if not self._queue:
            return None
        pair = self._queue.pop(0)
        self._open.add(pair)
        return pair

    def tell(self, lr: float, seed: int, score: float) -> None:
        self._open.discard((lr, seed))
        self._scores[lr, seed] = score

    def remaining(self) -> int:
        return sum(pair not in self._known for pair in [*self._queue, *self._open])

    def edge(self) -> str | None:
        """ "low" or "high" when the best learning rate so far is the grid's end, else None."""
        means = self._means()
        if not means or math.isinf(min(means.values())):
            return None
        return edge_of_grid(list(means), min(means, key=lambda lr: means[lr]))

    def _means(self) -> dict[float, float]:
        scored = {lr for lr, _ in self._scores}
        return {
            lr: fmean(score for (told, _), score in self._scores.items() if told == lr)
            for lr in sorted(scored)
        }

    def _grow(self) -> None:
        """Queue the next point beyond the edge, once every result is in."""
        if self._queue or self._open or not self._extend:
            return
        edge = self.edge()
        if edge is None or self._extensions >= MAX_EXTENSIONS:
            return
        lr = next_on_grid(self.lrs, edge)
        self._extensions += 1
        self.lrs = sorted({*self.lrs, lr})
        self._queue = [(lr, seed) for seed in self.seeds]


def _extensions(lrs: list[float], edge: str) -> list[float]:
    """The points by which a grid may have been extended on one side."""
    points: list[float] = []
    while len(lrs) > 1 and len(points) < MAX_EXTENSIONS:
        points.append(next_on_grid(sorted([*lrs, *points]), edge))
    return points


def next_on_grid(lrs: list[float], edge: str) -> float:
    """The next learning rate beyond the "low" or "high" end of a sorted grid.

    Half-decade grids (1, 3, 10, ...) go on as such; others with the ratio of their last two points.
    Three significant digits, so that the same grid gives the same number on every machine.
    """
    steps = [high / low for low, high in zip(lrs, lrs[1:], strict=False)]
    if all(_is_half_decade(lr) for lr in lrs) and min(steps) < 5:
        mantissa, exponent = _mantissa(lrs[-1] if edge == "high" else lrs[0])
        if edge == "high":
            return float(f"3e{exponent}") if mantissa == 1 else float(f"1e{exponent + 1}")
        return float(f"1e{exponent}") if mantissa == 3 else float(f"3e{exponent - 1}")
    lr = lrs[-1] * lrs[-1] / lrs[-2] if edge == "high" else lrs[0] * lrs[0] / lrs[1]
    return float(f"{lr:.3g}")


class OptunaPlan:
    """Learning rates proposed by Optuna within a range, each tried with every seed.

    Optuna sees the mean over the seeds.

    Args:
        low, high: the range, searched on a log scale.
        num_samples: learning rates to try, known ones included.
        seeds: every learning rate is tried with each of them.
        sampler: "gp" (Gaussian process) or "tpe".
        known: scores that the study already holds, by (lr, seed), None for an unfinished trial.
            Their learning rates come first: Optuna learns from them, and none is trained again.
    """

    def __init__(
        self,
        low: float,
        high: float,
        num_samples: int,
        seeds: Iterable[int],
        *,
        sampler: str = "gp",
        known: Mapping[tuple[float, int], float | None] | None = None,
    ) -> None:
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, not {sampler!r}")
        if not 0 < low < high:
            raise ValueError(f"--lr-range needs 0 < LO < HI, not {low} {high}")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.seeds = list(dict.fromkeys(seeds))
        self._finished = {pair for pair, score in (known or {}).items() if score is not None}
        self._first = list(dict.fromkeys(lr for lr, _ in known or {} if low <= lr <= high))
        self._to_propose = max(num_samples, len(self._first))
        self._low, self._high = low, high
        # A few random points first; seeded by what is known, so that a rerun draws others.
        draw, start = len(self._first), max(2, min(4, num_samples // 2))
        self._study = optuna.create_study(
            sampler=optuna.samplers.GPSampler(seed=draw, n_startup_trials=start)
            if sampler == "gp"
            else optuna.samplers.TPESampler(seed=draw, n_startup_trials=start),
            direction="minimize",
        )
        self._open: dict[float, optuna.trial.Trial] = {}
        self._queue: list[tuple[float, int]] = []
        self._scores: dict[tuple[float, int], float] = {}

    @property
    def finished(self) -> bool:
        return not self._queue and not self._open and self._to_propose == 0

    def ask(self) -> tuple[float, int] | None:
        if not self._queue and self._to_propose:
            self._propose()
        return self._queue.pop(0) if self._queue else None

    def tell(self, lr: float, seed: int, score: float) -> None:
        self._scores[lr, seed] = score
        scores = [self._scores[lr, seed] for seed in self.seeds if (lr, seed) in self._scores]
        if len(scores) == len(self.seeds):
            # Optuna takes no infinity: a diverged rate is told as far worse than any other.
            finite = [score for score in self._scores.values() if math.isfinite(score)]
            worst = 2.0 * max(finite, default=10.0)
            self._study.tell(self._open.pop(lr), min(fmean(scores), worst))

    def remaining(self) -> int:
        rates = [*self._open, *self._first]
        pairs = {(lr, seed) for lr in rates for seed in self.seeds}
        new = self._to_propose - len(self._first)
        return new * len(self.seeds) + len(pairs - self._scores.keys() - self._finished)

    def _propose(self) -> None:
        """Queue the next learning rate with every seed."""
        self._to_propose -= 1
        for _ in range(_REDRAWS):
            if self._first:
                self._study.enqueue_trial({"lr": self._first.pop(0)})
            distribution = optuna.distributions.FloatDistribution(self._low, self._high, log=True)
            trial = self._study.ask({"lr": distribution})
            lr = min(max(float(f"{trial.params['lr']:.3g}"), self._low), self._high)
            if lr not in self._open and all(lr != told for told, _ in self._scores):
                self._open[lr] = trial
                self._queue = [(lr, seed) for seed in self.seeds]
                return
            # Rounding met a rate that was tried: it would teach nothing new.
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        self._to_propose = 0  # the range holds no further rates of three digits


class SweepSearch(Searcher):
    """Hands the trials of several plans to Ray Tune, one plan after the other.

    Args:
        plans: by name, the plan and the spec whose lr and seed it varies.
    """

    def __init__(self, plans: dict[str, tuple[TrialSpec, Plan]]) -> None:
        super().__init__(metric="best_bits_per_byte", mode="min")
        self._plans = plans
        self.given: dict[str, TrialSpec] = {}
        self._owners: dict[str, Plan] = {}

    def suggest(self, trial_id: str) -> Any:
        """A config {"spec": fields}, None for "not now", or FINISHED."""
        for base, plan in self._plans.values():
            pair = plan.ask()
            if pair is not None:
                lr, seed = pair
                self.given[trial_id] = base.replace(lr=lr, seed=seed)
                self._owners[trial_id] = plan
                return {"spec": self.given[trial_id].to_dict()}
        if all(plan.finished for _, plan in self._plans.values()):
            return Searcher.FINISHED
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the trial's plan its best validation bits per byte."""
        spec = self.given[trial_id]
        lost = error or result is None or result.get("diverged", 1)
        score = math.inf if lost or result is None else float(result["best_bits_per_byte"])
        self._owners[trial_id].tell(spec.lr, spec.seed, score)

    def remaining(self) -> int:
        """Trials known to be still to come, running ones included."""
        return sum(plan.remaining() for _, plan in self._plans.values())

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the plans are rebuilt from the study's folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the plans are rebuilt from the study's folder."""


def _mantissa(lr: float) -> tuple[float, int]:
    mantissa, exponent = f"{lr:.6e}".split("e")
    return float(mantissa), int(exponent)


def _is_half_decade(lr: float) -> bool:
    return _mantissa(lr)[0] in _HALF_DECADES
