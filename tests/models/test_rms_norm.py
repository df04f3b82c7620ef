"""The RMS norm against its formula in float64, and against the libraries' modules."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from kernel_checks import assert_matches, assert_passes_nan_on
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from models.kernels.gpu.launch import Launch, recording
from models.kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_reference
from tests.models.compilation import SHARED_MEMORY, compile_for

EPS = 1e-5
KERNEL, REFERENCE = partial(rms_norm, eps=EPS), partial(rms_norm_reference, eps=EPS)


def inputs(*shape: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(sum(shape))
    return scale * torch.randn(shape), torch.randn(shape[-1])


def test_triton_is_the_formula(on_triton: None) -> None:
    """Several rows a program, the last one not full; a width that is no power of two."""
    assert_matches(KERNEL, REFERENCE, inputs(19, 384))
    assert_sum_matches(inputs(2, 35, 48))


@pytest.mark.parametrize("shape", [(1, 16), (2, 5, 384), (3, 31, 48), (70, 12), (7, 50)])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_it_is_the_formula(path: str, shape: tuple[int, ...], scale: float) -> None:
    """Output and both gradients, for widths that the C++ version takes or not, and for
    inputs below and far above sqrt(eps)."""
    x, weight = inputs(*shape, scale=scale)
    # In units of the input, so that the gradient of x, about 1 / scale, is of order one.
    assert_matches(
        lambda x, w: KERNEL(scale * x, w), lambda x, w: REFERENCE(scale * x, w), (x / scale, weight)
    )


def test_no_rows(path: str) -> None:
    x, weight = torch.zeros(0, 32, requires_grad=True), torch.ones(32, requires_grad=True)
    y = KERNEL(x, weight)
    y.sum().backward()
    assert y.shape == (0, 32)
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None])
def test_types(path: str, kind: torch.dtype, dtype: torch.dtype | None) -> None:
    """Any mix of input and output type: only the last rounding is that of the type."""
    x, weight = (tensor.to(kind) for tensor in inputs(40, 64))
    x.requires_grad_()
    weight.requires_grad_()
    y = KERNEL(x, weight, dtype=dtype)
    dy = torch.randn(40, 64).to(y.dtype)
    grads = torch.autograd.grad(y, (x, weight), dy)
    expected = REFERENCE(x, weight)
    expected_grads = torch.autograd.grad(expected, (x, weight), dy.double())
    assert y.dtype == (dtype or kind)
    rounding = {torch.float32: 1e-6, torch.bfloat16: 2**-8}
    for got, want in zip((y, *grads), (expected, *expected_grads), strict=True):
        torch.testing.assert_close(got.double(), want.double(), rtol=rounding[got.dtype], atol=1e-5)


def test_float64_stays_exact(path: str) -> None:
    x, weight = (tensor.double() for tensor in inputs(5, 32))
    assert_matches(KERNEL, REFERENCE, (x, weight), 1e-13)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_it_is_that_of_llama(path: str, kind: torch.dtype) -> None:
    """Equal to transformers' module; in bf16 to the one rounding that it does more."""
    x, weight = inputs(9, 64)
    module = LlamaRMSNorm(64, eps=EPS).to(kind)
    module.weight.data.copy_(weight)
    x = x.to(kind)
    want = module(x)
    got = rms_norm(x, module.weight, EPS)
    assert got.dtype == want.dtype
    rtol = 1e-6 if kind == torch.float32 else 2**-6
    torch.testing.assert_close(got, want, rtol=rtol, atol=1e-6)


def test_rows_far_apart_in_memory(path: str) -> None:
    """Inputs need not be contiguous, nor their gradients."""
    x, weight = inputs(6, 4, 64)
    assert_matches(
        lambda x, w: KERNEL(x.transpose(0, 1), w).transpose(0, 1), REFERENCE, (x, weight)
    )


