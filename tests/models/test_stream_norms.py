"""Layer norm and RMS norm of a residual stream against PyTorch's, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compilation import SHARED_MEMORY, compile_for
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from triton_interpreter import take_triton

from models.kernels.gpu.launch import Launch, recording
from models.kernels.layer_norm import stream_layer_norm
from models.kernels.rms_norm import rms_norm, stream_rms_norm

EPS = 1e-5
Norm = Callable[..., Any]


def layer_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, None, EPS)


def rms_norm_of_pytorch(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, EPS)


both_norms = pytest.mark.parametrize(
    ("norm", "exact"), [(stream_layer_norm, layer_norm), (stream_rms_norm, rms_norm_of_pytorch)]
)


def results(
    norm: Norm, x: Tensor, weight: Tensor, dy: Tensor, dpassed: Tensor | None, kind: torch.dtype
) -> tuple[Tensor, ...]:
    """The norm, and the gradients of x and weight."""
    leaves = [tensor.clone().requires_grad_() for tensor in (x, weight)]
    y, passed = norm(*leaves, EPS, kind)
    assert y.dtype == kind
    assert torch.equal(passed, x)
    if dpassed is None:
        return y.detach(), *torch.autograd.grad(y, leaves, dy.to(kind))
    return y.detach(), *torch.autograd.grad((y, passed), leaves, (dy.to(kind), dpassed))


@both_norms
@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "dim"), [(1, 8), (5, 40), (300, 96), (7, 700), (3, 2048)])
def test_it_is_the_norm(
    norm: Norm,
    exact: Norm,
    rows: int,
    dim: int,
    kind: torch.dtype,
    is_stream: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_triton(monkeypatch)
    torch.manual_seed(0)
    x, dy, dpassed = 2 + torch.randn(3, 1, rows, dim)
    weight = 1 + 0.1 * torch.randn(dim)
    dy = dy.to(kind).float()
    got = results(norm, x, weight, dy, dpassed if is_stream else None, kind)
    leaves = [tensor.double().requires_grad_() for tensor in (x, weight)]
    y = exact(*leaves)
    dx, dweight = torch.autograd.grad(y, leaves, dy.double())
    want = (y, dx + dpassed if is_stream else dx, dweight)
    for value, wanted in zip(got, want, strict=True):
        error = (value.double() - wanted).norm() / wanted.norm()
        assert error < (2**-8 if value.dtype == torch.bfloat16 else 2e-6)


@both_norms
def test_a_stream_whose_norm_nobody_needs_passes(
    norm: Norm, exact: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradient is that of what comes behind."""
    take_triton(monkeypatch)
    x = torch.randn(3, 8, requires_grad=True)
    _, passed = norm(x, torch.ones(8), EPS, torch.float32)
    dpassed = torch.randn(3, 8)
    assert torch.equal(torch.autograd.grad(passed, x, dpassed)[0], dpassed)


@both_norms
def test_a_weight_of_another_width_is_refused(norm: Norm, exact: Norm) -> None:
    with pytest.raises(ValueError, match="weight"):
        norm(torch.randn(3, 8), torch.ones(4), EPS, torch.float32)


@pytest.mark.parametrize(
    ("norm", "plain"), [(stream_layer_norm, layer_norm), (stream_rms_norm, rms_norm)]
)
def test_elsewhere_it_is_the_plain_norm(norm: Norm, plain: Norm) -> None:
    x, weight = torch.randn(3, 8), torch.randn(8)
    y, passed = norm(x, weight, EPS, torch.float32)
    assert passed is x
    assert torch.equal(y, plain(x, weight, *([EPS] if plain is rms_norm else [])))


def launches(norm: Norm, dim: int, kind: torch.dtype) -> list[Launch]:
    """What the norm of a stream in float32 launches, forward and backward."""
    with FakeTensorMode(), recording() as recorded:
        x = torch.empty(4, 512, dim, requires_grad=True)
        y, passed = norm(x, torch.empty(dim, requires_grad=True), EPS, kind)
        (y + passed).sum().backward()
    return recorded


@pytest.mark.slow
@both_norms
def test_it_compiles_at_every_size(norm: Norm, exact: Norm) -> None:
    """Without spills, on three generations of GPUs, at the presets' widths."""
    kinds = (torch.bfloat16, torch.float32)
    recorded = [
        x
        for dim in (128, 384, 768, 1024, 2048)
        for kind in kinds
        for x in launches(norm, dim, kind)
    ]
    for usage in compile_for(recorded, (80, 90, 100)):
        assert usage.spilled == 0, usage
        assert usage.shared <= SHARED_MEMORY[86], usage
