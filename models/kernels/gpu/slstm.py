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
    """The constants that both kernels are compiled for: one warp for 8 columns, up to eight."""
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
    x, bias, weights, state, h, last, kept,
    time, batch, x_batch, x_time, x_gate, x_head, h_batch, started,
    HEADS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr, TILE: tl.constexpr, EARLY: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(1)
    rows, at, present, inside = _tile(batch, DIM, WIDTH, TILE)
    x_cell = rows * x_batch + at
    weights += head * (DIM * 4 * DIM)
    cell = head * DIM + at
    plane = tl.cast(batch, tl.int64) * (HEADS * DIM)
    h_first, c, n, m = _load_four(state + rows * (HEADS * DIM) + cell, plane, inside)
    r = tl.where(n == 0, 0.0, c / tl.where(n == 0, 1.0, n))
    steps = rows * time * (HEADS * DIM)
    h_steps = rows * h_batch
    if BLOCK >= DIM:
        hidden = h_first
        key = tl.arange(0, BLOCK)[:, None]
        held = weights + key * (4 * DIM) + at
        held_i, held_f, held_z, held_o = _load_four(held, DIM, (key < DIM) & (at < DIM))
    for t in range(time):
        now = x + (tl.cast(t, tl.int64) * x_time + head * x_head) + x_cell
        if EARLY:
            x_i, x_f, x_z, x_o = _load_four(now, x_gate, inside)
        i = tl.zeros((TILE, WIDTH), tl.float32)
        f = tl.zeros((TILE, WIDTH), tl.float32)
        z = tl.zeros((TILE, WIDTH), tl.float32)
        o = tl.zeros((TILE, WIDTH), tl.float32)
        here = tl.cast(t, tl.int64) * (HEADS * DIM)
        if BLOCK >= DIM:
            past = hidden.to(x.dtype.element_ty)
            i, f, z, o = _multiply(past, held_i, held_f, held_z, held_o, i, f, z, o, PRECISION)
        else:
            before = h + (here - HEADS * DIM + head * DIM) + h_steps
            depth = tl.where(t + started > 0, DIM, 0)
            i, f, z, o = _stream(
                before, weights, at, present, depth, i, f, z, o, DIM, BLOCK, STAGES, PRECISION
            )
        if not EARLY:
            x_i, x_f, x_z, x_o = _load_four(now, x_gate, inside)
        i, f, z, o = _add(i, f, z, o, x_i, x_f, x_z, x_o)
        if bias is not None:
            b_i, b_f, b_z, b_o = _load_four(bias + cell, HEADS * DIM, at < DIM)
            i, f, z, o = _add(i, f, z, o, b_i, b_f, b_z, b_o)
        w, n, m, slope = _memory_gates(i, f, n, m)
        z = _tanh(z)
        o = 1 / (1 + tl.exp(-o))
        ahead = z - r
        r += w * ahead
        hidden = o * r
        tl.store(h + here + (h_steps + cell), hidden, mask=inside)
        if kept is not None:
            _keep(kept + here, plane * time, steps + cell, inside, w, ahead, slope, z, o)
        if BLOCK < DIM:
            tl.debug_barrier()  # h is there before any thread of the program reads it
    memory = last + rows * (HEADS * DIM) + cell
    tl.store(memory, r * n, mask=inside)
    tl.store(memory + plane, n, mask=inside)
    tl.store(memory + 2 * plane, m, mask=inside)


@triton.jit
def _tile(
    batch, DIM: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The tile of a program: its sequences (TILE, 1), the columns of its head (1, WIDTH), which
    sequences there are, and which of the tile's cells."""
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)[:, None]
    at = tl.arange(0, WIDTH)[None, :]
    present = rows < batch
    return rows.to(tl.int64), at, present, present & (at < DIM)


