"""What was scored once, on the best checkpoints: what costs too much after every epoch, GLUE."""

from __future__ import annotations

from typing import Any

from analysis.benchmarks.suite import Scores
from analysis.reporting.page import Cell, Section, Table
from analysis.reporting.sections.common import ReportContext, ReportPart, count, number, records
from analysis.study import final_scores
from analysis.wording import OVER_ITEMS, with_error
from analysis.wording import count as count_of


def finals(context: ReportContext) -> ReportPart | None:
    """A row for each model that was scored once more; None without any."""
    trials = context.study.trials
    chosen = trials[trials["has_final"]].sort_values("bits_per_byte")
    found = [
        (trial, scores)
        for trial in records(chosen)
        if (scores := final_scores(context.study.client, trial["run_id"]))
    ]
    if not found:
        return None
    zero_shot = _names(found, "zero_shot")
    glue = _names(found, "glue")
    rows = []
    for trial, scores in found:
        link = context.study.link(trial["run_id"])
        cells = [_zero_shot(scores.get("zero_shot"), name, link) for name in zero_shot]
        cells += [_glue(scores.get("glue", {}).get(task), link) for task in glue]
        loss = number(trial["bits_per_byte"], 4, link=link)
        rows.append((Cell(trial["name"], link=link), count(trial["epochs"]), loss, *cells))
    table = Table(
        "finals",
        "Final scores of single models, on all items",
        ("model", "epochs", "bits/byte", *zero_shot, *glue),
        tuple(rows),
        f"Percent {OVER_ITEMS}; of fine-tuning with the score of a constant answer in brackets, "
        "and “no better” where it is less than two standard errors above that. “Within chance” as "
        "above.",
    )
    text = (
        f"{count_of(len(found), 'model was', 'models were')} scored once more at the best "
        "checkpoint, on "
        f"{', '.join([*zero_shot, *glue])}."
    )
    return ReportPart(Section("finals", "Final scores", (text,), (table,)))


def _names(found: list[tuple[dict[str, Any], dict[str, Any]]], kind: str) -> list[str]:
    """Benchmarks, or GLUE's tasks, that any model has."""
    names: dict[str, None] = {}
    for _, scores in found:
        of_kind = scores.get(kind, {})
        names |= dict.fromkeys(
            of_kind["benchmarks"] if kind == "zero_shot" and of_kind else of_kind
        )
    return list(names)


def _zero_shot(scores: Scores | None, name: str, link: str) -> Cell:
    if scores is None or name not in scores["benchmarks"]:
        return Cell("-")
    figure, error = scores["benchmarks"][name], scores["errors"][name]
    guessing = 1.96 * scores.get("chance_errors", {}).get(name, 0.0)
    mark = "chance" if abs(figure - scores["chance"][name]) <= guessing else ""
    return Cell(with_error(figure, error, 1), figure, link, mark, also=(("error", error),))


def _glue(outcome: dict[str, Any] | None, link: str) -> Cell:
    if outcome is None or outcome.get("score") is None:
        return Cell("-")
    score, baseline, error = outcome["score"], outcome["baseline"], outcome["error"]
    # Not a test, a warning: both figures are of the same items.
    mark = "no better than constant" if score < baseline + 2 * error else ""
    also = (("error", error), ("constant", baseline))
    return Cell(f"{with_error(score, error, 1)} ({baseline:.1f})", score, link, mark, also)
