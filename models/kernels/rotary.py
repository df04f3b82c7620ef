"""Rotary position embedding of queries and keys (Su et al. 2021, arXiv 2104.09864)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import paths
from models.kernels.gpu import launch
from models.kernels.linear_loss import product_type


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotates entry i of every head with entry i + dim / 2, as transformers' LLaMA does.

    Args:
        q, k: (batch, time, heads, dim), as many heads each as they like.
        cos, sin: (1 or batch, time, dim), without gradient.

    Returns:
        q and k rotated, of their own types. The Triton version is one pass over both, and its
        backward pass another one, by the negative angle.
    """
    if takes_triton(q.shape[-1], q, k, cos, sin):
        rotated: tuple[Tensor, Tensor] = _Rotary.apply(q, k, cos, sin)
        return rotated
    paths.note("rotary", "torch")
    return _rotate(q, cos, sin).to(q.dtype), _rotate(k, cos, sin).to(k.dtype)


def linear_rotary(
    x: Tensor, weights: tuple[Tensor, ...], cos: Tensor, sin: Tensor, dim: int
) -> tuple[Tensor, ...]:
    """Queries, keys and values of x, the first two rotated as by `rotary`.

    Args:
        x: (batch, time, width).
        weights: of the three projections, each (heads * dim, width); keys and values have as many
            heads.
        cos, sin: as for `rotary`.
        dim: of a head.

    Returns:
        Each (batch, time, heads, dim). With Triton they are parts of one product, rotated where
        they are, and the gradients of x need no adding.
    """
    if not takes_triton(dim, x, cos, sin, *weights):
        q, k, v = (F.linear(x, weight).unflatten(-1, (-1, dim)) for weight in weights)
        return *rotary(q, k, cos, sin), v
    dtype = product_type(x, weights[0])
    heads = [len(weight) // dim for weight in weights]
    with torch.autocast(x.device.type, enabled=False):
        weight = torch.cat([weight.to(dtype) for weight in weights])
        parts: tuple[Tensor, ...] = _LinearRotary.apply(x.to(dtype), weight, cos, sin, heads, dim)
    return parts


def rotary_reference(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The formula in float64."""
    cos, sin = cos.double(), sin.double()
    return _rotate(q.double(), cos, sin), _rotate(k.double(), cos, sin)


def takes_triton(dim: int, *tensors: Tensor) -> bool:
    """Whether the Triton version is the one for these tensors and heads of this dim."""
    return launch.takes("rotary", *tensors, fits=dim % 2 == 0)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (batch, time, heads, dim)."""
    first, second = x.chunk(2, -1)
    return x * cos[:, :, None] + torch.cat([-second, first], -1) * sin[:, :, None]


class _Rotary(torch.autograd.Function):
    """The rotation in Triton; keeps cos and sin."""

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


class _LinearRotary(torch.autograd.Function):
    """The rotation in Triton behind one product; keeps what it is given."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, heads: list[int], dim: int
    ) -> tuple[Tensor, ...]:
        from models.kernels.gpu import rotary as gpu

        cos, sin = cos.contiguous(), sin.contiguous()
        ctx.save_for_backward(x, weight, cos, sin)
        ctx.shape = heads, dim
        q, k, v = _parts(F.linear(x, weight), heads, dim)
        gpu.rotate_in_place(q, k, cos, sin)
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        from models.kernels.gpu import rotary as gpu

        x, weight, cos, sin = ctx.saved_tensors
        product = x.new_empty(*x.shape[:2], len(weight))
        gpu.rotate_back_into(gradients, _parts(product, *ctx.shape), cos, sin)
        dx = product @ weight if ctx.needs_input_grad[0] else None
        dweight = None
        if ctx.needs_input_grad[1]:
            dweight = product.flatten(0, 1).T @ x.flatten(0, 1)
        return dx, dweight, None, None, None, None


def _parts(product: Tensor, heads: list[int], dim: int) -> tuple[Tensor, ...]:
    """product (batch, time, heads of all parts * dim) -> views (batch, time, heads, dim)."""
    parts = product.split([count * dim for count in heads], -1)
    return tuple(part.unflatten(-1, (-1, dim)) for part in parts)
