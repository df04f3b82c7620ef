"""The gated delta rule in Triton; formulas as in `models.kernels.gated_delta_rule`.

Forward: `_solve`, chunk by chunk, inverts the system of each chunk and scores its steps; `_walk`
goes through a sequence once, with a tile of the state in registers. Backward: both again, for the
updates and the state in front of every chunk; `_walk_back`, the same in reverse; and `gradients`,
chunk by chunk. Legend: B batch, T time, H heads, K key dim, V value dim, N chunks of C steps, X
tile of the key dim, Y tile of the value dim. Between the kernels what belongs to a chunk stands in
the type of the values: states (B * H, N, K, V), matrices (B * H, N, C, C).

What the triangular systems are inverted for and what reads the state are one product with a tile of
values: nothing as wide as the keys is ever stored. In bf16 updates are rounded, as fla's are: where
many keys of a chunk are nearly one, its updates cancel each other and their errors add up (to 3% of
the largest output at a cosine of 0.9).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.gated_delta_gradients import gradients
from models.kernels.gpu.gated_delta_parts import (
    ends,
    gates,
    matrix,
    pair_decays,
    store_ends,
    strengths,
)
from models.kernels.gpu.gated_linear_parts import columns_of, entries, pair, place
from models.kernels.gpu.launch import dot_precision, launch

F32, BF16 = torch.float32, torch.bfloat16
CHUNKS = {BF16: 64, F32: 16}  # products in three passes take more registers
WARPS = 4


class Solved(NamedTuple):
    """Of all chunks.

    Attributes:
        inverses: of their systems, (B * H, N, C, C).
        scores: of each step for each one, (B * H, N, C, C).
        fades: what is left at a step of the state before the chunk, and behind the chunk of a step;
            (B * H, N, 2, C), float32.
    """

    inverses: Tensor
    scores: Tensor
    fades: Tensor


class Inputs(NamedTuple):
    """As `models.kernels.gated_delta_rule` takes them, contiguous."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    initial_state: Tensor | None
    scale: float


def forward(x: Inputs) -> tuple[Tensor, Tensor]:
    """o like v, and the last state (B, H, K, V), float32."""
    o = torch.empty_like(x.v)
    last = x.v.new_empty(len(x.v), *x.k.shape[2:], x.v.shape[3], dtype=F32)
    _walk_through(x, _solved(x), out=o, last=last)
    return o, last


