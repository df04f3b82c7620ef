"""Cross-entropy behind a linear head, chunked so that (tokens, vocabulary) never exists at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import native
from models.kernels.shapes import expect

CPU_CHUNK = 512  # tokens whose logits stay in the caches
CHUNK = 4096  # other devices want large products


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    chunk: int | None = None,
) -> Tensor:
    """Summed cross-entropy in nats of `targets` given the logits `hidden @ weight.T + bias`.

    The gradients are computed in the forward pass, chunk by chunk, while the logits of the chunk
    are at hand; the backward pass only scales them (the fused linear cross-entropy of Liger Kernel,
    arXiv 2410.10989). Products are in autocast's type where it is on; everything behind them, and
    the sum over chunks of the weight's gradient, in float32 at least.

    Args:
        hidden: (tokens, dim), after the final norm.
        weight: (vocab, dim) of the output head.
        bias: (vocab,) or None.
        targets: (tokens,), `ignore_index` where there is nothing to predict.
        ignore_index: must not be a token.
        chunk: tokens whose logits exist at once; by default what is fast on the device.

    Returns:
        A scalar, float32 at least; NaN or infinite logits give a NaN or infinite sum.

    Raises:
        IndexError: on the CPU, if a target is neither a token nor `ignore_index`.
    """
    expect("targets", targets, len(hidden))
    if targets.dtype != torch.int64:
        raise TypeError(f"targets are {targets.dtype}, but token ids are needed as int64")
    device = hidden.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
    chunk = chunk or (CPU_CHUNK if device == "cpu" else CHUNK)
    with torch.autocast(device, enabled=False):
        total: Tensor = _LinearCrossEntropy.apply(
            hidden, weight, bias, targets, ignore_index, chunk, dtype, torch.is_grad_enabled()
        )
    return total


def linear_cross_entropy_reference(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, ignore_index: int
) -> Tensor:
    """PyTorch's cross-entropy of all logits at once, in float64."""
    logits = F.linear(hidden.double(), weight.double(), None if bias is None else bias.double())
    return F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="sum")


class _LinearCrossEntropy(torch.autograd.Function):
    """Keeps the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        ignore_index: int,
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
            losses, d_logits = _losses_and_gradients(logits, targets[rows], ignore_index)
            total += losses.sum()
            if d_hidden is not None:
                d_hidden[rows] = d_logits @ head
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
        return *scaled, None, None, None, None, None


def _losses_and_gradients(
    logits: Tensor, targets: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Losses (tokens,), zero where ignored, and their gradients, of the logits' type.

    May overwrite the logits.
    """
    if native.takes("linear_cross_entropy", logits, types=native.ELEMENT_TYPES):
        return _differentiate_native(logits, targets.contiguous(), ignore_index), logits
    work = torch.promote_types(logits.dtype, torch.float32)
    log_probs = torch.log_softmax(logits, -1, dtype=work)
    losses = F.nll_loss(log_probs, targets, ignore_index=ignore_index, reduction="none")
    ignored = (targets == ignore_index)[:, None]
    at_target = targets[:, None].masked_fill(ignored, 0)
    probs = log_probs.exp_()
    probs.scatter_add_(1, at_target, probs.new_full(at_target.shape, -1))
    return losses, probs.to(logits.dtype).masked_fill_(ignored, 0)


@torch.library.custom_op("babysweep::cross_entropy_gradient", mutates_args=("logits",))
def _differentiate_native(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    vocab = logits.shape[1]
    wrong = targets[((targets < 0) | (targets >= vocab)) & (targets != ignore_index)]
    if len(wrong):
        raise IndexError(
            f"target {wrong[0]} is out of bounds: it must be below the vocabulary's size {vocab}, "
            f"or {ignore_index} where there is nothing to predict"
        )
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    sizes = (*logits.shape, ignore_index, int(logits.dtype == torch.bfloat16))
    native.call("linear_cross_entropy", "differentiate_in_place", logits, targets, losses, *sizes)
    return losses


@_differentiate_native.register_fake
def _(logits, targets, ignore_index):
    return logits.new_empty(len(logits), dtype=torch.float32)
