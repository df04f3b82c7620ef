"""What the models share that compute some of their library's layers in another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.kernels.rms_norm import rms_norm


def replace_layers(model: nn.Module, ours: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    """Make modules of a class in `ours` instances of the subclass that stands there for it.

    They keep their parameters and attributes; what changes is `forward`.
    """
    for module in model.modules():
        module.__class__ = ours.get(type(module), type(module))


def norm_on_cpu(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm in the type that the next layers work in: under autocast each would cast to it."""
    if torch.is_autocast_enabled("cpu"):
        return rms_norm(x, weight, eps, torch.get_autocast_dtype("cpu"))
    return rms_norm(x, weight, eps, torch.promote_types(x.dtype, weight.dtype))


class RMSNormOnCPU:
    """To stand in front of one of transformers' RMS norms among the bases of a subclass."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Any:
        if hidden_states.device.type != "cpu":
            return super().forward(hidden_states)  # type: ignore[misc]
        return norm_on_cpu(hidden_states, self.weight, self.variance_epsilon)
