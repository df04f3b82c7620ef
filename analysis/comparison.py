"""Two runs beside each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis import runs
from analysis.arguments import CompareArgs
from analysis.errors import say_error
from analysis.flag_values import checked
from analysis.inference import difference, holm
from analysis.reporting.writing import storage_of
from analysis.samples import Scores, benchmarks_of, chance, sample
from analysis.schema.axes import AXES
from analysis.schema.choices import ItemPart
from analysis.signals import ending_on_signals
from analysis.store import explained, open_store, tracking_uri
from analysis.study import RECORDED, scores_of_run
from analysis.terminal import open_console, say
from analysis.wording import count

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MOST = 8
"""Trials that are named where one is meant."""


@dataclass(frozen=True)
class Compared:
    """A run as it is compared: a row of `runs.trials`, and its scores at its best epoch."""

    trial: dict[str, Any]
    scores: Scores | None

    @property
    def name(self) -> str:
        """Name in the tables."""
        return f"{self.trial['name']} ({self.trial['run_id'][:8]})"


def run_comparison(args: CompareArgs) -> int:
    """Print how two runs differ; returns the exit status."""
    try:
        with ending_on_signals():
            args = checked(args)
            with explained(tracking_uri(storage_of(args.storage))):
                compare_runs(args, open_console())
    except (ValueError, OSError) as error:
        return say_error(error)
    return 0


def compare_runs(args: CompareArgs, console: Console) -> None:
    """Print how two runs differ.

    Raises:
        ValueError: a run is not there, or several are meant.
    """
    client = open_store(tracking_uri(storage_of(args.storage)))
    trials = _trials(client, args.study)
    first, second = (_find(client, trials, asked) for asked in (args.first, args.second))
    if first.trial["run_id"] == second.trial["run_id"]:
        raise ValueError(f"{args.first!r} and {args.second!r} are the same run: give two")
    console.print(_specs(first, second))
    console.print(_losses(first, second))
    if first.scores is None or second.scores is None:
        without = " and ".join(it.name for it in (first, second) if it.scores is None)
        say(console, f"No benchmark scores of {escape(without)}.")
        return
    if first.scores["suite_hash"] != second.scores["suite_hash"]:
        say(console, "They were scored on different items: their scores are not compared.")
        return
    console.print(_scores(first, second, args.part))
    say(
        console,
        "Intervals are over items within subtasks; p is after Holm's correction over the "
        "benchmarks, the macro's without; bold where it is below 0.05. One seed each: this is "
        "about these two models, not about how they were made.",
    )


def _trials(client: MlflowClient, study: str | None) -> pd.DataFrame:
    names = [study] if study else [found.name for found in client.search_experiments()]
    found = [
        trials.assign(study=name)
        for name in names
        if not (trials := runs.trials(client, name)).empty
    ]
    if not found:
        where = f"study {study!r}" if study else "any study of the store"
        raise ValueError(f"no trial in {where} yet: run sweeps/lr_sweep.py first")
    return pd.concat(found, ignore_index=True)


def _find(client: MlflowClient, trials: pd.DataFrame, asked: str) -> Compared:
    is_it = trials["name"] == asked
    for column in ("run_id", "spec_hash"):
        is_it |= trials[column].str.startswith(asked)
    found = trials[is_it]
    if len(found) > 1:
        raise ValueError(
            f"{count(len(found), 'trial')} are {asked!r}: {'; '.join(_apart(found[:_MOST]))}"
            f"{'; ...' if len(found) > _MOST else ''}. Give the beginning of an id"
        )
    if found.empty:
        raise ValueError(
            f"no trial {asked!r}; give more of the id, or the name (one of "
            f"{count(len(trials), 'trial')}; --study narrows them down)"
        )
    trial = found.iloc[0].to_dict()
    if pd.isna(trial["best_epoch"]):
        raise ValueError(f"{trial['name']} has not ended with a finished epoch: nothing to compare")
    return Compared(trial, scores_of_run(client, trial["run_id"], int(trial["best_epoch"])))


def _apart(found: pd.DataFrame) -> Iterator[str]:
    """The beginning of each trial's id, with its values of what they differ in."""
    names = [name for name in found.columns if name == "name" or name not in RECORDED]
    differing = [name for name in sorted(names) if found[name].astype(str).nunique() > 1]
    for trial in found.to_dict("records"):
        values = ", ".join(f"{name} {_shown(name, trial[name])}" for name in differing)
        yield f"{trial['run_id'][:8]} ({values or 'the same settings'})"


def _specs(first: Compared, second: Compared) -> Table:
    table = _table("What differs in how they were trained", "", first.name, second.name)
    for name in sorted(set(first.trial) | set(second.trial)):
        left, right = (_shown(name, it.trial.get(name)) for it in (first, second))
        if name not in (*RECORDED, "study") and left != right:
            table.add_row(name, escape(left), escape(right))
    if not table.row_count:
        table.add_row("nothing: the same settings", "", "")
    return table


def _shown(name: str, value: Any) -> str:
    if value is None or pd.isna(value):
        return ""
    return AXES[name].show(value) if name in AXES else str(value)


def _losses(first: Compared, second: Compared) -> Table:
    table = _table(
        "At the epoch of least validation loss", "", first.name, second.name, "difference"
    )
    left, right = first.trial, second.trial
    table.add_row("epoch", str(left["best_epoch"]), str(right["best_epoch"]))
    gap = left["bits_per_byte"] - right["bits_per_byte"]
    figures = [f"{it['bits_per_byte']:.4f}" for it in (left, right)]
    table.add_row("bits/byte", *figures, f"{gap:+.4f}")
    return table


def _scores(first: Compared, second: Compared, part: ItemPart) -> Table:
    both = [it.scores for it in (first, second) if it.scores is not None]
    names = benchmarks_of(both[0])
    samples = {name: [sample([scores], name, part) for scores in both] for name in names}
    found = {name: difference(*pair) for name, pair in samples.items()}
    single = [name for name in names if name != "macro"]  # the macro is no further test
    adjusted = dict(zip(single, holm([found[name].p_value for name in single]), strict=True))
    items = {"all": "all items", "held_out": "held-out items", "selection": "the selection split"}
    table = _table(
        f"Scores on {items[part]}, percent",
        *("", first.name, second.name, "difference", "95 % interval", "p", "McNemar p", "chance"),
    )
    for name in names:
        it = found[name]
        p_value = adjusted.get(name, it.p_value)
        figures = [f"{one.figures[0]:.2f}" for one in samples[name]]
        table.add_row(
            *(name, *figures, f"{it.mean:+.2f}", f"{it.low:+.2f} to {it.high:+.2f}"),
            *(_p(p_value), _p(it.mcnemar_p), f"{chance(both[0], name, part).level:.1f}"),
            style="bold" if p_value < 0.05 else None,
        )
    for name in sorted(set(both[0]["benchmarks"]) - set(names)):  # correlations: no item values
        left, right = (_figures(scores, part).get(name) for scores in both)
        if left is not None and right is not None:
            table.add_row(name, f"{left:.2f}", f"{right:.2f}", f"{left - right:+.2f}", *"----")
    return table


def _figures(scores: Scores, part: ItemPart) -> dict[str, float]:
    """The figure of each benchmark on a part of the items."""
    figures: dict[str, float] = scores["benchmarks" if part == "all" else part]
    return figures


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if index else "left", overflow="fold")
    return table
