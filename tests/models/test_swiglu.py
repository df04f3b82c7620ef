"""SwiGLU against its formula in float64, and against PyTorch's own operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import assert_matches, assert_passes_nan_on
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels.gpu.launch import Launch, recording
from models.kernels.swiglu import linear_swiglu, swiglu, swiglu_reference
from tests.models.compilation import SHARED_MEMORY, compile_for

WIDTHS = {"mini": 344, "small": 1040, "base": 2064, "paper": 4096}  # about the presets'


def inputs(*shape: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(sum(shape))
    return scale * torch.randn(shape), torch.randn(shape)


@pytest.mark.parametrize("shape", [(1,), (5, 16), (2, 3, 50), (3, 7, 1500)])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_it_is_the_formula(path: str, shape: tuple[int, ...], scale: float) -> None:
    """Output and both gradients, for any width, at gates near 0 and far beyond saturation."""
    assert_matches(swiglu, swiglu_reference, inputs(*shape, scale=scale))


def test_triton_is_the_formula(on_triton: None) -> None:
    assert_matches(swiglu, swiglu_reference, inputs(3, 7, 1100))


def test_on_a_cpu_it_is_pytorchs() -> None:
    """To the bit, so that earlier runs can be repeated."""
    gate, up = inputs(20, 64)
    assert torch.equal(swiglu(gate, up), F.silu(gate) * up)


@pytest.mark.parametrize("kinds", [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, None)])
def test_types(path: str, kinds: tuple[torch.dtype, torch.dtype | None]) -> None:
    """The result is of the wider type, every gradient of its input's."""
    leaves = [x.to(kind).requires_grad_() for x, kind in zip(inputs(9, 40), kinds, strict=True)]
    out = swiglu(*leaves)
    assert out.dtype == (kinds[1] or torch.float32)
    dout = torch.randn_like(out)
    gradients = torch.autograd.grad(out, leaves, dout)
    want = swiglu_reference(*leaves)
    wanted = torch.autograd.grad(want, leaves, dout.double())
    assert [x.dtype for x in gradients] == [x.dtype for x in leaves]
    for got, exact in zip((out, *gradients), (want, *wanted), strict=True):
        # PyTorch rounds the activation before it multiplies.
        torch.testing.assert_close(got.double(), exact.double(), rtol=2**-6, atol=2**-8)


def test_halves_of_one_projection(path: str) -> None:
    """Rows with gaps between them, transposed sequences, and a gradient with gaps."""
    gate, up = inputs(4, 6, 48)
    assert_matches(
        lambda both: swiglu(*both.chunk(2, -1)).transpose(0, 1)[..., :40],
        lambda both: swiglu_reference(*both.chunk(2, -1)).transpose(0, 1)[..., :40],
        (torch.cat([gate, up], -1).transpose(0, 1).contiguous(),),
    )


def test_no_rows(path: str) -> None:
    assert swiglu(torch.zeros(0, 8), torch.zeros(0, 8)).shape == (0, 8)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_nan_in_nan_out(path: str, kind: torch.dtype) -> None:
    gate, up = inputs(5, 32)
    assert_passes_nan_on(swiglu, (gate.to(kind), up.to(kind)))


def launches(width: int, kind: torch.dtype) -> list[Launch]:
    """What a forward and a backward pass launch."""
    with FakeTensorMode(), recording() as recorded:
        gate, up = (torch.empty(4, 512, width, dtype=kind, requires_grad=True) for _ in range(2))
        swiglu(gate, up).sum().backward()
        x, weight = torch.empty(4, 512, 128, dtype=kind), torch.empty(width, 128, dtype=kind)
        linear_swiglu(x, weight, weight.requires_grad_()).sum().backward()
    return recorded


@pytest.mark.slow
def test_it_compiles_at_every_size() -> None:
    """Without spills, on three generations of GPUs, in bf16 and float32."""
    kinds = (torch.bfloat16, torch.float32)
    recorded = [x for width in WIDTHS.values() for kind in kinds for x in launches(width, kind)]
    for usage in compile_for(recorded, (80, 90, 100)):
        assert usage.spilled == 0, usage
        assert usage.shared <= SHARED_MEMORY[86], usage


@pytest.mark.parametrize("shape", [(5, 16), (2, 3, 50)])
def test_behind_a_product(path: str, shape: tuple[int, ...]) -> None:
    """With two weights of any width: output, and gradients of the input and both weights."""
    assert_product_matches(shape, 40)


def test_triton_behind_a_product(on_triton: None) -> None:
    assert_product_matches((2, 3, 16), 24)


def assert_product_matches(shape: tuple[int, ...], inner: int) -> None:
    torch.manual_seed(0)
    weights = torch.randn(2, inner, shape[-1]) / shape[-1] ** 0.5

    def reference(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        return swiglu_reference(F.linear(x, gate), F.linear(x, up))

    assert_matches(linear_swiglu, reference, (torch.randn(shape), *weights))


def test_behind_a_product_under_autocast(path: str) -> None:
    """The product is bf16's; gradients have the types of their leaves."""
    leaves = [torch.randn(n, 16, requires_grad=True) for n in (9, 40, 40)]
    with torch.autocast("cpu", torch.bfloat16):
        out = linear_swiglu(*leaves)
    assert out.dtype == torch.bfloat16
    assert all(x.dtype == torch.float32 for x in torch.autograd.grad(out.sum(), leaves))
