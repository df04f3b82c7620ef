"""Causal softmax attention with grouped key/value heads and a rotary embedding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import native, paths
from models.kernels.rotary import rotary as rotate
from models.kernels.rotary import rotary_reference, takes_triton
from models.kernels.shapes import expect

Rotary = tuple[Tensor, Tensor]

# In PyTorch on a CPU: beyond this the (time x time) scores outgrow the caches, and its fused kernel
# wins.
LONGEST_SHORT_SEQUENCE = 256
HALF_TYPES = (torch.bfloat16, torch.float16)


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, rotary: Rotary | None = None
) -> Tensor:
    """softmax(scale * q k^T over the past) v, of q's type.

    Args:
        q: (batch, time, heads, dim).
        k, v: (batch, time, kv_heads, dim); kv_heads divides heads, and each is shared by
            heads // kv_heads query heads in turn.
        scale: of the scores.
        rotary: cos and sin (1 or batch, time, dim), without gradient, to rotate q and k by (see
            `models.kernels.rotary`).

    Returns:
        (batch, time, heads, dim). The C++ version computes in float32, the one in PyTorch in the
        type of its inputs. On a GPU the rotation is a Triton kernel, and PyTorch's fused attention
        does the rest.
    """
    _check(q, k, v, rotary)
    if len({q.dtype, k.dtype, v.dtype}) > 1:
        k, v = k.to(q.dtype), v.to(q.dtype)
    on_triton = rotary is not None and takes_triton(q.shape[-1], q, k, *rotary)
    if not on_triton and _native_takes(q, k, v, rotary):
        cos, sin = rotary or (None, None)
        out: Tensor = _CausalAttention.apply(q, k, v, cos, sin, scale)
        return out
    paths.note("causal_attention", "torch")
    return _attention_torch(q, k, v, scale, rotary)


def _check(q: Tensor, k: Tensor, v: Tensor, rotary: Rotary | None) -> None:
    batch, time, heads, dim = q.shape
    kv_heads = k.shape[2]
    expect("k", k, batch, time, -1, dim)
    expect("v", v, batch, time, kv_heads, dim)
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"{heads} query heads cannot share {kv_heads} key heads evenly")
    for name, table in zip(("cos", "sin"), rotary or (), strict=False):
        expect(name, table, batch if len(table) == batch else 1, time, dim)
        if table.requires_grad:
            raise ValueError(f"{name} requires a gradient, which the rotation does not give")


def causal_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, scale: float, rotary: Rotary | None = None
) -> Tensor:
    """One query at a time in float64; arguments as in `causal_attention`."""
    q, k, v = (x.double() for x in (q, k, v))
    if rotary is not None:
        q, k = rotary_reference(q, k, *rotary)
    groups = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(groups, 2) for x in (k, v))
    outputs = []
    for t in range(q.shape[1]):
        scores = scale * (q[:, t : t + 1] * k[:, : t + 1]).sum(-1)
        outputs.append((scores.softmax(1)[..., None] * v[:, : t + 1]).sum(1))
    return torch.stack(outputs, 1)


def _attention_torch(
    q: Tensor, k: Tensor, v: Tensor, scale: float, rotary: Rotary | None
) -> Tensor:
    """PyTorch's fused attention; on a CPU, short sequences as three plain operations on the
    (time x time) scores.

    Up to a few hundred steps they are as fast as the fused attention there, and several times
    faster under `torch.set_float32_matmul_precision("medium")`, where that is slow at many small
    products.
    """
    batch, time, heads, _ = q.shape
    if rotary is not None:
        q, k = rotate(q, k, *rotary)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    on_gpu = q.device.type != "cpu"
    if on_gpu and q.dtype not in HALF_TYPES:
        # Of other types its kernels for GPUs do not share heads: it would build all scores.
        k, v = (_repeat_heads(x, heads // x.shape[1]) for x in (k, v))
    if on_gpu or time > LONGEST_SHORT_SEQUENCE:
        grouped = heads != k.shape[1]
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=grouped
        )
        return out.transpose(1, 2)
    future = torch.full((time, time), -torch.inf, dtype=q.dtype, device=q.device).triu_(1)
    k, v = (_repeat_heads(x, heads // x.shape[1]) for x in (k, v))
    q, k, v = (x.reshape(batch * heads, time, -1) for x in (q, k, v))
    weights = torch.baddbmm(future, q, k.mT, alpha=scale).softmax(-1)
    out = torch.bmm(weights, v)
    return out.view(batch, heads, time, -1).transpose(1, 2)


def _repeat_heads(x: Tensor, groups: int) -> Tensor:
    """x (batch, kv_heads, time, dim) -> (batch, groups * kv_heads, time, dim)."""
    return x if groups == 1 else x.repeat_interleave(groups, 1)


class _CausalAttention(torch.autograd.Function):
    """Keeps its inputs, its output and one number per query and head."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        scale: float,
    ) -> Tensor:
        q, k, v = (x.contiguous() for x in (q, k, v))
        cos, sin = (None if x is None else x.float().contiguous() for x in (cos, sin))
        inputs = (q, k, v, cos, sin)
        out, lse = _forward_native(*inputs, float(scale))
        ctx.save_for_backward(*inputs, out, lse)
        ctx.scale = float(scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> Any:
        gradients = _backward_native(*ctx.saved_tensors, dout.contiguous(), ctx.scale)
        return *gradients, None, None, None


def _native_takes(q: Tensor, k: Tensor, v: Tensor, rotary: Rotary | None) -> bool:
    lanes = native.LANES if rotary is None else 2 * native.LANES  # rotation halves the heads
    fits = q.shape[-1] % lanes == 0
    return native.takes("causal_attention", q, k, v, fits=fits, types=native.ELEMENT_TYPES)


@torch.library.custom_op("babysweep::causal_attention", mutates_args=())
def _forward_native(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor | None, sin: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    out, lse = torch.empty_like(q), _lse_like(q)
    native.call(
        "causal_attention", "forward", q, k, v, cos, sin, out, lse, *_sizes(q, k, cos), scale
    )
    return out, lse


@_forward_native.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor | None, sin: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), _lse_like(q)


@torch.library.custom_op("babysweep::causal_attention_backward", mutates_args=())
def _backward_native(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    tensors = (q, k, v, cos, sin, out, lse, dout, dq, dk, dv)
    native.call("causal_attention", "backward", *tensors, *_sizes(q, k, cos), scale)
    return dq, dk, dv


@_backward_native.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _lse_like(q: Tensor) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)


def _sizes(q: Tensor, k: Tensor, cos: Tensor | None) -> tuple[int, ...]:
    """B, T, H, G, D, whether in bf16, and the distance between sequences' tables of rotation."""
    batch, time, heads, dim = q.shape
    per_sequence = 0 if cos is None or len(cos) == 1 else time * dim
    return batch, time, heads, k.shape[2], dim, int(q.dtype == torch.bfloat16), per_sequence
