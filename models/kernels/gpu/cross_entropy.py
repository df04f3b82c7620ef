"""Cross-entropy of rows of logits in Triton, which their gradient replaces."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.launch import launch

WIDEST = 4096  # logits of a row that a program holds at once
NARROWEST = 256
LOWEST = tl.constexpr(-3.0e38)  # of running maxima: finite, so that logits of -inf give no NaN
LOG2_E = tl.constexpr(1.4426950408889634)


def differentiate_in_place(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """logits (rows, vocab), targets (rows,), int64 -> losses (rows,) in float32.

    The logits become the gradients of their row's loss. A target that is neither a token nor
    `ignore_index` makes both NaN.
    """
    rows, vocab = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block = min(WIDEST, max(NARROWEST, triton.next_power_of_2(vocab)))
    arguments = (logits, targets, losses, vocab, ignore_index)
    launch(_differentiate, (rows,), *arguments, num_warps=max(1, block // 512), BLOCK=block)
    return losses


@triton.jit
def _differentiate(logits, targets, losses, vocab, ignore_index, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocab
    target = tl.load(targets + row)
    if target == ignore_index:
        tl.store(losses + row, 0.0)
        for start in range(0, vocab, BLOCK):
            at = start + tl.arange(0, BLOCK)
            tl.store(logits + at, tl.zeros((BLOCK,), tl.float32), mask=at < vocab)
    else:
        largest, log_sum = _log_sum_exp(logits, vocab, BLOCK)
        known = (target >= 0) & (target < vocab)
        at_target = tl.load(logits + target, mask=known, other=float("nan")).to(tl.float32)
        log_sum = tl.where(known, log_sum, float("nan"))
        tl.debug_barrier()  # the target's logit is read before anyone overwrites it
        tl.store(losses + row, largest - at_target + log_sum)
        for start in range(0, vocab, BLOCK):
            at = start + tl.arange(0, BLOCK)
            x = tl.load(logits + at, mask=at < vocab, other=0.0).to(tl.float32)
            probability = tl.exp2((x - largest - log_sum) * LOG2_E)
            gradient = probability - tl.where(at == target, 1.0, 0.0)
            tl.store(logits + at, gradient, mask=at < vocab)


@triton.jit
def _log_sum_exp(logits, vocab, BLOCK: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The largest logit, and the logarithm of the sum of exponentials of their distances from it.

    One pass, with a running maximum. Their sum would lose digits of large logits. The second is NaN
    if a logit is, since its exponential is.
    """
    largest = tl.full((), LOWEST, tl.float32)
    sums = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocab, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(logits + at, mask=at < vocab, other=-float("inf")).to(tl.float32)
        before = largest
        largest = tl.maximum(before, tl.max(x, 0))
        sums = sums * tl.exp2((before - largest) * LOG2_E) + tl.exp2((x - largest) * LOG2_E)
    return largest, tl.log(tl.sum(sums, 0))
