"""Plan of an evaluation: the model, what it is scored on and how, and where the scores go."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

import models
from analysis.benchmarks import HUB, BenchmarkSource, Span, Suite, keep_last, load_suite, password
from analysis.benchmarks.predictions import check_submission
from analysis.benchmarks.scoring import check_spans, context_of, vocab_size_of
from analysis.errors import named, without_secret
from analysis.flag_values import checked
from analysis.places import path_or_hub_id, resolved, writable_folder
from analysis.store import open_store, tracking_uri
from analysis.wording import count
from sweeps.arguments import EvaluateArgs
from sweeps.engine.environment import check_address
from sweeps.engine.scoring.finetuning import check_tasks
from sweeps.engine.scoring.found import Found, look_into
from sweeps.engine.scoring.tasks import benchmark_place, check_folder, split_tasks
from sweeps.engine.scoring.workers import Scoring
from sweeps.engine.tuning import local_gpus
from sweeps.stored.chosen import run_id_of
from sweeps.stored.model_names import resolve_model
from sweeps.stored.trials import resolve_storage
from trainables.machine_limits import usable_cpus


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation, with all checked that can be before it starts.

    Attributes:
        model: folder or hub id.
        suite: the zero-shot benchmarks, None where models are only fine-tuned.
        spans: what is scored of it, within the model's context.
        truncated: texts longer than that, of which only the last tokens are scored.
        found: what the folder of benchmarks holds; nothing of the hub.
        glue: names of tasks to fine-tune on, whose files are in `glue_folder`.
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
    found: Found
    glue: tuple[str, ...]
    glue_folder: Path | None

    @property
    def glue_changes(self) -> dict[str, Any]:
        """Settings of GLUE that are given in place of the protocol's."""
        asked = {"lr": self.args.glue_lr, "epochs": self.args.glue_epochs}
        return {name: value for name, value in asked.items() if value is not None}


def plan_evaluation(args: EvaluateArgs) -> EvaluationPlan:
    """Resolve the model, the benchmarks and the places to write to.

    Raises:
        ValueError: something asked for cannot be; the message says what to do.
    """
    args = checked(args)
    storage = resolve_storage(args.storage)
    output = args.output
    if output is not None:
        output = writable_folder(resolved(output, "--output"), "--output")
    uri = tracking_uri(storage)
    if args.device == "cuda" and not local_gpus():
        raise ValueError("--device cuda, but PyTorch sees no GPU here: --device cpu, or auto")
    if args.run_id is not None:
        args = replace(args, run_id=_checked_run(uri, args.run_id))
    path = benchmark_place(args.benchmarks)
    default = ("blimp",) if path == HUB else ("all",)
    zero_shot, glue = split_tasks(args.tasks or default, args.protocol)
    if args.address or glue or args.eval_workers > 1:
        check_address(args.address)
    glue_folder = check_folder(path, args.tasks or ()) if glue else None
    finetuned = check_tasks(glue_folder, glue) if glue_folder else ()
    suite = _suite(args, path, zero_shot) if zero_shot else None
    if suite is not None and args.submission:
        check_submission(suite)
    with path_or_hub_id("--model", args.model):
        model = resolve_model(args.model, uri, storage)
        config, tokenizer = _open_model(model)
    context = context_of(config)
    spans = suite.spans(tokenizer) if suite else []
    truncated = _check_length(args, spans, context)
    if context is not None:
        spans = keep_last(spans, context)
    check_spans(spans, context, vocab_size_of(config))
    return EvaluationPlan(
        args,
        storage,
        output or storage / "evaluations" / _name_of(model, suite, glue, args),
        model,
        tokenizer,
        suite,
        spans,
        truncated,
        scoring_of(args, model),
        look_into(args.benchmarks, [suite], finetuned, "--tasks"),
        glue,
        glue_folder,
    )


def _suite(args: EvaluateArgs, path: str, tasks: tuple[str, ...]) -> Suite:
    source = BenchmarkSource(
        path,
        tasks,
        args.all_templates,
        fast=args.depth == "fast",
        layout=args.layout,
        ewok_password=password(args.ewok_password),
    )
    return load_suite(source, args.protocol)


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


def scoring_of(args: EvaluateArgs, model: str) -> Scoring:
    """How a model is run, by the flags of an evaluation."""
    wants_gpu = args.device == "cuda" or (args.device == "auto" and local_gpus() > 0)
    gpus = (1.0 if args.gpus is None else args.gpus) if wants_gpu else 0.0
    cpus = args.cpus or max(1, usable_cpus() // args.eval_workers)
    return Scoring(model, cpus, gpus, args.precision, args.token_budget)


def _name_of(model: str, suite: Suite | None, glue: tuple[str, ...], args: EvaluateArgs) -> str:
    """A readable name of a folder for results, another one for other results."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(model.split("/")[-3:])).strip("-")
    what = [model, suite.hash if suite else "", glue, args.protocol, args.precision]
    what += [args.selection, args.long_texts]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]
    return f"{readable}-{digest}"


def _checked_run(uri: str, run_id: str) -> str:
    """MLflow's id of a run that is there."""
    with named("--run-id"):
        client = open_store(uri)
    try:
        return client.get_run(run_id_of(client, run_id)).info.run_id
    except MlflowException as error:
        raise ValueError(
            f"--run-id: no MLflow run {run_id!r} in {without_secret(uri)}: {error.message}"
        ) from error
