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
ENTRIES = 1024  # that a program loads at once: eight for each thread, 16 bytes in bf16
PROGRAMS_PER_MULTIPROCESSOR = 8


def forward(x: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """x (rows, blocks * 4), whose rows may lie apart, and one or two weights (blocks, 4, 4)
    -> a product (rows, blocks * 4) with each."""
    outs = [x.new_empty(x.shape) for _ in weights]
    _launch(_forward, x, *_pair(weights), *_pair(outs))
    return outs


def backward(x: Tensor, weights: list[Tensor], douts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Gradients of x, of its type, and of the weights, in float32."""
    dx = x.new_empty(x.shape)
    programs, _ = _grid(x)
    parts = [w.new_empty(programs, *w.shape, dtype=torch.float32) for w in weights]
    _launch(_backward, x, *_pair(weights), *_pair(douts), dx, *_pair(parts))
    return dx, [part.sum(0) for part in parts]


def _pair(tensors: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    return tensors[0], tensors[1] if len(tensors) > 1 else None


def _blocks(x: Tensor) -> int:
    return min(BLOCKS, triton.next_power_of_2(x.shape[1] // SIZE))


def _grid(x: Tensor) -> tuple[int, int]:
    """Programs along the rows and along the diagonal."""
    rows, dim = x.shape
    tile = SIZE * _blocks(x)
    across = triton.cdiv(dim, tile)
    enough = triton.cdiv(PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(x.device), across)
    return min(triton.cdiv(rows * tile, ENTRIES), enough), across


def _launch(kernel: Any, x: Tensor, *others: Tensor | None) -> None:
    rows, dim = x.shape
    blocks = _blocks(x)
    launch(
        kernel,
        _grid(x),
        *(x, *others, rows, x.stride(0)),
        num_warps=4,
        COUNT=dim // SIZE,
        BLOCKS=blocks,
        ROWS=ENTRIES // (SIZE * blocks),
    )


@triton.jit
def _load_weight(
    weight, first, COUNT: tl.constexpr, BLOCKS: tl.constexpr, TRANSPOSED: tl.constexpr
) -> tl.tensor:
    """(1, BLOCKS, 4, 4) in float32, each block transposed or not."""
    entry = tl.arange(0, BLOCKS * 16)
    if TRANSPOSED:
        entry = entry // 16 * 16 + entry % 4 * 4 + entry // 4 % 4
    at = first * 16 + entry
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
    factor = _load_weight(weight, first, COUNT, BLOCKS, False)
    if other_weight is not None:
        other_factor = _load_weight(other_weight, first, COUNT, BLOCKS, False)
    for start in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (columns < COUNT * 4)[None, :]
        row = row.to(tl.int64)[:, None]
        entries = _load(x, row * stride + columns[None, :], inside, BLOCKS, ROWS)[:, :, None, :]
        at = row * (COUNT * 4) + columns[None, :]
        _store(y, at, inside, tl.sum(entries * factor, 3), BLOCKS, ROWS)
        if other_weight is not None:
            _store(other_y, at, inside, tl.sum(entries * other_factor, 3), BLOCKS, ROWS)


@triton.jit(do_not_specialize=["rows"])
def _backward(
    x,
    weight,
    other_weight,
    dy,
    other_dy,
    dx,
    dweight,
    other_dweight,
    rows,
    stride,
    COUNT: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """Each program writes its rows of dx and one part of dweight."""
    first = tl.program_id(1) * BLOCKS
    columns = first * 4 + tl.arange(0, BLOCKS * 4)
    factor = _load_weight(weight, first, COUNT, BLOCKS, True)
    total = tl.zeros((ROWS, BLOCKS, 4, 4), tl.float32)
    if other_weight is not None:
        other_factor = _load_weight(other_weight, first, COUNT, BLOCKS, True)
        other_total = tl.zeros((ROWS, BLOCKS, 4, 4), tl.float32)
    for start in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (columns < COUNT * 4)[None, :]
        row = row.to(tl.int64)[:, None]
        entries = _load(x, row * stride + columns[None, :], inside, BLOCKS, ROWS)[:, :, None, :]
        at = row * (COUNT * 4) + columns[None, :]
        gradient = _load(dy, at, inside, BLOCKS, ROWS)
        total += gradient[:, :, :, None] * entries
        # Over the last dimension, which lies within a thread.
        dentries = tl.sum(gradient[:, :, None, :] * factor, 3)
        if other_weight is not None:
            gradient = _load(other_dy, at, inside, BLOCKS, ROWS)
            other_total += gradient[:, :, :, None] * entries
            dentries += tl.sum(gradient[:, :, None, :] * other_factor, 3)
        _store(dx, at, inside, dentries, BLOCKS, ROWS)
    part = tl.program_id(0).to(tl.int64) * COUNT * 16
    at = first * 16 + tl.arange(0, BLOCKS * 16)
    summed = tl.reshape(tl.sum(total, 0), (BLOCKS * 16,))
    tl.store(dweight + part + at, summed, mask=at < COUNT * 16)
    if other_weight is not None:
        summed = tl.reshape(tl.sum(other_total, 0), (BLOCKS * 16,))
        tl.store(other_dweight + part + at, summed, mask=at < COUNT * 16)
