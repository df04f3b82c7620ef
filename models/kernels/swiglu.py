"""SwiGLU, the gated activation of feed-forward layers (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import paths
from models.kernels.gpu.launch import takes
from models.kernels.linear_loss import product_type
from models.kernels.shapes import expect


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, element by element; gate and up (..., dim) may be halves of one tensor.

    The Triton version reads each input once, computes in float32, and keeps only its inputs for
    the backward pass.
    """
    if takes("swiglu", gate, up, fits=gate.shape == up.shape and gate.ndim > 0):
        out: Tensor = _SwiGLU.apply(gate, up)
        return out
    paths.note("swiglu", "torch")
    return F.silu(gate) * up


def linear_swiglu(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """`swiglu` of two products with the same x: x (..., dim), weights (inner, dim) -> (..., inner).

    With Triton one product with both weights, and one in the backward pass, where the gradients of
    x need no adding.
    """
    expect("up", up, *gate.shape)
    if not takes("swiglu", x, gate, up):
        return swiglu(F.linear(x, gate), F.linear(x, up))
    dtype = product_type(x, gate)
    with torch.autocast(x.device.type, enabled=False):
        weight = torch.cat([gate.to(dtype), up.to(dtype)])
        out: Tensor = _LinearSwiGLU.apply(x.reshape(-1, x.shape[-1]).to(dtype), weight)
    return out.view(*x.shape[:-1], -1)


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """The formula in float64."""
    gate, up = gate.double(), up.double()
    return gate / (1 + torch.exp(-gate)) * up


class _SwiGLU(torch.autograd.Function):
    """SwiGLU in Triton; keeps its inputs."""

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


class _LinearSwiGLU(torch.autograd.Function):
    """SwiGLU in Triton behind one product; keeps its inputs and the product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        from models.kernels.gpu import swiglu as gpu

        both = x @ weight.T
        ctx.save_for_backward(x, weight, both)
        gate, up = both.chunk(2, -1)
        return gpu.forward(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> Any:
        from models.kernels.gpu import swiglu as gpu

        x, weight, both = ctx.saved_tensors
        gradient = torch.empty_like(both)
        (gate, up), (dgate, dup) = both.chunk(2, -1), gradient.chunk(2, -1)
        gpu.backward_into(gate, up, dout.contiguous(), dgate, dup)
        dx = gradient @ weight if ctx.needs_input_grad[0] else None
        dweight = gradient.T @ x if ctx.needs_input_grad[1] else None
        return dx, dweight
