"""Trials with a teacher beside the same without one: what is compared, and why something is not.

The functions take frames of `runs.trials`, each of one architecture and setting.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.paired import Pair
from analysis.points import at, best_points, completed, varied


def at_best_point(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials at the best learning rate, and what else was swept; none if a seed diverged
    everywhere.

    Raises:
        ValueError: the trials differ in more than the axes of sweeps and the seed.
    """
    best = best_points(trials) if len(trials) else {}
    parts = [at(trials, {"arch": arch, **point}) for arch, point in best.items()]
    return pd.concat(parts) if parts else trials.iloc[:0]


def pairs_by_point(
    students: pd.DataFrame, controls: pd.DataFrame, column: str = "bits_per_byte"
) -> Iterator[Pair]:
    """Students and controls at each point at which both finished: control minus student by seed.

    Raises:
        ValueError: see `at_best_point`.
    """
    taught, untaught = (
        done[done["outcome"] == "finished"] for done in map(completed, (students, controls))
    )
    names = ["arch", *(axis.field for axis in varied(taught))]
    for point in taught[names].drop_duplicates().to_dict("records"):
        yield Pair.of(at(taught, point), at(untaught, point), column)


def why_no_gain(students: pd.DataFrame, controls: pd.DataFrame) -> str:
    """Reason why students and controls, each at its best learning rate, have no seed in common.

    Raises:
        ValueError: see `at_best_point`.
    """
    for name, trials in (("student", students), ("control", controls)):
        done = completed(trials)
        if done.empty:
            return f"no {name} was trained to the end"
        if at_best_point(done).empty:
            diverged = ", ".join(done.loc[done["outcome"] == "diverged", "name"])
            return f"at every learning rate a seed of the {name} diverged ({diverged})"
    return "student and control have no seed in common; train both on the same --seeds"
