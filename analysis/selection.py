"""Choosing a learning rate and an epoch for each architecture, apart from reporting.

val_loss          the rate of least mean validation bits-per-byte, each trial at its best epoch
selection-split   rate and epoch of the greatest mean macro on the selection split of the items
macro             the same on all items: the very figure that is reported, as is often done
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from analysis.learning_rates import best_lrs, on_common_seeds

Rule = Literal["val_loss", "selection-split", "macro"]
RULES: tuple[Rule, ...] = ("val_loss", "selection-split", "macro")
_COLUMNS = {"selection-split": "selection_macro", "macro": "macro"}


@dataclass(frozen=True)
class Choice:
    """What was chosen for an architecture.

    Attributes:
        arch: the architecture.
        lr: peak learning rate.
        trials: one row for each seed, in their order: `run_id`, `seed`, `epoch` (the chosen one)
            and all columns of `runs.epochs` at that epoch.
    """

    arch: str
    lr: float
    trials: pd.DataFrame

    def mean(self, column: str) -> float:
        """Mean of a column over the seeds; NaN where it was not measured."""
        if column not in self.trials:
            return float("nan")
        return float(self.trials[column].astype(float).mean())

    def spread(self, column: str) -> float:
        """Standard deviation over the seeds; NaN with one."""
        return float(self.trials[column].astype(float).std()) if column in self.trials else np.nan


def choose(trials: pd.DataFrame, epochs: pd.DataFrame, rule: Rule) -> dict[str, Choice]:
    """What a rule chooses for each architecture that has a finished trial.

    Args:
        trials: of one sweep, see `study.compared`.
        epochs: see `runs.epochs`.
        rule: one of `RULES`.

    Raises:
        ValueError: the rule wants benchmark scores, and there are none.
    """
    finished = _at_sound_rates(trials)
    finished = finished[finished["outcome"] == "finished"]
    chosen = _by_loss(trials, finished) if rule == "val_loss" else _by_macro(finished, epochs, rule)
    choices = {}
    for arch, (lr, pairs) in chosen.items():
        rows = epochs.merge(pairs, on=["run_id", "epoch"]).sort_values("seed", ignore_index=True)
        choices[arch] = Choice(arch, lr, rows)
    return choices


_Chosen = dict[str, tuple[float, pd.DataFrame]]
"""By architecture the learning rate, and the pairs of `run_id` and `epoch`."""


def _at_sound_rates(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials of rates at which no seed diverged or was stopped: what the others reached was luck.

    An architecture that has no such rate keeps those at which seeds were stopped.
    """
    rates = trials["arch"] + trials["lr"].astype(str)
    diverged, stopped = (
        rates.isin(rates[trials["outcome"] == end]) for end in ("diverged", "stopped")
    )
    sound = trials[~diverged & ~stopped]
    return pd.concat([sound, trials[~diverged & ~trials["arch"].isin(sound["arch"])]])


def _by_loss(trials: pd.DataFrame, finished: pd.DataFrame) -> _Chosen:
    chosen: _Chosen = {}
    for arch, lr in best_lrs(trials).items():
        mine = finished[(finished["arch"] == arch) & (finished["lr"] == lr)]
        if len(mine):
            pairs = mine[["run_id", "best_epoch"]].rename(columns={"best_epoch": "epoch"})
            chosen[arch] = lr, pairs.astype({"epoch": int})
    return chosen


def _by_macro(finished: pd.DataFrame, epochs: pd.DataFrame, rule: Rule) -> _Chosen:
    column = _COLUMNS[rule]
    scored = epochs[epochs["run_id"].isin(finished["run_id"])]
    if column not in scored or not scored[column].notna().any():
        raise ValueError(
            f"--select {rule} chooses by benchmark scores, and no finished trial has any: use "
            "--select val_loss, or give the sweep --benchmarks"
        )
    means = (
        on_common_seeds(scored.dropna(subset=[column]))
        .groupby(["arch", "lr", "epoch"])[column]
        .agg(["mean", "size"])
        .reset_index()
    )
    # Only epochs that all seeds of a rate were scored after: fewer reach extremes more easily.
    whole = means["size"] == means.groupby(["arch", "lr"])["size"].transform("max")
    ranked = means[whole].sort_values(["mean", "epoch", "lr"], ascending=[False, True, True])
    chosen: _Chosen = {}
    for arch, best in ranked.groupby("arch", sort=False).first().iterrows():
        mine = scored[(scored["arch"] == arch) & (scored["lr"] == best["lr"])]
        mine = mine[(mine["epoch"] == best["epoch"]) & mine[column].notna()]
        chosen[str(arch)] = float(best["lr"]), mine[["run_id", "epoch"]]
    return chosen
