"""Products with block-diagonal matrices of 4 x 4 blocks in Triton.

A product takes four multiplications for each number that it reads: memory sets the speed. A program
holds the weights of its columns in registers and goes through some rows; two matrices that multiply
the same input read it once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.launch import launch, multiprocessors

SIZE = 4  # of a block
BLOCKS = 64  # on the diagonal that a program takes at most
# Numbers that a program loads at once: 16 bytes for each thread in bf16, half of that in the
# backward, whose threads hold the weights and their gradients, too.
ENTRIES, ENTRIES_BACKWARD = 1024, 512
PROGRAMS = 8  # for each multiprocessor
# As many as fit side by side, so that all end together: with one weight, and with two.
PROGRAMS_BACKWARD = (9, 5)


def forward(x: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """x (rows, blocks * 4), whose rows may lie apart, and one or two weights (blocks, 4, 4)
    -> a product (rows, blocks * 4) with each."""
    outs = [x.new_empty(x.shape) for _ in weights]
    grid = _grid(x, ENTRIES, PROGRAMS)
    _launch(_forward, grid, ENTRIES, x, *_pair(weights), *_pair(outs))
    return outs


def backward(
    x: Tensor, weights: list[Tensor], douts: list[Tensor], more: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of x, of its type, and of the weights, in float32; `more` (rows, blocks * 4) is
    added to the former."""
    dx = x.new_empty(x.shape)
    grid = _grid(x, ENTRIES_BACKWARD, PROGRAMS_BACKWARD[len(weights) - 1])
    parts = [w.new_empty(grid[0], *w.shape, dtype=torch.float32) for w in weights]
    _launch(
        _backward,
        grid,
        ENTRIES_BACKWARD,
        x,
        *_pair(weights),
        *_pair(douts),
        more,
        dx,
        *_pair(parts),
    )
    return dx, [part.sum(0) for part in parts]


