"""Layer norm of rows in Triton; its backward adds the gradient that passes the norm by.

A warp takes a row, or a few warps a wide one: sums over it need no or few barriers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.launch import launch, multiprocessors

NUMBERS_PER_WARP = 512  # that it holds of a row; narrow rows are several to a warp
PROGRAMS_PER_MULTIPROCESSOR = 8  # of the backward, each with a row of partial sums of dweight


def forward(
    x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """x (rows, dim), weight (dim,) -> y of `dtype`; of each row the mean and 1 / sqrt(var + eps),
    (rows,)."""
    rows, dim = x.shape
    tile, warps = _tile(dim)
    y = torch.empty_like(x, dtype=dtype)
    mean, scale = x.new_empty(2, rows, dtype=torch.float32)
    grid = (triton.cdiv(rows, tile["ROWS"]),)
    arguments = (x, weight, y, mean, scale, rows, float(eps))
    launch(_forward, grid, *arguments, num_warps=warps, **tile)
    return y, mean, scale


def backward(
    x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, dy: Tensor, more: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of x, of its type, to which `more` is added, and of weight, in float32."""
    rows, dim = x.shape
    tile, warps = _tile(dim)
    most = PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(x.device)
    programs = min(triton.cdiv(rows, tile["ROWS"]), most)
    dx = torch.empty_like(x)
    dweight = x.new_empty(programs, dim, dtype=torch.float32)
    arguments = (x, weight, mean, scale, dy, more, dx, dweight, rows)
    launch(_backward, (programs,), *arguments, num_warps=warps, **tile)
    return dx, dweight.sum(0)


def _tile(dim: int) -> tuple[dict[str, int], int]:
    """Widths and rows of a program's tile, and its warps."""
    width = triton.next_power_of_2(dim)
    rows = max(1, NUMBERS_PER_WARP // width)
    return {"DIM": dim, "WIDTH": width, "ROWS": rows}, max(1, min(8, width // NUMBERS_PER_WARP))


@triton.jit(do_not_specialize=["rows"])
def _forward(
    x, weight, y, mean, scale, rows, eps,
    DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    real = (column < DIM)[None, :]
    at, inside = row.to(tl.int64)[:, None] * DIM + column[None, :], (row < rows)[:, None] & real
    entries = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    centre = tl.sum(entries, 1) / DIM
    entries = tl.where(real, entries - centre[:, None], 0.0)
    factor = 1 / tl.sqrt(tl.sum(entries * entries, 1) / DIM + eps)
    gain = tl.load(weight + column, mask=column < DIM, other=0.0).to(tl.float32)
    tl.store(y + at, entries * factor[:, None] * gain[None, :], mask=inside)
    tl.store(mean + row, centre, mask=row < rows)
    tl.store(scale + row, factor, mask=row < rows)


@triton.jit(do_not_specialize=["rows"])
def _backward(
    x, weight, mean, scale, dy, more, dx, dweight, rows,
    DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """Each program takes every n-th tile: y_i = n_i weight_i with n = (x - mean) * scale, so that
    dn/dx = scale * (1 - 1 1^T / dim - n n^T / dim)."""
    column = tl.arange(0, WIDTH)
    real = (column < DIM)[None, :]
    gain = tl.load(weight + column, mask=column < DIM, other=0.0).to(tl.float32)[None, :]
    sums = tl.zeros((ROWS, WIDTH), tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        at, inside = row.to(tl.int64)[:, None] * DIM + column[None, :], (row < rows)[:, None] & real
        entries = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        dout = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        if more is not None:
            passed = tl.load(more + at, mask=inside, other=0.0).to(tl.float32)
        factor = tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
        centre = tl.load(mean + row, mask=row < rows, other=0.0)[:, None]
        normed = (entries - centre) * factor  # what is not real meets a dout of zero
        sums += dout * normed
        dnormed = dout * gain
        along = tl.sum(dnormed * normed, 1)[:, None] / DIM
        level = tl.sum(dnormed, 1)[:, None] / DIM
        gradient = (dnormed - level - normed * along) * factor
        if more is not None:
            gradient += passed
        tl.store(dx + at, gradient, mask=inside)
    part = tl.program_id(0).to(tl.int64) * DIM
    tl.store(dweight + part + column, tl.sum(sums, 0), mask=column < DIM)
