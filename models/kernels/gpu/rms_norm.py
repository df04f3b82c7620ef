"""RMS norm of rows in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.launch import launch, multiprocessors

PROGRAMS_PER_MULTIPROCESSOR = 4  # of the backward, each with a row of partial sums of dweight


def forward(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x (rows, dim), weight (dim,) -> y of `dtype`, and 1 / sqrt(mean(x^2) + eps), (rows, 1)."""
    rows, dim = x.shape
    y = torch.empty_like(x, dtype=dtype)
    scale = x.new_empty(rows, 1, dtype=torch.float32)
    block = triton.next_power_of_2(dim)
    arguments = (x, weight, y, scale, dim, float(eps))
    launch(_forward, (rows,), *arguments, num_warps=_warps(block), BLOCK=block)
    return y, scale


def backward(x: Tensor, weight: Tensor, scale: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x, of its type, and of weight, in float32."""
    rows, dim = x.shape
    programs = min(rows, PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(x.device))
    dx = torch.empty_like(x)
    dweight = weight.new_empty(programs, dim, dtype=torch.float32)
    block = triton.next_power_of_2(dim)
    arguments = (x, weight, scale, dy, dx, dweight, rows, dim)
    launch(_backward, (programs,), *arguments, num_warps=_warps(block), BLOCK=block)
    return dx, dweight.sum(0)


def _warps(block: int) -> int:
    """Eight numbers or more for each thread."""
    return min(8, max(1, block // 256))


@triton.jit
def _forward(x, weight, y, scale, dim, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < dim
    entries = tl.load(x + row * dim + at, mask=inside, other=0.0).to(tl.float32)
    factor = 1 / tl.sqrt(tl.sum(entries * entries) / dim + eps)
    gain = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * dim + at, entries * factor * gain, mask=inside)
    tl.store(scale + row, factor)


@triton.jit
def _backward(x, weight, scale, dy, dx, dweight, rows, dim, BLOCK: tl.constexpr):
    """Each program takes every n-th row: y_i = n_i weight_i with n = x * scale, so that
    dn/dx = scale * (1 - n n^T / dim)."""
    program = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < dim
    gain = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for row in range(program, rows, tl.num_programs(0)):
        start = tl.cast(row, tl.int64) * dim
        factor = tl.load(scale + row)
        normed = tl.load(x + start + at, mask=inside, other=0.0).to(tl.float32) * factor
        dout = tl.load(dy + start + at, mask=inside, other=0.0).to(tl.float32)
        total += dout * normed
        dnormed = dout * gain
        along = tl.sum(dnormed * normed) / dim
        tl.store(dx + start + at, (dnormed - normed * along) * factor, mask=inside)
    tl.store(dweight + program * dim + at, total, mask=inside)
