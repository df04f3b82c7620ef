"""Gated linear attention in Triton, with gates given as logarithms or as HGRN2's preactivations.

Forward: `_walk` once through the sequence for the state in front of every chunk, then `_outputs`
chunk by chunk. Backward: the states again; the same two kernels in reverse, which give the
gradients of the states and of the values; and `gradients`, chunk by chunk. Legend: B batch, T
time, H heads, K key dim, V value dim, N chunks of C steps, X tile of the key dim, Y tile of the
value dim. Stored states stand with the value dim first, (B * H, N, V, K).

A gate scales every product of a later query and an earlier key. Inside a chunk all these products
are made of two factors of at most 1: of the query's and of the key's decay to a place between them.
Two steps that lie in different halves of the same block of 2, 4, ... or C steps (true for one of
these sizes) meet at the middle of the block. All pairs of a size are one matrix product, in which
the second half of each block holds queries and the first half keys. The logarithm of a decay is a
sum of those of gates, that is, a matrix of zeros and ones times them; the gradient of the gates is
the transposed matrix times that of the sums. Nothing grows, whatever the gates are, and no sum
cancels.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.gated_linear_gradients import gradients
from models.kernels.gpu.gated_linear_parts import (
    CHUNK,
    UNTIL,
    columns_of,
    entries,
    faded,
    gate,
    keys,
    pair,
    place,
    queries,
    sum_choices,
    sums,
)
from models.kernels.gpu.launch import dot_precision, launch

X, Y = 32, 128  # at most
WARPS = 4  # a product of 64 rows on Hopper


def forward(
    q: Tensor,
    k: Tensor | None,
    v: Tensor,
    g: Tensor,
    bound: Tensor | None,
    initial_state: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """q, g (B, T, H, K), v (B, T, H, V) -> o like v, and the last state (B, H, K, V), float32.

    With keys k (B, T, H, K), g are logarithms of gates. Without, q and g are the preactivations of
    HGRN2 and bound (H * K,) the lower bound of its gates. All contiguous.
    """
    gates = (k, g, bound, scale)
    last = v.new_empty(v.shape[0], v.shape[2], g.shape[3], v.shape[3], dtype=torch.float32)
    states = _walked(None, v, *gates, first=initial_state, last=last)
    return _all_outputs(q, v, states, *gates, reverse=False), last


def backward(
    q: Tensor,
    k: Tensor | None,
    v: Tensor,
    g: Tensor,
    bound: Tensor | None,
    initial_state: Tensor | None,
    do: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v, g and bound, in their types."""
    gates = (k, g, bound, scale)
    states = _walked(None, v, *gates, first=initial_state)
    dstates = _walked(q, do, *gates)
    dv = _all_outputs(q, do, dstates, *gates, reverse=True)
    dq, dg = torch.empty_like(q), torch.empty_like(g)
    dk = None if k is None else torch.empty_like(k)
    dbound = None
    if bound is not None:
        dbound = bound.new_empty(g.shape[0], triton.cdiv(g.shape[1], CHUNK), len(bound))
    tensors = (q, v, do, states, dstates, dq, dk, dg, dbound)
    constants = _constants(g, v)
    constants["Y"] = min(constants["Y"], 64)  # 128 leave the loop over pairs too few registers
    if v.dtype == torch.float32:
        constants["X"] = 16
    launch(
        gradients,
        (_chunks(v),),
        *(*tensors, *gates, sum_choices(g.device), *g.shape[1:3]),
        num_warps=WARPS,
        **constants,
    )
    return dq, dk, dv, dg, None if dbound is None else dbound.sum((0, 1))


