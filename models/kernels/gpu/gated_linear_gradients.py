"""Gradients of gated linear attention in Triton: of queries, keys and gates."""

from __future__ import annotations

import triton
import triton.language as tl

from models.kernels.gpu.gated_linear_parts import (
    AFTER,
    LEAST,
    UNTIL,
    columns_of,
    entries,
    gate,
    keys,
    pair,
    place,
    queries,
    sigmoids,
    sums,
)


@triton.jit(do_not_specialize=["scale", "time", "heads"])
def gradients(
    q, v, do, states, dstates, dq, dk, dg, dbound, k, g, bound, scale, choices, time, heads,
    K: tl.constexpr, V: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, C: tl.constexpr,
    PARTS: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """A chunk of the gradients of q, k and g, and its part of the bound's."""
    chunk = tl.program_id(0).to(tl.int64)
    sequence, head, start, here = place(chunk, time, heads, C)
    step = tl.arange(0, C)[:, None]
    own, dscores = _score_gradients(v, do, start, heads, here, V, Y, C, PRECISION)
    dscores = dscores.to(states.dtype.element_ty)
    for begin in range(0, K, X):
        x = begin + tl.arange(0, X)
        at = step * heads * K + x[None, :]
        inside = here & (x[None, :] < K)
        dquery, dkey, whole = _through_states(
            v, do, states, dstates, chunk, start, heads, here, x, K, V, X, Y, C, PRECISION
        )
        log, key = gate(g, bound, start * K, at, inside, head, x, K)
        key = keys(k, key, start * K, at, inside)
        query = queries(q, k, start * K, at, inside, scale)
        dquery *= tl.exp2(sums(choices, UNTIL, log, PARTS, C, False))
        dkey *= tl.exp2(sums(choices, AFTER, log, PARTS, C, False))
        dlog = (whole * tl.exp2(tl.sum(log, 0)))[None, :]
        dlog += sums(choices, UNTIL, query * dquery, PARTS, C, True)
        dlog += sums(choices, AFTER, key * dkey, PARTS, C, True)
        dquery += own * key
        dkey += own * query
        dquery, dkey, dlog = _through_pairs(
            dscores, query, key, log, choices, dquery, dkey, dlog, C, PARTS, PRECISION
        )
        if bound is None:
            tl.store(dq + start * K + at, dquery * scale, mask=inside)
            tl.store(dk + start * K + at, dkey, mask=inside)
            tl.store(dg + start * K + at, dlog, mask=inside)
        else:
            dquery *= scale
            dbound_at = _store_hgrn2(
                q, g, bound, dq, dg, start * K + at, inside, head, x, dquery, dkey, dlog, K
            )
            part = (chunk - sequence * tl.cdiv(time, C)) + sequence // heads * tl.cdiv(time, C)
            tl.store(dbound + (part * heads + head) * K + x, dbound_at, mask=x < K)


@triton.jit
def _score_gradients(
    v, do, start, heads, here,
    V: tl.constexpr, Y: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Gradients of each step's score with itself (C, 1), and with others (C, C), symmetric."""
    step = tl.arange(0, C)[:, None]
    other = tl.arange(0, C)[None, :]
    dscores = tl.zeros((C, C), tl.float32)
    for from_y in range(0, V, Y):
        y = from_y + tl.arange(0, Y)
        value = columns_of(v, start, step, heads, here, y, V)
        dout = columns_of(do, start, step, heads, here, y, V)
        dscores = tl.dot(dout, tl.trans(value), dscores, input_precision=PRECISION)
    own = tl.sum(tl.where(step == other, dscores, 0.0), 1)[:, None]
    dscores = tl.where(step > other, dscores, 0.0)
    return own, dscores + tl.trans(dscores)


@triton.jit
def _through_states(
    v, do, states, dstates, chunk, start, heads, here, x,
    K: tl.constexpr, V: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, C: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Gradients (C, X) of faded queries, by the state in front of the chunk, and of faded keys, by
    that behind it; and (X,) of the decay of the whole chunk."""
    step = tl.arange(0, C)[:, None]
    dquery = tl.zeros((C, X), tl.float32)
    dkey = tl.zeros((C, X), tl.float32)
    whole = tl.zeros((X,), tl.float32)
    for from_y in range(0, V, Y):
        y = from_y + tl.arange(0, Y)
        value = columns_of(v, start, step, heads, here, y, V)
        dout = columns_of(do, start, step, heads, here, y, V)
        tile, within = entries(y, x, V, K)
        state = tl.load(states + chunk * K * V + tile, mask=within, other=0.0)
        dstate = tl.load(dstates + chunk * K * V + tile, mask=within, other=0.0)
        dquery = tl.dot(dout, state, dquery, input_precision=PRECISION)
        dkey = tl.dot(value, dstate, dkey, input_precision=PRECISION)
        whole += tl.sum(state.to(tl.float32) * dstate.to(tl.float32), 0)
    return dquery, dkey, whole


@triton.jit
def _through_pairs(
    dscores, query, key, log, choices, dquery, dkey, dlog,
    C: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Adds to the gradients of queries, keys and gates what comes by products within the chunk."""
    step = tl.arange(0, C)[:, None]
    other = tl.arange(0, C)[None, :]
    for size in range(0, UNTIL):
        half = C // 2 >> size
        later = (step & half) > 0
        decay = tl.exp2(sums(choices, size, log, PARTS, C, False))
        row = tl.where(later, query, key) * decay
        pairs = tl.where(pair(step, other, half), dscores, 0.0)
        drow = tl.dot(pairs, row.to(dscores.dtype), input_precision=PRECISION)
        dlog += sums(choices, size, row * drow, PARTS, C, True)
        drow *= decay
        dquery += tl.where(later, drow, 0.0)
        dkey += tl.where(later, 0.0, drow)
    return dquery, dkey, dlog


@triton.jit
def _store_hgrn2(
    q, g, bound, dq, dg, at, inside, head, x, dquery, dkey, dlog, K: tl.constexpr
) -> tl.tensor:
    """Stores the gradients of HGRN2's preactivations; returns that of the bound (X,)."""
    # Loaded anew: between, registers are scarce.
    raw = tl.load(q + at, mask=inside, other=0.0, eviction_policy="evict_first")
    raw = raw.to(tl.float32)
    opened, closed = sigmoids(raw)
    tl.store(dq + at, dquery * opened * (1 + raw * closed), mask=inside)
    f = tl.load(g + at, mask=inside, other=float("inf"), eviction_policy="evict_first")
    lower = tl.load(bound + head * K + x, mask=x < K, other=0.0)[None, :]
    opened, closed = sigmoids(f.to(tl.float32))
    decay = tl.maximum(lower + (1 - lower) * opened, LEAST, propagate_nan=tl.PropagateNan.ALL)
    dopened = closed * (dlog / decay - dkey)
    tl.store(dg + at, dopened * opened * (1 - lower), mask=inside)
    return tl.sum(dopened, 0)
