"""Optimizers and learning-rate schedules, of trials and of fine-tunings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from trainables.spec import TrialSpec


def build_optimizer(
    model: nn.Module, spec: TrialSpec, *, recordable: bool | None = None
) -> torch.optim.Optimizer:
    """The optimizer that a spec names, with decoupled weight decay on matrices only.

    Gains, biases and gate parameters keep no decay: everything with fewer than two dimensions, and
    what its model marks with `_no_weight_decay`.

    "adamw": for all parameters (Loshchilov & Hutter 2019, arXiv 1711.05101).
    "muon": Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon; `torch.optim.Muon` with its
    momentum of 0.95) for hidden matrices, the weights of linear layers and of `nn.LSTM` but for the
    head's. Updates have the size of AdamW's ("match_rms_adamw"; Liu et al. 2025, arXiv 2502.16982),
    so that one learning rate serves both. AdamW has the rest: embeddings, head, vectors, and every
    other parameter, such as Mamba's state matrix, a table that nothing is multiplied by. It also
    has weights of three dimensions: a depthwise convolution is no matrix, and block-diagonal
    weights are many small ones, for which Muon's scale of the update is not known to be right.

    Args:
        model: whose parameters are trained.
        spec: the learning rate, decay and AdamW's constants count.
        recordable: whether the learning rate is read from memory, so that a recorded step can be
            replayed with another; by default where the model lies on a GPU. The state is that of
            any other. Muon's is a Python number all the same.

    Raises:
        ValueError: torch is too old for Muon, or the model has no hidden matrix.
    """
    if recordable is None:
        recordable = next(model.parameters()).device.type == "cuda"
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if spec.optimizer == "adamw":
        return _adamw(trained, spec, recordable)
    assert spec.optimizer == "muon"
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"optimizer muon needs torch 2.9 or later, not {torch.__version__}")
    hidden = {id(parameter) for parameter in _hidden_matrices(model)}
    if not hidden:
        raise ValueError(f"optimizer muon finds no hidden matrix in {type(model).__name__}")
    muon = torch.optim.Muon(
        [parameter for parameter in trained if id(parameter) in hidden],
        lr=spec.lr,
        weight_decay=spec.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    others = [parameter for parameter in trained if id(parameter) not in hidden]
    return CombinedOptimizer(muon, _adamw(others, spec, recordable=False)) if others else muon


_BYTES = {"AdamW": (8, 0), "Muon": (4, 12)}
"""By class of optimizer: what it keeps of each element that it trains, and what a step takes beside
it for each element of the largest matrix. AdamW keeps two moments in float32. Muon keeps one; for a
matrix at a time it makes the update in float32, what it multiplies and the product in bfloat16, and
two smaller products."""


def bytes_to_come(optimizer: torch.optim.Optimizer) -> int:
    """The memory that an optimizer takes from its first step on, besides parameters and gradients.

    Zero once it has taken a step: then all of it is there to be measured.
    """
    if optimizer.state:
        return 0
    parts = optimizer.parts if isinstance(optimizer, CombinedOptimizer) else (optimizer,)
    total = 0
    for part in parts:
        kept, beside = _BYTES[type(part).__name__]
        sizes = [p.numel() for group in part.param_groups for p in group["params"]]
        total += kept * sum(sizes) + beside * max(sizes)
    return total


class CombinedOptimizer(torch.optim.Optimizer):
    """Optimizers of different parameters as one, which has the groups and the state of all.

    Args:
        parts: the optimizers. They share their groups and state with this one from now on.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: Any = None) -> Any:
        """Let each take its step; there is no `closure`."""
        assert closure is None
        for part in self.parts:
            part.step()


def _adamw(parameters: list[nn.Parameter], spec: TrialSpec, recordable: bool) -> torch.optim.AdamW:
    decayed = [parameter for parameter in parameters if _decays(parameter)]
    rest = [parameter for parameter in parameters if not _decays(parameter)]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return adamw(
        [group for group in groups if group["params"]],
        spec.lr,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        recordable=recordable,
    )


def adamw(
    groups: list[dict[str, Any]],
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    recordable: bool = False,
) -> torch.optim.AdamW:
    """Make an AdamW of these groups of parameters; see `build_optimizer` for `recordable`."""
    device = groups[0]["params"][0].device
    optimizer = torch.optim.AdamW(
        groups,
        lr=torch.tensor(lr, device=device) if recordable else lr,
        betas=betas,
        eps=eps,
        capturable=recordable,
        fused=True,
    )
    # It would warn of every step that is taken without a graph.
    optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def _decays(parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and not getattr(parameter, "_no_weight_decay", False)


def _hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights of linear and recurrent layers, but for those of the head.

    By what multiplies by them: a table of constants, such as Mamba's state matrix, has two
    dimensions and is no matrix.
    """
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return [
        parameter
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.RNNBase) and module is not head
        for parameter in module.parameters(recurse=False)
        if parameter.requires_grad and parameter.ndim == 2 and _decays(parameter)
    ]


def learning_rate(spec: TrialSpec, step: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (0-based) out of `total_steps`.

    Every schedule ends near zero at the last step.
    """
    return scheduled_rate(
        spec.lr,
        spec.schedule,
        step,
        total_steps,
        warmup_steps=spec.warmup_steps or math.ceil(spec.warmup * total_steps),
        decay_steps=math.ceil(spec.decay * total_steps),
    )


def scheduled_rate(
    peak: float,
    schedule: str,
    step: int,
    total_steps: int,
    *,
    warmup_steps: int,
    decay_steps: int = 0,
    final: float = 0.0,
) -> float:
    """The learning rate of optimizer step `step` (0-based) out of `total_steps`.

    A pure function of the position, so that a resumed run needs no scheduler state. Warm-up rises
    linearly and reaches the peak at its last step; the rest would reach the last rate at step
    `total_steps`.

    Args:
        peak: the largest learning rate.
        schedule: "linear" or "cosine" decay, or "wsd": none but in the last steps.
        step, total_steps: the position.
        warmup_steps: steps of the warm-up.
        decay_steps: last steps of "wsd", in which the rate falls to zero.
        final: the last rate of the other schedules, as a fraction of the peak.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "wsd":
        return peak * min(1.0, (total_steps - step) / max(1, decay_steps))
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "linear":
        remaining = 1.0 - progress
    else:
        assert schedule == "cosine"
        remaining = 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * (final + (1.0 - final) * remaining)


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


def has_rate_in_memory(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a recorded step would follow the learning rate: a Python number would be kept."""
    return all(isinstance(group["lr"], torch.Tensor) for group in optimizer.param_groups)


def optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """The state of any optimizer, by "moment/name of the parameter"."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            assert isinstance(value, torch.Tensor), moment
            tensors[f"{moment}/{name}"] = value.contiguous()
    return tensors


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """The inverse of `optimizer_tensors`."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        moment, _, name = key.partition("/")
        parameter = parameters[name]
        optimizer.state[parameter][moment] = value.to(parameter.device)
