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
    new_q, new_k = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k))
    _launch((q, k), (new_q, new_k), cos, sin, backward)
    return new_q, new_k


def rotate_in_place(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate as `rotate` does; q and k are parts of the rows of one tensor."""
    _launch((q, k), (q, k), cos, sin, backward=False)


def rotate_back_into(
    gradients: tuple[Tensor, ...],
    out: tuple[Tensor, ...],
    cos: Tensor,
    sin: Tensor,
) -> None:
    """Gradients of q and k after rotation, and of v, to those of parts of the rows of a tensor."""
    _launch(gradients, out, cos, sin, backward=True)


def _launch(
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    cos: Tensor,
    sin: Tensor,
    backward: bool,
) -> None:
    """q, k and perhaps v, each (batch, time, heads, dim); the heads of an output have no gaps."""
    inputs = tuple(_dense(x) for x in inputs)
    (batch, time, heads, dim), kv_heads = inputs[0].shape, inputs[1].shape[2]
    half = triton.next_power_of_2(dim // 2)
    blocks = [triton.next_power_of_2(count) for count in (heads, kv_heads)]
    per_sequence = 0 if len(cos) == 1 else time * dim
    absent = [None] * (3 - len(inputs))
    strides = [stride for x in inputs for stride in x.stride()[:3]] + 3 * len(absent) * [0]
    # A single step's stride may be any number.
    tokens = [x.stride(1 if time > 1 else 0) for x in outputs] + len(absent) * [0]
    arguments = (*inputs, *absent, cos, sin, *outputs, *absent, *strides, *tokens)
    launch(
        _rotate,
        (batch * time,),
        *arguments,
        per_sequence,
        time,
        heads,
        kv_heads,
        dim,
        num_warps=min(8, max(1, max(blocks) * half // 128)),
        HALF=half,
        Q_HEADS=blocks[0],
        K_HEADS=blocks[1],
        BACKWARD=backward,
    )


def _dense(x: Tensor) -> Tensor:
    """x with the entries of a head side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


@triton.jit
def _rotate(
    q,
    k,
    v,
    cos,
    sin,
    new_q,
    new_k,
    new_v,
    q_batch,
    q_time,
    q_head,
    k_batch,
    k_time,
    k_head,
    v_batch,
    v_time,
    v_head,
    new_q_token,
    new_k_token,
    new_v_token,
    table_batch,
    time,
    q_heads,
    k_heads,
    dim,
    HALF: tl.constexpr,
    Q_HEADS: tl.constexpr,
    K_HEADS: tl.constexpr,
    BACKWARD: tl.constexpr,
) -> None:
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
    new_q += token * new_q_token
    new_k += token * new_k_token
    _rotate_heads(q, new_q, c1, s1, c2, s2, q_head, q_heads, dim, half, HALF, Q_HEADS)
    _rotate_heads(k, new_k, c1, s1, c2, s2, k_head, k_heads, dim, half, HALF, K_HEADS)
    if v is not None:
        v += sequence * v_batch + step * v_time
        _copy_heads(v, new_v + token * new_v_token, v_head, k_heads, dim, half, HALF, K_HEADS)


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
) -> None:
    """Rotate all heads of one token, `stride` apart."""
    head = tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, HALF)[None]
    inside = (head < heads) & (at < half)
    start = x + head * stride + at
    first = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(start + half, mask=inside, other=0.0).to(tl.float32)
    end = new_x + head * dim + at
    tl.store(end, first * c1[None] - second * s1[None], mask=inside)
    tl.store(end + half, second * c2[None] + first * s2[None], mask=inside)


@triton.jit
def _copy_heads(
    x, new_x, stride, heads, dim, half, HALF: tl.constexpr, HEADS: tl.constexpr
) -> None:
    head = tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, HALF)[None]
    inside = (head < heads) & (at < half)
    start, end = x + head * stride + at, new_x + head * dim + at
    tl.store(end, tl.load(start, mask=inside, other=0.0), mask=inside)
    tl.store(end + half, tl.load(start + half, mask=inside, other=0.0), mask=inside)
