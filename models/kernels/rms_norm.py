"""RMS norm over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import native
from models.kernels.gpu import launch
from models.kernels.shapes import expect


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """x (..., dim), weight (dim,) -> x / sqrt(mean(x^2) + eps) * weight, of `dtype` or x's type.

    Computes in float32 at least and rounds once. Asking for the `dtype` that the next layers work
    in (under autocast bf16) saves each of them its own cast.
    """
    expect("weight", weight, x.shape[-1])
    dtype = dtype or x.dtype
    with torch.autocast(x.device.type, enabled=False):
        if torch.float64 in (x.dtype, weight.dtype):
            weight, work = weight.double(), torch.float64
        else:
            weight, work = weight.float(), torch.float32
        y: Tensor = _RMSNorm.apply(x.reshape(-1, x.shape[-1]), weight, eps, dtype, work)
    return y.view(x.shape)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """x, residual (..., dim) -> `rms_norm` of their sum, by default of its type; and the sum.

    One pass over memory in Triton, in either direction; elsewhere a sum and a norm.
    """
    expect("residual", residual, *x.shape)
    dtype = dtype or torch.promote_types(x.dtype, residual.dtype)
    if not (dtype in launch.ELEMENT_TYPES and launch.takes("rms_norm", x, residual, weight)):
        total = x + residual
        return rms_norm(total, weight, eps, dtype), total
    expect("weight", weight, x.shape[-1])
    flat = (t.reshape(-1, x.shape[-1]) for t in (x, residual))
    with torch.autocast(x.device.type, enabled=False):
        y, total = _AddRMSNorm.apply(*flat, weight.float(), eps, dtype)
    return y.view(x.shape), total.view(x.shape)


def stream_rms_norm(
    x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x (..., dim), weight (dim,) -> `rms_norm` of x, of `dtype`, and x.

    Go on with the x that is returned: in Triton, the backward of the norm adds the gradient that
    comes through it as it writes that of x.
    """
    if not _triton_takes(x, weight, dtype):
        return rms_norm(x, weight, eps, dtype), x
    expect("weight", weight, x.shape[-1])
    with torch.autocast(x.device.type, enabled=False):
        flat = x.reshape(-1, x.shape[-1])
        y, passed = _AddRMSNorm.apply(flat, None, weight.float(), eps, dtype)
    return y.view(x.shape), passed.view(x.shape)


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The formula in float64."""
    x, weight = x.double(), weight.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


class _RMSNorm(torch.autograd.Function):
    """Keeps the input and one scale per row."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype, work: torch.dtype
    ) -> Tensor:
        if _triton_takes(x, weight, dtype):
            from models.kernels.gpu import rms_norm as gpu

            y, scale = gpu.forward(x.contiguous(), weight.contiguous(), eps, dtype)
        elif _native_takes(x, weight, dtype):
            y, scale = _forward_native(x.contiguous(), weight.contiguous(), eps, dtype)
        else:
            entries = x.to(work)
            norm = torch.linalg.vector_norm(entries, dim=-1, keepdim=True)
            scale = torch.rsqrt(norm.square() / x.shape[-1] + eps)
            y = (entries * scale).mul_(weight).to(dtype)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        if _triton_takes(x, weight, dy.dtype):
            from models.kernels.gpu import rms_norm as gpu

            dx, dweight = gpu.backward(*(t.contiguous() for t in (x, weight, scale, dy)))
        elif _native_takes(x, weight, dy.dtype):
            inputs = (tensor.contiguous() for tensor in (x, weight, scale, dy))
            dx, dweight = _backward_native(*inputs)
        else:
            dx, dweight = _backward_torch(x, weight, scale, dy)
        return dx, dweight, None, None, None


class _AddRMSNorm(torch.autograd.Function):
    """A sum, x alone without a residual, and its RMS norm in Triton; keeps both scale and sum."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        from models.kernels.gpu import rms_norm as gpu

        x, weight = x.contiguous(), weight.contiguous()
        if residual is None:
            y, scale = gpu.forward(x, weight, eps, dtype)
            total = x.view_as(x)
        else:
            y, total, scale = gpu.add_forward(x, residual.contiguous(), weight, eps, dtype)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(total, weight, scale)
        ctx.types = x.dtype, None if residual is None else residual.dtype
        return y, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dtotal: Tensor | None) -> Any:
        from models.kernels.gpu import rms_norm as gpu

        total, weight, scale = ctx.saved_tensors
        dy = torch.zeros_like(total) if dy is None else dy.contiguous()
        dtotal = None if dtotal is None else dtotal.contiguous()
        gradients = gpu.add_backward(total, weight.contiguous(), scale, dy, dtotal, ctx.types)
        return *gradients, None, None


def _backward_torch(x: Tensor, weight: Tensor, scale: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """y_i = n_i weight_i with n = x * scale, so that dn/dx = scale * (1 - n n^T / dim)."""
    normed = x.to(scale.dtype) * scale
    product = normed * dy
    # Not `product @ weight`, which on some CPUs adds in another order with other thread counts.
    along = (product * weight).sum(-1, keepdim=True) / x.shape[-1]
    dx = torch.addcmul(weight * dy, normed, along, value=-1).mul_(scale)
    return dx.to(x.dtype), product.sum(0)


def _triton_takes(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    return dtype in launch.ELEMENT_TYPES and launch.takes("rms_norm", x, weight)


def _native_takes(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    fits = x.shape[-1] % native.LANES == 0
    types = native.ELEMENT_TYPES
    known = dtype in types and native.takes("rms_norm", weight)
    return known and native.takes("rms_norm", x, fits=fits, types=types)


@torch.library.custom_op("babysweep::rms_norm", mutates_args=())
def _forward_native(
    x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(x, dtype=dtype)
    scale = weight.new_empty(len(x), 1)
    native.call("rms_norm", "forward", x, weight, y, scale, *x.shape, *_is_bf16(x, y), eps)
    return y, scale


@_forward_native.register_fake
def _(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=dtype), weight.new_empty(len(x), 1)


@torch.library.custom_op("babysweep::rms_norm_backward", mutates_args=())
def _backward_native(x: Tensor, weight: Tensor, scale: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    dx, dweight = torch.empty_like(x), torch.empty_like(weight)
    tensors = (x, weight, scale, dy, dx, dweight)
    native.call("rms_norm", "backward", *tensors, *x.shape, *_is_bf16(x, dy))
    return dx, dweight


@_backward_native.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight)


def _is_bf16(x: Tensor, y: Tensor) -> tuple[int, int]:
    return int(x.dtype == torch.bfloat16), int(y.dtype == torch.bfloat16)
