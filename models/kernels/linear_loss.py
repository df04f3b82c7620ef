"""A loss of the logits of a linear head, chunked so that (tokens, vocabulary) never exists at once.

The gradients are computed in the forward pass, chunk by chunk, while the logits of the chunk are at
hand; the backward pass only scales them (the fused linear cross-entropy of Liger Kernel, arXiv
2410.10989).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_CHUNK = 512  # tokens whose logits stay in the caches
LOGITS_BYTES = 2**29  # of a chunk elsewhere: large products, few sums over chunks

Criterion = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""From a chunk's logits (rows, vocab), in the products' type, and which rows of all tokens these
are, to losses (rows,) in float32 at least and their gradients (rows, vocab) in the logits' type. It
may overwrite the logits."""


def linear_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    criterion: Criterion,
    chunk: int | None = None,
) -> Tensor:
    """Sum of a criterion's losses of the logits `hidden @ weight.T + bias`.

    Products are in autocast's type where it is on; everything behind them, and the sum over chunks
    of the weight's gradient, in float32 at least.

    Args:
        hidden: (tokens, dim), after the final norm.
        weight: (vocab, dim) of the output head.
        bias: (vocab,) or None.
        criterion: see `Criterion`.
        chunk: tokens whose logits exist at once; by default what is fast on the device.

    Returns:
        A scalar, float32 at least.
    """
    device = hidden.device.type
    dtype = product_type(hidden, weight)
    chunk = chunk or _default_chunk(len(hidden), len(weight), dtype, device)
    with torch.autocast(device, enabled=False):
        total: Tensor = _LinearLoss.apply(
            hidden, weight, bias, criterion, chunk, dtype, torch.is_grad_enabled()
        )
    return total


def _default_chunk(tokens: int, vocab: int, dtype: torch.dtype, device: str) -> int:
    """Tokens whose logits take `LOGITS_BYTES` at most, all chunks about equal."""
    if device == "cpu":
        return CPU_CHUNK
    most = max(1, LOGITS_BYTES // (vocab * dtype.itemsize))
    chunks = max(1, -(-tokens // most))
    return max(1, -(-tokens // chunks))


def product_type(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Autocast's type where it is on, else the weight's."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


def _multiply_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out = a @ b, without a copy where the types allow it."""
    if out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(a @ b)


class _LinearLoss(torch.autograd.Function):
    """Keeps the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        criterion: Criterion,
        chunk: int,
        dtype: torch.dtype,
        grad_enabled: bool,
    ) -> Tensor:
        work = torch.promote_types(dtype, torch.float32)
        total = hidden.new_zeros((), dtype=work)
        head = weight.to(dtype)
        head_bias = None if bias is None else bias.to(dtype)
        # Of parameters this says True in a forward without gradients, too.
        needs = [grad_enabled and needed for needed in ctx.needs_input_grad]
        d_hidden = torch.empty_like(hidden) if needs[0] else None
        d_weight = torch.zeros_like(weight, dtype=work) if needs[1] else None
        d_bias = torch.zeros_like(bias, dtype=work) if bias is not None and needs[2] else None
        # Memory that all chunks share: fresh pages for each would cost more than filling them.
        all_logits = hidden.new_empty(min(chunk, len(hidden)), len(weight), dtype=dtype)
        product = torch.empty_like(head)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            inputs = hidden[rows].to(dtype)
            logits = torch.mm(inputs, head.T, out=all_logits[: len(inputs)])
            if head_bias is not None:
                logits += head_bias
            losses, d_logits = criterion(logits, rows)
            total += losses.sum()
            if d_hidden is not None:
                _multiply_into(d_hidden[rows], d_logits, head)
            if d_weight is not None:
                d_weight += torch.mm(d_logits.T, inputs, out=product)
            if d_bias is not None:
                d_bias += d_logits.sum(0, dtype=work)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        scaled = (
            None if d is None else (d * grads[0].to(d.dtype)).to(dtype)
            for d, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return *scaled, None, None, None, None
