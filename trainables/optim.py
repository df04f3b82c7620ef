"""Optimizers and learning-rate schedules."""

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
    return Together(muon, _adamw(others, spec, recordable=False)) if others else muon


class Together(torch.optim.Optimizer):
    """Optimizers of different parameters as one, which has the groups and the state of all.

    Args:
        parts: the optimizers. They share their groups and state with this one from now on.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: Any = None) -> Any:
        """Let each take its step; there is no `closure`."""
        assert closure is None
        for part in self._parts:
            part.step()


def _adamw(parameters: list[nn.Parameter], spec: TrialSpec, recordable: bool) -> torch.optim.AdamW:
    decayed = [parameter for parameter in parameters if _decays(parameter)]
    rest = [parameter for parameter in parameters if not _decays(parameter)]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=torch.tensor(spec.lr, device=parameters[0].device) if recordable else spec.lr,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
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
