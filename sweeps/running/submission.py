"""Make a submission as planned: score each model that is not scored yet, say what is missing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import models
from analysis.benchmarks import Encoder, keep_last
from analysis.benchmarks.acquisition import (
    WordInContext,
    correlation,
    read_words,
    results_of,
    spans_of,
)
from analysis.benchmarks.scoring import context_of
from analysis.commands import part_of, say_how_to_continue
from analysis.errors import EXIT_FAILED, say_error
from analysis.signals import ending_on_signals
from analysis.terminal import open_console, say, show_title, showing
from sweeps.arguments import EvaluateArgs, SubmitArgs
from sweeps.engine.scoring.workers import show_progress
from sweeps.findings.submit import show_acquisition, show_submission
from sweeps.plans.evaluate import scoring_of
from sweeps.plans.submit import ACQUISITION, ACQUISITION_SCORE, SubmissionPlan, plan_submission
from sweeps.stored.hub import MAIN
from trainables.checkpoint import bring_model
from trainables.files import read_if_sound, write_json
from trainables.finetune_spec import model_hash

_MARK, _WORDS = "scored.json", "words.json"
_WRITTEN = ("zero_shot", "finetune")
"""What evaluations write into a revision's folder."""


@dataclass(frozen=True)
class _Mark:
    """What a revision's folder holds the predictions of.

    Attributes:
        model: a hash of its weights.
        protocol: the year of the challenge that they are for.
        inputs: a hash of all that the predictions depend on; "" while they are being made.
        files: the predictions.
    """

    model: str
    protocol: str = "2025"  # marks of the version that knew no other have none
    inputs: str = ""
    files: tuple[str, ...] = ()


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
            _check_year(plan)
            failed = []
            for number, revision in enumerate(plan.scored, start=1):
                title = f"{number}/{len(plan.scored)} {revision}"
                status = _score(plan, revision, title, evaluate, console)
                if status not in (0, EXIT_FAILED):  # so would all others, or somebody stops it
                    return status
                failed += [revision] if status else []
            _learn_when(plan, console)
            is_whole = show_submission(plan, failed, console)
    except (ValueError, OSError) as error:
        return say_error(error)
    except KeyboardInterrupt:
        say(console, "\nModels that are scored are not scored again.")
        return say_how_to_continue(console)
    return 0 if is_whole else EXIT_FAILED


def _check_year(plan: SubmissionPlan) -> None:
    """Raise ValueError if the folder holds predictions by another protocol."""
    asked = plan.args.protocol
    for file in sorted(plan.place.glob(f"*/{_MARK}")):
        mark: _Mark | None = read_if_sound(file, _Mark)
        if mark and mark.protocol != asked:
            raise ValueError(
                f"{plan.place} holds a submission to the challenge of {mark.protocol}, not of "
                f"{asked}: give another DIR or another --name, or --protocol {mark.protocol}"
            )


def _score(
    plan: SubmissionPlan,
    revision: str,
    title: str,
    evaluate: Callable[[EvaluateArgs], int],
    console: Console,
) -> int:
    """Score a model, if that or what it is scored on has changed, or predictions are gone."""
    evaluation, folder = plan.evaluation(revision), plan.place / revision
    bring_model(plan.models[revision])
    model = model_hash(plan.models[revision])
    inputs = _hash([model, _asked(evaluation), _content(Path(evaluation.benchmarks))])
    mark: _Mark | None = read_if_sound(folder / _MARK, _Mark)
    if mark and mark.inputs == inputs and all((folder / file).is_file() for file in mark.files):
        say(console, f"[bold]{title}[/]: done, nothing has changed")
        return 0
    written = [folder / name for name in _WRITTEN if (folder / name).exists()]
    if mark is None and written:
        raise ValueError(
            f"{written[0]} holds predictions that this command did not make: give another --name, "
            "or move them away"
        )
    if mark and mark.model != model:
        for each in written:
            shutil.rmtree(each)
    show_title(console, title)
    _write_mark(folder, _Mark(model, evaluation.protocol))
    status = evaluate(evaluation)
    if status == 0:
        files = sorted(
            file.relative_to(folder).as_posix() for file in folder.rglob("predictions.json")
        )
        _write_mark(folder, _Mark(model, evaluation.protocol, inputs, tuple(files)))
    return status


def _asked(evaluation: EvaluateArgs) -> dict[str, Any]:
    return {**dataclasses.asdict(evaluation), "ewok_password": None}


def _content(folder: Path) -> list[tuple[str, int, int]]:
    """What tells whether the files of a folder are others than before."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    stats = [file.stat() for file in files]
    return [
        (file.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns)
        for file, stat in zip(files, stats, strict=True)
    ]


def _hash(content: object) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write_mark(folder: Path, mark: _Mark) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _MARK, dataclasses.asdict(mark))


def _learn_when(plan: SubmissionPlan, console: Console) -> None:
    """Write the surprisal of every word by every model on the way."""
    revisions = [each for each in plan.scored if each in plan.words]
    if plan.words_file is None or not revisions:
        return
    words = read_words(plan.words_file)
    results = [
        entry
        for number, revision in enumerate(revisions, start=1)
        for entry in results_of(
            words,
            revision,
            plan.words[revision],
            _log_probs(
                plan, revision, words, f"words, model {number} of {len(revisions)}", console
            ),
        )
    ]
    metadata = {
        "model_name": plan.place.name,
        "use_bos_only": False,
        "total_steps": len(revisions),
        "completed_steps": len(revisions),
    }
    file = plan.place / MAIN / ACQUISITION
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"metadata": metadata, "results": results})
    if plan.human_file is not None:
        protocol, tokenizer = plan.args.protocol, models.load_tokenizer(str(plan.models[MAIN]))
        figure, known = correlation(results, plan.human_file, protocol, tokenizer)
        show_acquisition(figure, known, console)
        if ACQUISITION_SCORE in plan.wanted(MAIN):
            write_json(plan.place / MAIN / ACQUISITION_SCORE, {"aoa": figure})


def _log_probs(
    plan: SubmissionPlan,
    revision: str,
    words: Sequence[WordInContext],
    title: str,
    console: Console,
) -> list[float]:
    """Of each word by a model, nats; kept, for models are many."""
    folder, file = str(plan.models[revision]), plan.place / revision / _WORDS
    scoring = scoring_of(plan.evaluation(revision), folder)
    inputs = _hash([model_hash(Path(folder)), words, scoring.precision])
    kept = read_if_sound(file, dict[str, Any]) or {}
    if kept.get("inputs") == inputs:
        return list(map(float, kept["log_probs"]))
    model = scoring.load()
    spans = spans_of(words, Encoder(models.load_tokenizer(folder), plan.args.protocol))
    if (context := context_of(model.config)) is not None:
        spans = keep_last(spans, context)
    with show_progress(console, title) as progress:
        scores = scoring.score(model, spans, progress)
    found = [float(each.sum(dtype=np.float64)) for each in scores]
    write_json(file, {"inputs": inputs, "log_probs": found})
    return found
