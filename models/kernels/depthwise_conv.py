"""Causal depthwise convolution, channels last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (batch, time, dim), weight (dim, width), bias (dim,) -> (batch, time, dim), of x's type.

    y_t = bias + sum_i weight_i x_{t - width + 1 + i}, with zeros before the first step. For the
    few taps of a language model shifted sums are faster than a grouped `conv1d`, which wants its
    channels first. Computes in float32 at least.
    """
    with torch.autocast(x.device.type, enabled=False):
        work = torch.promote_types(x.dtype, torch.float32)
        y = _CausalDepthwiseConv.apply(x.to(work), weight.to(work), bias.to(work))
    return y.to(x.dtype)


def causal_depthwise_conv_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same through `conv1d` in float64."""
    x, weight, bias = (tensor.double() for tensor in (x, weight, bias))
    padded = F.pad(x.mT, (weight.shape[1] - 1, 0))
    return F.conv1d(padded, weight[:, None], bias, groups=len(weight)).mT


class _CausalDepthwiseConv(torch.autograd.Function):
    """One addition per tap; `lag` is the distance from a tap's input to its output."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        taps = weight.flip(1).t().contiguous()  # (width, dim), by lag
        y = torch.addcmul(bias, x, taps[0])
        for lag in range(1, len(taps)):
            y[:, lag:].addcmul_(x[:, :-lag], taps[lag])
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        taps = weight.flip(1).t().contiguous()
        dtaps = torch.empty_like(taps)
        dx = dy * taps[0]
        dtaps[0] = (dy * x).sum((0, 1))
        for lag in range(1, len(taps)):
            dx[:, :-lag].addcmul_(dy[:, lag:], taps[lag])
            dtaps[lag] = (dy[:, lag:] * x[:, :-lag]).sum((0, 1))
        return dx, dtaps.t().flip(1), dy.sum((0, 1))
