"""What a learning-rate sweep found: the table, the winner and how sure that is, the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape

from analysis import runs
from analysis.learning_rates import compare_best, edge_of_grid, lr_table
from analysis.plots import lr_curve, lr_figure
from sweeps.findings.common import (
    describe,
    for_mlflow,
    glue_line,
    rich_table,
    winner,
    with_spread,
    zero_shot_line,
)
from sweeps.plans.common import SweepPlan
from sweeps.plans.spaces import SweepSearch
from sweeps.stored.trials import study_trials
from trainables.checkpoint import Progress
from trainables.spec import TrialSpec, format_lr
from trainables.tracking import Tracker


def show_results(plan: SweepPlan, tracker: Tracker, search: SweepSearch, console: Console) -> None:
    """Print what the sweep found, and store it in the parent runs."""
    trials = comparable_trials(plan)
    mine = trials[trials["arch"].isin(list(plan.bases))]
    if mine["outcome"].notna().any():
        console.print(rich_table(_cells(mine)))
        for arch in plan.bases:
            for line in _findings(plan, mine, arch):
                console.print(line, highlight=False, soft_wrap=True)
        picture = lr_curve(trials, plan.folder / "lr_curve.png", title=plan.study)
        small = for_mlflow(lr_figure(trials, title=plan.study), picture)
        _store(plan, tracker, mine, [picture, small])
        console.print(escape(f"\nPicture     {picture}"), highlight=False, soft_wrap=True)


def comparable_trials(plan: SweepPlan) -> pd.DataFrame:
    """The study's trials, of any architecture, that differ from these in what a sweep compares.

    That is architecture, learning rate and seed (and precision, which goes with architecture).
    """
    settings = {base.setting for base in plan.bases.values()}
    common = {_common(base) for base in plan.bases.values()}
    specs = [trial.spec for trial in study_trials(plan.folder)]
    hashes = {
        spec.hash
        for spec in specs
        if (spec.setting in settings if spec.arch in plan.bases else _common(spec) in common)
    }
    frame = runs.trials(plan.tracking_uri, plan.study)
    return frame[frame["spec_hash"].isin(hashes)]


def _common(spec: TrialSpec) -> TrialSpec:
    return spec.setting.replace(arch="", precision="fp32")


def _cells(trials: pd.DataFrame) -> pd.DataFrame:
    """One row of text for each learning rate, sorted by architecture and learning rate."""
    rows = []
    for row in lr_table(trials).sort_values(["arch", "lr"]).to_dict("records"):
        notes = ["best"] if row["rank"] == 1 and not row["diverged"] else []
        notes += [f"{row[kind]} {kind}" for kind in ("diverged", "stopped") if row[kind]]
        rows.append(
            {
                "arch": row["arch"],
                "LR": format_lr(row["lr"]),
                "seeds": str(row["seeds"]),
                "bits/byte": with_spread(row["bits_per_byte"], row["bits_per_byte_sd"], 4),
                "macro": with_spread(row["macro"], row["macro_sd"], 1),
                "": ", ".join(notes),
            }
        )
    return pd.DataFrame(rows)


def _findings(plan: SweepPlan, trials: pd.DataFrame, arch: str) -> list[str]:
    """Sentences about one architecture: the winner, how sure, and whether the grid bounds it."""
    mine = trials[(trials["arch"] == arch) & trials["outcome"].notna()]
    if mine.empty:
        return [f"{arch}: no trial came to an end."]
    comparison = compare_best(mine, arch)
    lines = ["", comparison.sentence]
    if comparison.best is None:
        return lines
    lrs = [float(lr) for lr in mine["lr"].unique()]
    edge = edge_of_grid(lrs, comparison.best)
    if edge is not None:
        beyond = "higher" if edge == "high" else "lower"
        lines.append(
            f"[yellow]{arch}: the best learning rate is the {beyond[:-2]}est that was tried; the "
            f"optimum may lie {beyond}. Add --lrs {beyond} than {format_lr(comparison.best)}.[/]"
        )
    folder = winner(plan, trials, arch)
    if folder is None or folder.outcome is None:  # all were stopped early
        return lines
    outcome = folder.outcome
    best = Progress(history=list(outcome.history)).best
    assert best is not None
    if best.scores is not None:
        epochs = folder.spec.epochs
        lines.append(f"{arch}: {zero_shot_line(best.scores)}, epoch {best.epoch} of {epochs}")
    final = folder.final_scores
    if "zero_shot" in final:
        lines.append(f"{arch}: final {zero_shot_line(final['zero_shot'])}")
    if "glue" in final:
        lines.append(f"{arch}: final {glue_line(final['glue'])}")
    lines.append(escape(f"Checkpoint  {folder.best_checkpoint}"))
    return lines


def _store(
    plan: SweepPlan, tracker: Tracker, trials: pd.DataFrame, pictures: Sequence[Path]
) -> None:
    """Put the winner, the table and the pictures into each architecture's parent run.

    The last one is shown in its description.
    """
    table = lr_table(trials)
    for arch, base in plan.bases.items():
        run_id = tracker.parents[base.setting.hash]
        mine = table[table["arch"] == arch]
        tracker.client.log_text(run_id, mine.to_csv(index=False), "lr_table.csv")
        for picture in pictures:
            tracker.client.log_artifact(run_id, str(picture))
        cells = _cells(trials[trials["arch"] == arch]).drop(columns="arch", errors="ignore")
        findings = _findings(plan, trials, arch)
        describe(plan, tracker, trials, arch, findings, cells, pictures[-1].name)
