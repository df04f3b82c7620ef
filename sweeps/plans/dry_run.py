"""What a sweep would take: parameters, FLOPs, steps, devices, and time from measured steps."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import models
from analysis.addresses import shown
from analysis.schema.axes import AXES
from analysis.terminal import say, showing
from analysis.wording import count, in_gb
from sweeps.arguments import TrainingArgs
from sweeps.engine.progress import QUIET_SECONDS, format_seconds
from sweeps.engine.resources import count_shares
from sweeps.engine.tuning import local_gpus
from sweeps.plans.common import SweepPlan
from sweeps.plans.spaces import variants
from sweeps.plans.tracks import show_rules
from trainables.kernel_cache import build_kernels
from trainables.machine_limits import free_memory, usable_cpus
from trainables.memory import OutOfMemory
from trainables.milestones import steps_between
from trainables.peaks import dense_bf16_peak
from trainables.side_by_side import SideBySide
from trainables.spec import TrialSpec
from trainables.step_time import StepSetting, step_seconds
from trainables.trainer import steps_per_epoch

_COSTLY = ("batch_size", "optimizer")
"""Axes on which the time and the memory of a step depend."""
_PARAMETER = 4
"""Bytes of one in float32."""
_MOMENTS = 8
"""Bytes of AdamW's two for a parameter."""


@dataclass(frozen=True)
class Cost:
    """Cost of one part of a plan: FLOPs, steps, time.

    Attributes:
        step_seconds: measured, of each kind of step; None where it could not be.
        trial_seconds: of one of its trials, if there are as many of each kind of step.
        seconds: of all its trials, as many at once as fit, if those with GPUs or CPUs of their own
            do not slow each other.
        mfu: share of the GPU's peak that the steps of all its trials reach, where both are known.
    """

    part: str
    params: int
    non_embedding: int
    flops_per_token: float
    epochs: int
    trials: int
    flops: float
    step_seconds: tuple[float | None, ...]
    trial_seconds: float | None
    seconds: float | None
    mfu: float | None


def print_dry_run(plan: SweepPlan, args: TrainingArgs, console: Console) -> None:
    """Print the cost of each part of the plan and of all together."""
    available = {"CPU": float(usable_cpus()), "GPU": float(local_gpus())}
    available["memory"] = float(free_memory())
    try:
        at_once: int | None = plan.fitting(available, args.max_concurrent)
    except ValueError as error:
        at_once = None
        say(console, f"[yellow]Not on this machine:[/] {escape(str(error))}")
    say(console, "\n".join(_head(plan, at_once)))
    if at_once is not None:  # no more than there are
        at_once = max(1, min(at_once, sum(each.remaining() for each in plan.plans.values())))
    with contextlib.ExitStack() as stack:
        timer = stack.enter_context(_StepTimer(plan, at_once, console)) if at_once else None
        costs = [_cost(plan, part, at_once, timer) for part in plan.bases]
    console.print(_table(costs))
    say(console, f"{_disk(plan, costs)}.")
    say(console, _total(plan, costs, at_once))
    show_rules(plan, console)


def _cost(
    plan: SweepPlan,
    part: str,
    at_once: int | None,
    measure: Callable[[str, TrialSpec], float | None] | None,
) -> Cost:
    params, non_embedding, flops_per_token = _model_counts(plan, part)
    trials = plan.plans[part].remaining()
    # As far as it is known that they are tried.
    kinds = variants(plan.bases[part], plan.plans[part].values, _COSTLY)
    shared = plan.shared_steps.get(part, 0)
    steps = [steps_per_epoch(s, plan.num_blocks) * s.epochs - shared for s in kinds]
    flops = [flops_per_token * spec.batch_size * spec.context for spec in kinds]
    step_seconds = tuple(measure(part, spec) if measure else None for spec in kinds)
    known = [found for found in step_seconds if found is not None]
    each = seconds = mfu = None
    if len(known) == len(kinds) and at_once is not None:
        each = _mean_product(steps, known)
        seconds = _together([each] * trials, at_once)
        peak = _peak(plan, kinds[0])
        mfu = None if peak is None else _on_a_gpu(plan, at_once) * flops[0] / known[0] / peak
    return Cost(
        part,
        params,
        non_embedding,
        flops_per_token,
        kinds[0].epochs,
        trials,
        trials * _mean_product(steps, flops),
        step_seconds,
        each,
        seconds,
        mfu,
    )


