"""SwiGLU in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.launch import launch

WIDEST = 1024  # numbers of a row that one program takes


def forward(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up (..., dim) -> silu(gate) * up, of the wider type of the two."""
    out = torch.empty(
        gate.shape, dtype=torch.promote_types(gate.dtype, up.dtype), device=gate.device
    )
    _launch(_forward, (gate, up), (out,))
    return out


def backward(gate: Tensor, up: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up, each of its input's type and without gaps."""
    dgate, dup = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (gate, up))
    _launch(_backward, (gate, up, dout), (dgate, dup))
    return dgate, dup


def _launch(kernel, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    """Inputs may have gaps between their rows; outputs have none."""
    inputs = tuple(_rows(x) for x in inputs)
    rows, dim = inputs[0].shape
    block = min(WIDEST, triton.next_power_of_2(dim))
    strides = [x.stride(0) for x in inputs]
    arguments = (*inputs, *outputs, *strides, dim)
    grid = (rows, triton.cdiv(dim, block))
    launch(kernel, grid, *arguments, num_warps=max(1, block // 256), BLOCK=block)


def _rows(x: Tensor) -> Tensor:
    """x (..., dim) as (rows, dim); copies only what a stride between rows does not describe."""
    flat = x.reshape(-1, x.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()


@triton.jit
def _forward(gate, up, out, gate_stride, up_stride, dim, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < dim
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * dim + at, g / (1 + tl.exp(-g)) * u, mask=inside)


@triton.jit
def _backward(
    gate, up, dout, dgate, dup, gate_stride, up_stride, dout_stride, dim, BLOCK: tl.constexpr
):
    """With s = sigmoid(g): silu = g s, and its derivative s (1 + g (1 - s))."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < dim
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(dout + row * dout_stride + at, mask=inside, other=0.0).to(tl.float32)
    s = 1 / (1 + tl.exp(-g))
    silu = g * s
    tl.store(dgate + row * dim + at, d * u * (s + silu * (1 - s)), mask=inside)
    tl.store(dup + row * dim + at, d * silu, mask=inside)
