"""The block-diagonal layer against a dense one."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_matches, assert_passes_nan_on
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels.block_diagonal import block_diagonal_linear, block_diagonal_pair
from models.kernels.gpu.launch import Launch, recording
from tests.models.compilation import SHARED_MEMORY, compile_for


def reference(x: Tensor, weight: Tensor) -> Tensor:
    """The product with the whole matrix, in float64."""
    return x.double() @ torch.block_diag(*weight.double()).mT


def inputs(*rows: int, blocks: int = 8, height: int = 4, width: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(sum(rows) + blocks)
    return torch.randn(*rows, blocks * width), torch.randn(blocks, height, width)


def pair(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.cat(block_diagonal_pair(x, first, second), -1)


def pair_reference(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([reference(x, first), reference(x, second)], -1)


def test_triton_is_a_block_diagonal_matrix(on_triton: None) -> None:
    """Several programs along rows and diagonal, the last ones not full; rows that lie apart."""
    x, weight = inputs(3, 7, blocks=70)
    assert_matches(block_diagonal_linear, reference, (x, weight), 3e-6)
    assert_matches(
        lambda x, *weights: pair(x[..., 8:], *weights),
        lambda x, *weights: pair_reference(x[..., 8:], *weights),
        (x, weight[2:], weight[:-2] + 1),
        3e-6,
    )


@pytest.mark.parametrize("rows", [(1,), (2, 5), (3, 50)])
@pytest.mark.parametrize(
    ("blocks", "height", "width"), [(1, 3, 5), (6, 4, 4), (52, 4, 4), (24, 8, 2), (3, 96, 32)]
)
def test_it_is_a_block_diagonal_matrix(
    path: str, rows: tuple[int, ...], blocks: int, height: int, width: int
) -> None:
    """Output and gradients, for blocks that the C++ version takes or not."""
    tensors = inputs(*rows, blocks=blocks, height=height, width=width)
    assert_matches(block_diagonal_linear, reference, tensors, 3e-6)


@pytest.mark.parametrize("blocks", [3, 16])
def test_two_products_of_one_input(path: str, blocks: int) -> None:
    x, weight = inputs(2, 30, blocks=blocks)
    assert_matches(pair, pair_reference, (x, weight, weight.flip(0)), 3e-6)
    with torch.autocast("cpu", torch.bfloat16):
        both = block_diagonal_pair(x, weight, weight.flip(0))
    assert [y.dtype for y in both] == [torch.bfloat16] * 2


def test_rows_that_lie_apart(path: str) -> None:
    """The input may be one half of a wider tensor, as a joint projection gives it."""
    x, weight = inputs(3, 30, blocks=16)
    assert_matches(
        lambda x, weight: block_diagonal_linear(x[..., 32:], weight),
        lambda x, weight: reference(x[..., 32:], weight),
        (x, weight[8:]),
        3e-6,
    )


@pytest.mark.parametrize("blocks", [6, 8])
def test_autocast(path: str, blocks: int) -> None:
    """Under autocast the result is in bf16, its error that of the type."""
    x, weight = (tensor.requires_grad_() for tensor in inputs(70, blocks=blocks))
    with torch.autocast("cpu", torch.bfloat16):
        y = block_diagonal_linear(x, weight)
    expected = reference(x, weight)
    dy = torch.randn(y.shape).bfloat16()
    got = (y, *torch.autograd.grad(y, (x, weight), dy))
    want = (expected, *torch.autograd.grad(expected, (x, weight), dy.double()))
    assert y.dtype == torch.bfloat16
    for one, other in zip(got, want, strict=True):
        assert (one.double() - other).norm() < 2**-7 * other.norm()


def test_any_number_of_threads_gives_the_same_bits(path: str) -> None:
    """The weight's gradient is a sum over all rows, in an order that threads do not change."""
    tensors = inputs(300)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = block_diagonal_linear(*leaves)
        results.append(torch.autograd.grad(output.square().sum(), leaves))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_nan_in_nan_out(path: str) -> None:
    assert_passes_nan_on(block_diagonal_linear, inputs(20))


def launches(dim: int, kind: torch.dtype) -> list[Launch]:
    """What an mLSTM block's projections launch, forward and backward."""
    with FakeTensorMode(), recording() as recorded:
        x = torch.empty(4, 512, 2 * dim, dtype=kind, requires_grad=True)[..., dim:]
        weights = torch.empty(2, dim // 4, 4, 4, requires_grad=True)
        total = block_diagonal_linear(x, weights[0]) + sum(block_diagonal_pair(x, *weights))
        total.sum().backward()
    return recorded


@pytest.mark.slow
def test_it_compiles_at_every_size() -> None:
    kinds = (torch.bfloat16, torch.float32)
    recorded = [x for dim in (256, 832, 1632, 2048) for kind in kinds for x in launches(dim, kind)]
    for usage in compile_for(recorded, (80, 90, 100)):
        assert usage.spilled == 0, usage
        assert usage.shared <= SHARED_MEMORY[86], usage
