"""Score a model as planned: zero-shot in this process or on Ray workers, GLUE as Ray trials."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from rich.console import Console

from analysis.benchmarks.predictions import write_answers, write_submission
from analysis.config_file import save_config
from sweeps.engine.kernel_builds import start_building
from sweeps.engine.scoring.finetuning import finetune_tasks
from sweeps.engine.scoring.tasks import TaskResult
from sweeps.engine.scoring.workers import score_here, score_on_ray, show_progress
from sweeps.engine.tuning import ray_cluster
from sweeps.findings.evaluate import lacking, log_figures, means_with_glue, show_results
from sweeps.findings.glue import glue_results, show_tasks, write_glue_submission
from sweeps.plans.evaluate import EvaluationPlan
from trainables.files import write_json
from trainables.kept import put_folder


def evaluate(plan: EvaluationPlan, console: Console) -> bool:
    """Score the model, write scores and answers, log and show them; returns whether none lacks."""
    started = time.monotonic()
    plan.output.mkdir(parents=True, exist_ok=True)
    save_config(plan.output, plan.args)
    plan.found.show(console)
    results: dict[str, Any] = {
        "model": plan.args.model,
        "protocol": plan.args.protocol,
        "precision": plan.args.precision,
        "truncated": plan.truncated,
    }
    if plan.suite is not None:
        outcomes = plan.suite.grade(_log_probs(plan, console))
        results["zero_shot"] = plan.suite.summarize(outcomes).to_dict()
        write_answers(plan.suite, outcomes, plan.output / "answers.jsonl")
        if plan.args.submission:
            write_submission(plan.suite, outcomes, plan.output)
        write_json(plan.output / "scores.json", results)  # GLUE may take hours and be stopped
    if plan.glue:
        tasks = _glue(plan, console)
        results["glue"] = glue_results(tasks)
        results["means"] = means_with_glue(results)
        if plan.args.submission:
            write_glue_submission(tasks, plan.output)
    results["seconds"] = round(time.monotonic() - started, 1)
    write_json(plan.output / "scores.json", results)
    put_folder(plan.output)
    log_figures(plan, results, console)
    show_results(plan, results, console)
    return not lacking(results.get("glue", {}), plan.args.tasks)


def _log_probs(plan: EvaluationPlan, console: Console) -> list[np.ndarray]:
    workers = plan.args.eval_workers
    if workers == 1:
        with show_progress(console, "texts") as progress:
            return score_here(plan.scoring, plan.spans, progress)
    scoring = plan.scoring
    with ray_cluster(plan.args.address, dashboard=False):
        start_building(scoring.works, scoring.gpus, "workers").wait(console)
        with show_progress(console, "texts") as progress:
            return score_on_ray(scoring, plan.spans, workers, progress)


def _glue(plan: EvaluationPlan, console: Console) -> list[TaskResult]:
    assert plan.glue_folder is not None
    folder = plan.model if Path(plan.model).is_dir() else snapshot_download(plan.model)
    with ray_cluster(plan.args.address, dashboard=False):
        results = finetune_tasks(
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
            changes=plan.glue_changes,
        )
    show_tasks(results, plan.args.selection, console)
    return results
