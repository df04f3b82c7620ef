"""The sLSTM's recurrence in Triton: one program walks a head of 16 sequences through time.

With r = c / n, the memory in units of its normaliser, a step is a weighted mean:

    w_t = exp(i - m_t) / n_t                     between 0 and 1
    r_t = r_{t-1} + w_t (tanh(z) - r_{t-1}),     h_t = sigmoid(o) r_t

The states, the gates and their sums stay in registers, in float32. The recurrent weights do not fit
there, nor into shared memory: wide heads stream them from the L2 cache in every step, in blocks
that arrive while earlier ones are multiplied, and read h of the step before from where it was
written. Programs never wait for each other.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.launch import dot_precision, launch

WIDEST = 256  # head dim
ROWS = 16  # sequences of a program: the least that tensor cores multiply
# Head dims up to here keep the weights in the program, and h in registers.
RESIDENT = 32


def forward(
    x: Tensor, bias: Tensor | None, weights: Tensor, state: Tensor, started: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A sequence, with products in x's type.

    Args:
        x: (B, T, G, H, D) with any strides but 1 for the last.
        bias: (G, H, D) in float32, added to x.
        weights: (H, D, G * D), the recurrent weights transposed, of x's type.
        state: h, c, n, m (4, B, H, D) in float32, m -inf where n is 0.
        started: whether the state's h may be other than 0.
        keep: whether `backward` will follow.

    Returns:
        h (B, T, H, D) of x's type, the last c, n, m (3, B, H, D), and for `backward` five factors
        (5, B, T, H, D) that lose nothing to cancellation when they are rounded: w,
        w (1 - w) (tanh(z) - r), sigmoid(-f), w (1 - tanh(z)^2), sigmoid(o).
    """
    batch, time, _, heads, dim = x.shape
    # With a state the kernel finds its h in front of its own.
    h = x.new_empty(batch, time + started, heads, dim)
    if started:
        h[:, 0] = state[0]
        h = h[:, 1:]
    kept = x.new_empty(5, *h.shape) if keep else None
    last = torch.empty_like(state[1:])
    tiles = _tiles(dim, x.dtype)
    block = tiles["WIDTH"] if dim <= RESIDENT else 16
    sizes = (time, batch, *x.stride()[:4], h.stride(0), int(started))
    arguments = (x, bias, weights, state, h, last, kept, *sizes)
    launch(_forward, _grid(batch, heads), *arguments, HEADS=heads, BLOCK=block, **tiles)
    return h, last, kept


def backward(dh: Tensor, weights: Tensor, h: Tensor, kept: Tensor) -> Tensor:
    """Gradient of x.

    Args:
        dh: (B, T, H, D), contiguous.
        weights: (H, G * D, D), of x's type.
        h, kept: what `forward` returned.

    Returns:
        (B, T, H, G, D), of x's type.
    """
    batch, time, heads, dim = h.shape
    dx = h.new_empty(batch, time, heads, 4, dim)
    tiles = _tiles(dim, kept.dtype)
    streamed = 64 if kept.dtype == torch.bfloat16 else 32
    block = tiles["WIDTH"] if dim <= RESIDENT else streamed
    arguments = (dh, weights, h, kept, dx, time, batch, h.stride(0))
    launch(_backward, _grid(batch, heads), *arguments, HEADS=heads, BLOCK=block, **tiles)
    return dx


def _grid(batch: int, heads: int) -> tuple[int, int]:
    return triton.cdiv(batch, ROWS), heads


