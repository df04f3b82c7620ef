"""The sLSTM cell against its equations, step by step in float64."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import LENGTHS, assert_matches, assert_passes_nan_on
from torch import Tensor

from models.kernels.slstm import slstm, slstm_reference

PADDING = torch.tensor([-1e30, 0.0, 0.0, 0.0])[:, None, None]  # (gate, 1, 1): an absent first step


def inputs(
    time: int, *, batch: int = 2, heads: int = 3, dim: int = 32, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """x, with the input and forget gates `scale` times as wide, and the recurrent weights."""
    torch.manual_seed(time)
    x = torch.randn(batch, time, 4, heads, dim)
    x[:, :, :2] *= scale
    return x, torch.randn(heads, 4 * dim, dim) / dim


def output(x: Tensor, recurrent: Tensor) -> Tensor:
    return slstm(x, recurrent)[0]


def reference_output(x: Tensor, recurrent: Tensor) -> Tensor:
    return slstm_reference(x, recurrent)[0]


@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_it_is_the_recurrence(path: str, time: int, scale: float) -> None:
    """Equal to the equations for gates up to about +-100."""
    assert_matches(output, reference_output, inputs(time, scale=scale), 2e-5)


@pytest.mark.parametrize("batch", [1, 4, 5, 19])
@pytest.mark.parametrize("dim", [8, 48, 64, 96])
def test_any_batch_and_width(path: str, batch: int, dim: int) -> None:
    """Batches that do not fill the blocks of rows, and widths that the C++ path does not take."""
    assert_matches(output, reference_output, inputs(9, batch=batch, heads=2, dim=dim), 2e-5)


@pytest.mark.parametrize("split", [1, 8, 20, 39])
def test_it_continues_from_a_state(path: str, split: int) -> None:
    """The second piece, started from the first one's state, equals the whole; its gradients
    are those of the reference from that state."""
    x, recurrent = inputs(40)
    whole, last = slstm(x, recurrent)
    first, state = slstm(x[:, :split], recurrent)
    second, end = slstm(x[:, split:], recurrent, initial_state=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(end, last, rtol=1e-5, atol=1e-5)
    assert_matches(
        lambda *x: slstm(*x, initial_state=state)[0],
        lambda *x: slstm_reference(*x, initial_state=state)[0],
        (x[:, split:], recurrent),
        2e-5,
    )


def test_the_state_is_that_of_the_reference(path: str) -> None:
    """h, c, n and m behind a sequence, detached."""
    x, recurrent = inputs(21)
    state, expected = slstm(x, recurrent.requires_grad_())[1], slstm_reference(x, recurrent)[1]
    for part, want in zip(state, expected, strict=True):
        assert not part.requires_grad
        torch.testing.assert_close(part.double(), want, rtol=1e-5, atol=1e-5)


def test_a_state_of_zeros_is_an_empty_memory(path: str) -> None:
    """Also when all input gates are so low that a stabiliser of 0 would make n underflow."""
    x, recurrent = inputs(10)
    x[:, :, 0] -= 200
    zeros = (torch.zeros(2, 3, 32),) * 4
    assert torch.equal(slstm(x, recurrent, initial_state=zeros)[0], slstm(x, recurrent)[0])


def test_a_state_that_wants_a_gradient_is_refused(path: str) -> None:
    state = tuple(torch.ones(2, 3, 32, requires_grad=True) for _ in range(4))
    with pytest.raises(ValueError, match="initial_state"):
        slstm(*inputs(3), initial_state=state)


@pytest.mark.parametrize("padding", [1, 7, 40])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_padding_on_the_left_is_as_if_absent(path: str, padding: int, scale: float) -> None:
    """First steps without an input change no later output, state or gradient, and none is NaN."""
    x, recurrent = inputs(25, scale=scale)
    padded = torch.cat([PADDING.expand(2, padding, 4, 3, 32), x], 1)
    weight = torch.randn(2, 25, 3, 32)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, padded, recurrent, recurrent)]
    alone, state = slstm(leaves[0], leaves[2])
    behind, state_behind = slstm(leaves[1], leaves[3])
    assert (behind[:, :padding] == 0).all()
    (alone * weight).sum().backward()
    (behind[:, padding:] * weight).sum().backward()
    dx, dpadded, drecurrent, drecurrent_padded = (leaf.grad for leaf in leaves)
    assert dpadded is not None
    assert dpadded.isfinite().all()
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(behind[:, padding:], alone, **close)
    torch.testing.assert_close(state_behind, state, **close)
    torch.testing.assert_close(dpadded[:, padding:], dx, **close)
    torch.testing.assert_close(drecurrent_padded, drecurrent, **close)


def test_nan_in_nan_out(path: str) -> None:
    assert_passes_nan_on(output, inputs(20))


@pytest.mark.parametrize("gate", range(4))
@pytest.mark.parametrize("step", [0, 11])
def test_nan_in_any_gate_stays(path: str, gate: int, step: int) -> None:
    """From its step on, in its own row, head and column."""
    x, recurrent = inputs(20)
    x[1, step, gate, 2, 5] = torch.nan
    h = output(x, recurrent)
    assert h[1, step:, 2, 5].isnan().all()
    assert h[0].isfinite().all()
