"""What an epoch study found: tables, the best number of epochs, its cost, and the picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
from rich.console import Console

from analysis import runs
from analysis.epochs import BestHorizon, agreement, best_horizon, epoch_table, tokens_spent
from analysis.plots import epoch_curve, epoch_figure
from analysis.schema.axes import in_words
from analysis.schema.milestone import MilestoneReport
from analysis.terminal import say, show_whole
from analysis.wording import OVER_SEEDS, count, with_error
from sweeps.findings.common import (
    describe,
    for_mlflow,
    guessed,
    macro_chance_of,
    rich_table,
)
from sweeps.plans.common import SweepPlan
from sweeps.plans.epoch_study import Designs
from sweeps.stored.trials import study_trials
from trainables.checkpoint import TrialFolder
from trainables.progress import TrialOutcome
from trainables.spec import TrialSpec
from trainables.tracking import Tracker

_SCORES = ("design", "horizon", "seed", "bits_per_byte", "macro", "tokens")
_TRIALS = ("design", "horizon", "seed", "began", "tokens")


def show_epochs(plan: SweepPlan, designs: Designs, tracker: Tracker, console: Console) -> None:
    """Print what the study found with all its seeds, and store it in the parent runs."""
    scores, trials = epoch_frames(plan.folder, designs)
    if scores.empty:
        return
    table = epoch_table(scores)
    base = designs.base
    say(console, f"{base.arch} {base.size}, peak learning rate {in_words(base.point)}")
    found = [best_horizon(scores, design) for design in table["design"].unique()]
    cells = _cells(table, found)
    console.print(rich_table(cells))
    lines = [*_findings(found, scores), *_guesses(plan, designs, found)]
    lines += [*_costs(trials, designs), *_milestones(plan, designs)]
    for line in lines:
        say(console, line)
    title = f"{plan.study}, {base.arch}"
    chance = macro_chance_of(plan)
    picture = epoch_curve(scores, plan.folder / "epoch_curve.png", title=title, chance=chance)
    small = for_mlflow(epoch_figure(scores, title=title, chance=chance), picture)
    recorded = runs.trials(plan.tracking_uri, plan.study)
    for part, spec in plan.bases.items():
        run_id = tracker.parent_of(spec)
        tracker.client.log_text(run_id, table.to_csv(index=False), "epoch_table.csv")
        for each in (picture, small):
            tracker.client.log_artifact(run_id, str(each))
        describe(plan, tracker, recorded, part, lines, cells, small.name)
    console.print()
    show_whole(console, "Picture", str(picture))


def epoch_frames(study: Path, designs: Designs) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames `scores` and `trials` of `analysis.epochs`, of a study's ended trials.

    A trial that a scheduler stopped early counts for the epochs that it reached.
    """
    folders = study_trials(study)
    scores: list[dict[str, Any]] = []
    trials: list[dict[str, Any]] = []
    for design in designs.names:
        for horizon in reversed(designs.lengths(design)):
            for folder in ended(folders, designs.spec(design, horizon)):
                outcome = folder.outcome
                assert outcome is not None
                row = {"design": design, "seed": folder.spec.seed}
                first = 1 if design == "trajectory" else horizon
                for epoch in range(first, horizon + 1):
                    scores += [{**row, **values} for values in _score(outcome, epoch)]
                if outcome.kind != "stopped":
                    trials.append({**row, "horizon": horizon, **_cost(folder, outcome)})
    return pd.DataFrame(scores, columns=[*_SCORES]), pd.DataFrame(trials, columns=[*_TRIALS])


def ended(folders: list[TrialFolder], spec: TrialSpec) -> list[TrialFolder]:
    """The trials with an outcome that differ from `spec` in their seed only, in its order."""
    found = {
        folder.spec.seed: folder
        for folder in folders
        if folder.spec.setting == spec.setting
        and folder.spec.lr == spec.lr
        and folder.outcome is not None
    }
    return [found[seed] for seed in sorted(found)]


def _score(outcome: TrialOutcome, epoch: int) -> Iterator[dict[str, Any]]:
    """The figures after an epoch: none if the trial was stopped before, infinite if it diverged."""
    for report in outcome.history:
        if report.epoch == epoch:
            macro = math.nan if report.macro is None else report.macro
            yield {
                "horizon": epoch,
                "bits_per_byte": report.bits_per_byte,
                "macro": macro,
                "tokens": report.tokens,
            }
            return
    if outcome.kind == "diverged":
        yield {"horizon": epoch, "bits_per_byte": math.inf, "macro": math.nan, "tokens": 0}


