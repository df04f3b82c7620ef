"""An mLSTM layer (Beck et al. 2024, figure 11) between its two large projections, in Triton.

The same kernels as `models.kernels.mlstm` and its neighbours launch, one after the other, as one
function to autograd. Left to itself autograd adds up the gradients of what several of them read,
one large tensor after the other: here each kernel adds to what the one before it wrote.

Legend: B batch, T time, H heads, D head dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import native
from models.kernels.block_diagonal import NATIVE_BLOCK
from models.kernels.depthwise_conv import TRITON_WIDTH
from models.kernels.gpu import launch
from models.kernels.mlstm import EPS, LOWEST_LOG_FORGET
from models.kernels.shapes import expect

PARTS = ("block_diagonal", "depthwise_conv", "gated_head_norm", "mlstm")


def takes(up: Tensor, conv_weight: Tensor, *blocks: Tensor) -> bool:
    """Whether all parts of a layer run in Triton, in the type of `up` (B, T, 2 * H * D)."""
    fits = conv_weight.shape[-1] <= TRITON_WIDTH
    fits &= all(weight.shape[1:] == (NATIVE_BLOCK, NATIVE_BLOCK) for weight in blocks)
    return fits and launch.takes_together(PARTS, up, conv_weight, *blocks)


def mlstm_layer(
    up: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    blocks: tuple[Tensor, Tensor, Tensor],
    gate_weight: Tensor,
    gate_bias: Tensor,
    norm_weight: Tensor,
    skip: Tensor,
    *,
    heads: int,
    eps: float,
) -> Tensor:
    """Compute, of the input and the output gate side by side, what the projection down reads.

    Args:
        up: (B, T, 2 * H * D), which `takes` takes.
        conv_weight, conv_bias: (H * D, width) and (H * D,), of a causal convolution with SiLU.
        blocks: of the projections to q, k and v, (H * D / 4, 4, 4) each.
        gate_weight, gate_bias: (2 * H, 3 * H * D) and (2 * H,), input gates before forget gates.
        norm_weight, skip: (H * D,)
        eps: of the norm.

    Returns:
        (B, T, H * D) of the type of `up`.
    """
    parameters = (conv_weight, conv_bias, *blocks, gate_weight, gate_bias, norm_weight, skip)
    width = up.shape[-1] // 2
    expect("conv_weight", conv_weight, width, conv_weight.shape[-1])
    for name, weight in zip(("q_blocks", "k_blocks", "v_blocks"), blocks, strict=True):
        expect(name, weight, width // NATIVE_BLOCK, NATIVE_BLOCK, NATIVE_BLOCK)
    expect("gate_weight", gate_weight, 2 * heads, 3 * width)
    expect("gate_bias", gate_bias, 2 * heads)
    for name, vector in (("conv_bias", conv_bias), ("norm_weight", norm_weight), ("skip", skip)):
        expect(name, vector, width)
    with torch.autocast(up.device.type, enabled=False):
        y: Tensor = _MLSTMLayer.apply(up, *parameters, heads, eps)
    return y


class _MLSTMLayer(torch.autograd.Function):
    """Keeps what its parts keep by themselves."""

    @staticmethod
    def forward(
        ctx: Any,
        up: Tensor,
        conv_weight: Tensor,
        conv_bias: Tensor,
        q_blocks: Tensor,
        k_blocks: Tensor,
        v_blocks: Tensor,
        gate_weight: Tensor,
        gate_bias: Tensor,
        norm_weight: Tensor,
        skip: Tensor,
        heads: int,
        eps: float,
    ) -> Tensor:
        from models.kernels.gpu import (
            block_diagonal,
            depthwise_conv,
            gated_head_norm,
            mlstm,
            mlstm_gates,
        )

        up = up.contiguous()
        inner, output_gate = up.chunk(2, -1)
        batch, time, width = inner.shape
        convolved = depthwise_conv.forward(inner, conv_weight, conv_bias, True).view(-1, width)
        pair = [q_blocks.contiguous(), k_blocks.contiguous()]
        q, k = block_diagonal.forward(convolved, pair)
        (v,) = block_diagonal.forward(native.rows(inner), [v_blocks.contiguous()])
        gates = gate_bias
        for x, weight in zip((q, k, v), gate_weight.to(up.dtype).chunk(3, 1), strict=True):
            gates = gates + x @ weight.t()
        igate, fgate = gates.view(batch, time, 2 * heads).chunk(2, -1)
        sums, _ = mlstm_gates.scan(igate, fgate, None, LOWEST_LOG_FORGET)
        q, k, v = (x.view(batch, time, heads, -1) for x in (q, k, v))
        h, row_sum, *_ = mlstm.forward(q, k, v, sums, None, None, EPS, False)
        norm = (norm_weight.contiguous(), skip.contiguous())
        rows = (h.flatten(0, 1), convolved, native.rows(output_gate))
        y = gated_head_norm.forward(*rows, *norm, eps=eps, dtype=up.dtype)
        ctx.eps = eps
        ctx.save_for_backward(
            *(up, conv_weight, conv_bias, q_blocks, k_blocks, v_blocks, gate_weight, *norm),
            *(convolved, q, k, v, igate, fgate, *sums, h, row_sum),
        )
        return y.view(batch, time, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        with torch.autocast(dy.device.type, enabled=False):  # a trial's loss calls it within
            return _backward(ctx, dy)


def _backward(ctx: Any, dy: Tensor) -> Any:
    from models.kernels.gpu import block_diagonal, depthwise_conv
    from models.kernels.gpu.mlstm_gates import Gates

    saved = ctx.saved_tensors  # read once: recomputed activations are given once
    up, conv_weight, conv_bias, q_blocks, k_blocks, v_blocks, gate_weight = saved[:7]
    norm_weight, skip, convolved, q, k, v, igate, fgate, *sums, h, row_sum = saved[7:]
    dup = torch.empty_like(up)
    (inner, output_gate), (dinner, dgate) = up.chunk(2, -1), dup.chunk(2, -1)
    gates, width = Gates(*sums), inner.shape[-1]
    behind_cell = (h, convolved, output_gate, norm_weight, skip)
    dnumerator, dscale, dsum, dskipped, dnorm = _backward_norm(
        *behind_cell, ctx.eps, dy, dgate, gates, row_sum
    )
    dvectors, dgate_weight, dgate_bias = _backward_cell(
        q, k, v, igate, fgate, gates, gate_weight, dnumerator, dscale, dsum
    )
    dq, dk, dv = (x.view(-1, width) for x in dvectors)
    pair = [q_blocks.contiguous(), k_blocks.contiguous()]
    dconvolved, dpair = block_diagonal.backward(convolved, pair, [dq, dk], dskipped)
    v_only = [v_blocks.contiguous()]
    dvalue, (dv_blocks,) = block_diagonal.backward(native.rows(inner), v_only, [dv])
    dconvolved, dvalue = dconvolved.view(inner.shape), dvalue.view(inner.shape)
    convolution = (inner, conv_weight, conv_bias)
    _, dconv_weight, dconv_bias = depthwise_conv.backward(
        *convolution, dconvolved, True, dvalue, dinner
    )
    dparameters = (dconv_weight, dconv_bias, *dpair, dv_blocks, dgate_weight, dgate_bias)
    return dup, *dparameters, *dnorm.unbind(), None, None


def _backward_norm(
    h: Tensor,
    convolved: Tensor,
    output_gate: Tensor,
    weight: Tensor,
    skip: Tensor,
    eps: float,
    dy: Tensor,
    dgate: Tensor,
    gates: Any,
    row_sum: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of h times its scale (B, T, H, D), of the scale and of the row sum, of what skips
    the cell (rows, H * D), and of the norm's weight and the skip (2, H * D); into dgate that of the
    output gate."""
    from models.kernels.gpu import gated_head_norm

    room = torch.empty_like(row_sum), torch.empty_like(row_sum)
    scale = gated_head_norm.HeadDivisors(row_sum, gates.floor, EPS, *room)
    dnumerator, dskipped, _, dnorm = gated_head_norm.backward(
        *(h.flatten(0, 1), convolved, native.rows(output_gate), weight, skip),
        eps=eps,
        dy=dy.reshape(convolved.shape).contiguous(),
        dgate=dgate.flatten(0, 1),
        scale=scale,
    )
    assert dskipped is not None
    return dnumerator.view(h.shape), *room, dskipped, dnorm


def _backward_cell(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    gates: Any,
    gate_weight: Tensor,
    dnumerator: Tensor,
    dscale: Tensor,
    dsum: Tensor,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of q, k and v (rows, H * D), and of the gates' weight and bias."""
    from models.kernels.gpu import mlstm, mlstm_gates

    grads = mlstm.backward_products(q, k, v, gates, None, None, dnumerator, dsum)
    *dvectors, q_dq, k_dk = grads
    dgates = mlstm_gates.gradients(igate, fgate, gates, q_dq, k_dk, dscale, EPS)
    both = torch.cat(dgates, -1).flatten(0, 1)
    rounded = both.to(q.dtype)
    totals, dweights = [], []
    for x, dx, weight in zip((q, k, v), dvectors, gate_weight.to(q.dtype).chunk(3, 1), strict=True):
        rows = len(rounded), weight.shape[1]
        totals.append(dx.view(rows).addmm_(rounded, weight))
        dweights.append(rounded.t() @ x.view(rows))
    dweight = torch.cat(dweights, 1).to(gate_weight.dtype)
    return totals, dweight, both.sum(0)
