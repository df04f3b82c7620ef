"""Layer norm of heads in Triton, with the skip and the gate that may follow it.

A program takes several tokens of one head at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.launch import launch, multiprocessors
from models.kernels.gpu.mlstm_tiles import undo_scale

ELEMENTS = 2048  # of a program's tile
# Of that of the backward, a single warp's if heads are not wider: its sums over rows need no
# barrier, and it has enough to load to wait for.
ELEMENTS_BACKWARD = 512
PROGRAMS_PER_MULTIPROCESSOR = 12  # of the backward, each with partial sums of dweight and dskip


@dataclass(frozen=True)
class HeadDivisors:
    """The divisors of the heads, max(|row_sum|, floor) + eps, and room for its gradient and
    that of the row sum; (batch, heads, time) in float32."""

    row_sum: Tensor
    floor: Tensor
    eps: float
    dscale: Tensor
    dsum: Tensor


def forward(
    h: Tensor,
    x: Tensor | None,
    gate: Tensor | None,
    weight: Tensor,
    skip: Tensor | None,
    *,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """(norm(h) * weight + skip * x) * silu(gate), or without skip and gate where they are None.

    h (tokens, heads, dim) and x (tokens, heads * dim), contiguous; gate likewise, its rows may lie
    apart; weight and skip (heads * dim,) -> (tokens, heads * dim) of `dtype`.
    """
    tokens, heads, dim = h.shape
    y = h.new_empty(tokens, heads * dim, dtype=dtype)
    tile = _tile(dim)
    grid = triton.cdiv(tokens, tile["ROWS"]), heads
    stride = 0 if gate is None else gate.stride(0)
    launch(_forward, grid, h, x, gate, weight, skip, y, tokens, stride, float(eps), **tile)
    return y


def backward(
    h: Tensor,
    x: Tensor | None,
    gate: Tensor | None,
    weight: Tensor,
    skip: Tensor | None,
    *,
    eps: float,
    dy: Tensor,
    dgate: Tensor | None = None,
    scale: HeadDivisors | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Gradients of h, x and gate, of their types, and of weight and skip, (2, heads * dim) in
    float32; of the weight alone, (1, heads * dim), without a skip. dy (tokens, heads * dim),
    contiguous.

    The gradient of the gate goes into `dgate`, whose rows may lie apart, if that is given. With
    `scale` the first gradient is that of h before it was divided, of dy's type.
    """
    tokens, heads, dim = h.shape
    tile = _backward_tile(dim)
    most = triton.cdiv(PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(h.device), heads)
    programs = min(most, triton.cdiv(tokens, tile["ROWS"]))
    dh = torch.empty_like(h, dtype=h.dtype if scale is None else dy.dtype)
    dx = None if x is None else torch.empty_like(x)
    if gate is not None and dgate is None:
        dgate = gate.new_empty(gate.shape)
    parts = 1 if skip is None else 2
    sums = h.new_empty(programs, parts, heads * dim, dtype=torch.float32)
    strides = (0, 0) if gate is None or dgate is None else (gate.stride(0), dgate.stride(0))
    tensors = (h, x, gate, weight, skip, dy, dh, dx, dgate, sums)
    divisor: tuple[Tensor | None, ...] = (None, None, None, None)
    time, floor_eps = 1, 0.0
    if scale is not None:
        divisor = (scale.row_sum, scale.floor, scale.dscale, scale.dsum)
        time, floor_eps = scale.row_sum.shape[-1], float(scale.eps)
    numbers = (tokens, time, *strides, float(eps), floor_eps)
    launch(_backward, (programs, heads), *tensors, *divisor, *numbers, **tile)
    return dh, dx, dgate, sums.sum(0)


