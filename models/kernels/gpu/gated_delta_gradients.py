"""Gradients of the gated delta rule in Triton: of queries, keys, gates and writing strengths."""

from __future__ import annotations

import triton
import triton.language as tl

from models.kernels.gpu.gated_delta_parts import ends, gates, matrix, pair_decays, strengths
from models.kernels.gpu.gated_linear_parts import columns_of, entries, place


@triton.jit(do_not_specialize=["scale", "time", "heads"])
def gradients(
    q, k, v, do, g, beta, fades, scores, updates, drights, states, dstates, dq, dk, dg, dbeta,
    scale, time, heads,
    K: tl.constexpr, V: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, C: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """A chunk of the gradients of q, k, g and beta."""
    chunk = tl.program_id(0).to(tl.int64)
    _, _, start, here = place(chunk, time, heads, C)
    step, other = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    strength = strengths(beta, start, heads, here, C)
    opening, closing, kept = ends(fades, chunk, C)
    decay = pair_decays(gates(g, start, heads, here, C), C)
    dscores, dsystem, dstrength = _through_values(
        v, do, updates, drights, start, heads, here, V, Y, C, PRECISION
    )
    overlaps = tl.zeros((C, C), tl.float32)
    for begin in range(0, K, X):
        key = columns_of(k, start, step, heads, here, begin + tl.arange(0, X), K)
        overlaps = tl.dot(key, tl.trans(key), overlaps, input_precision=PRECISION)
    dsystem = tl.where(step > other, dsystem * decay, 0.0)  # but for the strength
    inside = dsystem * overlaps
    dstrength -= tl.sum(inside, 1)
    # Of the logarithm of what is left at a step of another.
    dlogs = dscores * tl.load(scores + matrix(chunk, C)).to(tl.float32)
    dlogs = tl.where(step > other, dlogs - inside * strength[:, None], 0.0)
    dlog = _of_pairs(dlogs, C)
    dscores = (dscores * decay * scale).to(q.dtype.element_ty)
    dsystem *= strength[:, None]
    both = (dsystem + tl.trans(dsystem)).to(q.dtype.element_ty)
    dopening, dclosing = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
    dkept = tl.zeros((X,), tl.float32)
    for begin in range(0, K, X):
        x = begin + tl.arange(0, X)
        asked, held, written, whole = _through_states(
            do, drights, updates, states, dstates, chunk, start, heads, here, x,
            K, V, X, Y, C, PRECISION,
        )  # fmt: skip
        key = columns_of(k, start, step, heads, here, x, K)
        query = columns_of(q, start, step, heads, here, x, K)
        asked *= (opening * scale)[:, None]
        held *= opening[:, None]
        written *= closing[:, None]
        read = tl.sum(key * held, 1)
        dopening += tl.sum(query * asked, 1) - strength * read
        dstrength -= read
        dclosing += tl.sum(key * written, 1)
        dkept += whole
        asked = tl.dot(dscores, key, asked, input_precision=PRECISION)
        written -= strength[:, None] * held
        written = tl.dot(tl.trans(dscores), query, written, input_precision=PRECISION)
        written -= tl.dot(both, key, input_precision=PRECISION)
        at, within = start * K + step * heads * K + x[None, :], here & (x[None, :] < K)
        tl.store(dq + at, asked, mask=within)
        tl.store(dk + at, written, mask=within)
    dlog += tl.sum(dkept, 0) * kept
    row, there = start + tl.arange(0, C) * heads, tl.reshape(here, (C,))
    tl.store(dg + row, dlog + _of_ends(dopening, dclosing, C), mask=there)
    tl.store(dbeta + row, dstrength, mask=there)


@triton.jit
def _of_pairs(dlogs, C: tl.constexpr) -> tl.tensor:
    """Gradients of a chunk's gates (C,), in logarithms, from those of what is left at step t of
    step s (C, C): a gate lies between all steps before it and all from its own on."""
    t, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return tl.sum(tl.where(t >= s, tl.cumsum(dlogs, 1) - dlogs, 0.0), 0)


@triton.jit
def _of_ends(dopening, dclosing, C: tl.constexpr) -> tl.tensor:
    """The same (C,) from those of what is left at a step of the state before, and behind of it."""
    t, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return tl.sum(tl.where(t >= s, dopening[:, None], dclosing[:, None]), 0)


@triton.jit
def _through_values(
    v, do, updates, drights, start, heads, here,
    V: tl.constexpr, Y: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Gradients of the scores (C, C), of the system's matrix (C, C), with its sign changed, and of
    the writing strengths (C,), as far as it comes by the values."""
    step = tl.arange(0, C)[:, None]
    dscores = tl.zeros((C, C), tl.float32)
    dsystem = tl.zeros((C, C), tl.float32)
    dstrength = tl.zeros((C,), tl.float32)
    for from_y in range(0, V, Y):
        y = from_y + tl.arange(0, Y)
        update = tl.trans(columns_of(updates, start, step, heads, here, y, V))
        dout = columns_of(do, start, step, heads, here, y, V)
        dright = columns_of(drights, start, step, heads, here, y, V)
        value = columns_of(v, start, step, heads, here, y, V)
        dscores = tl.dot(dout, update, dscores, input_precision=PRECISION)
        dsystem = tl.dot(dright, update, dsystem, input_precision=PRECISION)
        dstrength += tl.sum(dright.to(tl.float32) * value.to(tl.float32), 1)
    return dscores, dsystem, dstrength


@triton.jit
def _through_states(
    do, drights, updates, states, dstates, chunk, start, heads, here, x,
    K: tl.constexpr, V: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, C: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """What the states before and behind the chunk give to the gradients (C, X) of queries, of keys
    that read and of keys that are written, and parts (X,) of that of the whole chunk's decay."""
    step = tl.arange(0, C)[:, None]
    asked = tl.zeros((C, X), tl.float32)
    held = tl.zeros((C, X), tl.float32)
    written = tl.zeros((C, X), tl.float32)
    whole = tl.zeros((X,), tl.float32)
    for from_y in range(0, V, Y):
        y = from_y + tl.arange(0, Y)
        tile, within = entries(x, y, K, V)
        state = tl.load(states + chunk * K * V + tile, mask=within, other=0.0)
        dstate = tl.load(dstates + chunk * K * V + tile, mask=within, other=0.0)
        dout = columns_of(do, start, step, heads, here, y, V)
        dright = columns_of(drights, start, step, heads, here, y, V)
        update = columns_of(updates, start, step, heads, here, y, V)
        asked = tl.dot(dout, tl.trans(state), asked, input_precision=PRECISION)
        held = tl.dot(dright, tl.trans(state), held, input_precision=PRECISION)
        written = tl.dot(update, tl.trans(dstate), written, input_precision=PRECISION)
        whole += tl.sum(state.to(tl.float32) * dstate.to(tl.float32), 1)
    return asked, held, written, whole
