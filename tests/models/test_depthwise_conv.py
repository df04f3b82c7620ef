"""The causal depthwise convolution against `conv1d` in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from kernel_checks import assert_matches, assert_passes_nan_on
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels.depthwise_conv import (
    causal_depthwise_conv,
    causal_depthwise_conv_reference,
)
from models.kernels.gpu.launch import Launch, recording
from tests.models.compilation import SHARED_MEMORY, compile_for


def inputs(time: int, dim: int, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(time)
    return torch.randn(2, time, dim), torch.randn(dim, width), torch.randn(dim)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("time", [1, 2, 3, 4, 5, 64])
@pytest.mark.parametrize("dim", [16, 80, 12])
def test_it_is_conv1d(path: str, time: int, dim: int, silu: bool) -> None:
    """Equal to a grouped convolution, also for sequences shorter than the kernel and for widths
    that the C++ path does not take."""
    assert_matches(
        partial(causal_depthwise_conv, silu=silu),
        partial(causal_depthwise_conv_reference, silu=silu),
        inputs(time, dim),
    )


@pytest.mark.parametrize("width", [1, 2, 3, 4, 11])
def test_any_kernel_width(path: str, width: int) -> None:
    """The kernel may have one tap, or more than the C++ path takes."""
    assert_matches(causal_depthwise_conv, causal_depthwise_conv_reference, inputs(9, 32, width))


@pytest.mark.parametrize("split", [1, 2, 10])
def test_it_continues_from_a_state(path: str, split: int) -> None:
    """Two pieces, the second with the first one's last inputs, equal the whole."""
    x, weight, bias = inputs(20, 32)
    whole = causal_depthwise_conv(x, weight, bias)
    past = torch.cat([torch.zeros(2, 3, 32), x[:, :split]], 1)[:, -3:]
    second = causal_depthwise_conv(x[:, split:], weight, bias, initial_state=past)
    torch.testing.assert_close(second, whole[:, split:])


def test_inputs_whose_steps_lie_apart(path: str) -> None:
    """The input may be one half of a wider tensor, as a joint projection gives it."""
    x, weight, bias = inputs(20, 64)
    assert_matches(
        lambda x, *rest: causal_depthwise_conv(x[..., 32:], *rest, silu=True),
        lambda x, *rest: causal_depthwise_conv_reference(x[..., 32:], *rest, silu=True),
        (x, weight[32:], bias[32:]),
    )


def test_bfloat16_is_rounded_once(path: str) -> None:
    """Sums are in float32 whatever the type of x; only the results have it."""
    x, weight, bias = inputs(20, 32)
    leaves = [x.bfloat16().requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    y = causal_depthwise_conv(*leaves, silu=True)
    dy = torch.randn(y.shape).bfloat16()
    grads = torch.autograd.grad(y, leaves, dy)
    expected = causal_depthwise_conv_reference(*leaves, silu=True)
    expected_grads = torch.autograd.grad(expected, leaves, dy.double())
    assert y.dtype == torch.bfloat16
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-8}
    for got, want in zip((y, *grads), (expected, *expected_grads), strict=True):
        torch.testing.assert_close(got.double(), want.double(), rtol=rounding[got.dtype], atol=1e-4)


@pytest.mark.parametrize("silu", [False, True])
def test_nan_in_nan_out(path: str, silu: bool) -> None:
    assert_passes_nan_on(partial(causal_depthwise_conv, silu=silu), inputs(20, 32))


@pytest.mark.parametrize(("time", "dim", "width"), [(1, 5, 4), (9, 130, 3), (37, 16, 2)])
def test_triton(on_triton: None, time: int, dim: int, width: int) -> None:
    """Odd lengths and widths, with gradients."""
    assert_matches(
        partial(causal_depthwise_conv, silu=True),
        partial(causal_depthwise_conv_reference, silu=True),
        inputs(time, dim, width),
    )


def test_triton_in_bfloat16_on_views(on_triton: None) -> None:
    test_bfloat16_is_rounded_once("triton")
    test_inputs_whose_steps_lie_apart("triton")
    test_it_continues_from_a_state("triton", 2)
    test_nan_in_nan_out("triton", True)


WIDTHS = {"mini": 256, "small": 768, "base": 1536, "paper": 2048, "large": 4096}  # of Mamba


def launches(dim: int, kind: torch.dtype) -> list[Launch]:
    """What the convolution of half of a projection launches, forward and backward."""
    with FakeTensorMode(), recording() as recorded:
        joint = torch.empty(4, 512, 2 * dim, dtype=kind, requires_grad=True)
        weight, bias = (torch.empty(*x, requires_grad=True) for x in ((dim, 4), (dim,)))
        causal_depthwise_conv(joint[..., :dim], weight, bias, silu=True).sum().backward()
    return recorded


@pytest.mark.slow
def test_it_compiles_at_every_size() -> None:
    """Without spills, on three generations of GPUs, in bf16 and float32."""
    kinds = (torch.bfloat16, torch.float32)
    recorded = [x for dim in WIDTHS.values() for kind in kinds for x in launches(dim, kind)]
    for usage in compile_for(recorded, (80, 90, 100)):
        assert usage.spilled == 0, usage
        assert usage.shared <= SHARED_MEMORY[86], usage
