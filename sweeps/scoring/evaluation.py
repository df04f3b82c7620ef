"""Evaluate a model: zero-shot in this process or on Ray workers, GLUE as Ray trials."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from rich.console import Console
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

import models
from analysis.benchmarks import (
    HUB,
    MACRO,
    BenchmarkSource,
    Span,
    Suite,
    SuiteScores,
    keep_last,
    load_suite,
    password,
)
from analysis.benchmarks.folders import FolderEntry, entry_rows, survey
from analysis.benchmarks.predictions import write_answers, write_submission
from analysis.benchmarks.scoring import check_spans, context_of, vocab_size_of
from analysis.config_file import save_config
from analysis.errors import named, without_secret
from analysis.places import resolved, writable_folder
from analysis.schema.ranges import check
from analysis.store import open_store, reason, tracking_uri
from analysis.wording import count
from sweeps.arguments import EvaluateArgs
from sweeps.engine.contact import MlflowContact
from sweeps.engine.environment import check_address
from sweeps.engine.tuning import local_gpus, ray_cluster
from sweeps.scoring.finetuning import check_tasks, finetune_tasks, write_glue_submission
from sweeps.scoring.report import show_found
from sweeps.scoring.tasks import (
    TaskResult,
    benchmark_place,
    find_glue,
    glue_figures,
    glue_results,
    split_tasks,
)
from sweeps.scoring.workers import Scoring, score_here, score_on_ray, show_progress
from sweeps.stored.model_names import resolve_model
from sweeps.stored.trials import resolve_storage
from trainables.files import write_json


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation, with all checked that can be before it starts.

    Attributes:
        model: folder or hub id.
        suite: the zero-shot benchmarks, None for GLUE alone.
        spans: what is scored of it, within the model's context.
        truncated: texts longer than that, of which only the last tokens are scored.
        found: what the folder of benchmarks holds; empty of the hub.
        glue: names of GLUE tasks, whose files are in `glue_folder`.
    """

    args: EvaluateArgs
    storage: Path
    output: Path
    model: str
    tokenizer: PreTrainedTokenizerBase
    suite: Suite | None
    spans: list[Span]
    truncated: int
    scoring: Scoring
    found: tuple[FolderEntry, ...]
    glue: tuple[str, ...]
    glue_folder: Path | None


def lacking(glue: dict[str, Any], asked: Sequence[str]) -> list[str]:
    """GLUE tasks without a score, but for those whose files are missing and that nobody named."""
    return [
        task
        for task, result in glue.items()
        if result.get("score") is None and (task in asked or not result.get("missing"))
    ]


def plan_evaluation(args: EvaluateArgs) -> EvaluationPlan:
    """Resolve the model, the benchmarks and the places to write to.

    Raises:
        ValueError: something asked for cannot be; the message says what to do.
    """
    check(args, flags=True)
    storage = resolve_storage(args.storage)
    output = args.output
    if output is not None:
        output = writable_folder(resolved(output, "--output"), "--output")
    uri = tracking_uri(storage)
    if args.device == "cuda" and not local_gpus():
        raise ValueError("--device cuda, but PyTorch sees no GPU here: --device cpu, or auto")
    if args.run_id is not None:
        _check_run(uri, args.run_id)
    path = benchmark_place(args.benchmarks)
    default = ("blimp",) if path == HUB else ("all",)
    zero_shot, glue = split_tasks(args.tasks or default, args.protocol)
    if args.address or glue or args.eval_workers > 1:
        check_address(args.address)
    glue_folder = find_glue(path) if glue else None
    if glue_folder is not None:
        check_tasks(glue_folder, glue)
    suite = None
    if zero_shot:
        source = BenchmarkSource(
            path,
            zero_shot,
            args.all_templates,
            fast=False,
            ewok_password=password(args.ewok_password),
        )
        suite = load_suite(source, args.protocol)
    model = resolve_model(args.model, uri, storage)
    config, tokenizer = _open_model(model)
    context = context_of(config)
    spans = suite.spans(tokenizer) if suite else []
    truncated = _check_length(args, spans, context)
    if context is not None:
        spans = keep_last(spans, context)
    check_spans(spans, context, vocab_size_of(config))
    if output is None:
        output = storage / "evaluations" / _name_of(model, suite, glue, args)
        output.mkdir(parents=True, exist_ok=True)
    save_config(output, args)
    return EvaluationPlan(
        args,
        storage,
        output,
        model,
        tokenizer,
        suite,
        spans,
        truncated,
        _scoring(args, model),
        () if path == HUB else tuple(survey(Path(path))),
        glue,
        glue_folder,
    )


def _check_length(args: EvaluateArgs, spans: Sequence[Span], context: int | None) -> int:
    """The number of texts that the model cannot read whole; ValueError unless that is allowed."""
    too_long = [span for span in spans if context is not None and span.num_inputs > context]
    if too_long and args.long_texts == "refuse":
        longest = max(too_long, key=lambda span: span.num_inputs)
        raise ValueError(
            f"{count(len(too_long), 'text is', 'texts are')} longer than the model's context of "
            f"{count(context or 0, 'token')}; the longest, {longest.name}, has "
            f"{longest.num_inputs}: --long-texts truncate scores the last tokens of "
            "each, or choose other --tasks"
        )
    return len(too_long)


