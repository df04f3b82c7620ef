"""SwiGLU in Triton."""

from __future__ import annotations

from typing import Any

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
    _launch(_forward, _rows(gate), _rows(up), out.view(-1, out.shape[-1]))
    return out


def backward(gate: Tensor, up: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up, each of its input's type and without gaps."""
    dgate, dup = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (gate, up))
    backward_into(
        _rows(gate), _rows(up), _rows(dout), *(x.view(-1, x.shape[-1]) for x in (dgate, dup))
    )
    return dgate, dup


def backward_into(gate: Tensor, up: Tensor, dout: Tensor, dgate: Tensor, dup: Tensor) -> None:
    """Fill dgate and dup; all (rows, dim), and their rows may lie apart."""
    _launch(_backward, gate, up, dout, dgate, dup)


def _launch(kernel: Any, *tensors: Tensor) -> None:
    """Tensors (rows, dim) in the kernel's order, each with its stride between rows behind them."""
    rows, dim = tensors[0].shape
    block = min(WIDEST, triton.next_power_of_2(dim))
    grid = (rows, triton.cdiv(dim, block))
    arguments = (*tensors, *(x.stride(0) for x in tensors), dim)
    launch(kernel, grid, *arguments, num_warps=max(1, block // 256), BLOCK=block)


def _rows(x: Tensor) -> Tensor:
    """x (..., dim) as (rows, dim); copies only what a stride between rows does not describe."""
    flat = x.reshape(-1, x.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()


@triton.jit
def _forward(gate, up, out, gate_stride, up_stride, out_stride, dim, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < dim
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + at, g / (1 + tl.exp(-g)) * u, mask=inside)


@triton.jit
def _backward(
    gate,
    up,
    dout,
    dgate,
    dup,
    gate_stride,
    up_stride,
    dout_stride,
    dgate_stride,
    dup_stride,
    dim,
    BLOCK: tl.constexpr,
) -> None:
    """Gradients of both inputs: with s = sigmoid(g), silu = g s has the slope s (1 + g (1 - s))."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < dim
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(dout + row * dout_stride + at, mask=inside, other=0.0).to(tl.float32)
    s = 1 / (1 + tl.exp(-g))
    silu = g * s
    tl.store(dgate + row * dgate_stride + at, d * u * (s + silu * (1 - s)), mask=inside)
    tl.store(dup + row * dup_stride + at, d * silu, mask=inside)
