"""The chunked cross-entropy against PyTorch's own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from trainables.corpus import IGNORED
from trainables.objectives import linear_cross_entropy


def _case(tokens=37, dim=16, vocab=50, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, dim, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, dim, generator=generator, dtype=dtype, requires_grad=True)
    bias = torch.randn(vocab, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    targets[::5] = IGNORED
    return hidden, weight, bias, targets


@pytest.mark.parametrize("chunk", [1, 7, 37, 1000])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_cross_entropy_with_gradients(chunk, with_bias):
    """Any chunk length gives PyTorch's sum and gradients, ignored targets included."""
    hidden, weight, bias, targets = _case()
    inputs = [hidden, weight] + ([bias] if with_bias else [])
    logits = F.linear(hidden, weight, bias if with_bias else None)
    expected = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
    expected_grads = torch.autograd.grad(expected * 0.37, inputs)
    loss = linear_cross_entropy(hidden, weight, bias if with_bias else None, targets, chunk=chunk)
    grads = torch.autograd.grad(loss * 0.37, inputs)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-6)


def test_nan_stays_nan():
    """A NaN hidden state gives a NaN loss: divergence is never hidden."""
    hidden, weight, bias, targets = _case(dtype=torch.float32)
    with torch.no_grad():
        hidden[1, 0] = math.nan
    assert math.isnan(linear_cross_entropy(hidden, weight, bias, targets).item())


def test_autocast_computes_in_bf16_and_sums_in_float32():
    """Under bf16 autocast the loss is a float32 within bf16's accuracy of the exact one."""
    hidden, weight, bias, targets = _case(dtype=torch.float32)
    exact = linear_cross_entropy(hidden, weight, bias, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = linear_cross_entropy(hidden, weight, bias, targets)
    assert rounded.dtype == torch.float32
    assert rounded.item() != exact.item()
    assert rounded.item() == pytest.approx(exact.item(), rel=2e-2)
