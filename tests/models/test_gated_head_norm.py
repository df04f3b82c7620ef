"""The mLSTM's norm, skip and output gate in one, against their formula in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from kernel_checks import assert_matches, assert_passes_nan_on
from torch import Tensor

from models.kernels.gated_head_norm import gated_head_norm, gated_head_norm_reference

EPS = 1e-5
KERNEL, REFERENCE = partial(gated_head_norm, eps=EPS), partial(gated_head_norm_reference, eps=EPS)


def inputs(*rows: int, heads: int = 2, dim: int = 32) -> tuple[Tensor, ...]:
    torch.manual_seed(sum(rows) + dim)
    width = heads * dim
    h, x, gate = (
        torch.randn(*rows, heads, dim),
        torch.randn(*rows, width),
        torch.randn(*rows, width),
    )
    return h + 0.5, x, 3 * gate, torch.randn(width), torch.randn(width)


@pytest.mark.parametrize("rows", [(1,), (2, 5), (3, 31), (70,)])
@pytest.mark.parametrize(("heads", "dim"), [(1, 16), (4, 208), (3, 10)])
def test_it_is_the_formula(path: str, rows: tuple[int, ...], heads: int, dim: int) -> None:
    """Output and gradients, for head widths that the C++ version takes or not."""
    assert_matches(KERNEL, REFERENCE, inputs(*rows, heads=heads, dim=dim), 5e-6)


def test_extreme_gates(path: str) -> None:
    """Gates far out on either side, and heads without variance."""
    h, x, gate, weight, skip = inputs(2, 9)
    gate[0], gate[1, :4] = -200.0, 200.0
    h[1, 5] = 0.25
    assert_matches(KERNEL, REFERENCE, (h, x, gate / 100, weight, skip), 1e-5)
    assert KERNEL(h, x, gate, weight, skip).isfinite().all()


def test_types(path: str) -> None:
    """In bf16 only the results are rounded."""
    h, *others = inputs(40)
    x, gate, weight, skip = others[0].bfloat16(), others[1].bfloat16(), *others[2:]
    leaves = [tensor.requires_grad_() for tensor in (h, x, gate, weight, skip)]
    y = KERNEL(*leaves)
    dy = torch.randn(y.shape).bfloat16()
    grads = torch.autograd.grad(y, leaves, dy)
    expected = REFERENCE(*leaves)
    expected_grads = torch.autograd.grad(expected, leaves, dy.double())
    assert y.dtype == torch.bfloat16
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-8}
    for got, want in zip((y, *grads), (expected, *expected_grads), strict=True):
        torch.testing.assert_close(got.double(), want.double(), rtol=rounding[got.dtype], atol=1e-4)


def test_a_gate_whose_rows_lie_apart(path: str) -> None:
    """The gate may be one half of a wider tensor, as a joint projection gives it."""
    h, x, gate, weight, skip = inputs(3, 7)
    both = torch.cat([x, gate], -1)
    width = gate.shape[-1]
    assert_matches(
        lambda h, x, both, *rest: KERNEL(h, x, both[..., width:], *rest),
        lambda h, x, both, *rest: REFERENCE(h, x, both[..., width:], *rest),
        (h, x, both, weight, skip),
        5e-6,
    )


def test_float64_stays_exact(path: str) -> None:
    assert_matches(KERNEL, REFERENCE, tuple(x.double() for x in inputs(5)), 1e-12)


def test_any_number_of_threads_gives_the_same_bits(path: str) -> None:
    """The weights' gradients are sums over all rows, in an order that threads do not change."""
    tensors = inputs(300)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        results.append(torch.autograd.grad(KERNEL(*leaves).sum(), leaves))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_nan_in_nan_out(path: str) -> None:
    assert_passes_nan_on(KERNEL, inputs(20))
