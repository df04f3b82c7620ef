"""The rotary embedding against its formula in float64, and against transformers'."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_matches, assert_passes_nan_on
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from models.kernels.causal_attention import causal_attention
from models.kernels.gpu.launch import Launch, recording
from models.kernels.rotary import linear_rotary, rotary, rotary_reference
from tests.models.compilation import SHARED_MEMORY, compile_for

# Heads, key heads and their dim of the presets.
HEADS = {"mini": (4, 4, 32), "small": (6, 6, 64), "base": (12, 12, 64), "paper": (32, 4, 32)}


def inputs(
    time: int, heads: int = 3, kv_heads: int = 3, dim: int = 16, batch: int = 2
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(time)
    return torch.randn(batch, time, heads, dim), torch.randn(batch, time, kv_heads, dim)


def tables(time: int, dim: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Of general form: the halves of a head may differ."""
    torch.manual_seed(time + dim)
    cos, sin = torch.randn(2, batch, time, dim)
    return cos, sin


def assert_rotates(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Both results, and the gradients of both inputs."""

    def join(function, q: Tensor, k: Tensor) -> Tensor:
        return torch.cat(function(q, k, cos, sin), 2)

    assert_matches(lambda *x: join(rotary, *x), lambda *x: join(rotary_reference, *x), (q, k))


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (6, 2), (12, 12)])
@pytest.mark.parametrize("dim", [2, 24, 64])
def test_it_is_the_formula(path: str, heads: int, kv_heads: int, dim: int) -> None:
    """Any number of heads, shared or not, and any even dim."""
    assert_rotates(*inputs(5, heads, kv_heads, dim), *tables(5, dim))


def test_triton_is_the_formula(on_triton: None) -> None:
    assert_rotates(*inputs(7, 6, 2, 48), *tables(7, 48, batch=2))


def test_positions_may_differ_between_sequences(path: str) -> None:
    assert_rotates(*inputs(6), *tables(6, 16, batch=2))


def test_heads_first(path: str) -> None:
    """Tensors with gaps, as are the gradients that attention hands back."""
    q, k = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs(6))
    assert_rotates(q, k, *tables(6, 16))
    q, k = (x.expand(2, 6, 3, 16) for x in (q[:, :1], k[:, :, :1]))
    assert_rotates(q, k, *tables(6, 16))


def test_it_is_that_of_transformers(path: str) -> None:
    q, k = inputs(9)
    cos, sin = tables(9, 16)
    want = apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=2)
    torch.testing.assert_close(rotary(q, k, cos, sin), want, rtol=1e-6, atol=1e-6)


def test_bf16_stays_bf16(path: str) -> None:
    """With tables in float32, as under autocast; to one rounding."""
    q, k = (x.bfloat16().requires_grad_() for x in inputs(9))
    rotated = rotary(q, k, *tables(9, 16))
    exact = rotary_reference(q, k, *tables(9, 16))
    for got, want in zip(rotated, exact, strict=True):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.double(), want, rtol=2**-8, atol=1e-6)
    gradients = torch.autograd.grad([x.sum() for x in rotated], (q, k))
    assert all(x.dtype == torch.bfloat16 for x in gradients)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_nan_in_nan_out(path: str, kind: torch.dtype) -> None:
    q, k = inputs(4)
    assert_passes_nan_on(
        lambda *x: torch.cat(rotary(*x), 2), (q.to(kind), k.to(kind), *tables(4, 16))
    )


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (6, 2)])
def test_behind_a_product(path: str, heads: int, kv_heads: int) -> None:
    assert_product_matches(heads, kv_heads)


def test_triton_behind_a_product(on_triton: None) -> None:
    assert_product_matches(6, 2)


def assert_product_matches(heads: int, kv_heads: int, width: int = 20, dim: int = 12) -> None:
    """Queries, keys and values, and the gradients of the input and of all three weights."""
    torch.manual_seed(heads)
    weights = [
        torch.randn(count * dim, width) / width**0.5 for count in (heads, kv_heads, kv_heads)
    ]
    cos, sin = tables(5, dim)

    def kernel(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.cat(linear_rotary(x, weights, cos, sin, dim), 2)

    def reference(x: Tensor, *weights: Tensor) -> Tensor:
        q, k, v = ((x @ weight.T).unflatten(-1, (-1, dim)) for weight in weights)
        return torch.cat([*rotary_reference(q, k, cos, sin), v], 2)

    assert_matches(kernel, reference, (torch.randn(2, 5, width), *weights))


def test_behind_a_product_under_autocast(path: str) -> None:
    """The product is bf16's; gradients have the types of their leaves."""
    leaves = [torch.randn(2, 5, 16), *torch.randn(3, 32, 16)]
    for leaf in leaves:
        leaf.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        parts = linear_rotary(leaves[0], tuple(leaves[1:]), *tables(5, 8), 8)
    assert all(part.dtype == torch.bfloat16 for part in parts)
    total = torch.stack([part.float().sum() for part in parts]).sum()
    assert all(x.dtype == torch.float32 for x in torch.autograd.grad(total, leaves))


def launches(heads: int, kv_heads: int, dim: int, kind: torch.dtype) -> list[Launch]:
    """What the attention launches, forward and backward."""
    with FakeTensorMode(), recording() as recorded:
        q, k, v = (
            torch.empty(4, 512, count, dim, dtype=kind, requires_grad=True)
            for count in (heads, kv_heads, kv_heads)
        )
        tables = torch.empty(1, 512, dim), torch.empty(1, 512, dim)
        causal_attention(q, k, v, 0.1, tables).sum().backward()
        width = heads * dim
        weights = [torch.empty(n * dim, width, dtype=kind) for n in (heads, kv_heads, kv_heads)]
        x = torch.empty(4, 512, width, dtype=kind, requires_grad=True)
        q, k, v = linear_rotary(x, tuple(weights), *tables, dim)
        (q.sum() + k.sum() + v.sum()).backward()
    return recorded


@pytest.mark.slow
def test_it_compiles_at_every_size() -> None:
    """Without spills, on three generations of GPUs, in bf16 and float32."""
    kinds = (torch.bfloat16, torch.float32)
    recorded = [x for shape in HEADS.values() for kind in kinds for x in launches(*shape, kind)]
    assert len(recorded) == 4 * len(HEADS) * len(kinds)
    for usage in compile_for(recorded, (80, 90, 100)):
        assert usage.spilled == 0, usage
        assert usage.shared <= SHARED_MEMORY[86], usage
