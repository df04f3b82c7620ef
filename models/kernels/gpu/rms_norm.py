"""RMS norm of rows in Triton, by itself or of a sum with the residual stream."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.launch import launch, multiprocessors

TILE = 1024  # numbers that a program holds at once: several rows of small width
PROGRAMS_PER_MULTIPROCESSOR = 8  # of the backward, each with a row of partial sums of dweight


def forward(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x (rows, dim), weight (dim,) -> y of `dtype`, and 1 / sqrt(mean(x^2) + eps), (rows, 1)."""
    y = torch.empty_like(x, dtype=dtype)
    scale = x.new_empty(len(x), 1, dtype=torch.float32)
    _launch_forward(x, None, weight, y, None, scale, eps)
    return y, scale


def add_forward(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply `forward` to x + residual -> y, the sum in the wider type of the two, and the scale."""
    y = torch.empty_like(x, dtype=dtype)
    total = torch.empty_like(x, dtype=torch.promote_types(x.dtype, residual.dtype))
    scale = x.new_empty(len(x), 1, dtype=torch.float32)
    _launch_forward(x, residual, weight, y, total, scale, eps)
    return y, total, scale


def backward(x: Tensor, weight: Tensor, scale: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x, of its type, and of weight, in float32."""
    dx = torch.empty_like(x)
    return dx, _launch_backward(x, weight, scale, dy, None, dx, None)


def add_backward(
    total: Tensor,
    weight: Tensor,
    scale: Tensor,
    dy: Tensor,
    dtotal: Tensor | None,
    types: tuple[torch.dtype, torch.dtype | None],
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of x and residual, of these types (None for none), and of weight, in float32.

    dy and dtotal are those of the norm and of the sum.
    """
    first = torch.empty_like(total, dtype=types[0])
    second = None
    if types[1] not in (None, types[0]):
        second = torch.empty_like(total, dtype=types[1])
    dweight = _launch_backward(total, weight, scale, dy, dtotal, first, second)
    return first, first if types[1] == types[0] else second, dweight


def _launch_forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    y: Tensor,
    total: Tensor | None,
    scale: Tensor,
    eps: float,
) -> None:
    rows, dim = x.shape
    tile, warps = _tile(dim)
    arguments = (x, residual, weight, y, total, scale, rows, dim, float(eps))
    grid = (triton.cdiv(rows, tile["ROWS"]),)
    launch(_forward, grid, *arguments, num_warps=warps, **tile)


def _launch_backward(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    dy: Tensor,
    dtotal: Tensor | None,
    first: Tensor,
    second: Tensor | None,
) -> Tensor:
    """Fill `first` and `second`, which may differ in type; returns the weight's gradient."""
    rows, dim = x.shape
    tile, warps = _tile(dim)
    most = PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(x.device)
    programs = min(triton.cdiv(rows, tile["ROWS"]), most)
    dweight = weight.new_empty(programs, dim, dtype=torch.float32)
    arguments = (x, weight, scale, dy, dtotal, first, second, dweight, rows, dim)
    launch(_backward, (programs,), *arguments, num_warps=warps, **tile)
    return dweight.sum(0)


def _tile(dim: int) -> tuple[dict[str, int], int]:
    """Rows and width of a program's tile, and its warps: eight numbers or more a thread."""
    block = triton.next_power_of_2(dim)
    rows = max(1, TILE // block)
    return {"ROWS": rows, "BLOCK": block}, min(16, rows * block // 256)


@triton.jit
def _forward(
    x, residual, weight, y, total, scale, rows, dim, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    at = row.to(tl.int64)[:, None] * dim + column
    inside = (row < rows)[:, None] & (column < dim)
    entries = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        entries += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        rounded = entries.to(total.dtype.element_ty)
        tl.store(total + at, rounded, mask=inside)
        entries = rounded.to(tl.float32)  # what the backward pass sees
    factor = 1 / tl.sqrt(tl.sum(entries * entries, 1) / dim + eps)
    gain = tl.load(weight + column, mask=column < dim, other=0.0).to(tl.float32)
    tl.store(y + at, entries * factor[:, None] * gain, mask=inside)
    tl.store(scale + row, factor, mask=row < rows)


@triton.jit
def _backward(
    x,
    weight,
    scale,
    dy,
    dtotal,
    first,
    second,
    dweight,
    rows,
    dim,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Each program takes every n-th tile: y_i = n_i weight_i with n = x * scale, so that
    dn/dx = scale * (1 - n n^T / dim)."""
    column = tl.arange(0, BLOCK)
    gain = tl.load(weight + column, mask=column < dim, other=0.0).to(tl.float32)
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)
        at = row[:, None] * dim + column
        inside = (row < rows)[:, None] & (column < dim)
        factor = tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
        normed = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * factor
        dout = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        sums += dout * normed
        dnormed = dout * gain
        along = tl.sum(dnormed * normed, 1)[:, None] / dim
        dx = (dnormed - normed * along) * factor
        if dtotal is not None:
            dx += tl.load(dtotal + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(first + at, dx, mask=inside)
        if second is not None:
            tl.store(second + at, dx, mask=inside)
    tl.store(dweight + tl.program_id(0) * dim + column, tl.sum(sums, 0), mask=column < dim)