def _walked(
    q: Tensor | None,
    columns: Tensor,
    k: Tensor | None,
    g: Tensor,
    bound: Tensor | None,
    scale: float,
    first: Tensor | None = None,
    last: Tensor | None = None,
) -> Tensor:
    """The state in front of every chunk, from columns = v; with q and columns = do the gradient of
    the state behind every chunk. (B * H, N, V, K) of the columns' type."""
    constants = _constants(g, columns)
    if columns.dtype == torch.float32:
        constants["Y"] = min(constants["Y"], 64)  # a wider state does not fit into registers
    batch, time, heads, values = columns.shape
    walked = columns.new_empty(batch * heads, triton.cdiv(time, CHUNK), values, g.shape[3])
    tiles = triton.cdiv(g.shape[3], constants["X"])
    launch(
        _walk,
        (batch * heads * tiles, triton.cdiv(values, constants["Y"])),
        *(q, columns, first, walked, last, k, g, bound, scale, sum_choices(g.device), time, heads),
        # Y rows are a product of twice as many on Hopper; float32 takes the registers of as many.
        num_warps=2 * WARPS if constants["Y"] == Y or columns.dtype == torch.float32 else WARPS,
        **constants,
    )
    return walked


def _all_outputs(
    q: Tensor,
    values: Tensor,
    states: Tensor,
    k: Tensor | None,
    g: Tensor,
    bound: Tensor | None,
    scale: float,
    reverse: bool,
) -> Tensor:
    """o from v and states, or in reverse dv from do and gradients of states."""
    out = torch.empty_like(values)
    launch(
        _outputs,
        (_chunks(values),),
        *(q, values, states, out, k, g, bound, scale, sum_choices(g.device), *values.shape[1:3]),
        num_warps=2 * WARPS if values.dtype == torch.float32 else WARPS,
        **_constants(g, values),
        REVERSE=reverse,
    )
    return out


def _chunks(v: Tensor) -> int:
    """Number of chunks of all sequences and heads."""
    return v.shape[0] * v.shape[2] * triton.cdiv(v.shape[1], CHUNK)


def _constants(g: Tensor, v: Tensor) -> dict[str, Any]:
    """Constants of the kernels. PARTS: how many bf16 numbers stand for a float32."""
    keys, values = g.shape[3], v.shape[3]
    return {
        "K": keys,
        "V": values,
        "X": min(X, _padded(keys)),
        "Y": min(Y, _padded(values)),
        "C": CHUNK,
        "PARTS": 1 if v.dtype == torch.bfloat16 else 3,
        "PRECISION": dot_precision(v.dtype),
    }


def _padded(dim: int) -> int:
    return max(16, triton.next_power_of_2(dim))


