"""What a sweep found: the table, the winner and how sure that is, the picture, where to look."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis import runs
from analysis.plots import lr_curve
from analysis.statistics import compare_best, edge_of_grid, lr_table
from sweeps.planning import SweepPlan, study_trials
from sweeps.spaces import SweepSearch
from trainables.checkpoint import Progress, TrialFolder
from trainables.spec import TrialSpec, format_lr
from trainables.tracking import Tracker


def failed_trials(plan: SweepPlan, search: SweepSearch) -> list[TrialSpec]:
    """Trials that were handed out and came to no end: their processes failed again and again."""
    given = {spec.hash: spec for spec in search.given.values()}
    return [spec for spec in given.values() if TrialFolder.of(plan.folder, spec).outcome is None]


def show_results(plan: SweepPlan, tracker: Tracker, search: SweepSearch, console: Console) -> None:
    """Print what the sweep found, and store it in the parent runs."""
    trials = comparable_trials(plan)
    mine = trials[trials["arch"].isin(list(plan.bases))]
    if mine["outcome"].notna().any():
        console.print(_table(mine))
        for arch in plan.bases:
            for line in _findings(plan, mine, arch):
                console.print(line, highlight=False, soft_wrap=True)
        picture = lr_curve(trials, plan.folder / "lr_curve.png", title=plan.study)
        _store(plan, tracker, mine, picture)
        console.print(escape(f"\nPicture     {picture}"), highlight=False, soft_wrap=True)


def show_failures(plan: SweepPlan, search: SweepSearch, console: Console) -> None:
    """Print which trials failed, and where to look at all of them."""
    for spec in failed_trials(plan, search):
        console.print(
            f"[red]{spec.name} failed[/]; its error is in "
            + escape(str(TrialFolder.of(plan.folder, spec).path / "error.txt")),
            highlight=False,
            soft_wrap=True,
        )
    console.print(escape(f"Browse      {_ui_command(plan)}"), highlight=False, soft_wrap=True)


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


def _table(trials: pd.DataFrame) -> Table:
    """One row for each learning rate, sorted by architecture and learning rate."""
    table = Table(header_style="bold")
    for name in ("arch", "LR", "seeds", "bits/byte", "macro", ""):
        table.add_column(name, justify="left" if name in ("arch", "") else "right")
    frame = lr_table(trials).sort_values(["arch", "lr"])
    for row in frame.to_dict("records"):
        notes = ["best"] if row["rank"] == 1 and not row["diverged"] else []
        notes += [f"{row[kind]} {kind}" for kind in ("diverged", "stopped") if row[kind]]
        table.add_row(
            row["arch"],
            format_lr(row["lr"]),
            str(row["seeds"]),
            with_spread(row["bits_per_byte"], row["bits_per_byte_sd"], 4),
            with_spread(row["macro"], row["macro_sd"], 1),
            ", ".join(notes),
            style="bold" if "best" in notes else None,
        )
    return table


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
    assert folder is not None
    outcome = folder.outcome
    assert outcome is not None
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


def winner(plan: SweepPlan, trials: pd.DataFrame, part: str) -> TrialFolder | None:
    """The trial of a part with the best checkpoint: the best seed at the best learning rate."""
    base = plan.bases[part]
    mine = of_setting(plan, trials, base)
    mine = mine[mine["outcome"].notna()]
    best = None if mine.empty else compare_best(mine, base.arch).best
    if best is None:
        return None
    first = mine[mine["lr"] == best].sort_values("bits_per_byte").iloc[0]
    spec = base.replace(lr=float(first["lr"]), seed=int(first["seed"]))
    return TrialFolder.of(plan.folder, spec)


def of_setting(plan: SweepPlan, trials: pd.DataFrame, base: TrialSpec) -> pd.DataFrame:
    """The trials that differ from `base` in learning rate and seed only."""
    folders = study_trials(plan.folder)
    hashes = {trial.spec.hash for trial in folders if trial.spec.setting == base.setting}
    return trials[trials["spec_hash"].isin(hashes)]


def zero_shot_line(scores: dict[str, Any]) -> str:
    """The figures of `SuiteScores.to_dict()` in one line."""
    figures = ", ".join(
        f"{name} {score:.1f} ± {scores['errors'][name]:.1f}"
        for name, score in scores["benchmarks"].items()
    )
    macro = ""
    if scores["macro"] is not None:
        macro = f"macro {scores['macro']:.1f} ± {scores['macro_error']:.1f}, "
    line = f"zero-shot {macro}{figures} (standard error over items), "
    line += f"{sum(scores['ties'].values())} ties"
    if bad := sum(scores["non_finite"].values()):
        line += f", {bad} scores not finite"
    return line


def glue_line(results: dict[str, Any]) -> str:
    """The scores of `tasks.glue_results` in one line, with the tasks that have none."""
    parts = []
    for task, result in results.items():
        score = result.get("score")
        shown = "no score"
        if score is not None:
            shown = f"{score:.1f} (constant answer {result['baseline']:.1f})"
        parts.append(f"{task} {shown}")
    return "GLUE " + ", ".join(parts)


def _store(plan: SweepPlan, tracker: Tracker, trials: pd.DataFrame, picture: Path) -> None:
    """Put the winner, the table and the picture into each architecture's parent run."""
    table = lr_table(trials)
    for arch, base in plan.bases.items():
        run_id = tracker.parents[base.setting.hash]
        mine = table[table["arch"] == arch]
        winners = mine[(mine["rank"] == 1) & (mine["diverged"] == 0)]
        for row in winners.to_dict("records"):
            values = {"lr": row["lr"], "bits_per_byte": row["bits_per_byte"], "macro": row["macro"]}
            recorded = tracker.client.get_run(run_id).data.metrics
            for name, value in values.items():
                if not math.isnan(value) and recorded.get(f"best/{name}") != value:
                    tracker.client.log_metric(run_id, f"best/{name}", value)
        tracker.client.log_text(run_id, mine.to_csv(index=False), "lr_table.csv")
        tracker.client.log_artifact(run_id, str(picture))


def with_spread(mean: float, deviation: float, digits: int) -> str:
    """A mean and its spread, where there is one; "-" for none."""
    if not math.isfinite(mean):
        return "-"
    spread = "" if math.isnan(deviation) else f" ± {deviation:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"


def _ui_command(plan: SweepPlan) -> str:
    if plan.tracking_uri == f"sqlite:///{plan.storage / 'mlflow.db'}":
        return f"make ui STORAGE={shlex.quote(str(plan.storage))}    then http://127.0.0.1:5000"
    return plan.tracking_uri