@triton.jit
def _multiply(
    x, w_i, w_f, w_z, w_o, i, f, z, o, PRECISION: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Adds products with the weights of the four gates to their sums."""
    i = tl.dot(x, w_i, i, input_precision=PRECISION)
    f = tl.dot(x, w_f, f, input_precision=PRECISION)
    z = tl.dot(x, w_z, z, input_precision=PRECISION)
    o = tl.dot(x, w_o, o, input_precision=PRECISION)
    return i, f, z, o


@triton.jit
def _stream(
    before, weights, at, present, depth, i, f, z, o,
    DIM: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Adds products of the last step's h, from where it was written, with weights that pass by."""
    across = tl.arange(0, BLOCK)[None, :]
    past = tl.load(before + across, mask=present & (across < depth), other=0.0)
    for start in tl.range(0, depth, BLOCK, num_stages=STAGES):
        across += BLOCK
        following = tl.load(before + across, mask=present & (across < DIM), other=0.0)
        down = start + tl.arange(0, BLOCK)[:, None]
        w_i, w_f, w_z, w_o = _load_four(
            weights + down * (4 * DIM) + at, DIM, (down < DIM) & (at < DIM)
        )
        i, f, z, o = _multiply(past, w_i, w_f, w_z, w_o, i, f, z, o, PRECISION)
        past = following
    return i, f, z, o


@triton.jit
def _add(i, f, z, o, x_i, x_f, x_z, x_o) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    i += x_i.to(tl.float32)
    f += x_f.to(tl.float32)
    z += x_z.to(tl.float32)
    o += x_o.to(tl.float32)
    return i, f, z, o


@triton.jit
def _keep(kept, plane, at, inside, w, ahead, slope, z, o) -> None:
    """The factors of a step, which `_read` reads."""
    _store_four(kept, plane, at, inside, w, w * (1 - w) * ahead, slope, w * (1 - z * z))
    tl.store(kept + 4 * plane + at, o, mask=inside)


@triton.jit
def _load_four(x, gap, inside) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The values that lie at x four times, `gap` apart: once for each gate, state or factor."""
    i = tl.load(x, mask=inside, other=0.0)
    f = tl.load(x + gap, mask=inside, other=0.0)
    z = tl.load(x + 2 * gap, mask=inside, other=0.0)
    o = tl.load(x + 3 * gap, mask=inside, other=0.0)
    return i, f, z, o


@triton.jit
def _memory_gates(i, f, n, m) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
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
def _log1p(x) -> tl.tensor:
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
def _tanh(x) -> tl.tensor:
    """The hyperbolic tangent to 2e-7 relative, small x included."""
    square = x * x
    y = -0.006276377942413092 * square + 0.021116206422448158
    y = y * square - 0.053875137120485306
    y = y * square + 0.13332924246788025
    y = y * square - 0.3333333134651184
    far = 1 - 2 / (tl.exp(2 * tl.abs(x)) + 1)
    return tl.where(tl.abs(x) < 0.6, x + x * square * y, tl.where(x < 0, -far, far))


@triton.jit(do_not_specialize=["time", "batch"])
def _backward(
    dh, weights, h, kept, dx, time, batch, h_batch,
    HEADS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr, TILE: tl.constexpr, EARLY: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(1)
    rows, at, present, inside = _tile(batch, DIM, WIDTH, TILE)
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
        held = weights + key * DIM + at
        held_i, held_f, held_z, held_o = _load_four(held, DIM * DIM, (key < DIM) & (at < DIM))
    t = time - 1
    here = tl.cast(t, tl.int64) * (HEADS * DIM)
    if EARLY:
        dh_t, h_t, w, along, slope, z_slope, o = _read(
            dh + here + cell, h + here + h_cell, kept + here + cell, plane, inside
        )
    while t >= 0:
        if not EARLY:
            dh_t, h_t, w, along, slope, z_slope, o = _read(
                dh + here + cell, h + here + h_cell, kept + here + cell, plane, inside
            )
        draw_i, draw_f, draw_z, draw_o, dr, dlog = _differentiate(
            dh_t, h_t, w, along, slope, z_slope, o, recurrent, dr, dlog
        )
        now = draws + tl.cast(t, tl.int64) * (4 * HEADS * DIM)
        _store_four(now, DIM, at, inside, draw_i, draw_f, draw_z, draw_o)
        t -= 1
        here -= HEADS * DIM
        if EARLY:  # what the next step reads arrives during the products
            further = inside & (at < tl.where(t >= 0, DIM, 0))
            dh_t, h_t, w, along, slope, z_slope, o = _read(
                dh + here + cell, h + here + h_cell, kept + here + cell, plane, further
            )
        recurrent = tl.zeros((TILE, WIDTH), tl.float32)
        if BLOCK >= DIM:
            kind = dx.dtype.element_ty
            recurrent = tl.dot(draw_i.to(kind), held_i, recurrent, input_precision=PRECISION)
            recurrent = tl.dot(draw_f.to(kind), held_f, recurrent, input_precision=PRECISION)
            recurrent = tl.dot(draw_z.to(kind), held_z, recurrent, input_precision=PRECISION)
            recurrent = tl.dot(draw_o.to(kind), held_o, recurrent, input_precision=PRECISION)
        else:
            tl.debug_barrier()  # dx is there before any thread of the program reads it
            recurrent = _stream_back(
                now, weights, at, present, recurrent, DIM, BLOCK, STAGES, PRECISION
            )


@triton.jit
def _differentiate(
    dh, h, w, along, slope, z_slope, o, recurrent, dr, dlog
) -> tuple[tl.tensor, ...]:
    """Gradients of the four gates of a step, and those of r and log n + m in front of it from those
    behind it."""
    keep, opened = w.to(tl.float32), o.to(tl.float32)
    dhidden = dh.to(tl.float32) + recurrent
    draw_o = dhidden * h.to(tl.float32) * (1 - opened)
    dr += dhidden * opened
    draw_z = dr * z_slope.to(tl.float32)
    dkeep = dr * along.to(tl.float32)
    draw_i = dkeep + keep * dlog
    dlog = (1 - keep) * dlog - dkeep
    draw_f = dlog * slope.to(tl.float32)
    dr *= 1 - keep
    return draw_i, draw_f, draw_z, draw_o, dr, dlog


@triton.jit
def _stream_back(
    now, weights, at, present, total,
    DIM: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Adds products of a step's gradients, from where they were written, with passing weights."""
    across = tl.arange(0, BLOCK)[None, :]
    draw = tl.load(now + across, mask=present & (across < 4 * DIM), other=0.0)
    for start in tl.range(0, 4 * DIM, BLOCK, num_stages=STAGES):
        across += BLOCK
        following = tl.load(now + across, mask=present & (across < 4 * DIM), other=0.0)
        down = start + tl.arange(0, BLOCK)[:, None]
        known = (down < 4 * DIM) & (at < DIM)
        block = tl.load(weights + down * DIM + at, mask=known, other=0.0)
        total = tl.dot(draw, block, total, input_precision=PRECISION)
        draw = following
    return total


@triton.jit
def _read(dh, h, kept, plane, inside) -> tuple[tl.tensor, ...]:
    """Read a step: the gradient of h, h, and the factors that the forward kept."""
    dh_t = tl.load(dh, mask=inside, other=0.0)
    h_t = tl.load(h, mask=inside, other=0.0)
    w, along, slope, z_slope = _load_four(kept, plane, inside)
    o = tl.load(kept + 4 * plane, mask=inside, other=0.0)
    return dh_t, h_t, w, along, slope, z_slope, o


@triton.jit
def _store_four(x, gap, at, inside, i, f, z, o) -> None:
    tl.store(x + at, i, mask=inside)
    tl.store(x + gap + at, f, mask=inside)
    tl.store(x + 2 * gap + at, z, mask=inside)
    tl.store(x + 3 * gap + at, o, mask=inside)