def _tile(dim: int) -> dict[str, Any]:
    width = triton.next_power_of_2(dim)
    rows = max(1, min(16, ELEMENTS // width))
    warps = max(1, min(8, rows * width // 256))
    return {"DIM": dim, "WIDTH": width, "ROWS": rows, "num_warps": warps}


def _backward_tile(dim: int) -> dict[str, Any]:
    width = triton.next_power_of_2(dim)
    rows = max(1, min(16, ELEMENTS_BACKWARD // width))
    warps = max(1, min(8, width // ELEMENTS_BACKWARD))
    return {"DIM": dim, "WIDTH": width, "ROWS": rows, "num_warps": warps}


@triton.jit(do_not_specialize=["tokens"])
def _forward(
    h,
    x,
    gate,
    weight,
    skip,
    y,
    tokens,
    gate_stride,
    eps,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    head, wide = tl.program_id(1), tl.num_programs(1) * DIM
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    at = tl.arange(0, WIDTH)[None, :]
    real = at < DIM
    inside = (rows < tokens) & real
    rows = rows.to(tl.int64)
    cell = head * DIM + at
    normed, _ = _normed(tl.load(h + rows * wide + cell, mask=inside, other=0.0), real, eps, DIM)
    merged = normed * tl.load(weight + cell, mask=real, other=0.0).to(tl.float32)
    if skip is not None:
        past = tl.load(x + rows * wide + cell, mask=inside, other=0.0).to(tl.float32)
        merged += past * tl.load(skip + cell, mask=real, other=0.0).to(tl.float32)
    if gate is not None:
        raw = tl.load(gate + rows * gate_stride + cell, mask=inside, other=0.0).to(tl.float32)
        merged *= raw / (1 + tl.exp(-raw))
    tl.store(y + rows * wide + cell, merged, mask=inside)


@triton.jit
def _normed(h, real, eps, DIM: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """(h - mean) * scale, and scale = 1 / sqrt(variance + eps) of each row."""
    h = h.to(tl.float32)
    h = tl.where(real, h - tl.sum(h, 1, keep_dims=True) / DIM, 0.0)
    scale = 1 / tl.sqrt(tl.sum(h * h, 1, keep_dims=True) / DIM + eps)
    return h * scale, scale


@triton.jit(do_not_specialize=["tokens", "time"])
def _backward(
    h, x, gate, weight, skip, dy, dh, dx, dgate, sums, row_sum, floor, dscale, dsum,
    tokens, time, gate_stride, dgate_stride, eps, floor_eps,
    DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """Each program takes every n-th tile of a head."""
    program, head = tl.program_id(0), tl.program_id(1)
    wide = tl.num_programs(1) * DIM
    at = tl.arange(0, WIDTH)[None, :]
    real = at < DIM
    cell = head * DIM + at
    gain = tl.load(weight + cell, mask=real, other=0.0).to(tl.float32)
    dgain = tl.zeros((ROWS, WIDTH), tl.float32)
    if skip is not None:
        passed = tl.load(skip + cell, mask=real, other=0.0).to(tl.float32)
        dpassed = tl.zeros((ROWS, WIDTH), tl.float32)
    for first in range(program * ROWS, tokens, tl.num_programs(0) * ROWS):
        rows = first + tl.arange(0, ROWS)[:, None]
        inside = (rows < tokens) & real
        rows = rows.to(tl.int64)
        out = rows * wide + cell
        kept = tl.load(h + out, mask=inside, other=0.0).to(tl.float32)
        dmerged = tl.load(dy + out, mask=inside, other=0.0).to(tl.float32)
        normed, scale = _normed(kept, real, eps, DIM)
        merged = normed * gain
        if skip is not None:
            past = tl.load(x + out, mask=inside, other=0.0).to(tl.float32)
            merged += past * passed
        if gate is not None:
            raw = tl.load(gate + rows * gate_stride + cell, mask=inside, other=0.0).to(tl.float32)
            is_open = 1 / (1 + tl.exp(-raw))
            slope = is_open * (1 + raw * (1 - is_open))
            tl.store(dgate + rows * dgate_stride + cell, dmerged * merged * slope, mask=inside)
            dmerged *= raw * is_open
        if skip is not None:
            tl.store(dx + out, dmerged * passed, mask=inside)
            dpassed += dmerged * past
        dgain += dmerged * normed
        dnormed = dmerged * gain
        along = tl.sum(dnormed * normed, 1, keep_dims=True) / DIM
        mean = tl.sum(dnormed, 1, keep_dims=True) / DIM
        dkept = (dnormed - mean - normed * along) * scale
        if row_sum is not None:
            dkept = _undo_scale(
                kept, dkept, row_sum, floor, dscale, dsum, first, head, tokens, time, floor_eps,
                ROWS, dh.dtype.element_ty,
            )  # fmt: skip
        tl.store(dh + out, dkept, mask=inside)
    if skip is not None:
        tl.store(sums + program * 2 * wide + cell, tl.sum(dgain, 0)[None, :], mask=real)
        tl.store(sums + program * 2 * wide + wide + cell, tl.sum(dpassed, 0)[None, :], mask=real)
    else:
        tl.store(sums + program * wide + cell, tl.sum(dgain, 0)[None, :], mask=real)


@triton.jit
def _undo_scale(
    h, dh, row_sum, floor, dscale, dsum, first, head, tokens, time, eps,
    ROWS: tl.constexpr, TYPE: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Gradient of some rows before the division; stores those of what they were divided by."""
    row = first + tl.arange(0, ROWS)
    real = row < tokens
    at = ((row // time).to(tl.int64) * tl.num_programs(1) + head) * time + row % time
    sums = tl.load(row_sum + at, mask=real, other=0.0)
    lowest = tl.load(floor + at, mask=real, other=1.0)
    rounded, of_scale, of_sum = undo_scale(h, dh, sums, lowest, eps, TYPE)
    tl.store(dscale + at, of_scale, mask=real)
    tl.store(dsum + at, of_sum, mask=real)
    return rounded
