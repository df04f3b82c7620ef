"""The causal depthwise convolution in Triton, with an optional SiLU."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.launch import launch

CHANNELS = 128  # of a program: one warp, each lane with neighbouring channels
STEPS_FORWARD, STEPS_BACKWARD = 8, 32
LOG2_E = tl.constexpr(math.log2(math.e))


def forward(x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    """x (batch, time, dim), weight (dim, width), bias (dim,) -> y, of x's shape and type."""
    x = _rows(x)
    batch, time, dim = x.shape
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    grid = batch * triton.cdiv(time, STEPS_FORWARD) * triton.cdiv(dim, CHANNELS)
    item, constants = _constants(x, weight)
    arguments = (x, weight.contiguous(), bias.contiguous(), y, time, item)
    launch(_forward, (grid,), *arguments, num_warps=1, SILU=silu, STEPS=STEPS_FORWARD, **constants)
    return y


def backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dy: Tensor,
    silu: bool,
    more: Tensor | None = None,
    dx: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of its type, and of weight and bias, in float32.

    `more`, contiguous, is added to the first, which goes into `dx`, of x's strides, if given.
    """
    x, dy, like_x = _rows(x), dy.contiguous(), dx is not None
    (batch, time, dim), width = x.shape, weight.shape[1]
    if dx is None:
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    chunks = batch * triton.cdiv(time, STEPS_BACKWARD)
    dparams = x.new_empty(chunks, width + 1, dim, dtype=torch.float32)
    item, constants = _constants(x, weight)
    arguments = (x, weight.contiguous(), bias.contiguous(), dy, more, dx, dparams, time, item)
    grid = (chunks * triton.cdiv(dim, CHANNELS),)
    constants |= {"SILU": silu, "STEPS": STEPS_BACKWARD, "LIKE_X": like_x}
    launch(_backward, grid, *arguments, num_warps=1, **constants)
    total = dparams.sum(0)
    return dx, total[:width].t(), total[width]


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


def _constants(x: Tensor, weight: Tensor) -> tuple[int, dict[str, int]]:
    """The distance of sequences, in a unit that tells how rows are aligned, and all else that
    depends on the widths of a model only."""
    time, dim = x.shape[1:]
    unit = math.gcd(8, x.stride(0))
    row = dim if time == 1 else x.stride(1)  # a single step's stride may be any number
    constants = {"DIM": dim, "X_ROW": row, "UNIT": unit, "WIDTH": weight.shape[1], "D": CHANNELS}
    return x.stride(0) // unit, constants


@triton.jit
def _place(time, DIM: tl.constexpr, D: tl.constexpr, STEPS: tl.constexpr) -> tuple[tl.tensor, ...]:
    """A program's sequence, its first step, its chunk of steps in the batch, and its channels."""
    blocks = tl.cdiv(DIM, D)
    chunks = tl.cdiv(time, STEPS)
    chunk = tl.program_id(0) // blocks
    item = (chunk // chunks).to(tl.int64)
    channel = tl.program_id(0) % blocks * D + tl.arange(0, D)
    return item, chunk % chunks * STEPS, chunk, channel


@triton.jit
def _load(pointers, mask) -> tl.tensor:
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["time", "x_item"])
def _forward(
    x, weight, bias, y, time, x_item,
    DIM: tl.constexpr, X_ROW: tl.constexpr, UNIT: tl.constexpr, WIDTH: tl.constexpr,
    D: tl.constexpr, SILU: tl.constexpr, STEPS: tl.constexpr,
) -> None:  # fmt: skip
    """Compute some steps of D channels of one sequence at once."""
    item, start, _, channel = _place(time, DIM, D, STEPS)
    inside = channel < DIM
    t = start + tl.arange(0, STEPS)[:, None]
    sums = tl.zeros((STEPS, D), tl.float32) + _load(bias + channel, inside)[None, :]
    source = x + item * UNIT * x_item + tl.cast(t, tl.int64) * X_ROW + channel[None, :]
    for lag in tl.static_range(WIDTH):
        tap = _load(weight + channel * WIDTH + (WIDTH - 1 - lag), inside)
        there = (t >= lag) & (t < time) & inside[None, :]
        sums += _load(source - lag * X_ROW, there) * tap[None, :]
    if SILU:
        sums = sums / (1 + tl.exp2(-sums * LOG2_E))
    tl.store(
        y + (item * time + t) * DIM + channel[None, :], sums, mask=(t < time) & inside[None, :]
    )


@triton.jit
def _weighted(
    total, tap0, x0, tap1, x1, tap2, x2, tap3, x3, WIDTH: tl.constexpr
) -> tl.tensor:  # fmt: skip
    """total + tap0 x0 + tap1 x1 + ... for as many taps as there are."""
    total += tap0 * x0
    if WIDTH > 1:
        total += tap1 * x1
    if WIDTH > 2:
        total += tap2 * x2
    if WIDTH > 3:
        total += tap3 * x3
    return total


@triton.jit
def _tap(weight, index: tl.constexpr, channel, inside, WIDTH: tl.constexpr) -> tl.tensor:
    return _load(weight + channel * WIDTH + index, inside & (index >= 0) & (index < WIDTH))


