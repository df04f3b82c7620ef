"""What follows the mLSTM cell in an xLSTM block (Beck et al. 2024, figure 11).

A layer norm of every head, a learnable skip past the cell, and the output gate:

    y = (norm(h) * weight + skip * x) * silu(gate)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import native, paths
from models.kernels.gpu import launch
from models.kernels.shapes import expect


def gated_head_norm(
    h: Tensor, x: Tensor, gate: Tensor, weight: Tensor, skip: Tensor, eps: float
) -> Tensor:
    """h (..., heads, dim), x and gate (..., heads * dim), weight and skip (heads * dim,)
    -> y like gate, of its type.

    The norm is over the last dimension of h. Computes in float32 at least and rounds once.
    """
    heads = (*h.shape[:-2], h.shape[-2] * h.shape[-1])
    expect("x", x, *heads)
    expect("gate", gate, *heads)
    expect("weight", weight, heads[-1])
    expect("skip", skip, heads[-1])
    if launch.takes("gated_head_norm", h, x, gate, weight, skip):
        return _triton(h, x, gate, weight, skip, eps, gate.dtype)
    work = torch.float64 if torch.float64 in (h.dtype, weight.dtype) else torch.float32
    with torch.autocast(h.device.type, enabled=False):
        y: Tensor = _GatedHeadNorm.apply(
            h.to(work), x.to(gate.dtype), gate, weight.to(work), skip.to(work), eps
        )
    return y


def head_norm(h: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """The norm alone: h (..., heads, dim), weight (heads * dim,) -> (..., heads * dim) of `dtype`.

    In PyTorch a layer norm, which is faster on CPUs than the group norm of the `xlstm` package.
    """
    known = dtype in launch.ELEMENT_TYPES
    if known and launch.takes("gated_head_norm", h, weight):
        return _triton(h, None, None, weight, None, eps, dtype)
    paths.note("gated_head_norm", "torch")
    return (F.layer_norm(h, h.shape[-1:], eps=eps).flatten(-2) * weight).to(dtype)


def gated_head_norm_reference(
    h: Tensor, x: Tensor, gate: Tensor, weight: Tensor, skip: Tensor, eps: float
) -> Tensor:
    """The formula in float64."""
    h, x, gate, weight, skip = (tensor.double() for tensor in (h, x, gate, weight, skip))
    normed = F.layer_norm(h, h.shape[-1:], eps=eps).flatten(-2)
    return (normed * weight + skip * x) * F.silu(gate)


class _GatedHeadNorm(torch.autograd.Function):
    """Keeps its inputs only."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, x: Tensor, gate: Tensor, weight: Tensor, skip: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(h, x, gate, weight, skip)
        ctx.eps = eps
        if _native_takes(h, gate):
            return _forward_native(*_contiguous(h, x), gate, *_contiguous(weight, skip), eps)
        normed, _ = _normed(h, eps)
        merged = normed.flatten(-2).mul_(weight).addcmul_(skip, x.to(h.dtype))
        return merged.mul_(F.silu(gate.to(h.dtype))).to(gate.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        h, x, gate, weight, skip = ctx.saved_tensors
        if _native_takes(h, gate):
            dh, dx, dgate, dparams = _backward_native(
                *_contiguous(h, x), gate, *_contiguous(weight, skip, dy), ctx.eps
            )
            return dh, dx, dgate, *dparams.unbind(), None
        return *_backward_torch(h, x, gate, weight, skip, ctx.eps, dy), None


def _triton(
    h: Tensor,
    x: Tensor | None,
    gate: Tensor | None,
    weight: Tensor,
    skip: Tensor | None,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    with torch.autocast(h.device.type, enabled=False):
        y: Tensor = _GatedHeadNormTriton.apply(h, x, gate, weight, skip, eps, dtype)
    return y


class _GatedHeadNormTriton(torch.autograd.Function):
    """Inputs of any mix of types, which it keeps; x, gate and skip may be None."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        x: Tensor | None,
        gate: Tensor | None,
        weight: Tensor,
        skip: Tensor | None,
        eps: float,
        dtype: torch.dtype,
    ) -> Tensor:
        from models.kernels.gpu import gated_head_norm as gpu

        ctx.save_for_backward(h, x, gate, weight, skip)
        ctx.eps = eps
        y = gpu.forward(*_flat(h, x, gate, weight, skip), eps=eps, dtype=dtype)
        return y.view(*h.shape[:-2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        from models.kernels.gpu import gated_head_norm as gpu

        h, x, gate, weight, skip = ctx.saved_tensors
        flat = _flat(h, x, gate, weight, skip)
        dy = dy.reshape(-1, dy.shape[-1]).contiguous()
        dh, dx, dgate, dparams = gpu.backward(*flat, eps=ctx.eps, dy=dy)
        dweight = dparams[0].to(weight.dtype)
        if dx is None or dgate is None:
            return dh.view(h.shape), None, None, dweight, None, None, None
        dskip = dparams[1].to(skip.dtype)
        return dh.view(h.shape), dx.view(x.shape), dgate.view(x.shape), dweight, dskip, None, None


def _flat(
    h: Tensor, x: Tensor | None, gate: Tensor | None, weight: Tensor, skip: Tensor | None
) -> tuple[Any, ...]:
    """The same with all tokens in the first dimension, as the Triton functions take them."""
    return (
        h.reshape(-1, *h.shape[-2:]).contiguous(),
        None if x is None else x.reshape(-1, x.shape[-1]).contiguous(),
        None if gate is None else native.rows(gate),
        weight.contiguous(),
        None if skip is None else skip.contiguous(),
    )


def _normed(h: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(h - mean) * scale, and scale = 1 / sqrt(variance + eps)."""
    normed = h - h.mean(-1, keepdim=True)
    scale = torch.rsqrt(normed.square().mean(-1, keepdim=True) + eps)
    return normed.mul_(scale), scale


def _backward_torch(
    h: Tensor, x: Tensor, gate: Tensor, weight: Tensor, skip: Tensor, eps: float, dy: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of h, x, gate, weight and skip."""
    kind, (x, gate, dy) = gate.dtype, (tensor.to(h.dtype) for tensor in (x, gate, dy))
    normed, scale = _normed(h, eps)
    flat = normed.flatten(-2)
    is_open = torch.sigmoid(gate)
    dmerged = dy * gate * is_open
    dgate = (flat * weight).addcmul_(skip, x).mul_(dy).mul_(is_open)
    dgate.mul_(is_open.neg_().add_(1).mul_(gate).add_(1))
    rows = tuple(range(gate.dim() - 1))
    dweight, dskip = (dmerged * flat).sum(rows), (dmerged * x).sum(rows)
    dx = (dmerged * skip).to(kind)
    dnormed = dmerged.mul_(weight).view_as(h)
    along = (dnormed * normed).mean(-1, keepdim=True)
    dh = dnormed.sub_(dnormed.mean(-1, keepdim=True)).sub_(normed.mul_(along)).mul_(scale)
    return dh, dx, dgate.to(kind), dweight, dskip


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in tensors)


def _native_takes(h: Tensor, gate: Tensor) -> bool:
    fits = h.shape[-1] % native.LANES == 0
    return native.takes("gated_head_norm", h, fits=fits) and native.takes(
        "gated_head_norm", gate, types=native.ELEMENT_TYPES
    )


@torch.library.custom_op("babysweep::gated_head_norm", mutates_args=())
def _forward_native(
    h: Tensor, x: Tensor, gate: Tensor, weight: Tensor, skip: Tensor, eps: float
) -> Tensor:
    y, rows = torch.empty_like(x), native.rows(gate)
    tensors = (h, x, native.Rows(rows), weight, skip, y)
    native.call("gated_head_norm", "forward", *tensors, *_sizes(h, rows), eps)
    return y


@_forward_native.register_fake
def _(h: Tensor, x: Tensor, gate: Tensor, weight: Tensor, skip: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("babysweep::gated_head_norm_backward", mutates_args=())
def _backward_native(
    h: Tensor, x: Tensor, gate: Tensor, weight: Tensor, skip: Tensor, dy: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dh, dx, dgate = torch.empty_like(h), torch.empty_like(x), torch.empty_like(x)
    dparams, rows = weight.new_empty(2, len(weight)), native.rows(gate)
    tensors = (h, x, native.Rows(rows), weight, skip, dy, dh, dx, dgate, dparams)
    native.call("gated_head_norm", "backward", *tensors, *_sizes(h, rows), eps)
    return dh, dx, dgate, dparams


@_backward_native.register_fake
def _(
    h: Tensor, x: Tensor, gate: Tensor, weight: Tensor, skip: Tensor, dy: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dparams = weight.new_empty(2, len(weight))
    return torch.empty_like(h), torch.empty_like(x), torch.empty_like(x), dparams


def _sizes(h: Tensor, gate: Tensor) -> tuple[int, ...]:
    """Tokens, heads, dim, the distance of the gate's rows, and whether its type is bf16."""
    heads, dim = h.shape[-2:]
    return len(gate), heads, dim, gate.stride(0), int(gate.dtype == torch.bfloat16)
