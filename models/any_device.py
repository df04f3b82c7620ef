"""Layers for every device in place of the library's own, shared by several models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.kernels import paths
from models.kernels.rms_norm import add_rms_norm, rms_norm, stream_rms_norm


def replace_layers(model: nn.Module, ours: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    """Make modules of a class in `ours` instances of the subclass that stands there for it.

    They keep their parameters and attributes; what changes is `forward`.
    """
    for module in model.modules():
        module.__class__ = ours.get(type(module), type(module))


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm in the type that the next layers work in: under autocast each would cast to it."""
    return rms_norm(x, weight, eps, working_type(x, weight))


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`norm` of x + residual, and the sum, as blocks with a residual stream need both."""
    return add_rms_norm(x, residual, weight, eps, working_type(residual, weight))


def stream_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`norm` of x, and the x to go on with, as `stream_rms_norm` has it."""
    return stream_rms_norm(x, weight, eps, working_type(x, weight))


class RMSNorm(nn.Module):
    """`norm` with a weight of its own, ones at first."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> the same shape, in the type of the layers that follow."""
        return norm(x, self.weight, self.eps)


def working_type(x: Tensor, weight: Tensor) -> torch.dtype:
    """Autocast's type where it is on, else the wider type of the two."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(x.dtype, weight.dtype)


def plain_weights(*layers: nn.Module) -> tuple[Tensor, ...] | None:
    """Weights of linear layers whose product is all that they do; None if one does more."""
    if any(
        type(layer) is not nn.Linear
        or layer.bias is not None
        or layer._forward_hooks
        or layer._forward_pre_hooks
        for layer in layers
    ):
        return None
    return tuple(layer.weight for layer in layers if isinstance(layer, nn.Linear))


class FusedRMSNorm:
    """Mixin: list it before one of transformers' RMS norms among the bases of a subclass."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Any:
        if paths.uses_library("rms_norm", hidden_states.device.type):
            paths.note("rms_norm", "library")
            return super().forward(hidden_states)  # type: ignore[misc]
        return norm(hidden_states, self.weight, self.variance_epsilon)