@triton.jit(do_not_specialize=["time", "x_item"])
def _backward(
    x, weight, bias, dy, more, dx, dparams, time, x_item,
    DIM: tl.constexpr, X_ROW: tl.constexpr, UNIT: tl.constexpr, WIDTH: tl.constexpr,
    D: tl.constexpr, SILU: tl.constexpr, STEPS: tl.constexpr, LIKE_X: tl.constexpr,
) -> None:  # fmt: skip
    """Compute some steps of D channels of one sequence, one after the other.

    x1, x2, x3 are the last inputs, d1, d2, d3 the gradients of the last sums. The loop goes on for
    WIDTH - 1 steps behind the program's own, whose sums its inputs are part of, too.
    """
    item, start, chunk, channel = _place(time, DIM, D, STEPS)
    inside = channel < DIM
    x += item * UNIT * x_item + channel
    dy += item * time * DIM + channel
    if more is not None:
        more += item * time * DIM + channel
    dx += (item * UNIT * x_item if LIKE_X else item * time * DIM) + channel
    shift = _load(bias + channel, inside)
    first, second = _tap(weight, 0, channel, inside, WIDTH), _tap(weight, 1, channel, inside, WIDTH)
    third, fourth = _tap(weight, 2, channel, inside, WIDTH), _tap(weight, 3, channel, inside, WIDTH)
    lag0, lag1, lag2, lag3 = _taps_back(weight, channel, inside, WIDTH)
    before = x + tl.cast(start, tl.int64) * X_ROW
    x1, x2, x3 = _past(before, start, channel, X_ROW, DIM)
    # Variables that begin as one value are one value to the loop, which would not pass d1 to d2.
    zero = tl.zeros((D,), tl.float32)
    d1, d2, d3 = tl.zeros_like(zero), tl.zeros_like(zero), tl.zeros_like(zero)
    dtap0, dtap1, dtap2 = tl.zeros_like(zero), tl.zeros_like(zero), tl.zeros_like(zero)
    dtap3, dbias = tl.zeros_like(zero), tl.zeros_like(zero)
    next_x = _load(before, inside)
    next_d = _load(dy + tl.cast(start, tl.int64) * DIM, inside)
    for t in range(start, tl.minimum(start + STEPS, time) + WIDTH - 1):
        # The next step is on its way while this one computes.
        x0, d0 = next_x, next_d
        ahead, on = tl.cast(t + 1, tl.int64), channel < tl.where(t + 1 < time, DIM, 0)
        next_x = _load(x + ahead * X_ROW, on)
        next_d = _load(dy + ahead * DIM, on)
        own = channel < tl.where(t >= start + WIDTH - 1, DIM, 0)
        out = tl.cast(t, tl.int64) - (WIDTH - 1)
        total = zero
        if more is not None:
            total = _load(more + out * DIM, own)
        if SILU:
            sums = _weighted(shift, lag0, x0, lag1, x1, lag2, x2, lag3, x3, WIDTH)
            passed = 1 / (1 + tl.exp2(-sums * LOG2_E))
            d0 *= passed * (1 + sums * (1 - passed))
        d0 = tl.where(channel < tl.where(t < time, DIM, 0), d0, 0.0)
        dx_t = _weighted(total, first, d0, second, d1, third, d2, fourth, d3, WIDTH)
        tl.store(dx + out * (X_ROW if LIKE_X else DIM), dx_t, mask=own)
        counted = tl.where(channel < tl.where(t < start + STEPS, DIM, 0), d0, 0.0)
        dbias += counted
        dtap0 += counted * x0
        dtap1 += counted * x1
        dtap2 += counted * x2
        dtap3 += counted * x3
        x1, x2, x3 = x0, x1, x2
        d1, d2, d3 = d0, d1, d2
    dparams += tl.cast(chunk, tl.int64) * (WIDTH + 1) * DIM + channel
    tl.store(dparams + WIDTH * DIM, dbias, mask=inside)
    _store_taps(dparams, dtap0, dtap1, dtap2, dtap3, inside, DIM, WIDTH)


@triton.jit
def _taps_back(weight, channel, inside, WIDTH: tl.constexpr) -> tuple[tl.tensor, ...]:
    """The taps of the present input and of the three before it."""
    lag0 = _tap(weight, WIDTH - 1, channel, inside, WIDTH)
    lag1 = _tap(weight, WIDTH - 2, channel, inside, WIDTH)
    lag2 = _tap(weight, WIDTH - 3, channel, inside, WIDTH)
    lag3 = _tap(weight, WIDTH - 4, channel, inside, WIDTH)
    return lag0, lag1, lag2, lag3


@triton.jit
def _past(
    x, start, channel, X_ROW: tl.constexpr, DIM: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The three inputs in front of a step, whose place is x; 0 in front of the sequence."""
    x1 = _load(x - X_ROW, channel < tl.where(start >= 1, DIM, 0))
    x2 = _load(x - 2 * X_ROW, channel < tl.where(start >= 2, DIM, 0))
    x3 = _load(x - 3 * X_ROW, channel < tl.where(start >= 3, DIM, 0))
    return x1, x2, x3


@triton.jit
def _store_taps(
    to, dtap0, dtap1, dtap2, dtap3, inside, DIM: tl.constexpr, WIDTH: tl.constexpr
) -> None:
    """Gradients of as many taps as there are, that of the present input last."""
    tl.store(to + (WIDTH - 1) * DIM, dtap0, mask=inside)
    if WIDTH > 1:
        tl.store(to + (WIDTH - 2) * DIM, dtap1, mask=inside)
    if WIDTH > 2:
        tl.store(to + (WIDTH - 3) * DIM, dtap2, mask=inside)
    if WIDTH > 3:
        tl.store(to, dtap3, mask=inside)
