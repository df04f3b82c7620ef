"""The mLSTM's norm, skip and output gate in one, against their formula in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from kernel_checks import assert_matches, assert_passes_nan_on
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels.gated_head_norm import gated_head_norm, gated_head_norm_reference, head_norm
from models.kernels.gpu.launch import Launch, recording
from tests.models.compilation import SHARED_MEMORY, assert_fits, compile_for

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


def norm_alone(h: Tensor, weight: Tensor) -> Tensor:
    return head_norm(h, weight, EPS, h.dtype)


def reference_norm_alone(h: Tensor, weight: Tensor) -> Tensor:
    zeros, ones = torch.zeros_like(h.flatten(-2)), torch.ones_like(h.flatten(-2))
    # silu(x) / x = sigmoid(0) at 0, and a gate of silu(gate) = 1 is none: divide by silu(1)
    return REFERENCE(h, zeros, ones, weight, torch.zeros_like(weight)) / torch.sigmoid(ones)


def test_triton_is_the_formula(on_triton: None) -> None:
    """Several tokens a program, the last ones missing; heads that are no power of two."""
    assert_matches(KERNEL, REFERENCE, inputs(3, 13, heads=3, dim=10), 5e-6)
    h, _, _, weight, _ = inputs(21, heads=2, dim=24)
    assert_matches(norm_alone, reference_norm_alone, (h, weight), 5e-6)
    assert_passes_nan_on(KERNEL, inputs(20))


@pytest.mark.parametrize("rows", [(1,), (2, 33)])
@pytest.mark.parametrize(("heads", "dim"), [(4, 32), (3, 10)])
def test_the_norm_alone(path: str, rows: tuple[int, ...], heads: int, dim: int) -> None:
    h, _, _, weight, _ = inputs(*rows, heads=heads, dim=dim)
    assert_matches(norm_alone, reference_norm_alone, (h, weight), 5e-6)
    assert_passes_nan_on(norm_alone, (h, weight))
    assert head_norm(h, weight, EPS, torch.bfloat16).dtype == torch.bfloat16


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


def launches(dim: int, kind: torch.dtype) -> list[Launch]:
    """What the norms behind both cells launch, at four heads of `dim`."""
    with FakeTensorMode(), recording() as recorded:
        h = torch.empty(8, 512, 4, dim, dtype=kind, requires_grad=True)
        both = torch.empty(8, 512, 8 * dim, dtype=kind, requires_grad=True)
        weight = torch.empty(4 * dim, requires_grad=True)
        x, gate = both.chunk(2, -1)
        KERNEL(h, x, gate, weight, weight).sum().backward()
        head_norm(h, weight, EPS, torch.float32).sum().backward()
    return recorded


@pytest.mark.slow
def test_it_compiles_at_every_size() -> None:
    """No loop wants registers, on three generations of GPUs: the presets' heads, both types."""
    kinds = (torch.bfloat16, torch.float32)
    recorded = [x for dim in (32, 192, 512) for kind in kinds for x in launches(dim, kind)]
    assert [x.name for x in recorded[:4]] == ["_forward", "_backward"] * 2
    for usage in compile_for(recorded, (80, 90, 100)):
        assert_fits(usage)
        assert usage.shared <= SHARED_MEMORY[86], usage
