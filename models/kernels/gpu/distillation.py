"""The distillation loss of rows of logits in Triton, which its gradient replaces."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.cross_entropy import LOG2_E, LOWEST, NARROWEST
from models.kernels.gpu.launch import launch

WIDEST = 2048  # logits of a row, of student and teacher, that a program holds at once


def distil_in_place(
    logits: Tensor,
    guides: Tensor,
    targets: Tensor,
    alpha: float,
    temperature: float,
    ignore_index: int,
) -> Tensor:
    """logits and a teacher's, (rows, vocab), targets (rows,), int64 -> losses (rows,) in float32.

    The student's logits become the gradients of their row's loss. A target that is neither a token
    nor `ignore_index` makes both NaN.
    """
    rows, vocab = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block = min(WIDEST, max(NARROWEST, triton.next_power_of_2(vocab)))
    arguments = (logits, guides, targets, losses, vocab, ignore_index)
    numbers = (float(alpha), float(temperature))
    launch(_distil, (rows,), *arguments, *numbers, num_warps=max(1, block // 256), BLOCK=block)
    return losses


@triton.jit
def _distil(
    logits, guides, targets, losses, vocab, ignore_index, alpha, temperature, BLOCK: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocab
    guides += row * vocab
    target = tl.load(targets + row)
    if target == ignore_index:
        tl.store(losses + row, 0.0)
        for start in range(0, vocab, BLOCK):
            at = start + tl.arange(0, BLOCK)
            tl.store(logits + at, tl.zeros((BLOCK,), tl.float32), mask=at < vocab)
    else:
        largest, log_sum, warm_log_sum, guide_largest, guide_log_sum = _log_sums(
            logits, guides, vocab, temperature, BLOCK
        )
        known = (target >= 0) & (target < vocab)
        at_target = tl.load(logits + target, mask=known, other=float("nan")).to(tl.float32)
        log_sum = tl.where(known, log_sum, float("nan"))
        warm_log_sum = tl.where(known, warm_log_sum, float("nan"))
        tl.debug_barrier()  # the target's logit is read before anyone overwrites it
        terms = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, vocab, BLOCK):
            at = start + tl.arange(0, BLOCK)
            inside = at < vocab
            x = tl.load(logits + at, mask=inside, other=0.0).to(tl.float32)
            z = tl.load(guides + at, mask=inside, other=-float("inf")).to(tl.float32)
            log_q = (x - largest) / temperature - warm_log_sum
            log_p = (z - guide_largest) / temperature - guide_log_sum
            p = tl.exp2(log_p * LOG2_E)
            # A token that the teacher rules out contributes nothing; NaN stays NaN.
            terms += tl.where(p > 0, p * (log_p - log_q), 0 * p)
            gradient = alpha * temperature * (tl.exp2(log_q * LOG2_E) - p)
            hard = tl.exp2((x - largest - log_sum) * LOG2_E) - tl.where(at == target, 1.0, 0.0)
            gradient += tl.where(alpha < 1, (1 - alpha) * hard, 0.0)
            tl.store(logits + at, gradient, mask=inside)
        # Without weight the cross-entropy may be infinite.
        cross_entropy = (1 - alpha) * (largest - at_target + log_sum)
        cross_entropy = tl.where(alpha < 1, cross_entropy, 0.0)
        divergence = alpha * temperature * temperature * tl.sum(terms, 0)
        tl.store(losses + row, cross_entropy + divergence)


@triton.jit
def _log_sums(logits, guides, vocab, temperature, BLOCK: tl.constexpr) -> tuple[tl.tensor, ...]:
    """The largest logits, and logarithms of sums of exponentials of the distances from them, in one
    pass: of the student's as they are, of the student's and the teacher's by the temperature."""
    largest = tl.full((), LOWEST, tl.float32)
    guide_largest = tl.full((), LOWEST, tl.float32)
    sums = tl.zeros((BLOCK,), tl.float32)
    warm_sums = tl.zeros((BLOCK,), tl.float32)
    guide_sums = tl.zeros((BLOCK,), tl.float32)
    warm = LOG2_E / temperature
    for start in range(0, vocab, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(logits + at, mask=at < vocab, other=-float("inf")).to(tl.float32)
        z = tl.load(guides + at, mask=at < vocab, other=-float("inf")).to(tl.float32)
        before, guide_before = largest, guide_largest
        largest = tl.maximum(before, tl.max(x, 0))
        guide_largest = tl.maximum(guide_before, tl.max(z, 0))
        fade = before - largest
        sums = sums * tl.exp2(fade * LOG2_E) + tl.exp2((x - largest) * LOG2_E)
        warm_sums = warm_sums * tl.exp2(fade * warm) + tl.exp2((x - largest) * warm)
        fade = tl.exp2((guide_before - guide_largest) * warm)
        guide_sums = guide_sums * fade + tl.exp2((z - guide_largest) * warm)
    log_sum, warm_log_sum = tl.log(tl.sum(sums, 0)), tl.log(tl.sum(warm_sums, 0))
    return largest, log_sum, warm_log_sum, guide_largest, tl.log(tl.sum(guide_sums, 0))
