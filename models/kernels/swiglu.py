"""SwiGLU, the gated activation of feed-forward layers (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels.gpu.launch import takes


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, element by element; gate and up (..., dim) may be halves of one tensor.

    The Triton version reads each input once, computes in float32, and keeps only its inputs for
    the backward pass.
    """
    if takes("swiglu", gate, up, fits=gate.shape == up.shape and gate.ndim > 0):
        out: Tensor = _SwiGLU.apply(gate, up)
        return out
    return F.silu(gate) * up


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """The formula in float64."""
    gate, up = gate.double(), up.double()
    return gate / (1 + torch.exp(-gate)) * up


class _SwiGLU(torch.autograd.Function):
    """In Triton; keeps its inputs."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        from models.kernels.gpu import swiglu as gpu

        ctx.save_for_backward(gate, up)
        return gpu.forward(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> Any:
        from models.kernels.gpu import swiglu as gpu

        gate, up = ctx.saved_tensors
        return gpu.backward(gate, up, dout)