def _together(seconds: Iterable[float], at_once: int) -> float:
    """Seconds of trials of so many each, so many at once: the next begins where one ends first."""
    ends = [0.0] * at_once
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


def _mean_product(left: Sequence[float], right: Sequence[float]) -> float:
    return fmean(a * b for a, b in zip(left, right, strict=True))


def _peak(plan: SweepPlan, spec: TrialSpec) -> float | None:
    """FLOP/s of the GPUs of a trial in the trial's precision, or None if they are not known."""
    if not plan.resources.gpus or spec.precision != "bf16":
        return None
    peak = dense_bf16_peak(torch.cuda.get_device_name())
    return None if peak is None else peak * plan.resources.workers


def _head(plan: SweepPlan, at_once: int | None) -> list[str]:
    """Lines that describe the plan."""
    resources, base = plan.resources, next(iter(plan.bases.values()))
    device = "CPU"
    if resources.gpus:
        device = torch.cuda.get_device_name() if local_gpus() else "none here"
    return [
        f"study      {plan.study}, in {shown(plan.storage)}",
        f"corpus     {plan.corpus.name}: {count(plan.corpus.train_words, 'word')}, "
        f"{count(plan.corpus.train_tokens, 'token')}, vocabulary {plan.corpus.vocab_size:,}",
        f"benchmarks {_scorings(plan)}",
        f"batch      {base.batch_size} x {base.context} tokens; "
        f"{count(steps_per_epoch(base, plan.num_blocks), 'step')} in an epoch",
        *(f"{'axes' if number == 0 else '':<10} {line}" for number, line in enumerate(_axes(plan))),
        f"devices    {resources.workers} x {resources.cpus} CPU, {resources.gpus:g} GPU ({device}) "
        f"a trial, {base.precision}, runner {resources.runner}; "
        f"{count(at_once, 'trial') if at_once else 'no trials'} at once here, each process of "
        f"{plan.least_memory / 1e9:.1f} GB or more",
    ]


def _scorings(plan: SweepPlan) -> str:
    """The benchmarks' items, and how often the longest trial is scored on them."""
    if not plan.benchmarks:
        return "none"
    base = max(plan.bases.values(), key=lambda base: base.epochs)
    total_steps = steps_per_epoch(base, plan.num_blocks) * base.epochs
    between = len(steps_between(base, plan.corpus, plan.milestones, total_steps))
    after = count(base.epochs, "epoch") + (f" and {count(between, 'milestone')}" * (between > 0))
    return f"{count(plan.num_items, 'item')}, scored after {after} of a trial"


def _axes(plan: SweepPlan) -> list[str]:
    """The values of each axis, as far as they are known before the first result."""
    lines = []
    for name in plan.axes:
        values = [value for part in plan.plans.values() for value in part.values.get(name, ())]
        shown = ", ".join(map(AXES[name].show, AXES[name].in_order(values))) or "chosen by Optuna"
        lines.append(f"{AXES[name].label}: {shown}")
    return lines


def _table(costs: list[Cost]) -> Table:
    table = Table(header_style="bold")
    columns = ["", "params", "non-emb.", "FLOPs/token", "epochs", "trials", "FLOPs", "s/step"]
    has_mfu = any(cost.mfu is not None for cost in costs)
    for name in (*columns, *(["MFU"] if has_mfu else []), "time"):
        table.add_column(name, justify="right" if name else "left")
    for cost in costs:
        mfu = "?" if cost.mfu is None else f"{cost.mfu:.0%}"
        table.add_row(
            cost.part,
            f"{cost.params:,}",
            f"{cost.non_embedding:,}",
            f"{cost.flops_per_token:.3g}",
            str(cost.epochs),
            str(cost.trials),
            f"{cost.flops:.3g}",
            ", ".join("?" if s is None else f"{s:.3f}" for s in cost.step_seconds),
            *([mfu] if has_mfu else []),
            format_seconds(cost.seconds),
        )
    return table


