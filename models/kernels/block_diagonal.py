"""Linear layer whose weight is a block-diagonal matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import native
from models.kernels.gpu import launch
from models.kernels.shapes import expect

# Blocks are grouped until their inputs are this wide: the zeros between them cost less than
# many products of tiny matrices.
DENSE_WIDTH = 64
NATIVE_BLOCK, NATIVE_TOKENS = 4, 64  # as in block_diagonal.cpp


def block_diagonal_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., blocks * in), weight (blocks, out, in) -> (..., blocks * out).

    Like a linear layer it computes in the type of autocast, where that is on, and else in x's,
    which must be that of the weight; blocks of 4 x 4 in C++ and Triton in float32, rounding the
    result.
    """
    expect("x", x.reshape(-1, x.shape[-1]), -1, len(weight) * weight.shape[2])
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    if _triton_takes(x, weight):
        with torch.autocast(kind, enabled=False):
            product: Tensor = _SmallBlocksOnGPU.apply(x, weight)
        return product
    if _native_takes(x, weight):
        with torch.autocast(kind, enabled=False):
            y: Tensor = _SmallBlocks.apply(x, weight.float())
        return y
    return _grouped(x, weight)


def block_diagonal_pair(x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """`block_diagonal_linear` of one input with two weights of one shape; on a GPU x is read once,
    and the two gradients that it gets are added before they are written."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    if first.shape == second.shape and _triton_takes(x, first, second):
        expect("x", x.reshape(-1, x.shape[-1]), -1, len(first) * first.shape[2])
        with torch.autocast(kind, enabled=False):
            y, other = _SmallBlocksOnGPU.apply(x, first, second)
        return y, other
    return block_diagonal_linear(x, first), block_diagonal_linear(x, second)


def _grouped(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply by dense products of several blocks each."""
    blocks, height, width = weight.shape
    group = max(1, DENSE_WIDTH // width)
    while blocks % group:
        group -= 1
    # (groups, group, out, group, in): a group's blocks on the diagonal of its dense matrix
    diagonal = torch.eye(group, dtype=weight.dtype, device=weight.device)[:, None, :, None]
    dense = weight.view(-1, group, height, 1, width) * diagonal
    dense = dense.view(-1, group * height, group * width)
    grouped = x.reshape(-1, len(dense), group * width).transpose(0, 1)
    out = torch.bmm(grouped, dense.mT)  # (groups, tokens, group * out)
    return out.transpose(0, 1).reshape(*x.shape[:-1], -1)


class _SmallBlocks(torch.autograd.Function):
    """Blocks of 4 x 4 in C++; the gradient of x is the product with the transposed blocks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply_native(x, _factors(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        dx = _multiply_native(dy, _factors(weight.mT))
        dfactors = _gradient_native(x, dy.contiguous())
        return dx, dfactors.view(NATIVE_BLOCK, *weight.shape[:2]).permute(1, 2, 0)


class _SmallBlocksOnGPU(torch.autograd.Function):
    """Blocks of 4 x 4 in Triton: one product, or two of one input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Any:
        from models.kernels.gpu import block_diagonal as gpu

        ctx.save_for_backward(x, *weights)
        products = gpu.forward(native.rows(x), [weight.contiguous() for weight in weights])
        products = [product.view(x.shape) for product in products]
        return products[0] if len(products) == 1 else tuple(products)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor, ...]:
        from models.kernels.gpu import block_diagonal as gpu

        x, *weights = ctx.saved_tensors
        flat = [dy.reshape(-1, x.shape[-1]).contiguous() for dy in dys]
        contiguous = [weight.contiguous() for weight in weights]
        dx, dweights = gpu.backward(native.rows(x), contiguous, flat)
        return dx.view(x.shape), *(d.to(w.dtype) for d, w in zip(dweights, weights, strict=True))


def _triton_takes(x: Tensor, *weights: Tensor) -> bool:
    fits = all(weight.shape[1:] == (NATIVE_BLOCK, NATIVE_BLOCK) for weight in weights)
    return launch.takes("block_diagonal", x, *weights, fits=fits)


def _factors(weight: Tensor) -> Tensor:
    """weight (blocks, out, in) -> (in, blocks * out)."""
    return weight.permute(2, 0, 1).flatten(1).contiguous()


def _native_takes(x: Tensor, weight: Tensor) -> bool:
    fits = weight.shape[1] == weight.shape[2] == NATIVE_BLOCK and x.shape[-1] % native.LANES == 0
    return native.takes("block_diagonal", x, weight, fits=fits, types=native.ELEMENT_TYPES)


@torch.library.custom_op("babysweep::block_diagonal", mutates_args=())
def _multiply_native(x: Tensor, factors: Tensor) -> Tensor:
    y, rows = torch.empty_like(x, memory_format=torch.contiguous_format), native.rows(x)
    native.call("block_diagonal", "multiply", native.Rows(rows), factors, y, *_sizes(rows))
    return y


@_multiply_native.register_fake
def _(x: Tensor, factors: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("babysweep::block_diagonal_gradient", mutates_args=())
def _gradient_native(x: Tensor, dy: Tensor) -> Tensor:
    rows = native.rows(x)
    parts = -(-len(rows) // NATIVE_TOKENS)
    dfactors = x.new_empty(parts, NATIVE_BLOCK, x.shape[-1], dtype=torch.float32)
    native.call("block_diagonal", "gradient", native.Rows(rows), dy, dfactors, *_sizes(rows))
    return dfactors.sum(0)


@_gradient_native.register_fake
def _(x: Tensor, dy: Tensor) -> Tensor:
    return x.new_empty(NATIVE_BLOCK, x.shape[-1], dtype=torch.float32)


def _sizes(rows: Tensor) -> tuple[int, ...]:
    """Tokens, dim, the distance of the rows, and whether their type is bf16."""
    return *rows.shape, rows.stride(0), int(rows.dtype == torch.bfloat16)
