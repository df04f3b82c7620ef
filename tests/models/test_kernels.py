"""Every kernel against its float64 reference, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels import (
    block_diagonal,
    depthwise_conv,
)
from models.kernels import gated_linear_attention as gla

LENGTHS = [1, 3, 8, 63, 64, 65, 130]


def assert_matches(
    kernel: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    tolerance: float = 2e-6,
) -> None:
    """Outputs and gradients agree, relative to the largest entry of each (at least 1)."""
    fast = [x.detach().clone().requires_grad_() for x in inputs]
    slow = [x.detach().double().requires_grad_() for x in inputs]
    output, expected = kernel(*fast), reference(*slow)
    weight = torch.randn(expected.shape, dtype=torch.float64)
    (output.double() * weight).sum().backward()
    (expected * weight).sum().backward()
    results = [output, *(x.grad for x in fast)]
    expectations = [expected, *(x.grad for x in slow)]
    for index, (got, want) in enumerate(zip(results, expectations, strict=True)):
        assert got is not None
        assert want is not None
        error = (got.double() - want).abs().max() / want.abs().max().clamp(min=1)
        assert error < tolerance, f"tensor {index} (0 is the output): relative error {error:.1e}"


def gates(kind: str, shape: tuple[int, ...]) -> Tensor:
    """Log forget gates from harmless to extreme."""
    wide = F.logsigmoid(3 * torch.randn(shape))
    if kind == "open":
        return -1e-4 * torch.rand(shape)
    if kind == "closed":
        return torch.full(shape, -20.0)
    if kind == "rare":
        return torch.where(torch.rand(shape) < 0.02, -100.0, wide)
    return wide


@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("kind", ["open", "wide", "closed", "rare"])
def test_gated_linear_attention_is_the_recurrence(time: int, kind: str) -> None:
    """Chunked GLA equals the step-by-step recurrence for any length and any gates."""
    torch.manual_seed(time)
    q, k = torch.randn(2, 2, time, 3, 16)
    v = torch.randn(2, time, 3, 8)
    g = gates(kind, (2, time, 3, 16))
    assert_matches(
        lambda *x: gla.gated_linear_attention(*x)[0],
        lambda *x: gla.gated_linear_attention_reference(*x)[0],
        (q, k, v, g),
        5e-6,
    )


def test_gated_linear_attention_continues_from_a_state() -> None:
    """Two halves, the second started from the first one's state, equal the whole."""
    torch.manual_seed(0)
    q, k, g = torch.randn(3, 2, 100, 3, 16)
    v, g = torch.randn(2, 100, 3, 8), F.logsigmoid(g)
    whole, last = gla.gated_linear_attention(q, k, v, g)
    first, state = gla.gated_linear_attention(*(x[:, :37] for x in (q, k, v, g)))
    second, end = gla.gated_linear_attention(
        *(x[:, 37:] for x in (q, k, v, g)), initial_state=state
    )
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(end, last, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="initial_state"):
        gla.gated_linear_attention(q, k, v, g, initial_state=state.requires_grad_())


@pytest.mark.parametrize("time", [1, 2, 3, 4, 5, 64])
def test_depthwise_conv_is_conv1d(time: int) -> None:
    """The shifted sums equal a grouped convolution, also for sequences shorter than the kernel."""
    torch.manual_seed(time)
    inputs = (torch.randn(2, time, 8), torch.randn(8, 4), torch.randn(8))
    assert_matches(
        depthwise_conv.causal_depthwise_conv,
        depthwise_conv.causal_depthwise_conv_reference,
        inputs,
    )


@pytest.mark.parametrize("blocks", [1, 2, 7, 16, 50])
def test_block_diagonal_linear_is_a_dense_layer(blocks: int) -> None:
    """Grouping blocks changes nothing: the product is that with the whole block-diagonal matrix."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, blocks * 4), torch.randn(blocks, 6, 4)
    assert_matches(
        block_diagonal.block_diagonal_linear,
        lambda x, weight: x @ torch.block_diag(*weight).mT,
        (x, weight),
    )


def all_kernels() -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    torch.manual_seed(0)
    q, k, v, g = torch.randn(4, 2, 20, 3, 8)
    return {
        "gla": (lambda *x: gla.gated_linear_attention(*x)[0], (q, k, v, -g.abs())),
        "conv": (
            depthwise_conv.causal_depthwise_conv,
            (torch.randn(2, 20, 8), torch.randn(8, 4), torch.randn(8)),
        ),
    }


@pytest.mark.parametrize("name", ["gla", "conv"])
def test_a_nan_never_turns_into_a_number(name: str) -> None:
    """One NaN in any input makes the output NaN somewhere: a diverged run cannot hide."""
    kernel, inputs = all_kernels()[name]
    for index, tensor in enumerate(inputs):
        poisoned = tensor.clone()
        poisoned.view(-1)[0] = torch.nan
        changed = [poisoned if i == index else x for i, x in enumerate(inputs)]
        assert kernel(*changed).isnan().any(), f"input {index}"
