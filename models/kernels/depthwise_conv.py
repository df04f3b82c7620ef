"""Causal depthwise convolution, channels last, with an optional SiLU behind it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import native, paths
from models.kernels.gpu import launch, mamba_library
from models.kernels.shapes import expect

NATIVE_WIDTHS = (2, 3, 4)  # for which the C++ version is compiled
TRITON_WIDTH = 4  # at most


def causal_depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    silu: bool = False,
    initial_state: Tensor | None = None,
) -> Tensor:
    """x (batch, time, dim), weight (dim, width), bias (dim,) -> (batch, time, dim), of x's type.

    y_t = bias + sum_i weight_i x_{t - width + 1 + i}, then SiLU if `silu`. The inputs before the
    first step are `initial_state` (batch, width - 1, dim), zeros if there is none; the state
    behind a sequence is its last width - 1 inputs. Computes in float32 at least.
    """
    expect("weight", weight, x.shape[2], -1)
    expect("bias", bias, x.shape[2])
    past = 0
    if initial_state is not None:
        past = initial_state.shape[1]
        x = torch.cat([initial_state.to(x.dtype), x], 1)
    with torch.autocast(x.device.type, enabled=False):
        wanted = paths.uses_library("depthwise_conv", x.device.type)
        if wanted and mamba_library.takes_convolution(x, weight.shape[1]):
            paths.note("depthwise_conv", "library")
            return mamba_library.convolution(x, weight, bias, silu)[:, past:]
        work = torch.promote_types(x.dtype, torch.float32)
        y: Tensor = _CausalDepthwiseConv.apply(x, weight.to(work), bias.to(work), silu)
    return y[:, past:]


def causal_depthwise_conv_reference(
    x: Tensor, weight: Tensor, bias: Tensor, *, silu: bool = False
) -> Tensor:
    """The same through `conv1d` in float64."""
    x, weight, bias = (tensor.double() for tensor in (x, weight, bias))
    padded = F.pad(x.mT, (weight.shape[1] - 1, 0))
    y = F.conv1d(padded, weight[:, None], bias, groups=len(weight)).mT
    return F.silu(y) if silu else y


class _CausalDepthwiseConv(torch.autograd.Function):
    """Keeps its inputs only; the backward of SiLU computes the sums again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.silu = silu
        if _triton_takes(x, weight, bias):
            from models.kernels.gpu import depthwise_conv as gpu

            return gpu.forward(x, weight, bias, silu)
        taps = weight.t().contiguous()  # (width, dim)
        if _native_takes(x, taps):
            return _forward_native(x, taps, bias.contiguous(), silu)
        y = _sums(x.to(taps.dtype), taps, bias)
        return (F.silu(y, inplace=True) if silu else y).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, bias = ctx.saved_tensors
        if _triton_takes(x, weight, dy):
            from models.kernels.gpu import depthwise_conv as gpu

            return *gpu.backward(x, weight, bias, dy, ctx.silu), None
        taps = weight.t().contiguous()
        if _native_takes(x, taps):
            dx, dtaps, dbias = _backward_native(
                x, taps, bias.contiguous(), dy.contiguous(), ctx.silu
            )
        else:
            inputs, dsums = x.to(taps.dtype), dy.to(taps.dtype)
            if ctx.silu:
                y = _sums(inputs, taps, bias)
                dsums = torch.ops.aten.silu_backward(dsums, y)
            dx, dtaps, dbias = _backward_torch(inputs, taps, dsums)
        return dx.to(x.dtype), dtaps.t(), dbias, None


def _sums(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """One addition per tap; `lag` is the distance from a tap's input to its output.

    For the few taps of a language model shifted sums are faster than a grouped `conv1d`, which
    wants its channels first.
    """
    y = torch.addcmul(bias, x, taps[-1])
    for lag in range(1, min(len(taps), x.shape[1])):
        y[:, lag:].addcmul_(x[:, :-lag], taps[-1 - lag])
    return y


def _backward_torch(x: Tensor, taps: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtaps = torch.zeros_like(taps)
    dx = dy * taps[-1]
    dtaps[-1] = (dy * x).sum((0, 1))
    for lag in range(1, min(len(taps), x.shape[1])):
        dx[:, :-lag].addcmul_(dy[:, lag:], taps[-1 - lag])
        dtaps[-1 - lag] = (dy[:, lag:] * x[:, :-lag]).sum((0, 1))
    return dx, dtaps, dy.sum((0, 1))


def _triton_takes(x: Tensor, weight: Tensor, *others: Tensor) -> bool:
    fits = weight.shape[1] <= TRITON_WIDTH
    return launch.takes("depthwise_conv", x, weight, *others, fits=fits)


def _native_takes(x: Tensor, taps: Tensor) -> bool:
    width, dim = taps.shape
    fits = dim % native.LANES == 0 and width in NATIVE_WIDTHS
    return native.takes("depthwise_conv", taps) and native.takes(
        "depthwise_conv", x, fits=fits, types=native.ELEMENT_TYPES
    )


@torch.library.custom_op("babysweep::depthwise_conv", mutates_args=())
def _forward_native(x: Tensor, taps: Tensor, bias: Tensor, silu: bool) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    steps = native.rows(x)
    sizes = _sizes(x, taps, silu, steps)
    native.call("depthwise_conv", "forward", native.Rows(steps), taps, bias, y, *sizes)
    return y


@_forward_native.register_fake
def _(x: Tensor, taps: Tensor, bias: Tensor, silu: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("babysweep::depthwise_conv_backward", mutates_args=())
def _backward_native(
    x: Tensor, taps: Tensor, bias: Tensor, dy: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty_like(dy)
    dparams = taps.new_empty(len(x), len(taps) + 1, x.shape[-1])
    steps = native.rows(x)
    sizes = _sizes(x, taps, silu, steps)
    tensors = (native.Rows(steps), taps, bias, dy, dx, dparams)
    native.call("depthwise_conv", "backward", *tensors, *sizes)
    dparams = dparams.sum(0)
    return dx, dparams[:-1].clone(), dparams[-1].clone()


@_backward_native.register_fake
def _(
    x: Tensor, taps: Tensor, bias: Tensor, dy: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(dy), torch.empty_like(taps), torch.empty_like(bias)


def _sizes(x: Tensor, taps: Tensor, silu: bool, steps: Tensor) -> tuple[int, ...]:
    """Batch, time, dim, width, whether SiLU, the distance of the steps, and whether bf16."""
    is_bf16 = x.dtype == torch.bfloat16
    return (*x.shape, len(taps), int(silu), steps.stride(0), int(is_bf16))
