"""What the study cost: tokens, FLOPs, hours of a device, and what the loss was at each of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis import plots
from analysis.reporting.page import Cell, Picture, Section, Table
from analysis.reporting.sections.common import ReportContext, ReportPart, count, number, records
from analysis.study import Study
from analysis.wording import count as count_of


def cost(context: ReportContext) -> ReportPart:
    """Tables of what all trials took, and the loss against tokens, FLOPs and time."""
    spent = trial_costs(context.study)
    if spent.empty:
        return ReportPart(Section("cost", "What it cost", ("No trial has finished an epoch yet.",)))
    pictures: tuple[Picture, ...] = ()
    curves = _curves(context)
    if not curves.empty:
        pictures = (
            context.draw(
                plots.cost_curves(curves),
                "cost",
                "Validation loss of the chosen trials against tokens, FLOPs and time",
                "Lines of validation bits/byte falling with training tokens, FLOPs and hours, "
                "one for each architecture",
            ),
        )
    hours, tokens = spent["hours"].sum(), spent["tokens"].sum()
    text = (
        f"{count_of(len(spent), 'trial')} took {_hours(hours)} of device time, validation and "
        f"scoring included, for {tokens:,.0f} training tokens."
    )
    section = Section("cost", "What it cost", (text,), (_table(context, spent),), pictures)
    return ReportPart(section)


def trial_costs(study: Study) -> pd.DataFrame:
    """One row per trial that has finished an epoch: `run_id`, `arch`, `params`, `tokens` it trained
    on itself, `flops` of these, `hours` until its last recorded epoch, `tokens_per_second` (median
    over its epochs), `hardware`.

    A branch's share of the trunk counts for the trial that trained the trunk.
    """
    last = study.epochs.groupby("run_id").agg(
        seen=("tokens", "max"), hours=("hours", "max"), rate=("tokens_per_second", "median")
    )
    rows = []
    for trial in records(study.trials):
        if trial["run_id"] not in last.index:
            continue
        of_trial = last.loc[trial["run_id"]]
        began = _number(trial, "began_step") * _number(trial, "batch_size")
        began *= _number(trial, "context")
        tokens = max(of_trial["seen"] - (0 if math.isnan(began) else began), 0)
        share = tokens / of_trial["seen"] if of_trial["seen"] else math.nan
        rows.append(
            {
                "run_id": trial["run_id"],
                "arch": trial["arch"],
                "params": _number(trial, "params"),
                "tokens": tokens,
                "flops": tokens * _number(trial, "flops_per_token"),
                "hours": of_trial["hours"] * share,
                "tokens_per_second": of_trial["rate"],
                "hardware": _hardware(trial),
            }
        )
    columns = ["run_id", "arch", "params", "tokens", "flops", "hours", "tokens_per_second"]
    return pd.DataFrame(rows, columns=[*columns, "hardware"])


def _number(trial: dict[str, Any], name: str) -> float:
    value = trial.get(name)
    return math.nan if value is None or pd.isna(value) else float(value)


def _hardware(trial: dict[str, Any]) -> str:
    known = trial.get("hardware")
    return "unknown" if known is None or pd.isna(known) else str(known)


def _table(context: ReportContext, spent: pd.DataFrame) -> Table:
    rows = []
    for arch, mine in spent.groupby("arch"):
        link = context.link(list(mine["run_id"]))
        # A sum is only of what is known: without any it is no 0.
        tokens, flops, hours = mine[["tokens", "flops", "hours"]].sum(min_count=1)
        rows.append(
            (
                Cell(str(arch)),
                Cell(str(len(mine)), len(mine), link),
                replace(count(mine["params"].max()), link=link),
                replace(count(tokens), link=link),
                Cell("-") if math.isnan(flops) else Cell(f"{flops:.2e}", flops, link),
                Cell("-") if math.isnan(hours) else Cell(_hours(hours), hours, link),
                number(mine["tokens_per_second"].median(), 0, link=link),
                Cell("; ".join(sorted(set(mine["hardware"])))),
            )
        )
    columns = ("architecture", "trials", "parameters", "tokens", "FLOPs", "time", "tokens/s")
    return Table(
        "cost",
        "All trials of the study, by architecture",
        (*columns, "device of a trial"),
        tuple(rows),
        "FLOPs of training: three times the forward pass. A teacher's forward pass is not counted. "
        "tokens/s: the median over epochs, without validation; trials that ran at the same time "
        "shared the machine.",
    )


def _curves(context: ReportContext) -> pd.DataFrame:
    """The epochs of the chosen trials until their ends."""
    chosen = [choice.trials["run_id"] for choice in context.choices.values()]
    if not chosen:
        return pd.DataFrame()
    epochs = context.study.epochs
    mine = epochs[epochs["run_id"].isin(pd.concat(chosen))]
    per_token = context.study.trials.set_index("run_id").get("flops_per_token")
    flops = math.nan if per_token is None else mine["run_id"].map(per_token).astype(float)
    return pd.DataFrame(
        {
            "arch": mine["arch"],
            "run_id": mine["run_id"],
            "tokens": mine["tokens"],
            "flops": mine["tokens"] * flops,
            "seconds": mine["hours"] * 3600,
            "bits_per_byte": mine["bits_per_byte"],
        }
    ).dropna(subset=["tokens", "bits_per_byte"])


def _hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