def _pair(tensors: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    return tensors[0], tensors[1] if len(tensors) > 1 else None


def _blocks(x: Tensor) -> int:
    return min(BLOCKS, triton.next_power_of_2(x.shape[1] // SIZE))


def _grid(x: Tensor, entries: int, most: int) -> tuple[int, int]:
    """Programs along the rows and along the diagonal, at most `most` on each multiprocessor."""
    rows, dim = x.shape
    tile = SIZE * _blocks(x)
    across = triton.cdiv(dim, tile)
    enough = max(1, most * multiprocessors(x.device) // across)
    return min(triton.cdiv(rows * tile, entries), enough), across


def _launch(
    kernel: Any, grid: tuple[int, int], entries: int, x: Tensor, *others: Tensor | None
) -> None:
    rows, dim = x.shape
    blocks = _blocks(x)
    launch(
        kernel,
        grid,
        *(x, *others, rows, x.stride(0)),
        num_warps=4,
        COUNT=dim // SIZE,
        BLOCKS=blocks,
        ROWS=entries // (SIZE * blocks),
    )


@triton.jit
def _load_weight(weight, first, COUNT: tl.constexpr, BLOCKS: tl.constexpr) -> tl.tensor:
    """(1, BLOCKS, 4, 4) in float32."""
    at = first * 16 + tl.arange(0, BLOCKS * 16)
    numbers = tl.load(weight + at, mask=at < COUNT * 16, other=0.0).to(tl.float32)
    return tl.reshape(numbers, (1, BLOCKS, 4, 4))


@triton.jit
def _load(x, offset, inside, BLOCKS: tl.constexpr, ROWS: tl.constexpr) -> tl.tensor:
    """Rows as (ROWS, BLOCKS, 4) in float32."""
    tile = tl.load(x + offset, mask=inside, other=0.0).to(tl.float32)
    return tl.reshape(tile, (ROWS, BLOCKS, 4))


@triton.jit
def _store(x, offset, inside, blocks, BLOCKS: tl.constexpr, ROWS: tl.constexpr) -> None:
    tl.store(x + offset, tl.reshape(blocks, (ROWS, BLOCKS * 4)), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _forward(
    x,
    weight,
    other_weight,
    y,
    other_y,
    rows,
    stride,
    COUNT: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    first = tl.program_id(1) * BLOCKS
    columns = first * 4 + tl.arange(0, BLOCKS * 4)
    factor = _load_weight(weight, first, COUNT, BLOCKS)
    if other_weight is not None:
        other_factor = _load_weight(other_weight, first, COUNT, BLOCKS)
    for start in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (columns < COUNT * 4)[None, :]
        row = row.to(tl.int64)[:, None]
        entries = _load(x, row * stride + columns[None, :], inside, BLOCKS, ROWS)[:, :, None, :]
        at = row * (COUNT * 4) + columns[None, :]
        _store(y, at, inside, tl.sum(entries * factor, 3), BLOCKS, ROWS)
        if other_weight is not None:
            _store(other_y, at, inside, tl.sum(entries * other_factor, 3), BLOCKS, ROWS)


@triton.jit
def _tile(x, row, rows, stride, columns, COUNT: tl.constexpr) -> tl.tensor:
    """(ROWS, BLOCKS * 4) as they are; zero outside."""
    inside = (row < rows)[:, None] & (columns < COUNT * 4)[None, :]
    return tl.load(x + row.to(tl.int64)[:, None] * stride + columns[None, :], inside, other=0.0)


@triton.jit
def _quarters(tile, ROWS: tl.constexpr, BLOCKS: tl.constexpr) -> tuple[tl.tensor, ...]:
    """The four entries of each block, as (ROWS, BLOCKS) in float32.

    The entries of a block lie in one thread, so nothing moves: sums over a dimension of four would
    go through shared memory.
    """
    even, odd = tl.split(tl.reshape(tile, (ROWS, BLOCKS * 2, 2)))
    first, third = tl.split(tl.reshape(even, (ROWS, BLOCKS, 2)))
    second, fourth = tl.split(tl.reshape(odd, (ROWS, BLOCKS, 2)))
    return first.to(tl.float32), second.to(tl.float32), third.to(tl.float32), fourth.to(tl.float32)


@triton.jit
def _joined(quarters, ROWS: tl.constexpr, BLOCKS: tl.constexpr) -> tl.tensor:
    """The reverse."""
    even = tl.reshape(tl.join(quarters[0], quarters[2]), (ROWS, BLOCKS * 2))
    odd = tl.reshape(tl.join(quarters[1], quarters[3]), (ROWS, BLOCKS * 2))
    return tl.reshape(tl.join(even, odd), (ROWS, BLOCKS * 4))


@triton.jit
def _zeros(ROWS: tl.constexpr, BLOCKS: tl.constexpr) -> tuple[tl.tensor, ...]:
    """Four sums, each a value of its own: a loop would take one value for one variable."""
    return (
        tl.zeros((ROWS, BLOCKS), tl.float32),
        tl.zeros((ROWS, BLOCKS), tl.float32),
        tl.zeros((ROWS, BLOCKS), tl.float32),
        tl.zeros((ROWS, BLOCKS), tl.float32),
    )


@triton.jit
def _no_sums(ROWS: tl.constexpr, BLOCKS: tl.constexpr) -> tuple[tuple[tl.tensor, ...], ...]:
    """Zeros to add to: a sum for each entry of a block, row by row."""
    return (
        _zeros(ROWS, BLOCKS),
        _zeros(ROWS, BLOCKS),
        _zeros(ROWS, BLOCKS),
        _zeros(ROWS, BLOCKS),
    )


@triton.jit
def _weight_row(at, inside) -> tuple[tl.tensor, ...]:
    """Four numbers side by side, as (1, BLOCKS) in float32."""
    return (
        tl.load(at, mask=inside, other=0.0).to(tl.float32),
        tl.load(at + 1, mask=inside, other=0.0).to(tl.float32),
        tl.load(at + 2, mask=inside, other=0.0).to(tl.float32),
        tl.load(at + 3, mask=inside, other=0.0).to(tl.float32),
    )


@triton.jit
def _weight(weight, blocks, COUNT: tl.constexpr) -> tuple[tuple[tl.tensor, ...], ...]:
    """Entries of the blocks, row by row."""
    at, inside = (weight + blocks * 16)[None, :], (blocks < COUNT)[None, :]
    return (
        _weight_row(at, inside),
        _weight_row(at + 4, inside),
        _weight_row(at + 8, inside),
        _weight_row(at + 12, inside),
    )


@triton.jit
def _add(total, factor, entries) -> tuple[tl.tensor, ...]:
    """total + factor * entries for the four of a row."""
    return (
        total[0] + factor * entries[0],
        total[1] + factor * entries[1],
        total[2] + factor * entries[2],
        total[3] + factor * entries[3],
    )


@triton.jit
def _add_product(total, gradient, weight) -> tuple[tl.tensor, ...]:
    """total + weight^T gradient"""
    total = _add(total, gradient[0], weight[0])
    total = _add(total, gradient[1], weight[1])
    total = _add(total, gradient[2], weight[2])
    return _add(total, gradient[3], weight[3])


@triton.jit
def _add_outer(sums, gradient, entries) -> tuple[tuple[tl.tensor, ...], ...]:
    """sums + gradient entries^T"""
    return (
        _add(sums[0], gradient[0], entries),
        _add(sums[1], gradient[1], entries),
        _add(sums[2], gradient[2], entries),
        _add(sums[3], gradient[3], entries),
    )


@triton.jit
def _store_sums(
    dweight, sums, first, ROWS: tl.constexpr, BLOCKS: tl.constexpr, COUNT: tl.constexpr
) -> None:
    """A program's part of the gradient of a weight: sums over its rows."""
    dweight += tl.program_id(0).to(tl.int64) * COUNT * 16
    column = tl.arange(0, BLOCKS * 4)
    at, inside = (first + column // 4) * 16 + column % 4, first + column // 4 < COUNT
    tl.store(dweight + at, tl.sum(_joined(sums[0], ROWS, BLOCKS), 0), mask=inside)
    tl.store(dweight + at + 4, tl.sum(_joined(sums[1], ROWS, BLOCKS), 0), mask=inside)
    tl.store(dweight + at + 8, tl.sum(_joined(sums[2], ROWS, BLOCKS), 0), mask=inside)
    tl.store(dweight + at + 12, tl.sum(_joined(sums[3], ROWS, BLOCKS), 0), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _backward(
    x, weight, other_weight, dy, other_dy, more, dx, dweight, other_dweight, rows, stride,
    COUNT: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """Each program writes its rows of dx, to which it adds those of `more`, and one part of
    dweight. A program holds much, so few run side by side: each loads ahead of its sums."""
    first, wide, step = tl.program_id(1) * BLOCKS, COUNT * 4, tl.num_programs(0) * ROWS
    columns, blocks = first * 4 + tl.arange(0, BLOCKS * 4), first + tl.arange(0, BLOCKS)
    factor, sums = _weight(weight, blocks, COUNT), _no_sums(ROWS, BLOCKS)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    next_x = _tile(x, row, rows, stride, columns, COUNT)
    next_dy = _tile(dy, row, rows, wide, columns, COUNT)
    if other_weight is not None:
        other_factor, other_sums = _weight(other_weight, blocks, COUNT), _no_sums(ROWS, BLOCKS)
        next_other = _tile(other_dy, row, rows, wide, columns, COUNT)
    for start in range(tl.program_id(0) * ROWS, rows, step):
        row = start + tl.arange(0, ROWS)
        if more is not None:
            added = _tile(more, row, rows, wide, columns, COUNT)
        entries, gradient = _quarters(next_x, ROWS, BLOCKS), _quarters(next_dy, ROWS, BLOCKS)
        next_x = _tile(x, row + step, rows, stride, columns, COUNT)
        next_dy = _tile(dy, row + step, rows, wide, columns, COUNT)
        dentries = _add_product(_zeros(ROWS, BLOCKS), gradient, factor)
        sums = _add_outer(sums, gradient, entries)
        if other_weight is not None:
            gradient = _quarters(next_other, ROWS, BLOCKS)
            next_other = _tile(other_dy, row + step, rows, wide, columns, COUNT)
            dentries = _add_product(dentries, gradient, other_factor)
            other_sums = _add_outer(other_sums, gradient, entries)
        if more is not None:
            dentries = _add(dentries, 1.0, _quarters(added, ROWS, BLOCKS))
        inside = (row < rows)[:, None] & (columns < wide)[None, :]
        at = row.to(tl.int64)[:, None] * wide + columns[None, :]
        tl.store(dx + at, _joined(dentries, ROWS, BLOCKS), mask=inside)
    _store_sums(dweight, sums, first, ROWS, BLOCKS, COUNT)
    if other_weight is not None:
        _store_sums(other_dweight, other_sums, first, ROWS, BLOCKS, COUNT)
