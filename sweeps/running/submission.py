"""Make a submission as planned: score each model that is not scored yet, say what is missing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import models
from analysis.benchmarks import Encoder, keep_last, sequence_log_probs
from analysis.benchmarks.acquisition import (
    WordInContext,
    correlation,
    read_words,
    results_of,
    spans_of,
)
from analysis.benchmarks.scoring import context_of
from analysis.commands import part_of, say_how_to_continue
from analysis.errors import EXIT_FAILED, SECRET_FLAGS, say_error
from analysis.signals import ending_on_signals
from analysis.terminal import open_console, say, show_title, showing
from sweeps.arguments import EvaluateArgs, SubmitArgs
from sweeps.engine.scoring.workers import show_progress
from sweeps.findings.submit import show_acquisition, show_submission
from sweeps.plans.submit import ACQUISITION, MAIN, PROTOCOL, SubmissionPlan, plan_submission
from trainables.checkpoint import bring_model
from trainables.files import NOT_THERE, DamagedFileError, read_json, write_json
from trainables.finetune_spec import model_hash

_DONE, _LEARNED = "scored.json", "learned.json"
"""In a revision's folder: hashes of what was scored, and by what."""


def submit(args: SubmitArgs, evaluate: Callable[[EvaluateArgs], int]) -> int:
    """Make what is not there, and say what is missing; returns the exit status.

    Args:
        args: the command's arguments.
        evaluate: the command that scores a model, which stands above this floor.
    """
    console = open_console()
    try:
        with ending_on_signals(), part_of(args):
            with showing(console, "Looking for the models"):
                plan = plan_submission(args)
            status = _score(plan, evaluate, console)
            if status != 0:
                return status
            _learn_when(plan, console)
            is_whole = show_submission(plan, console)
    except (ValueError, OSError) as error:
        return say_error(error)
    except KeyboardInterrupt:
        say(console, "\nModels that are scored are not scored again.")
        return say_how_to_continue(console)
    return 0 if is_whole else EXIT_FAILED


def _score(plan: SubmissionPlan, evaluate: Callable[[EvaluateArgs], int], console: Console) -> int:
    """Score the models that the track wants and that are there, each once."""
    revisions = [each for each in plan.revisions if each in plan.models]
    for number, revision in enumerate(revisions, start=1):
        title = f"{number}/{len(revisions)} {revision}"
        evaluation, done = plan.evaluation(revision), plan.place / revision / _DONE
        bring_model(plan.models[revision])
        inputs = _hash_of(evaluation)
        if _read(done) == inputs:
            say(console, f"[bold]{title}[/]: done, nothing has changed")
            continue
        show_title(console, title)
        status = evaluate(evaluation)
        if status != 0:
            return status
        write_json(done, inputs)
    return 0


def _hash_of(evaluation: EvaluateArgs) -> str:
    """A hash of the model's files and of all that its evaluation was asked."""
    asked = {
        name: value
        for name, value in dataclasses.asdict(evaluation).items()
        if name not in SECRET_FLAGS
    }
    return _hash([model_hash(Path(evaluation.model)), asked])


def _hash(content: object) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(file: Any) -> Any:
    try:
        return read_json(file, str)
    except (DamagedFileError, *NOT_THERE):
        return None


def _learn_when(plan: SubmissionPlan, console: Console) -> None:
    """Write the surprisal of every word by every model on the way, if that can be."""
    file, words_file = plan.place / MAIN / ACQUISITION, plan.file_of("cdi_childes.json")
    revisions = [each for each in plan.revisions if each in plan.words]
    if words_file is None or not revisions:
        return
    words = read_words(words_file)
    done, inputs = (
        plan.place / MAIN / _LEARNED,
        _hash([words, {each: model_hash(plan.models[each]) for each in revisions}]),
    )
    if not file.is_file() or _read(done) != inputs:
        results = _surprisals(plan, words, revisions, console)
        metadata = {
            "model_name": plan.place.name,
            "use_bos_only": False,
            "total_steps": len(revisions),
            "completed_steps": len(revisions),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"metadata": metadata, "results": results})
        write_json(done, inputs)
    if (human := plan.file_of("cdi_human.csv")) is not None:
        results = read_json(file, dict[str, Any])["results"]
        show_acquisition(*correlation(results, human), console)


def _surprisals(
    plan: SubmissionPlan, words: Sequence[WordInContext], revisions: Sequence[str], console: Console
) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    with show_progress(console, "words") as progress:
        for number, revision in enumerate(revisions):
            folder = str(plan.models[revision])
            model, tokenizer = models.load(folder), models.load_tokenizer(folder)
            spans = spans_of(words, Encoder(tokenizer, PROTOCOL))
            context = context_of(model.config)
            spans = spans if context is None else keep_last(spans, context)
            scores = sequence_log_probs(model, spans)
            results += results_of(words, revision, plan.words[revision], scores)
            progress(number + 1, len(revisions))
    return results
