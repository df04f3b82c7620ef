"""What a sweep would take: parameters, FLOPs, steps, devices, and time from measured steps."""

from __future__ import annotations

import math
import os
import statistics
import time

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import AutoConfig

import models
from sweeps.arguments import TrainingArgs
from sweeps.planning import SweepPlan
from sweeps.progress import format_seconds
from sweeps.tuning import local_gpus
from trainables.corpus import Blocks
from trainables.device import pick_device, set_up_cpu
from trainables.spec import TrialSpec, format_lr
from trainables.trainer import Data, Trainer, World, steps_per_epoch


def print_dry_run(plan: SweepPlan, args: TrainingArgs, console: Console) -> None:
    """Print the cost of each part of the plan and of all together."""
    resources = plan.resources
    available = {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(local_gpus())}
    try:
        at_once: int | None = resources.trials_at_once(available, args.max_concurrent)
    except ValueError as error:
        at_once = None
        console.print(f"[yellow]Not on this machine:[/] {escape(str(error))}", highlight=False)
    base = next(iter(plan.bases.values()))
    table = Table(header_style="bold")
    columns = ("", "params", "non-emb.", "FLOPs/token", "epochs", "trials", "FLOPs", "s/step")
    for name in (*columns, "time"):
        table.add_column(name, justify="right" if name else "left")
    total_seconds, total_flops = 0.0, 0.0
    measured: dict[TrialSpec, float] = {}
    for part, spec in plan.bases.items():
        params, non_embedding, flops_per_token = _model_counts(plan, part)
        trials = plan.plans[part].remaining()
        steps = steps_per_epoch(spec, plan.num_blocks) * spec.epochs
        steps -= plan.shared_steps.get(part, 0)
        flops = trials * flops_per_token * steps * spec.batch_size * spec.context
        total_flops += flops
        step_seconds = seconds = None
        if at_once is not None:
            alike = spec.replace(epochs=1)
            if alike not in measured:
                measured[alike] = _measured_step_seconds(plan, part)
            step_seconds = measured[alike]
            seconds = math.ceil(trials / at_once) * steps * step_seconds
            total_seconds += seconds
        table.add_row(
            part,
            f"{params:,}",
            f"{non_embedding:,}",
            f"{flops_per_token:.3g}",
            str(spec.epochs),
            str(trials),
            f"{flops:.3g}",
            "?" if step_seconds is None else f"{step_seconds:.3f}",
            format_seconds(seconds),
        )
    device = "CPU"
    if resources.gpus:
        device = torch.cuda.get_device_name() if local_gpus() else "none here"
    rates = sorted({lr for sweep in plan.plans.values() for lr in getattr(sweep, "lrs", ())})
    lines = [
        f"study      {plan.study}, in {plan.storage}",
        f"corpus     {plan.corpus.name}: {plan.corpus.train_words:,} words, "
        f"{plan.corpus.train_tokens:,} tokens, vocabulary {plan.corpus.vocab_size:,}",
        f"benchmarks {plan.num_items:,} items" if plan.benchmarks else "benchmarks none",
        f"batch      {base.batch_size} x {base.context} tokens; "
        f"{steps_per_epoch(base, plan.num_blocks):,} steps in an epoch",
        f"rates      {', '.join(map(format_lr, rates)) or 'chosen by Optuna'}",
        f"devices    {resources.workers} x {resources.cpus} CPU, {resources.gpus:g} GPU ({device}) "
        f"a trial, {base.precision}, runner {resources.runner}; "
        f"{at_once or 'no'} trials at once here",
    ]
    console.print("\n".join(lines), highlight=False)
    console.print(table)
    console.print(
        f"About {format_seconds(total_seconds if at_once else None)} of training (evaluation and "
        f"points beyond the grid not counted), {total_flops:.3g} FLOPs. Nothing was run.",
        highlight=False,
    )


def _measured_step_seconds(plan: SweepPlan, part: str, steps: int = 3) -> float:
    """Seconds of one optimizer step of a trial, measured here after a warm-up step."""
    spec = plan.bases[part].replace(lr=1e-4)
    world = World(device=pick_device(plan.resources.gpus))
    set_up_cpu(plan.resources.cpus, world.device)
    data = Data(
        plan.corpus,
        Blocks(plan.corpus.train, spec.context),
        Blocks(plan.corpus.dev, spec.context),
        plan.corpus.tokenizer(),
        None,
        tuple(models.load(folder) for folder in plan.teachers) if spec.teacher else (),
    )
    trainer = Trainer(spec, data, world, plan.micro_batch)
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        nats, _norm = trainer.step()
        nats.item()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def _model_counts(plan: SweepPlan, part: str) -> tuple[int, int, float]:
    """Parameters, those outside the embeddings, and FLOPs of training per token.

    A backward pass counts twice a forward pass; a teacher only has the latter.
    """
    spec = plan.bases[part]
    config = models.build_config(
        spec.arch, spec.size, vocab_size=plan.corpus.vocab_size, context=spec.context
    )
    counts = models.num_params(config)
    flops = 3 * models.flops_per_token(config, spec.context)
    for folder in plan.teachers if spec.teacher else ():
        teacher = AutoConfig.from_pretrained(folder)
        flops += models.flops_per_token(teacher, spec.context)
    return counts.total, counts.non_embedding, flops
