"""Rotary position embedding of queries and keys (Su et al. 2021, arXiv 2104.09864)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels.gpu import launch


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotates entry i of every head with entry i + dim / 2, as transformers' LLaMA does.

    Args:
        q, k: (batch, time, heads, dim), as many heads each as they like.
        cos, sin: (1 or batch, time, dim), without gradient.

    Returns:
        q and k rotated, of their own types. The Triton version is one pass over both, and its
        backward pass another one, by the negative angle.
    """
    if takes_triton(q, k, cos, sin):
        rotated: tuple[Tensor, Tensor] = _Rotary.apply(q, k, cos, sin)
        return rotated
    return _rotate(q, cos, sin).to(q.dtype), _rotate(k, cos, sin).to(k.dtype)


def rotary_reference(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The formula in float64."""
    cos, sin = cos.double(), sin.double()
    return _rotate(q.double(), cos, sin), _rotate(k.double(), cos, sin)


def takes_triton(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether the Triton version is the one for these tensors."""
    return launch.takes("rotary", q, k, cos, sin, fits=q.shape[-1] % 2 == 0)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (batch, time, heads, dim)."""
    first, second = x.chunk(2, -1)
    return x * cos[:, :, None] + torch.cat([-second, first], -1) * sin[:, :, None]


class _Rotary(torch.autograd.Function):
    """In Triton; keeps cos and sin."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        from models.kernels.gpu import rotary as gpu

        cos, sin = cos.contiguous(), sin.contiguous()
        ctx.save_for_backward(cos, sin)
        return gpu.rotate(q, k, cos, sin, backward=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor) -> Any:
        from models.kernels.gpu import rotary as gpu

        cos, sin = ctx.saved_tensors
        return *gpu.rotate(dq, dk, cos, sin, backward=True), None, None
