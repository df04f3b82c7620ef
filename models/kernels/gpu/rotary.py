"""Rotary position embedding in Triton: queries and keys of a token in one program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.launch import launch


def rotate(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, backward: bool
) -> tuple[Tensor, Tensor]:
    """q, k (batch, time, heads, dim) -> both rotated, without gaps.

    cos, sin (1 or batch, time, dim) are contiguous. `backward` applies the transposed map, which
    for tables of angles is the rotation back.
    """
    q, k = _dense(q), _dense(k)
    batch, time, heads, dim = q.shape
    new_q, new_k = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k))
    half = triton.next_power_of_2(dim // 2)
    blocks = [triton.next_power_of_2(x.shape[2]) for x in (q, k)]
    per_sequence = 0 if len(cos) == 1 else time * dim
    arguments = (q, k, cos, sin, new_q, new_k, *q.stride()[:3], *k.stride()[:3], per_sequence)
    launch(
        _rotate,
        (batch * time,),
        *arguments,
        time,
        heads,
        k.shape[2],
        dim,
        num_warps=min(8, max(1, max(blocks) * half // 128)),
        HALF=half,
        Q_HEADS=blocks[0],
        K_HEADS=blocks[1],
        BACKWARD=backward,
    )
    return new_q, new_k


def _dense(x: Tensor) -> Tensor:
    """x with the entries of a head side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


@triton.jit
def _rotate(
    q,
    k,
    cos,
    sin,
    new_q,
    new_k,
    q_batch,
    q_time,
    q_head,
    k_batch,
    k_time,
    k_head,
    table_batch,
    time,
    q_heads,
    k_heads,
    dim,
    HALF: tl.constexpr,
    Q_HEADS: tl.constexpr,
    K_HEADS: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    """Tables may differ between the halves: c1, s1 belong to the first, c2, s2 to the second."""
    token = tl.program_id(0).to(tl.int64)
    sequence = token // time
    step = token % time
    half = dim // 2
    at = tl.arange(0, HALF)
    inside = at < half
    table = sequence * table_batch + step * dim + at
    c1 = tl.load(cos + table, mask=inside, other=0.0).to(tl.float32)
    s1 = tl.load(sin + table, mask=inside, other=0.0).to(tl.float32)
    c2 = tl.load(cos + table + half, mask=inside, other=0.0).to(tl.float32)
    s2 = tl.load(sin + table + half, mask=inside, other=0.0).to(tl.float32)
    if BACKWARD:
        s1, s2 = -s2, -s1
    q += sequence * q_batch + step * q_time
    k += sequence * k_batch + step * k_time
    new_q += token * q_heads * dim
    new_k += token * k_heads * dim
    _rotate_heads(q, new_q, c1, s1, c2, s2, q_head, q_heads, dim, half, HALF, Q_HEADS)
    _rotate_heads(k, new_k, c1, s1, c2, s2, k_head, k_heads, dim, half, HALF, K_HEADS)


@triton.jit
def _rotate_heads(
    x,
    new_x,
    c1,
    s1,
    c2,
    s2,
    stride,
    heads,
    dim,
    half,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
):
    """All heads of one token, `stride` apart."""
    head = tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, HALF)[None]
    inside = (head < heads) & (at < half)
    start = x + head * stride + at
    first = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(start + half, mask=inside, other=0.0).to(tl.float32)
    end = new_x + head * dim + at
    tl.store(end, first * c1[None] - second * s1[None], mask=inside)
    tl.store(end + half, second * c2[None] + first * s2[None], mask=inside)
