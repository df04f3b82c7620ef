"""Trials with a teacher beside the same without one: what is compared, and why something is not.

The functions take frames of `runs.trials`, each of one architecture and setting.
"""

from __future__ import annotations

import pandas as pd

from analysis.learning_rates import best_lrs, completed


def at_best_lr(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials at the best learning rate; none if a seed diverged at every rate.

    Raises:
        ValueError: the trials differ in more than learning rate and seed.
    """
    best = best_lrs(trials) if len(trials) else {}
    return trials[trials["lr"].isin(list(best.values()))]


def why_no_gain(students: pd.DataFrame, controls: pd.DataFrame) -> str:
    """Why students and controls, each at its best learning rate, have no seed in common.

    Raises:
        ValueError: see `at_best_lr`.
    """
    for name, trials in (("student", students), ("control", controls)):
        done = completed(trials)
        if done.empty:
            return f"no {name} was trained to the end"
        if at_best_lr(done).empty:
            diverged = ", ".join(done.loc[done["outcome"] == "diverged", "name"])
            return f"at every learning rate a seed of the {name} diverged ({diverged})"
    return "student and control have no seed in common; train both on the same --seeds"