@triton.jit(do_not_specialize=["scale", "time", "heads"])
def _walk(
    q,
    columns,
    first,
    walked,
    last,
    k,
    g,
    bound,
    scale,
    choices,
    time,
    heads,
    K: tl.constexpr,
    V: tl.constexpr,
    X: tl.constexpr,
    Y: tl.constexpr,
    C: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """A tile (Y, X) of the state in front of every chunk, or of the gradient behind it."""
    tiles: tl.constexpr = (K + X - 1) // X
    sequence = tl.program_id(0).to(tl.int64) // tiles
    x = tl.program_id(0) % tiles * X + tl.arange(0, X)
    y = tl.program_id(1) * Y + tl.arange(0, Y)
    step = tl.arange(0, C)[:, None]
    chunks = tl.cdiv(time, C)
    tile, within = entries(y, x, V, K)
    state = tl.zeros((Y, X), tl.float32)
    if first is not None:
        state = tl.trans(_load_state(first + sequence * K * V, x, y, K, V))
    for i in range(0, chunks):
        chunk = sequence * chunks + i
        if q is not None:
            chunk = sequence * chunks + chunks - 1 - i
        _, head, start, here = place(chunk, time, heads, C)
        tl.store(walked + chunk * K * V + tile, state, mask=within)
        at = step * heads * K + x[None, :]
        inside = here & (x[None, :] < K)
        log, key = gate(g, bound, start * K, at, inside, head, x, K)
        row = faded(q, k, key, log, choices, start * K, at, inside, scale, q is None, PARTS, C)
        column = columns_of(columns, start, step, heads, here, y, V)
        state *= tl.exp2(tl.sum(log, 0))[None, :]
        row = row.to(column.dtype)
        state = tl.dot(tl.trans(column), row, state, input_precision=PRECISION)
    if last is not None:
        transposed, kept = entries(x, y, K, V)
        tl.store(last + sequence * K * V + transposed, tl.trans(state), mask=kept)


@triton.jit
def _load_state(first, x, y, K: tl.constexpr, V: tl.constexpr) -> tl.tensor:
    """A tile (X, Y) of a state that is given."""
    at, kept = entries(x, y, K, V)
    return tl.load(first + at, mask=kept, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["scale", "time", "heads"])
def _outputs(
    q,
    values,
    states,
    out,
    k,
    g,
    bound,
    scale,
    choices,
    time,
    heads,
    K: tl.constexpr,
    V: tl.constexpr,
    X: tl.constexpr,
    Y: tl.constexpr,
    C: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
    REVERSE: tl.constexpr,
) -> None:
    """A chunk of outputs from values and the state in front of it; in reverse, of the gradient of
    values from that of outputs and of the state behind it."""
    chunk = tl.program_id(0).to(tl.int64)
    _, head, start, here = place(chunk, time, heads, C)
    step = tl.arange(0, C)[:, None]
    scores = _scores(
        q, k, g, bound, scale, choices, head, heads, start, here,
        K, X, C, PARTS, PRECISION, REVERSE, states.dtype.element_ty,
    )  # fmt: skip
    for from_y in range(0, V, Y):
        y = from_y + tl.arange(0, Y)
        value = columns_of(values, start, step, heads, here, y, V)
        total = tl.dot(scores, value, input_precision=PRECISION)
        for begin in range(0, K, X):
            x = begin + tl.arange(0, X)
            at = step * heads * K + x[None, :]
            inside = here & (x[None, :] < K)
            log, key = gate(g, bound, start * K, at, inside, head, x, K)
            row = faded(q, k, key, log, choices, start * K, at, inside, scale, REVERSE, PARTS, C)
            tile, within = entries(y, x, V, K)
            state = tl.load(states + chunk * K * V + tile, mask=within, other=0.0)
            row = row.to(state.dtype)
            total = tl.dot(row, tl.trans(state), total, input_precision=PRECISION)
        at_y = step * heads * V + y[None, :]
        tl.store(out + start * V + at_y, total, mask=here & (y[None, :] < V))


@triton.jit
def _scores(
    q, k, g, bound, scale, choices, head, heads, start, here,
    K: tl.constexpr, X: tl.constexpr, C: tl.constexpr, PARTS: tl.constexpr,
    PRECISION: tl.constexpr, REVERSE: tl.constexpr, TYPE: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Scores of each step of a chunk for each one (C, C), of TYPE; in reverse, transposed."""
    step = tl.arange(0, C)[:, None]
    other = tl.arange(0, C)[None, :]
    scores = tl.zeros((C, C), tl.float32)  # symmetric
    own = tl.zeros((C,), tl.float32)
    for begin in range(0, K, X):
        x = begin + tl.arange(0, X)
        at = step * heads * K + x[None, :]
        inside = here & (x[None, :] < K)
        log, key = gate(g, bound, start * K, at, inside, head, x, K)
        key = keys(k, key, start * K, at, inside)
        query = queries(q, k, start * K, at, inside, scale)
        own += tl.sum(query * key, 1)
        for size in range(0, UNTIL):
            half = C // 2 >> size
            row = tl.where((step & half) > 0, query, key)
            row *= tl.exp2(sums(choices, size, log, PARTS, C, False))
            row = row.to(TYPE)
            pairs = tl.dot(row, tl.trans(row), input_precision=PRECISION)
            scores += tl.where(pair(step, other, half), pairs, 0.0)
    seen = step < other if REVERSE else step > other
    scores = tl.where(seen, scores, tl.where(step == other, own[:, None], 0.0))
    return scores.to(TYPE)
