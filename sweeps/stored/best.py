"""Which trial is the best one: the one rule that all commands share.

The rule (`best_trial`; `analysis.points` puts points in order, for tables and reports as well). A
*setting* is all that a sweep does not vary (`analysis.schema.axes`). Of the points of a setting the
best is that of the least mean validation bits/byte over the seeds that the most points have, among
those without a diverged seed and with a finished one; points with a stopped seed come after all
others. Of several settings the best points are compared in the same way: over the seeds that the
most of these points have. Of the best point's seeds the one is taken that has the lowest number
among those that finished and on which its setting's points were compared; if none of these
finished, the lowest number among all that did. It is not the luckiest: more seeds are not more
draws.

Who uses it on what:

- A sweep, for its winner and for where its grid goes on (`best_scored`): one setting. The grid
  leaves out points that lack a seed of its own command, since a kill may be why, and a sweep that
  was killed must go on at the same points as one that was not. It is told figures only, so that a
  stopped seed counts by its figure.
- Promotion: all settings of an architecture.
- The epoch study, for what it takes over: only what `as_compared` leaves, since its own trials, of
  other lengths and further seeds of what was chosen, must not change the choice.
- The final table (`sweeps.stored.finalists`): architectures are compared by their best trials of
  the sweep's setting, which all of them share, of what `as_compared` leaves; what an epoch study
  found for one of them is a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from analysis.points import at, best_points, completed, on_common_seeds, point_keys, ranked
from analysis.schema.axes import AXES
from trainables.spec import TrialSpec


def best_trial(trials: pd.DataFrame, specs: Mapping[str, TrialSpec]) -> pd.Series | None:
    """The row of the best trial, by the rule at the head of this module.

    Args:
        trials: of one architecture and corpus, see `runs.trials`.
        specs: by `spec_hash`.

    Returns:
        None if every point has a diverged seed or none that finished.
    """
    found = [_best_point(group) for group in _by_setting(trials, specs)]
    points = [point for point in found if point is not None]
    if not points:
        return None
    figures = {
        number: dict(zip(point["seed"], point["bits_per_byte"], strict=True))
        for number, point in enumerate(points)
    }
    stopped = {n: (point["outcome"] == "stopped").mean() for n, point in enumerate(points)}
    best = points[ranked(figures, stopped)[0]]
    finished = best[best["outcome"] == "finished"]
    return finished.sort_values(["further", "seed"]).iloc[0].drop("further")


def best_scored(scores: Mapping[TrialSpec, float]) -> TrialSpec | None:
    """The best point, as the spec of seed 0, where no more is known of trials of one setting than
    their validation bits/byte, infinite if diverged; None as for `best_trial`."""
    figures: dict[TrialSpec, dict[int, float]] = {}
    # Of equals the lowest, as in `point_table`.
    for spec in sorted(scores, key=lambda spec: [getattr(spec, name) for name in AXES]):
        figures.setdefault(spec.replace(seed=0), {})[spec.seed] = scores[spec]
    best = next(iter(ranked(figures)), None)
    return None if best is None or math.inf in figures[best].values() else best


def as_compared(trials: pd.DataFrame, specs: Mapping[str, TrialSpec]) -> pd.DataFrame:
    """The trials by which points were compared: of settings with several points, those of the seeds
    that the most points have. All trials if no setting has several points.

    Arguments as of `best_trial`.
    """
    groups = [
        group
        for group in _by_setting(trials, specs)
        if (point_keys(group).groupby(group["seed"]).nunique() > 1).any()
    ]
    return pd.concat([on_common_seeds(group) for group in groups]) if groups else trials


def _by_setting(trials: pd.DataFrame, specs: Mapping[str, TrialSpec]) -> list[pd.DataFrame]:
    """The trials of each setting, with a column for every axis."""
    mine = [specs[key] for key in trials["spec_hash"]]
    trials = trials.assign(**{name: [getattr(spec, name) for spec in mine] for name in AXES})
    settings = [spec.without(AXES).hash for spec in mine]
    return [group for _, group in trials.groupby(settings)]


def _best_point(trials: pd.DataFrame) -> pd.DataFrame | None:
    """The trials of a setting's best point; `further` are those of seeds that were not compared."""
    done = completed(trials)
    best = next(iter(best_points(trials).values()), None)  # of the one architecture
    if best is None:
        return None
    point = at(done, best)
    return point.assign(further=~point["seed"].isin(on_common_seeds(done)["seed"]))
