"""Parts of the Triton kernels of gated linear attention: gates, and sums of their logarithms."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 64
HALVES = (32, 16, 8, 4, 2, 1)
# Places in `sum_choices` behind those of the halves.
UNTIL = tl.constexpr(len(HALVES))
AFTER = tl.constexpr(len(HALVES) + 1)
LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-100.0)  # logarithm to base 2 of a gate: sums stay finite
LEAST = tl.constexpr(2.0**-100)

_made: dict[torch.device, Tensor] = {}


def sum_choices(device: torch.device) -> Tensor:
    """The gates u that scale what passes step t: (len(HALVES) + 2, t, u), zeros and ones in bf16.

    For each of `HALVES` between the step and the middle of its block; up to the step; and after it.
    """
    if device in _made:
        return _made[device]
    steps = torch.arange(CHUNK, device=device)
    t, u = steps[:, None], steps[None]
    chosen = []
    for half in HALVES:
        before = (t | (2 * half - 1)) - half  # the last step of the block's first half
        chosen.append((u > torch.minimum(t, before)) & (u <= torch.maximum(t, before)))
    choices = torch.stack([*chosen, u <= t, u > t]).bfloat16()
    if type(choices) is Tensor:  # not a fake one
        _made[device] = choices
    return choices


@triton.jit
def sigmoids(x) -> tuple[tl.tensor, tl.tensor]:
    """Sigmoids of x and of -x, both to full precision."""
    small = tl.exp2(-tl.abs(x) * LOG2_E)
    large = 1 / (1 + small)
    small *= large
    return tl.where(x < 0, small, large), tl.where(x < 0, large, small)


@triton.jit
def gate(g, bound, base, at, inside, head, x, K: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Logarithms to base 2 of the gates (C, X), and HGRN2's keys; 0 outside."""
    if bound is None:
        log = tl.load(g + base + at, mask=inside, other=0.0).to(tl.float32) * LOG2_E
        log = tl.maximum(log, LOWEST, propagate_nan=tl.PropagateNan.ALL)
        return log, log
    else:
        f = tl.load(g + base + at, mask=inside, other=float("inf")).to(tl.float32)
        lower = tl.load(bound + head * K + x, mask=x < K, other=0.0)[None, :]
        opened, closed = sigmoids(f)
        log = tl.log2(lower + (1 - lower) * opened)
        log = tl.maximum(log, LOWEST, propagate_nan=tl.PropagateNan.ALL)
        return log, (1 - lower) * closed


@triton.jit
def keys(k, hgrn2, base, at, inside) -> tl.tensor:
    """Keys (C, X): those of HGRN2, unless others are given."""
    if k is None:
        return hgrn2
    else:
        return tl.load(k + base + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def queries(q, k, base, at, inside, scale) -> tl.tensor:
    """Scaled queries (C, X), of HGRN2 if no keys are given."""
    query = tl.load(q + base + at, mask=inside, other=0.0).to(tl.float32)
    if k is None:
        query *= sigmoids(query)[0]
    return query * scale


@triton.jit
def faded(
    q, k, hgrn2, log, choices, base, at, inside, scale,
    KEYS: tl.constexpr, PARTS: tl.constexpr, C: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Keys (C, X) times the gates behind them in the chunk, or queries times those until them."""
    if KEYS:
        row = keys(k, hgrn2, base, at, inside)
        return row * tl.exp2(sums(choices, AFTER, log, PARTS, C, False))
    else:
        row = queries(q, k, base, at, inside, scale)
        return row * tl.exp2(sums(choices, UNTIL, log, PARTS, C, False))


@triton.jit
def entries(
    rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Places of a tile's entries in a matrix (ROWS, COLUMNS), and what of the tile is inside."""
    at = rows[:, None] * COLUMNS + columns[None, :]
    return at, (rows[:, None] < ROWS) & (columns[None, :] < COLUMNS)


@triton.jit
def columns_of(x, start, step, heads, here, y, V: tl.constexpr) -> tl.tensor:
    """A tile (C, Y) of a chunk's values, or of what has their shape; 0 outside."""
    at = step * heads * V + y[None, :]
    return tl.load(x + start * V + at, mask=here & (y[None, :] < V), other=0.0)


@triton.jit
def sums(
    choices, which, x, PARTS: tl.constexpr, C: tl.constexpr, TRANSPOSED: tl.constexpr
) -> tl.tensor:
    """One of `choices` (C, C) times x (C, X), in float32: x as a sum of bf16 numbers."""
    at = tl.arange(0, C)
    chosen = tl.load(choices + which * C * C + at[:, None] * C + at[None, :])
    if TRANSPOSED:
        chosen = tl.trans(chosen)
    part = x.to(tl.bfloat16)
    total = tl.dot(chosen, part)
    for _ in tl.static_range(1, PARTS):
        x -= part.to(tl.float32)
        part = x.to(tl.bfloat16)
        total = tl.dot(chosen, part, total)
    return total


@triton.jit
def pair(t, u, half) -> tl.tensor:
    """Whether two steps lie in different halves of the same block."""
    return ((t & -half) ^ (u & -half)) == half


@triton.jit
def place(chunk, time, heads, C: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The place of a chunk: its sequence and head, the first step's place (batch, time, head), and
    which of its steps (C, 1) are inside the sequence."""
    chunks = tl.cdiv(time, C)
    sequence = chunk // chunks
    begin = (chunk % chunks) * C
    head = sequence % heads
    start = (sequence // heads * time + begin) * heads + head
    return sequence, head, start, begin + tl.arange(0, C)[:, None] < time