def backward(x: Inputs, do: Tensor) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, g and beta, in their types."""
    solved = _solved(x)
    batch, time, heads, values = x.v.shape
    states = x.v.new_empty(
        batch * heads, triton.cdiv(time, CHUNKS[x.v.dtype]), x.k.shape[3], values
    )
    dstates, updates, drights = torch.empty_like(states), *(torch.empty_like(x.v) for _ in "ab")
    _walk_through(x, solved, updates=updates, states=states)
    dq, dk, dv, dg, dbeta = (torch.empty_like(tensor) for tensor in x[:5])
    launch(
        _walk_back,
        _tiles(x),
        *(x.q, x.k, do, x.beta, *solved, dv, drights, dstates),
        *(x.scale, time, heads),
        num_warps=_warps(x, widest=64),
        **_constants(x, whole=True),
    )
    launch(
        gradients,
        (len(states) * states.shape[1],),
        *(x.q, x.k, x.v, do, x.g, x.beta, solved.fades, solved.scores),
        *(updates, drights, states, dstates),
        *(dq, dk, dg, dbeta, x.scale, time, heads),
        num_warps=2 * WARPS,
        **_constants(x, whole=False),
    )
    return dq, dk, dv, dg, dbeta


def _solved(x: Inputs) -> Solved:
    batch, time, heads, _ = x.q.shape
    size = CHUNKS[x.v.dtype]
    chunks = triton.cdiv(time, size)
    inverses, scores = x.v.new_empty(2, batch * heads, chunks, size, size)
    solved = Solved(inverses, scores, x.v.new_empty(batch * heads, chunks, 2, size, dtype=F32))
    constants = _constants(x, whole=False)
    del constants["V"], constants["Y"]
    launch(
        _solve,
        (batch * heads * chunks,),
        *(x.q, x.k, x.g, x.beta, *solved, x.scale, time, heads),
        num_warps=WARPS,
        **constants,
        LEVELS=size.bit_length() - 1,
        # Where keys are much alike an inverse is a difference of larger numbers, in bf16, too.
        SPLIT=x.v.dtype == BF16,
    )
    return solved


def _walk_through(
    x: Inputs,
    solved: Solved,
    *,
    out: Tensor | None = None,
    last: Tensor | None = None,
    updates: Tensor | None = None,
    states: Tensor | None = None,
) -> None:
    """Fills what is given: outputs and the last state; updates and the states before the chunks."""
    launch(
        _walk,
        _tiles(x),
        *(x.q, x.k, x.v, x.beta, x.initial_state, *solved),
        *(out, last, updates, states, x.scale, *x.v.shape[1:3]),
        num_warps=_warps(x, widest=128),
        **_constants(x, whole=True),
    )


def _tiles(x: Inputs) -> tuple[int, int]:
    """Programs of a walk: all sequences and heads, and tiles of values."""
    batch, _, heads, values = x.v.shape
    return batch * heads, triton.cdiv(values, _constants(x, whole=True)["Y"])


def _constants(x: Inputs, whole: bool) -> dict[str, Any]:
    """Constants of the kernels: of those with all keys of a tile of the state, or of the rest."""
    keys, values = x.k.shape[3], x.v.shape[3]
    wide, narrow = _padded(keys), _padded(values)
    return {
        "K": keys,
        "V": values,
        "X": wide if whole else min(32, wide),
        "Y": min(16 if whole and wide > 128 else 32, narrow),
        "C": CHUNKS[x.v.dtype],
        "PRECISION": dot_precision(x.v.dtype),
    }


def _warps(x: Inputs, widest: int) -> int:
    """Warps that have the registers for a tile of the state, of how many keys four have them."""
    return WARPS if _padded(x.k.shape[3]) <= widest and x.v.dtype == BF16 else 2 * WARPS


def _padded(dim: int) -> int:
    return max(16, triton.next_power_of_2(dim))


@triton.jit
def _product(a, b, SPLIT: tl.constexpr) -> tl.tensor:
    """a b of float32, in three passes: of TF32, or of the two bf16 numbers that hold 16 bits."""
    if SPLIT:
        high_a, high_b = a.to(tl.bfloat16), b.to(tl.bfloat16)
        low_a = (a - high_a.to(tl.float32)).to(tl.bfloat16)
        low_b = (b - high_b.to(tl.float32)).to(tl.bfloat16)
        return tl.dot(high_a, high_b, tl.dot(high_a, low_b, tl.dot(low_a, high_b)))
    else:
        return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _inverted(lower, C: tl.constexpr, LEVELS: tl.constexpr, SPLIT: tl.constexpr) -> tl.tensor:
    """The inverse of 1 + lower, (C, C) and zero from the diagonal upwards.

    Of two blocks of known inverses P and Q and of R below the first and beside the second the
    inverse has -Q R P in R's place: so from blocks of one step to the whole, all blocks of a size
    at once. Nothing is larger on the way than in the result.
    """
    t, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    inverse = tl.where(t == s, 1.0, 0.0) - tl.where(pair(t, s, 1), lower, 0.0)
    for level in range(1, LEVELS):
        between = tl.where(pair(t, s, 1 << level), lower, 0.0)
        inverse -= _product(_product(inverse, between, SPLIT), inverse, SPLIT)
    return inverse


@triton.jit(do_not_specialize=["scale", "time", "heads"])
def _solve(
    q, k, g, beta, inverses, scores, fades, scale, time, heads,
    K: tl.constexpr, X: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr,
    LEVELS: tl.constexpr, SPLIT: tl.constexpr,
) -> None:  # fmt: skip
    """The inverse of a chunk's system (C, C), and the scores of its steps."""
    chunk = tl.program_id(0).to(tl.int64)
    _, _, start, here = place(chunk, time, heads, C)
    step = tl.arange(0, C)[:, None]
    overlaps = tl.zeros((C, C), tl.float32)
    products = tl.zeros((C, C), tl.float32)
    for begin in range(0, K, X):
        x = begin + tl.arange(0, X)
        key = columns_of(k, start, step, heads, here, x, K)
        query = columns_of(q, start, step, heads, here, x, K)
        overlaps = tl.dot(key, tl.trans(key), overlaps, input_precision=PRECISION)
        products = tl.dot(query, tl.trans(key), products, input_precision=PRECISION)
    log = gates(g, start, heads, here, C)
    store_ends(fades, log, chunk, C)
    decay = pair_decays(log, C)
    strength = strengths(beta, start, heads, here, C)
    at = matrix(chunk, C)
    tl.store(scores + at, products * decay * scale)
    other = tl.arange(0, C)[None, :]
    lower = tl.where(step > other, overlaps * decay * strength[:, None], 0.0)
    tl.store(inverses + at, _inverted(lower, C, LEVELS, SPLIT))


