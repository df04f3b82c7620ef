"""Parts of the Triton kernels of the gated delta rule: gates and what they amount to in a chunk.

A decay is two to the power of a sum of logarithms of at most 0, taken anew for each pair of steps:
no differences of long sums, which forget the small gates behind a large one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from models.kernels.gpu.gated_linear_parts import LOG2_E, LOWEST


@triton.jit
def gates(g, start, heads, here, C: tl.constexpr) -> tl.tensor:
    """Logarithms to base 2 of a chunk's gates (C,); 0 behind the end."""
    at = tl.arange(0, C)[:, None] * heads
    log = tl.load(g + start + at, mask=here, other=0.0).to(tl.float32) * LOG2_E
    return tl.reshape(tl.maximum(log, LOWEST, propagate_nan=tl.PropagateNan.ALL), (C,))


@triton.jit
def strengths(beta, start, heads, here, C: tl.constexpr) -> tl.tensor:
    """How strongly the steps of a chunk write (C,); 0 behind the end."""
    at = tl.arange(0, C)[:, None] * heads
    return tl.reshape(tl.load(beta + start + at, mask=here, other=0.0).to(tl.float32), (C,))


@triton.jit
def store_ends(to, log, chunk, C: tl.constexpr) -> None:
    """What is left at a step of the state before the chunk (C,), and behind the chunk of a step."""
    t, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    opening = tl.exp2(tl.sum(tl.where(s <= t, log[None, :], 0.0), 1))
    closing = tl.exp2(tl.sum(tl.where(s > t, log[None, :], 0.0), 1))
    at = to + chunk * (2 * C) + tl.arange(0, C)
    tl.store(at, opening)
    tl.store(at + C, closing)


@triton.jit
def ends(stored, chunk, C: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """What `store_ends` has stored, and what is left of the state behind the chunk."""
    at = stored + chunk * (2 * C)
    step = tl.arange(0, C)
    return tl.load(at + step), tl.load(at + C + step), tl.load(at + C - 1)


@triton.jit
def pair_decays(log, C: tl.constexpr) -> tl.tensor:
    """What is left at step t of step s (C, C); 0 above the diagonal."""
    t, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    sums = tl.cumsum(tl.where(t > s, log[:, None], 0.0), 0)
    return tl.where(t >= s, tl.exp2(sums), 0.0)


@triton.jit
def matrix(chunk, C: tl.constexpr) -> tl.tensor:
    """Places of the entries of a chunk's matrix (C, C)."""
    return chunk * (C * C) + tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :]
