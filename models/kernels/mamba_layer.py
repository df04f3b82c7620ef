"""A Mamba layer (Gu & Dao 2023, figure 3) between its two large projections, in Triton.

The same kernels as `depthwise_conv` and `selective_scan` launch, with the small products between
them, as one function to autograd. Left to itself autograd copies the gradients of both halves of
the projection side by side, and adds up those of what scan and product read, one large tensor
after the other: here each goes to its place at once.

Legend: B batch, T time, D channels ("intermediate size"), N states, R rank of the step size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels.depthwise_conv import TRITON_WIDTH
from models.kernels.gpu import launch
from models.kernels.selective_scan import TRITON_STATES
from models.kernels.shapes import expect

PARTS = ("depthwise_conv", "selective_scan")


def takes(up: Tensor, conv_weight: Tensor, a: Tensor) -> bool:
    """Whether both parts of a layer run in Triton, in the type of `up` (B, T, 2 D)."""
    fits = conv_weight.shape[-1] <= TRITON_WIDTH and a.shape[1] <= TRITON_STATES
    return fits and launch.takes_together(PARTS, up, conv_weight, a)


def mamba_layer(
    up: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_weight: Tensor,
    step_weight: Tensor,
    step_bias: Tensor,
    a: Tensor,
    skip: Tensor,
) -> Tensor:
    """Map the scan's input and its gate, side by side, to what the projection down reads.

    Args:
        up: (B, T, 2 D), which `takes` takes.
        conv_weight, conv_bias: (D, width) and (D,), of a causal convolution with SiLU.
        x_weight: (R + 2 N, D), of the projection to the step size's rank, B and C of the paper.
        step_weight, step_bias: (D, R) and (D,), of the projection to the step size.
        a: (D, N), rates of the states.
        skip: (D,), the D of the paper.

    Returns:
        (B, T, D) of the type of `up`.
    """
    width, rank = up.shape[-1] // 2, step_weight.shape[1]
    expect("conv_weight", conv_weight, width, -1)
    expect("x_weight", x_weight, rank + 2 * a.shape[1], width)
    expect("step_weight", step_weight, width, rank)
    expect("a", a, width, -1)
    for name, vector in (("conv_bias", conv_bias), ("step_bias", step_bias), ("skip", skip)):
        expect(name, vector, width)
    with torch.autocast(up.device.type, enabled=False):
        parameters = (conv_weight, conv_bias, x_weight, step_weight, step_bias, a, skip)
        y: Tensor = _MambaLayer.apply(up, *parameters)
    return y


class _MambaLayer(torch.autograd.Function):
    """Keeps what its parts keep by themselves."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        from models.kernels.gpu import depthwise_conv, selective_scan

        up, conv_weight, conv_bias, x_weight, step_weight, step_bias, a, skip = inputs
        up = up.contiguous()
        inner, gate = up.chunk(2, -1)
        u = depthwise_conv.forward(inner, conv_weight, conv_bias, True)
        products = x_weight.to(up.dtype), step_weight.to(up.dtype)
        small = u @ products[0].t()
        delta = small[..., : step_weight.shape[1]] @ products[1].t()
        scan = _scan_inputs(u, delta, gate, small, a, skip, step_bias)
        y, _ = selective_scan.forward(scan, softplus=True)
        ctx.types = x_weight.dtype, step_weight.dtype
        ctx.save_for_backward(
            up, conv_weight, conv_bias, *products, step_bias, a, skip, u, small, delta
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        with torch.autocast(dy.device.type, enabled=False):  # a trial's loss calls it within
            return _backward(ctx, dy)


def _scan_inputs(
    u: Tensor, delta: Tensor, gate: Tensor, small: Tensor, a: Tensor, skip: Tensor, bias: Tensor
) -> tuple[Tensor | None, ...]:
    """Inputs of the scan's kernels in their order; there is no initial state."""
    b, c = small[..., -2 * a.shape[1] :].chunk(2, -1)
    return u, delta, gate, a, b, c, skip.contiguous(), bias.contiguous(), None


def _backward(ctx: Any, dy: Tensor) -> Any:
    from models.kernels.gpu import depthwise_conv, selective_scan

    saved = ctx.saved_tensors  # read once: recomputed activations are given once
    up, conv_weight, conv_bias, x_weight, step_weight, step_bias, a, skip, u, small, delta = saved
    dup = torch.empty_like(up)
    (inner, gate), (dinner, dgate) = up.chunk(2, -1), dup.chunk(2, -1)
    scan = _scan_inputs(u, delta, gate, small, a, skip, step_bias)
    du, ddelta, _, da, db, dc, dskip, dstep_bias = selective_scan.backward(
        scan, dy, softplus=True, dgate=dgate
    )
    dsmall, rank = torch.empty_like(small), step_weight.shape[1]
    rows = [x.flatten(0, 1) for x in (du, ddelta, dsmall, small, u)]
    du_rows, ddelta_rows, dsmall_rows, small_rows, u_rows = rows
    dsmall_rows[:, :rank] = ddelta_rows @ step_weight
    dsmall[..., rank:].unflatten(-1, (2, -1)).copy_(torch.stack([db, dc], -2))
    dstep_weight = ddelta_rows.t() @ small_rows[:, :rank]
    dx_weight = dsmall_rows.t() @ u_rows
    du_rows.addmm_(dsmall_rows, x_weight)
    _, dconv_weight, dconv_bias = depthwise_conv.backward(
        inner, conv_weight, conv_bias, du, True, dx=dinner
    )
    dproducts = dx_weight.to(ctx.types[0]), dstep_weight.to(ctx.types[1])
    return dup, dconv_weight, dconv_bias, *dproducts, dstep_bias, da, dskip
