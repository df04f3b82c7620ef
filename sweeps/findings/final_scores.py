"""What is scored once, on the best checkpoint of each part of a plan, when its trials are over."""

from __future__ import annotations

from ray.exceptions import RayError
from rich.console import Console
from rich.markup import escape

from analysis import runs
from analysis.benchmarks import BenchmarkSource, load_suite
from analysis.terminal import say
from analysis.wording import count
from sweeps.engine.scoring.finetuning import finetune_tasks
from sweeps.engine.scoring.workers import Scoring, score_on_ray, show_progress
from sweeps.findings.common import winner
from sweeps.findings.glue import glue_figures, glue_results, show_tasks
from sweeps.plans.common import FinalTasks, SweepPlan
from trainables.checkpoint import TrialFolder
from trainables.tracking import Tracker


def score_winners(plan: SweepPlan, tracker: Tracker, console: Console) -> bool:
    """Score the winners on the plan's final tasks, keep the scores beside them and in MLflow.

    Ray must be running. What an earlier command scored is not scored again.

    Returns:
        Whether all of them have their scores.
    """
    if plan.final == FinalTasks():
        return True
    complete = True
    trials = runs.trials(plan.tracking_uri, plan.study)
    for part in plan.bases:
        folder = winner(plan, trials, part)
        if folder is None or folder.outcome is None or folder.outcome.checkpoint is None:
            continue
        try:
            if plan.final.zero_shot is not None:
                _zero_shot(plan, folder, plan.final.zero_shot, tracker, console)
            if plan.final.glue:
                _glue(plan, folder, tracker, console)
        except (ValueError, OSError, RayError) as error:  # what was trained is not lost for it
            text = f"[red]{part}: no final scores[/]: {escape(str(error))}"
            say(console, text)
            complete = False
    return complete


def _zero_shot(
    plan: SweepPlan,
    folder: TrialFolder,
    source: BenchmarkSource,
    tracker: Tracker,
    console: Console,
) -> None:
    spec = folder.spec
    suite = load_suite(source, spec.protocol)
    if folder.final_scores.get("zero_shot", {}).get("suite_hash") == suite.hash:
        return
    needs = plan.resources
    scoring = Scoring(str(folder.best_checkpoint), needs.cpus, needs.gpus)
    with show_progress(console, f"{spec.arch}: final scores") as progress:
        log_probs = score_on_ray(scoring, suite.spans(plan.corpus.tokenizer()), 1, progress)
    scores = suite.summarize(suite.grade(log_probs))
    folder.keep_final_scores("zero_shot", scores.to_dict())
    macro = {} if scores.macro is None else {"macro": scores.macro}
    tracker.log_final(spec, {**scores.benchmarks, **macro}, folder.final_scores)


def _glue(plan: SweepPlan, folder: TrialFolder, tracker: Tracker, console: Console) -> None:
    assert plan.final.folder is not None
    names = [task.name for task in plan.final.glue]
    say(console, f"{folder.spec.arch}: fine-tuning on {count(len(names), 'task')}")
    results = finetune_tasks(
        folder.best_checkpoint,
        plan.final.folder,
        names,
        folder.spec.protocol,
        storage=plan.storage,
        cpus=plan.resources.cpus,
        gpus=plan.resources.gpus,
        console=console,
        precision=folder.spec.precision,
    )
    show_tasks(results, "split", console)
    folder.keep_final_scores("glue", glue_results(results))
    tracker.log_final(folder.spec, glue_figures(results), folder.final_scores)