def test_any_number_of_threads_gives_the_same_bits(path: str) -> None:
    """The weight's gradient is a sum over all rows, in an order that threads do not change."""
    x, weight = inputs(500, 48)
    dy = torch.randn(500, 48)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight)]
        results.append(torch.autograd.grad(KERNEL(*leaves), leaves, dy))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_nan_in_nan_out(path: str, kind: torch.dtype) -> None:
    assert_passes_nan_on(KERNEL, tuple(tensor.to(kind) for tensor in inputs(20, 32)))


def assert_sum_matches(case: tuple[Tensor, Tensor]) -> None:
    """The norm of a sum, the sum, and all gradients through both, or through the norm alone."""
    x, weight = case
    inputs = (x, torch.randn_like(x), weight)

    def kernel(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
        return torch.stack(add_rms_norm(x, residual, weight, EPS))

    def reference(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
        return torch.stack([REFERENCE(x + residual, weight), x + residual])

    assert_matches(kernel, reference, inputs)
    assert_matches(
        lambda *inputs: add_rms_norm(*inputs, EPS)[0], lambda *inputs: reference(*inputs)[0], inputs
    )


@pytest.mark.parametrize("shape", [(1, 16), (2, 5, 384), (3, 31, 50)])
def test_the_norm_of_a_sum(path: str, shape: tuple[int, ...]) -> None:
    assert_sum_matches(inputs(*shape))


def test_the_sum_alone(path: str) -> None:
    """Its gradient passes through as it is, though the norm is not used."""
    x, weight = inputs(5, 32)
    x.requires_grad_()
    _, total = add_rms_norm(x, torch.randn_like(x), weight.requires_grad_(), EPS)
    gradient = torch.randn_like(x)
    total.backward(gradient)
    assert x.grad is not None
    assert torch.equal(x.grad, gradient)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_branch_in_bf16(path: str, kind: torch.dtype) -> None:
    """As under autocast: the sum in the residual stream's type, the norm in bf16, and each gradient
    in its input's type."""
    x, weight = inputs(40, 64)
    leaves = [x.bfloat16(), torch.randn_like(x).to(kind), weight]
    for leaf in leaves:
        leaf.requires_grad_()
    y, total = add_rms_norm(*leaves, EPS, torch.bfloat16)
    assert (y.dtype, total.dtype) == (torch.bfloat16, kind)
    dy, dtotal = torch.randn_like(y), torch.randn_like(total)
    gradients = torch.autograd.grad((y, total), leaves, (dy, dtotal))
    assert [gradient.dtype for gradient in gradients] == [leaf.dtype for leaf in leaves]
    exact_total = (leaves[0].double() + leaves[1].double()).to(kind).double()
    exact = REFERENCE(exact_total, weight)
    torch.testing.assert_close(y.double(), exact.double(), rtol=2**-8, atol=1e-5)
    wanted = torch.autograd.grad(
        (REFERENCE(leaves[0].double() + leaves[1].double(), weight), leaves[0] + leaves[1]),
        leaves,
        (dy.double(), dtotal),
    )
    for got, want in zip(gradients, wanted, strict=True):
        error = (got.double() - want.double()).norm() / want.double().norm()
        assert error < (1e-2 if torch.bfloat16 in (kind, got.dtype) else 1e-6)


def launches(dim: int, branch: torch.dtype) -> list[Launch]:
    """What the norms of a residual stream in float32 launch, forward and backward."""
    with FakeTensorMode(), recording() as recorded:
        x = torch.empty(4, 512, dim, requires_grad=True)
        weight = torch.empty(dim, requires_grad=True)
        y, total = add_rms_norm(x.to(branch), x, weight, EPS, branch)
        (y + rms_norm(total, weight, EPS, branch)).sum().backward()
    return recorded


@pytest.mark.slow
def test_it_compiles_at_every_size() -> None:
    """Without spills, on three generations of GPUs, in bf16 and float32: the presets' widths, a
    mixer's heads and its inner width."""
    kinds = (torch.bfloat16, torch.float32)
    recorded = [
        x for dim in (32, 128, 384, 768, 1024, 2048) for kind in kinds for x in launches(dim, kind)
    ]
    for usage in compile_for(recorded, (80, 90, 100)):
        assert usage.spilled == 0, usage
        assert usage.shared <= SHARED_MEMORY[86], usage