def _total(plan: SweepPlan, costs: list[Cost], at_once: int | None) -> str:
    """The sum, and what is not in it."""
    known = [[each] * cost.trials for cost in costs if (each := cost.trial_seconds) is not None]
    flops = sum(cost.flops for cost in costs)
    if len(known) < len(costs) or at_once is None:
        return f"The time is not known; {flops:.3g} FLOPs of training. Nothing was run."
    # A part begins while the last trials of the one before are running.
    time = f"About {format_seconds(_together(chain(*known), at_once))} of training"
    if (number := _on_a_gpu(plan, at_once)) > 1:
        time += f", measured with {count(number, 'trial')} on a GPU"
    left_out = ["evaluation"]
    if plan.resources.gpus:
        left_out.append("the building of kernels")
    if plan.resources.workers > 1:
        left_out.append("the exchange of gradients between workers")
    return (
        f"{time} ({', '.join(left_out)} and points beyond the grid not counted), {flops:.3g} "
        "FLOPs. Nothing was run."
    )


def _on_a_gpu(plan: SweepPlan, at_once: int) -> int:
    """Processes of trials that share a GPU."""
    share = plan.resources.gpus
    if not 0 < share < 1:
        return 1
    return min(at_once * plan.resources.workers, count_shares(1.0, share))


def _disk(plan: SweepPlan, costs: Sequence[Cost]) -> str:
    """How much of the disk the trials take that are still to be trained."""
    params = sum(cost.trials * cost.params for cost in costs)
    size, kept = params * 2 * _PARAMETER, "the best checkpoint's parameters"
    if plan.keep == "newest":
        kept = "the best and the newest checkpoint"
        leaving = [cost for cost in costs if plan.shared_steps.get(cost.part)]
        shared = sum(cost.trials * cost.params for cost in leaving)
        # Where a trial leaves a trunk, this has a best and a newest checkpoint, too.
        size += params * (_PARAMETER + _MOMENTS) + shared * (2 * _PARAMETER + _MOMENTS)
    if milestones := len(plan.milestones):
        size += milestones * params * _PARAMETER
        kept += f", its models after {count(milestones, 'milestone')}"
    return (
        f"About {in_gb(size)} on disk in the end (--keep {plan.keep}): of each trial {kept}, "
        "and its model in MLflow"
    )


class _StepTimer:
    """Measures each kind of step once: on a share of a GPU beside as many others as trials will be.

    Those of several GPUs or CPUs are taken not to slow each other.
    """

    def __init__(self, plan: SweepPlan, at_once: int, console: Console) -> None:
        self.plan, self._console = plan, console
        self._found: dict[TrialSpec, float | None] = {}
        self._processes = SideBySide(_on_a_gpu(plan, at_once))

    def __enter__(self) -> _StepTimer:
        """Build the kernels: a process that takes steps would build one after the other."""
        if self.plan.resources.gpus:
            with showing(self._console, "Kernels", pause=QUIET_SECONDS) as show:
                build_kernels(self.plan.works, show)
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def __call__(self, part: str, spec: TrialSpec) -> float | None:
        """Seconds of one optimizer step of a trial, or None if it does not fit the GPU."""
        alike = spec.replace(epochs=1)
        if alike not in self._found:
            try:
                self._found[alike] = self._measure(spec)
            except RuntimeError as error:
                if self._processes.number == 1 and not isinstance(error, OutOfMemory):
                    raise
                self._found[alike] = None
                failure = "does not fit" if isinstance(error, OutOfMemory) else "is not measured"
                what = f"{part}, batch size {spec.batch_size}"
                text = f"[yellow]{what}, {failure}:[/] {escape(str(error))}"
                say(self._console, text)
        return self._found[alike]

    def _measure(self, spec: TrialSpec) -> float:
        plan, resources = self.plan, self.plan.resources
        setting = StepSetting(
            # One worker's share of the batch; the exchange of gradients is not measured.
            spec.replace(lr=1e-4, batch_size=spec.batch_size // resources.workers),
            plan.corpus.directory,
            plan.teachers,
            plan.micro_batch,
            resources.gpus,
            resources.cpus,
        )
        if self._processes.number > 1:
            return self._processes.seconds(setting)
        return step_seconds(setting.trainer())


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
        teacher = models.load_config(folder)
        flops += models.flops_per_token(teacher, spec.context)
    return counts.total, counts.non_embedding, flops
