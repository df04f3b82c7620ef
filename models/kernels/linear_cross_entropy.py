"""Cross-entropy behind a linear head, chunked (see `linear_loss`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels import native
from models.kernels.gpu import launch
from models.kernels.linear_loss import linear_loss
from models.kernels.shapes import expect_targets, expect_tokens


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

    Args:
        hidden: (tokens, dim), after the final norm.
        weight: (vocab, dim) of the output head.
        bias: (vocab,) or None.
        targets: (tokens,), `ignore_index` where there is nothing to predict.
        ignore_index: must not be a token.
        chunk: see `linear_loss`.

    Returns:
        A scalar, float32 at least; NaN or infinite logits give a NaN or infinite sum.

    Raises:
        IndexError: on the CPU, if a target is neither a token nor `ignore_index`. On a GPU, which
            nobody waits for, the sum is NaN then.
    """
    expect_targets(targets, len(hidden))

    def criterion(logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        return cross_entropy_and_gradient(logits, targets[rows], ignore_index)

    return linear_loss(hidden, weight, bias, criterion, chunk)


def linear_cross_entropy_reference(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, ignore_index: int
) -> Tensor:
    """PyTorch's cross-entropy of all logits at once, in float64."""
    logits = F.linear(hidden.double(), weight.double(), None if bias is None else bias.double())
    return F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="sum")


def cross_entropy_and_gradient(
    logits: Tensor, targets: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Losses (tokens,), zero where ignored, and their gradients, of the logits' type.

    May overwrite the logits.
    """
    if launch.takes("linear_cross_entropy", logits, fits=logits.is_contiguous()):
        from models.kernels.gpu import cross_entropy as gpu

        return gpu.differentiate_in_place(logits, targets.contiguous(), ignore_index), logits
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
    expect_tokens(targets, logits.shape[1], ignore_index)
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    sizes = (*logits.shape, ignore_index, int(logits.dtype == torch.bfloat16))
    native.call("linear_cross_entropy", "differentiate_in_place", logits, targets, losses, *sizes)
    return losses


@_differentiate_native.register_fake
def _(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    return logits.new_empty(len(logits), dtype=torch.float32)