@triton.jit(do_not_specialize=["scale", "time", "heads"])
def _walk(
    q, k, v, beta, first, inverses, scores, fades, out, last, updates, states, scale, time, heads,
    K: tl.constexpr, V: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, C: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """A tile (X, Y) of the state through a sequence, with all its keys."""
    sequence = tl.program_id(0).to(tl.int64)
    x, y = tl.arange(0, X), tl.program_id(1) * Y + tl.arange(0, Y)
    step = tl.arange(0, C)[:, None]
    chunks = tl.cdiv(time, C)
    tile, within = entries(x, y, K, V)
    state = tl.zeros((X, Y), tl.float32)
    if first is not None:
        state = tl.load(first + sequence * K * V + tile, mask=within, other=0.0).to(tl.float32)
    for i in range(0, chunks):
        chunk = sequence * chunks + i
        _, _, start, here = place(chunk, time, heads, C)
        opening, closing, kept = ends(fades, chunk, C)
        strength = strengths(beta, start, heads, here, C)
        key = columns_of(k, start, step, heads, here, x, K)
        value = columns_of(v, start, step, heads, here, y, V)
        if states is not None:
            tl.store(states + chunk * K * V + tile, state, mask=within)
        before = state.to(value.dtype)
        held = tl.dot(key, before, input_precision=PRECISION)
        if out is not None:
            query = columns_of(q, start, step, heads, here, x, K)
            total = tl.dot(query, before, input_precision=PRECISION) * (opening * scale)[:, None]
        right = (value - opening[:, None] * held) * strength[:, None]
        inverse = tl.load(inverses + matrix(chunk, C))
        update = tl.dot(inverse, right.to(value.dtype), input_precision=PRECISION)
        left = (update * closing[:, None]).to(value.dtype)
        at = start * V + step * heads * V + y[None, :]
        inside = here & (y[None, :] < V)
        if updates is not None:
            tl.store(updates + at, update, mask=inside)
        state = tl.dot(tl.trans(key), left, state * kept, input_precision=PRECISION)
        if out is not None:
            score = tl.load(scores + matrix(chunk, C))
            update = update.to(value.dtype)
            total = tl.dot(score, update, total, input_precision=PRECISION)
            tl.store(out + at, total, mask=inside)
    if last is not None:
        tl.store(last + sequence * K * V + tile, state, mask=within)


@triton.jit(do_not_specialize=["scale", "time", "heads"])
def _walk_back(
    q, k, do, beta, inverses, scores, fades, dv, drights, dstates, scale, time, heads,
    K: tl.constexpr, V: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, C: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """A tile (X, Y) of the state's gradient, that behind every chunk stored; gradients of the right
    sides of the systems, and of the values."""
    sequence = tl.program_id(0).to(tl.int64)
    x, y = tl.arange(0, X), tl.program_id(1) * Y + tl.arange(0, Y)
    step = tl.arange(0, C)[:, None]
    chunks = tl.cdiv(time, C)
    tile, within = entries(x, y, K, V)
    dstate = tl.zeros((X, Y), tl.float32)
    for i in range(0, chunks):
        chunk = sequence * chunks + chunks - 1 - i
        _, _, start, here = place(chunk, time, heads, C)
        opening, closing, kept = ends(fades, chunk, C)
        strength = strengths(beta, start, heads, here, C)
        tl.store(dstates + chunk * K * V + tile, dstate, mask=within)
        dout = columns_of(do, start, step, heads, here, y, V)
        key = columns_of(k, start, step, heads, here, x, K)
        dupdate = tl.dot(key, dstate.to(dout.dtype), input_precision=PRECISION)
        dupdate *= closing[:, None]
        query = columns_of(q, start, step, heads, here, x, K)
        row = (dout * (opening * scale)[:, None]).to(dout.dtype)
        dstate = tl.dot(tl.trans(query), row, dstate * kept, input_precision=PRECISION)
        score = tl.load(scores + matrix(chunk, C))
        dupdate = tl.dot(tl.trans(score), dout, dupdate, input_precision=PRECISION)
        inverse = tl.load(inverses + matrix(chunk, C))
        dright = tl.dot(tl.trans(inverse), dupdate.to(dout.dtype), input_precision=PRECISION)
        at = start * V + step * heads * V + y[None, :]
        inside = here & (y[None, :] < V)
        tl.store(dv + at, dright * strength[:, None], mask=inside)
        tl.store(drights + at, dright, mask=inside)
        row = (dright * -(opening * strength)[:, None]).to(dout.dtype)
        dstate = tl.dot(tl.trans(key), row, dstate, input_precision=PRECISION)
