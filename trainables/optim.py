"""Optimizer and learning-rate schedules."""

from __future__ import annotations

import math

import torch
from torch import nn

from trainables.spec import TrialSpec


def build_optimizer(
    model: nn.Module, spec: TrialSpec, *, recordable: bool | None = None
) -> torch.optim.AdamW:
    """AdamW with decoupled weight decay on matrices only.

    A recordable one reads its learning rate from memory, so that a recorded step can be replayed
    with another; by default it is one where the model lies on a GPU. Its state is that of any.

    Gains, biases and gate parameters keep no decay: everything with fewer than two dimensions, and
    what its model marks with `_no_weight_decay` (the state matrix of Mamba, gate lower bounds).
    """
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim >= 2 and not getattr(parameter, "_no_weight_decay", False)
        (decayed if is_matrix else rest).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    device = next(model.parameters()).device
    if recordable is None:
        recordable = device.type == "cuda"
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=torch.tensor(spec.lr, device=device) if recordable else spec.lr,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        capturable=recordable,
        fused=True,
    )
    # It would warn of every step that is taken without a graph.
    optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def learning_rate(spec: TrialSpec, step: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (0-based) out of `total_steps`.

    A pure function of the position, so that a resumed run needs no scheduler state. Warm-up rises
    linearly and reaches the peak at its last step; every schedule ends near zero at the last step.
    """
    warmup_steps = spec.warmup_steps or math.ceil(spec.warmup * total_steps)
    if step < warmup_steps:
        return spec.lr * (step + 1) / warmup_steps
    if spec.schedule == "wsd":
        decay_steps = math.ceil(spec.decay * total_steps)
        return spec.lr * min(1.0, (total_steps - step) / max(1, decay_steps))
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if spec.schedule == "linear":
        return spec.lr * (1.0 - progress)
    assert spec.schedule == "cosine"
    return spec.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def steps_at_peak(spec: TrialSpec, total_steps: int) -> int:
    """Steps, counted from the first, that do not depend on how many there are in all.

    With an absolute warm-up and a stable phase ("wsd"; Hu et al. 2024, arXiv 2404.06395) runs of
    different lengths take the same steps until the decay of the shorter one begins.
    """
    if spec.schedule != "wsd" or not spec.warmup_steps:
        return 0
    return max(0, total_steps - math.ceil(spec.decay * total_steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
