"""Results of an evaluation: its tables, its figures in MLflow, the tasks without a score."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.benchmarks import glue
from analysis.benchmarks.kinds import MACRO_WEIGHTS, kind_named, macro_of
from analysis.benchmarks.suite import Scores, protocol_of
from analysis.commands import record
from analysis.store import how_to_browse, reason, tracking_uri
from analysis.terminal import say, show_whole
from analysis.wording import count
from sweeps.engine.contact import MlflowContact
from sweeps.findings.common import guessed
from sweeps.plans.evaluate import EvaluationPlan


def show_results(plan: EvaluationPlan, results: dict[str, Any], console: Console) -> None:
    """Print what `scores.json` holds, and where it was written."""
    if "zero_shot" in results:
        _show_scores(results, console)
    if plan.args.submission:
        say(
            console,
            "[yellow]The predictions.json files hold the benchmarks' texts, EWoK's too: keep them "
            "off the public web.[/]",
        )
    console.print()
    show_whole(console, "Written to", str(plan.output))
    if plan.args.run_id is not None:
        show_whole(console, "Browse", *how_to_browse(plan.storage))


def lacking(glue: dict[str, Any], asked: Sequence[str]) -> list[str]:
    """Tasks without a score, but for those whose files are missing and that nobody named."""
    return [
        task
        for task, result in glue.items()
        if result.get("score") is None and (task in asked or not result.get("missing"))
    ]


def means_with_glue(results: dict[str, Any]) -> dict[str, float]:
    """The mean of the tasks of each group, and the macro that counts GLUE's by one: of 2024 the
    leaderboard's, of 2026 the leaderboard's overall score without age of acquisition. It is left
    out unless all tasks and benchmarks of the protocol are there."""
    scores: dict[str, dict[str, float]] = {}
    for task, result in results["glue"].items():
        if result.get("score") is not None:
            scores.setdefault(glue.find_task(task).group, {})[task] = result["score"]
    means = {group: fmean(of_group.values()) for group, of_group in scores.items()}
    zero_shot = results.get("zero_shot", {"benchmarks": {}})["benchmarks"]
    protocol = results["protocol"]
    weights, macro = MACRO_WEIGHTS[protocol], macro_of(zero_shot, protocol)
    if macro is not None and set(weights) <= set(zero_shot) and _has_whole_glue(results):
        whole = sum(weights.values())
        means["macro_with_glue"] = (whole * macro + means["glue"]) / (whole + 1)
    return means


def _has_whole_glue(results: dict[str, Any]) -> bool:
    """Whether all of GLUE's tasks under the protocol have a score."""
    found = results.get("glue", {})
    tasks = glue.PROTOCOL_TASKS[results["protocol"]]
    return all(found.get(task, {}).get("score") is not None for task in tasks)


def figures(results: dict[str, Any]) -> dict[str, float]:
    """The figures of `scores.json` by the names that MLflow has them under, percent."""
    scores = results.get("zero_shot", {"benchmarks": {}, "macro": None})
    found = {**scores["benchmarks"]}
    if scores["macro"] is not None:
        found["macro"] = scores["macro"]
    for task, result in results.get("glue", {}).items():
        if result.get("score") is not None:
            found[f"{glue.find_task(task).group}/{task}"] = result["score"]
    return found | results.get("means", {})


def log_figures(plan: EvaluationPlan, results: dict[str, Any], console: Console) -> None:
    """Log what `scores.json` holds to the plan's MLflow run, if it names one.

    The figures become metrics `eval/*`; the files hold no text of a benchmark.

    Raises:
        ValueError: MLflow does not take them, or does not answer for an hour.
    """
    run_id = plan.args.run_id
    if run_id is None:
        return
    uri = tracking_uri(plan.storage)
    client, now = MlflowClient(uri), int(time.time() * 1000)
    metrics = [Metric(f"eval/{name}", value, now, 0) for name, value in figures(results).items()]
    names = ("scores.json", "answers.jsonl") if plan.suite else ("scores.json",)
    kept = f"The scores are in {plan.output}"
    contact = MlflowContact(uri, console, f"{kept}; MLflow is tried again for an hour.")
    try:
        contact.result_of(lambda: client.log_batch(run_id, metrics))
        for name in names:
            file = str(plan.output / name)
            contact.result_of(functools.partial(client.log_artifact, run_id, file, "eval"))
        trial = contact.result_of(lambda: client.get_run(run_id)).data.tags.get(
            "babysweep.spec_hash"
        )
        if trial is not None:  # another's run is of no study
            taken = {"run_id": trial}
            contact.result_of(lambda: record(client, [run_id], plan.args, plan.storage, taken))
    except (MlflowException, RequestException) as error:
        raise ValueError(
            f"--run-id: the results could not be recorded in MLflow: {reason(error)}. {kept}"
        ) from error


