"""What a sweep found: the table, the winner and how sure that is, the picture, where to look."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from analysis import runs
from analysis.learning_rates import compare_best, edge_of_grid, lr_table
from analysis.plots import lr_curve, lr_figure
from analysis.plots.style import write
from sweeps.findings.mlflow_notes import picture_of, study_note, sweep_note, trial_link
from sweeps.plans.common import SweepPlan, study_trials
from sweeps.plans.spaces import SweepSearch
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
        console.print(rich_table(_cells(mine)))
        for arch in plan.bases:
            for line in _findings(plan, mine, arch):
                console.print(line, highlight=False, soft_wrap=True)
        picture = lr_curve(trials, plan.folder / "lr_curve.png", title=plan.study)
        small = for_mlflow(lr_figure(trials, title=plan.study), picture)
        _store(plan, tracker, mine, [picture, small])
        console.print(escape(f"\nPicture     {picture}"), highlight=False, soft_wrap=True)


def show_failures(plan: SweepPlan, tracker: Tracker, search: SweepSearch, console: Console) -> None:
    """Print which trials failed, and where to look at all of them."""
    for spec in failed_trials(plan, search):
        console.print(
            f"[red]{spec.name} failed[/]; its error is in "
            + escape(str(TrialFolder.of(plan.folder, spec).path / "error.txt")),
            highlight=False,
            soft_wrap=True,
        )
    console.print(escape(f"Browse      {_browse(plan, tracker)}"), highlight=False, soft_wrap=True)


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


def rich_table(cells: pd.DataFrame) -> Table:
    """A table of text for the terminal; rows that are best are bold."""
    table = Table(header_style="bold")
    for number, name in enumerate(cells.columns):
        table.add_column(name, justify="left" if number == 0 or not name else "right")
    for row in cells.to_numpy():
        table.add_row(*row, style="bold" if row[-1].startswith("best") else None)
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
    row = _best_row(plan, trials, part)
    if row is None:
        return None
    spec = plan.bases[part].replace(lr=float(row["lr"]), seed=int(row["seed"]))
    return TrialFolder.of(plan.folder, spec)


def _best_row(plan: SweepPlan, trials: pd.DataFrame, part: str) -> pd.Series | None:
    base = plan.bases[part]
    mine = of_setting(plan, trials, base)
    mine = mine[mine["outcome"].notna()]
    best = None if mine.empty else compare_best(mine, base.arch).best
    if best is None:
        return None
    return mine[mine["lr"] == best].sort_values("bits_per_byte").iloc[0]


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


def for_mlflow(figure: Figure, picture: Path) -> Path:
    """Write a figure beside a picture, as wide as MLflow's pages show it: they cut the rest."""
    figure.set_size_inches(8.5, 3.4)
    return write(figure, picture.with_suffix(".svg"))


def describe(
    plan: SweepPlan,
    tracker: Tracker,
    trials: pd.DataFrame,
    part: str,
    findings: Iterable[str],
    cells: pd.DataFrame,
    picture: str = "",
) -> None:
    """Put the best learning rate's figures and a description into the parent run of a part.

    Args:
        plan, tracker: of the sweep.
        trials: frame of `runs.trials`.
        part: of the plan.
        findings: lines as they are printed, with rich's markup.
        cells: text of the table in the description.
        picture: name of the parent run's artifact to show in it, if any.
    """
    run_id = tracker.parents[plan.bases[part].setting.hash]
    mine = of_setting(plan, trials, plan.bases[part])
    table = lr_table(mine)
    recorded = tracker.client.get_run(run_id).data.metrics
    for row in table[(table["rank"] == 1) & (table["diverged"] == 0)].to_dict("records"):
        row["epoch"] = float(mine.loc[mine["lr"] == row["lr"], "best_epoch"].mean())
        for name in ("lr", "bits_per_byte", "macro", "epoch"):
            if not math.isnan(row[name]) and recorded.get(f"best/{name}") != row[name]:
                tracker.client.log_metric(run_id, f"best/{name}", row[name])
    best = _best_row(plan, trials, part)
    link = "" if best is None else trial_link(tracker.experiment_id, best["run_id"], best["name"])
    note = sweep_note(
        [Text.from_markup(line).plain for line in findings],
        cells,
        best=link,
        picture=picture_of(run_id, picture) if picture else "",
    )
    tracker.describe(run_id, plan.kind, note)


def describe_study(plan: SweepPlan, tracker: Tracker) -> None:
    """Say in MLflow what the study is and how to read its pages."""
    logged = {name for run in tracker.trial_runs() for name in run.data.metrics}
    scored = {name.partition("/")[2] for name in logged if name.startswith("zero_shot/")}
    trials = runs.trials(plan.tracking_uri, plan.study)
    if not trials.empty:
        text = study_note(trials, sorted(scored - {"macro"}), tracker.experiment_id)
        tracker.describe_study(text)


def with_spread(mean: float, deviation: float, digits: int) -> str:
    """A mean and its spread, where there is one; "-" for none."""
    if not math.isfinite(mean):
        return "-"
    spread = "" if math.isnan(deviation) else f" ± {deviation:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"


def _browse(plan: SweepPlan, tracker: Tracker) -> str:
    """Where to look at the study's runs."""
    if plan.tracking_uri == f"sqlite:///{plan.storage / 'mlflow.db'}":
        storage = shlex.quote(str(plan.storage))
        return f"make ui STORAGE={storage}    then http://127.0.0.1:5000/{tracker.page}"
    if plan.tracking_uri.startswith("http"):
        return f"{runs.without_secret(plan.tracking_uri).rstrip('/')}/{tracker.page}"
    return plan.tracking_uri