def _cost(folder: TrialFolder, outcome: TrialOutcome) -> dict[str, int]:
    """Training tokens; of a diverged trial those of its whole epochs."""
    spec = folder.spec
    tokens = max((report.tokens for report in outcome.history), default=0)
    return {"began": min(tokens, folder.began * spec.batch_size * spec.context), "tokens": tokens}


def _cells(table: pd.DataFrame, found: list[BestHorizon]) -> pd.DataFrame:
    """One row of text for each design and horizon."""
    best = {(each.design, each.horizon) for each in found}
    rows = []
    for row in table.to_dict("records"):
        notes = ["best"] if (row["design"], row["horizon"]) in best else []
        notes += [f"{row['diverged']} diverged"] if row["diverged"] else []
        rows.append(
            {
                "design": row["design"],
                "epochs": str(row["horizon"]),
                "seeds": str(row["seeds"]),
                "bits/byte": with_error(row["bits_per_byte"], row["bits_per_byte_sd"], 4),
                "macro": with_error(row["macro"], row["macro_sd"], 1),
                "tokens": f"{row['tokens']:,}",
                "": ", ".join(notes),
            }
        )
    return pd.DataFrame(rows)


def _findings(found: list[BestHorizon], scores: pd.DataFrame) -> Iterator[str]:
    """Sentences: the best horizon of each design, and whether branches agree with whole trials."""
    for best in found:
        yield best.sentence
        if best.is_longest:
            yield (
                f"[yellow]{best.design}: that is the longest horizon tried; the optimum may lie "
                "beyond. Add longer --horizons.[/]"
            )
    if text := agreement(scores):
        yield text


def _guesses(plan: SweepPlan, designs: Designs, found: list[BestHorizon]) -> Iterator[str]:
    """Sentences on the designs whose macro at their best horizon may be a guess."""
    folders = study_trials(plan.folder)
    for best in found:
        if best.horizon is None:
            continue
        length = min(n for n in designs.lengths(best.design) if n >= best.horizon)
        scores = [
            report.scores
            for folder in ended(folders, designs.spec(best.design, length))
            for report in (folder.outcome.history if folder.outcome else ())
            if report.epoch == best.horizon and report.scores is not None
        ]
        macros = [each["macro"] for each in scores if each["macro"] is not None]
        if macros and (words := guessed({**scores[0], "macro": fmean(macros)})):
            yield f"{best.design}: macro {fmean(macros):.1f}{words}."


def _costs(trials: pd.DataFrame, designs: Designs) -> Iterator[str]:
    """The training tokens of each design, and as a share of one whole trial for each horizon."""
    base = designs.base
    epoch_tokens = designs.steps_per_epoch * base.batch_size * base.context
    independent = sum(designs.horizons) * epoch_tokens
    spent = tokens_spent(trials)
    for design in designs.names:
        mine = spent[spent.index.get_level_values("design") == design]
        if not mine.empty:
            yield (
                f"{design}: {mine.sum():,} training tokens for {count(len(mine), 'seed')}, "
                f"{mine.mean() / independent:.2f} times what a whole trial for each horizon takes."
            )


def _milestones(plan: SweepPlan, designs: Designs) -> Iterator[str]:
    """Figures after so many words, of the longest trials of each design."""
    folders = study_trials(plan.folder)
    for design in designs.names:
        longest = ended(folders, designs.spec(design, designs.horizons[-1]))
        for words in designs.milestones:
            reports = [f.milestones[words] for f in longest if words in f.milestones]
            found = ", ".join(_figures(reports))
            found = found or "not measured: the trials ended before it was asked for"
            found += f" ({OVER_SEEDS})" if len(reports) > 1 else ""
            yield f"{design} after {count(words, 'word')}: {found}"


def _figures(reports: list[MilestoneReport]) -> Iterator[str]:
    """What was measured of all seeds after so many words, each with its name or unit."""
    losses = [report.bits_per_byte for report in reports if report.bits_per_byte is not None]
    if losses and len(losses) == len(reports):
        yield f"{_mean_and_spread(losses, 4)} bits/byte"
    scores = [report.scores["benchmarks"] for report in reports if report.scores is not None]
    if scores and len(scores) == len(reports):
        for name in scores[0]:
            yield f"{name} {_mean_and_spread([score[name] for score in scores], 1)}"


def _mean_and_spread(values: list[float], digits: int) -> str:
    return with_error(fmean(values), stdev(values) if len(values) > 1 else math.nan, digits)