def _show_scores(results: dict[str, Any], console: Console) -> None:
    scores = results["zero_shot"]
    title = f"\n{results['model']}, protocol {results['protocol']}, {results['precision']}"
    say(console, escape(title))
    console.print(_benchmarks(scores))
    for benchmark, groupings in scores["groups"].items():
        for grouping, groups in groupings.items():
            console.print(_groups(f"{benchmark} by {grouping.replace('_', ' ')}", groups))
    for benchmark, tasks in scores["tasks"].items():
        if task := kind_named(benchmark).listed_as:
            console.print(_groups(f"{benchmark} by {task}", tasks))
    for benchmark, ties in scores["ties"].items():
        if ties == scores["num_items"][benchmark]:
            say(console, f"[yellow]{benchmark}: all were ties; the model sees no difference.[/]")
    if guessing := guessed(scores):
        say(console, f"macro {scores['macro']:.1f}{guessing}")
    if results["protocol"] == "2026":
        say(console, escape(_of_overall(results)))
    if results["truncated"]:
        say(
            console,
            f"{count(results['truncated'], 'text was', 'texts were')} longer than the model's "
            "context: only the last tokens were scored.",
        )


def _of_overall(results: dict[str, Any]) -> str:
    """What of the overall score of 2026's leaderboard the figures are, and what it lacks."""
    missing = [
        name for name in MACRO_WEIGHTS["2026"] if name not in results["zero_shot"]["benchmarks"]
    ]
    mean = results.get("means", {}).get("macro_with_glue")
    if mean is not None:
        return (
            f"With GLUE {mean:.2f}: on the full sets the overall score of 2026's leaderboard "
            "without the age of acquisition, a ninth of it, which takes the checkpoints of a "
            "training (submit)."
        )
    lacks = ", ".join([*missing, *([] if _has_whole_glue(results) else ["glue"])])
    return (
        "The overall score of 2026's leaderboard, which is of the full sets, is of more than this: "
        f"also of {lacks} (--tasks all glue), and of the age of acquisition, which takes the "
        "checkpoints of a training (submit)."
    )


def _benchmarks(scores: Scores) -> Table:
    table = Table(header_style="bold")
    columns = ("benchmark", "data set", "score", "± over items", "chance", "items", "ties")
    for name in (*columns, "not finite"):
        table.add_column(name, justify="left" if name in columns[:2] else "right")
    for name, score in scores["benchmarks"].items():
        table.add_row(
            name,
            scores["datasets"][name],
            f"{score:.2f}",
            f"{scores['errors'][name]:.2f}",
            f"{scores['chance'][name]:.2f}",
            f"{scores['num_items'][name]:,}",
            f"{scores['ties'][name]:,}",
            f"{scores['non_finite'][name]:,}",
            style="red" if scores["non_finite"][name] else None,
        )
    if scores["macro"] is not None:
        counted = MACRO_WEIGHTS[protocol_of(scores)]
        there = sum(name in scores["benchmarks"] for name in counted)
        label = "macro" if there == len(counted) else f"macro, {there} of {len(counted)}"
        figures = (f"{scores['macro']:.2f}", f"{scores['macro_error']:.2f}")
        table.add_row(label, "", *figures, style="bold")
    return table


def _groups(title: str, groups: dict[str, float]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, score in groups.items():
        table.add_row(name, f"{score:.2f}")
    return table