def evaluate(plan: EvaluationPlan, console: Console) -> dict[str, Any]:
    """Score the model, write scores and answers, log them; returns what `scores.json` holds."""
    started = time.monotonic()
    benchmarks = plan.suite.benchmarks if plan.suite else ()
    if plan.found:
        show_found(entry_rows(plan.found, benchmarks, plan.glue), plan.args.benchmarks, console)
    results: dict[str, Any] = {
        "model": plan.args.model,
        "protocol": plan.args.protocol,
        "precision": plan.args.precision,
        "truncated": plan.truncated,
    }
    figures: dict[str, float] = {}
    scores = None
    if plan.suite is not None:
        outcomes = plan.suite.grade(_log_probs(plan, console))
        scores = plan.suite.summarize(outcomes)
        figures |= scores.benchmarks
        figures |= {} if scores.macro is None else {"macro": scores.macro}
        results["zero_shot"] = scores.to_dict()
        write_answers(plan.suite, outcomes, plan.output / "answers.jsonl")
        if plan.args.submission:
            write_submission(plan.suite, outcomes, plan.output)
        write_json(plan.output / "scores.json", results)  # GLUE may take hours and be stopped
    if plan.glue:
        tasks = _glue(plan, console)
        figures |= glue_figures(tasks)
        results["glue"] = glue_results(tasks)
        results["means"] = with_glue(scores, figures)
        figures |= results["means"]
        if plan.args.submission:
            write_glue_submission(tasks, plan.output)
    results["seconds"] = round(time.monotonic() - started, 1)
    write_json(plan.output / "scores.json", results)
    if plan.args.run_id is not None:
        _log(plan, plan.args.run_id, figures, console)
    return results


def with_glue(scores: SuiteScores | None, figures: dict[str, float]) -> dict[str, float]:
    """The mean of the GLUE tasks, and the 2024 leaderboard's macro, of which it is a fourth."""
    tasks = [value for name, value in figures.items() if name.startswith("glue/")]
    means = {"glue": fmean(tasks)} if tasks else {}
    if tasks and scores is not None and set(MACRO) <= set(scores.benchmarks):
        zero_shot = [scores.benchmarks[name] for name in MACRO]
        means["macro_with_glue"] = fmean([*zero_shot, means["glue"]])
    return means


def _log_probs(plan: EvaluationPlan, console: Console) -> list[np.ndarray]:
    workers = plan.args.eval_workers
    if workers == 1:
        with show_progress(console, "texts") as progress:
            return score_here(plan.scoring, plan.spans, progress)
    with (
        ray_cluster(plan.args.address, dashboard=False),
        show_progress(console, "texts") as progress,
    ):
        return score_on_ray(plan.scoring, plan.spans, workers, progress)


def _glue(plan: EvaluationPlan, console: Console) -> list[TaskResult]:
    assert plan.glue_folder is not None
    folder = plan.model if Path(plan.model).is_dir() else snapshot_download(plan.model)
    with ray_cluster(plan.args.address, dashboard=False):
        return finetune_tasks(
            folder,
            plan.glue_folder,
            plan.glue,
            plan.args.protocol,
            storage=plan.storage,
            cpus=plan.args.cpus or 1,
            gpus=plan.scoring.gpus,
            console=console,
            selection=plan.args.selection,
            precision=plan.args.precision,
            changes=_changes(plan.args),
        )


def _open_model(model: str) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """The model's config and its tokenizer."""
    try:
        return models.load_config(model), models.load_tokenizer(model)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"cannot open the model {model}: {reason} (a folder with config.json and a tokenizer, "
            "models:/NAME@ALIAS, or an id on the hub)"
        ) from error


def _scoring(args: EvaluateArgs, model: str) -> Scoring:
    wants_gpu = args.device == "cuda" or (args.device == "auto" and local_gpus() > 0)
    gpus = (1.0 if args.gpus is None else args.gpus) if wants_gpu else 0.0
    cpus = args.cpus or max(1, len(os.sched_getaffinity(0)) // args.eval_workers)
    return Scoring(model, cpus, gpus, args.precision, args.token_budget)


def _name_of(model: str, suite: Suite | None, glue: tuple[str, ...], args: EvaluateArgs) -> str:
    """A readable name of a folder for results, another one for other results."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(model.split("/")[-3:])).strip("-")
    what = [model, suite.hash if suite else "", glue, args.protocol, args.precision]
    what += [args.selection, args.long_texts]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]
    return f"{readable}-{digest}"


def _check_run(uri: str, run_id: str) -> None:
    with named("--run-id"):
        client = open_store(uri)
    try:
        client.get_run(run_id)
    except MlflowException as error:
        raise ValueError(
            f"--run-id: no MLflow run {run_id!r} in {without_secret(uri)}: {error.message}"
        ) from error


def _changes(args: EvaluateArgs) -> dict[str, Any]:
    """Settings of GLUE that are given in place of the protocol's."""
    asked = {"lr": args.glue_lr, "epochs": args.glue_epochs}
    return {name: value for name, value in asked.items() if value is not None}


def _log(plan: EvaluationPlan, run_id: str, figures: dict[str, float], console: Console) -> None:
    """Log figures as metrics `eval/*`, and the files, which hold no text of a benchmark.

    Raises:
        ValueError: MLflow does not take them, or does not answer for an hour.
    """
    uri = tracking_uri(plan.storage)
    client, now = MlflowClient(uri), int(time.time() * 1000)
    metrics = [Metric(f"eval/{name}", value, now, 0) for name, value in figures.items()]
    names = ("scores.json", "answers.jsonl") if plan.suite else ("scores.json",)
    kept = f"The scores are in {plan.output}"
    contact = MlflowContact(uri, console, f"{kept}; MLflow is asked for an hour.")
    try:
        contact.result_of(lambda: client.log_batch(run_id, metrics))
        for name in names:
            file = str(plan.output / name)
            contact.result_of(functools.partial(client.log_artifact, run_id, file, "eval"))
    except (MlflowException, RequestException) as error:
        raise ValueError(
            f"--run-id: MLflow could not be told what was found: {reason(error)}. {kept}"
        ) from error