def _tiles(dim: int, kind: torch.dtype) -> dict[str, Any]:
    """What both kernels are compiled for: one warp for 8 columns, up to eight."""
    width, small = max(16, triton.next_power_of_2(dim)), kind == torch.bfloat16
    return {
        "num_warps": min(8, width // 8),
        "DIM": dim,
        "WIDTH": width,
        "TILE": ROWS,
        "STAGES": 4 if small else 3,
        "EARLY": small,
        "PRECISION": dot_precision(kind),
    }


@triton.jit(do_not_specialize=["time", "batch", "started"])
def _forward(
    x,
    bias,
    weights,
    state,
    h,
    last,
    kept,
    time,
    batch,
    x_batch,
    x_time,
    x_gate,
    x_head,
    h_batch,
    started,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    TILE: tl.constexpr,
    EARLY: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head = tl.program_id(1)
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)[:, None]
    at = tl.arange(0, WIDTH)[None, :]
    present = rows < batch
    inside = present & (at < DIM)
    rows = rows.to(tl.int64)
    x_cell = rows * x_batch + at
    weights += head * (DIM * 4 * DIM)
    cell = head * DIM + at
    plane = tl.cast(batch, tl.int64) * (HEADS * DIM)
    memory = state + rows * (HEADS * DIM) + cell
    c = tl.load(memory + plane, mask=inside, other=0.0)
    n = tl.load(memory + 2 * plane, mask=inside, other=0.0)
    m = tl.load(memory + 3 * plane, mask=inside, other=0.0)
    r = tl.where(n == 0, 0.0, c / tl.where(n == 0, 1.0, n))
    steps = rows * time * (HEADS * DIM)
    h_steps = rows * h_batch
    if BLOCK >= DIM:
        hidden = tl.load(memory, mask=inside, other=0.0)
        key = tl.arange(0, BLOCK)[:, None]
        known = (key < DIM) & (at < DIM)
        held_i = tl.load(weights + key * (4 * DIM) + at, mask=known, other=0.0)
        held_f = tl.load(weights + key * (4 * DIM) + DIM + at, mask=known, other=0.0)
        held_z = tl.load(weights + key * (4 * DIM) + 2 * DIM + at, mask=known, other=0.0)
        held_o = tl.load(weights + key * (4 * DIM) + 3 * DIM + at, mask=known, other=0.0)
    for t in range(time):
        now = x + (tl.cast(t, tl.int64) * x_time + head * x_head)
        now += x_cell
        if EARLY:
            x_i, x_f, x_z, x_o = _gates(now, x_gate, inside)
        i = tl.zeros((TILE, WIDTH), tl.float32)
        f = tl.zeros((TILE, WIDTH), tl.float32)
        z = tl.zeros((TILE, WIDTH), tl.float32)
        o = tl.zeros((TILE, WIDTH), tl.float32)
        here = tl.cast(t, tl.int64) * (HEADS * DIM)
        if BLOCK >= DIM:
            past = hidden.to(x.dtype.element_ty)
            i = tl.dot(past, held_i, i, input_precision=PRECISION)
            f = tl.dot(past, held_f, f, input_precision=PRECISION)
            z = tl.dot(past, held_z, z, input_precision=PRECISION)
            o = tl.dot(past, held_o, o, input_precision=PRECISION)
        else:
            before = h + (here - HEADS * DIM + head * DIM) + h_steps
            across = tl.arange(0, BLOCK)[None, :]
            depth = tl.where(t + started > 0, DIM, 0)
            past = tl.load(before + across, mask=present & (across < depth), other=0.0)
            for start in tl.range(0, depth, BLOCK, num_stages=STAGES):
                across += BLOCK
                following = tl.load(before + across, mask=present & (across < DIM), other=0.0)
                down = start + tl.arange(0, BLOCK)[:, None]
                block = weights + down * (4 * DIM) + at
                known = (down < DIM) & (at < DIM)
                w_i = tl.load(block, mask=known, other=0.0)
                w_f = tl.load(block + DIM, mask=known, other=0.0)
                w_z = tl.load(block + 2 * DIM, mask=known, other=0.0)
                w_o = tl.load(block + 3 * DIM, mask=known, other=0.0)
                i = tl.dot(past, w_i, i, input_precision=PRECISION)
                f = tl.dot(past, w_f, f, input_precision=PRECISION)
                z = tl.dot(past, w_z, z, input_precision=PRECISION)
                o = tl.dot(past, w_o, o, input_precision=PRECISION)
                past = following
        if not EARLY:
            x_i, x_f, x_z, x_o = _gates(now, x_gate, inside)
        i += x_i.to(tl.float32)
        f += x_f.to(tl.float32)
        z += x_z.to(tl.float32)
        o += x_o.to(tl.float32)
        if bias is not None:
            i += tl.load(bias + cell, mask=at < DIM, other=0.0)
            f += tl.load(bias + HEADS * DIM + cell, mask=at < DIM, other=0.0)
            z += tl.load(bias + 2 * HEADS * DIM + cell, mask=at < DIM, other=0.0)
            o += tl.load(bias + 3 * HEADS * DIM + cell, mask=at < DIM, other=0.0)
        w, n, m, slope = _memory_gates(i, f, n, m)
        z = _tanh(z)
        o = 1 / (1 + tl.exp(-o))
        ahead = z - r
        r += w * ahead
        hidden = o * r
        tl.store(h + here + (h_steps + cell), hidden, mask=inside)
        out = steps + cell
        if kept is not None:
            long = plane * time
            tl.store(kept + here + out, w, mask=inside)
            tl.store(kept + (long + here) + out, w * (1 - w) * ahead, mask=inside)
            tl.store(kept + (2 * long + here) + out, slope, mask=inside)
            tl.store(kept + (3 * long + here) + out, w * (1 - z * z), mask=inside)
            tl.store(kept + (4 * long + here) + out, o, mask=inside)
        if BLOCK < DIM:
            tl.debug_barrier()  # h is there before any thread of the program reads it
    memory = last + rows * (HEADS * DIM) + cell
    tl.store(memory, r * n, mask=inside)
    tl.store(memory + plane, n, mask=inside)
    tl.store(memory + 2 * plane, m, mask=inside)


@triton.jit
def _gates(x, gate, inside):
    """The four gates of a step."""
    i = tl.load(x, mask=inside, other=0.0)
    f = tl.load(x + gate, mask=inside, other=0.0)
    z = tl.load(x + 2 * gate, mask=inside, other=0.0)
    o = tl.load(x + 3 * gate, mask=inside, other=0.0)
    return i, f, z, o


@triton.jit
def _memory_gates(i, f, n, m):
    """w, the new n and m, and sigmoid(-f), the slope of log sigmoid(f)."""
    small = tl.exp(-tl.abs(f))
    log_forget = tl.where(f < 0, f, 0.0) - _log1p(small) + m
    slope = tl.where(f < 0, 1.0, small) / (1 + small)
    ahead = i - log_forget
    less = tl.exp(-tl.abs(ahead))
    m = tl.where(ahead > 0, i, log_forget)
    # m - m is 0, or NaN where the equations divide infinity by infinity.
    keep = tl.where(ahead > 0, 1.0, less) + (m - m)
    n = tl.where(ahead > 0, less, 1.0) * n + keep
    return keep / n, n, m, slope


@triton.jit
def _log1p(x):
    """log(1 + x) for x in [0, 1], to 2e-7 relative."""
    y = 0.005253457929939032 * x - 0.02958850748836994
    y = y * x + 0.07836166769266129
    y = y * x - 0.13674770295619965
    y = y * x + 0.19111430644989014
    y = y * x - 0.24844369292259216
    y = y * x + 0.33319270610809326
    y = y * x - 0.49999502301216125
    return x + x * x * y


@triton.jit
def _tanh(x):
    """To 2e-7 relative, small x included."""
    square = x * x
    y = -0.006276377942413092 * square + 0.021116206422448158
    y = y * square - 0.053875137120485306
    y = y * square + 0.13332924246788025
    y = y * square - 0.3333333134651184
    far = 1 - 2 / (tl.exp(2 * tl.abs(x)) + 1)
    return tl.where(tl.abs(x) < 0.6, x + x * square * y, tl.where(x < 0, -far, far))


@triton.jit(do_not_specialize=["time", "batch"])
def _backward(
    dh,
    weights,
    h,
    kept,
    dx,
    time,
    batch,
    h_batch,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    TILE: tl.constexpr,
    EARLY: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head = tl.program_id(1)
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)[:, None]
    at = tl.arange(0, WIDTH)[None, :]
    present = rows < batch
    inside = present & (at < DIM)
    rows = rows.to(tl.int64)
    weights += head * (4 * DIM * DIM)
    cell = head * DIM + at
    h_cell = rows * h_batch + cell
    cell += rows * time * (HEADS * DIM)
    plane = tl.cast(batch, tl.int64) * time * (HEADS * DIM)
    draws = dx + rows * time * (4 * HEADS * DIM) + head * (4 * DIM)
    recurrent = tl.zeros((TILE, WIDTH), tl.float32)
    dr = tl.zeros((TILE, WIDTH), tl.float32)
    dlog = tl.zeros((TILE, WIDTH), tl.float32)  # of the normaliser's logarithm, log n + m
    if BLOCK >= DIM:
        key = tl.arange(0, BLOCK)[:, None]
        known = (key < DIM) & (at < DIM)
        held_i = tl.load(weights + key * DIM + at, mask=known, other=0.0)
        held_f = tl.load(weights + (DIM + key) * DIM + at, mask=known, other=0.0)
        held_z = tl.load(weights + (2 * DIM + key) * DIM + at, mask=known, other=0.0)
        held_o = tl.load(weights + (3 * DIM + key) * DIM + at, mask=known, other=0.0)
    t = time - 1
    here = tl.cast(t, tl.int64) * (HEADS * DIM)
    if EARLY:
        dh_t = tl.load(dh + here + cell, mask=inside, other=0.0)
        h_t = tl.load(h + here + h_cell, mask=inside, other=0.0)
        w, along, slope, z_slope, o = _kept(kept + here + cell, plane, inside)
    while t >= 0:
        if not EARLY:
            dh_t = tl.load(dh + here + cell, mask=inside, other=0.0)
            h_t = tl.load(h + here + h_cell, mask=inside, other=0.0)
            w, along, slope, z_slope, o = _kept(kept + here + cell, plane, inside)
        keep, opened = w.to(tl.float32), o.to(tl.float32)
        dhidden = dh_t.to(tl.float32) + recurrent
        draw_o = dhidden * h_t.to(tl.float32) * (1 - opened)
        dr += dhidden * opened
        draw_z = dr * z_slope.to(tl.float32)
        dkeep = dr * along.to(tl.float32)
        draw_i = dkeep + keep * dlog
        dlog = (1 - keep) * dlog - dkeep
        draw_f = dlog * slope.to(tl.float32)
        dr *= 1 - keep
        now = draws + tl.cast(t, tl.int64) * (4 * HEADS * DIM)
        tl.store(now + at, draw_i, mask=inside)
        tl.store(now + DIM + at, draw_f, mask=inside)
        tl.store(now + 2 * DIM + at, draw_z, mask=inside)
        tl.store(now + 3 * DIM + at, draw_o, mask=inside)
        t -= 1
        here -= HEADS * DIM
        if EARLY:  # what the next step reads arrives during the products
            further = inside & (at < tl.where(t >= 0, DIM, 0))
            dh_t = tl.load(dh + here + cell, mask=further, other=0.0)
            h_t = tl.load(h + here + h_cell, mask=further, other=0.0)
            w, along, slope, z_slope, o = _kept(kept + here + cell, plane, further)
        recurrent = tl.zeros((TILE, WIDTH), tl.float32)
        if BLOCK >= DIM:
            kind = dx.dtype.element_ty
            recurrent = tl.dot(draw_i.to(kind), held_i, recurrent, input_precision=PRECISION)
            recurrent = tl.dot(draw_f.to(kind), held_f, recurrent, input_precision=PRECISION)
            recurrent = tl.dot(draw_z.to(kind), held_z, recurrent, input_precision=PRECISION)
            recurrent = tl.dot(draw_o.to(kind), held_o, recurrent, input_precision=PRECISION)
        else:
            tl.debug_barrier()  # dx is there before any thread of the program reads it
            across = tl.arange(0, BLOCK)[None, :]
            draw = tl.load(now + across, mask=present & (across < 4 * DIM), other=0.0)
            for start in tl.range(0, 4 * DIM, BLOCK, num_stages=STAGES):
                across += BLOCK
                following = tl.load(now + across, mask=present & (across < 4 * DIM), other=0.0)
                down = start + tl.arange(0, BLOCK)[:, None]
                known = (down < 4 * DIM) & (at < DIM)
                block = tl.load(weights + down * DIM + at, mask=known, other=0.0)
                recurrent = tl.dot(draw, block, recurrent, input_precision=PRECISION)
                draw = following


@triton.jit
def _kept(kept, plane, inside):
    """The factors of a step."""
    w = tl.load(kept, mask=inside, other=0.0)
    along = tl.load(kept + plane, mask=inside, other=0.0)
    slope = tl.load(kept + 2 * plane, mask=inside, other=0.0)
    z_slope = tl.load(kept + 3 * plane, mask=inside, other=0.0)
    o = tl.load(kept + 4 * plane, mask=inside, other=0.0)
    return w, along, slope, z_slope, o
