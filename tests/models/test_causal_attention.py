"""Causal attention against one query at a time in float64, and against the library's functions."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from kernel_checks import LENGTHS, assert_matches, assert_passes_nan_on
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from models.kernels.causal_attention import causal_attention, causal_attention_reference

Case = tuple[Tensor, Tensor, Tensor]


def inputs(time: int, dim: int = 32, heads: int = 3, kv_heads: int = 3, batch: int = 2) -> Case:
    torch.manual_seed(time)
    k, v = torch.randn(2, batch, time, kv_heads, dim)
    return torch.randn(batch, time, heads, dim), k, v


def tables(time: int, dim: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """cos and sin of positions that differ between sequences."""
    position = torch.arange(time)[None] + 5 * torch.arange(batch)[:, None]
    angles = position[..., None] * 100.0 ** -torch.linspace(0, 1, dim // 2)
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def assert_is_attention(case: Case, scale: float = 0.2, **kwargs) -> None:
    assert_matches(
        partial(causal_attention, scale=scale, **kwargs),
        partial(causal_attention_reference, scale=scale, **kwargs),
        case,
        5e-6,
    )


@pytest.mark.parametrize("time", [*LENGTHS, 300])
@pytest.mark.parametrize("rotates", [False, True])
def test_it_is_softmax_over_the_past(path: str, time: int, rotates: bool) -> None:
    """Any length, below, at and above the blocks of 64, with and without rotation."""
    assert_is_attention(inputs(time), rotary=tables(time, 32) if rotates else None)


@pytest.mark.parametrize("dim", [8, 16, 48, 64, 80, 128])
def test_any_head_dim(path: str, dim: int) -> None:
    """Multiples of 16 and 32, which C++ takes, and others."""
    assert_is_attention(inputs(70, dim))
    assert_is_attention(inputs(70, dim), rotary=tables(70, dim))


@pytest.mark.parametrize("kv_heads", [1, 2, 3])
def test_query_heads_share_key_heads(path: str, kv_heads: int) -> None:
    assert_is_attention(inputs(70, heads=6, kv_heads=kv_heads), rotary=tables(70, 32))


def test_positions_may_differ_between_sequences(path: str) -> None:
    assert_is_attention(inputs(70, batch=3), rotary=tables(70, 32, batch=3))


@pytest.mark.parametrize("scale", [3.0, 100.0])
def test_extreme_scores(path: str, scale: float) -> None:
    """Scores of hundreds and thousands: one key takes all. Relative to such scores, whose own
    rounding error is the exponential's argument, the result is as exact as float32 allows."""
    case = inputs(130)
    fast, slow = causal_attention(*case, scale), causal_attention_reference(*case, scale)
    torch.testing.assert_close(fast.double(), slow, rtol=0, atol=4e-6 * scale)


def test_rotation_is_that_of_transformers(path: str) -> None:
    """The rotated inputs are those of `apply_rotary_pos_emb`, tables of general form included."""
    q, k, v = inputs(20)
    cos, sin = torch.randn(2, 1, 20, 32)
    rotated = apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=2)
    want = causal_attention(*rotated, v, 0.2)
    torch.testing.assert_close(causal_attention(q, k, v, 0.2, (cos, sin)), want, atol=2e-5, rtol=0)
    assert_is_attention((q, k, v), rotary=(cos, sin))


def test_bf16_in_bf16_out(path: str) -> None:
    """bf16 tensors give bf16 results, forward and backward, close to the exact ones."""
    case = [x.bfloat16().requires_grad_() for x in inputs(130)]
    rotary = tables(130, 32)
    out = causal_attention(*case, 0.2, rotary)
    dout = torch.randn_like(out)
    gradients = torch.autograd.grad(out, case, dout)
    want = causal_attention_reference(*case, 0.2, rotary)
    want_gradients = torch.autograd.grad(want, case, dout.double())
    for got, exact in zip((out, *gradients), (want, *want_gradients), strict=True):
        assert got.dtype == torch.bfloat16
        error = (got.double() - exact).norm() / exact.norm()
        assert error < 1e-2


def test_float64_stays_exact(path: str) -> None:
    case = tuple(x.double() for x in inputs(40))
    assert_matches(
        partial(causal_attention, scale=0.2),
        partial(causal_attention_reference, scale=0.2),
        case,
        1e-13,
    )


def test_inputs_need_not_be_contiguous(path: str) -> None:
    """Heads-first tensors, which other layers have, give the same."""
    case = inputs(70)
    heads_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in case]
    got, want = causal_attention(*heads_first, 0.2), causal_attention(*case, 0.2)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("path", ["cpp"], indirect=True)
def test_any_number_of_threads_gives_the_same_bits(path: str) -> None:
    """PyTorch's own batched products have other bits with other threads on CPUs without AVX-512."""
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        leaves = [x.requires_grad_() for x in inputs(130, heads=6)]
        out = causal_attention(*leaves, 0.2)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_nan_in_nan_out(path: str, kind: torch.dtype) -> None:
    assert_passes_nan_on(
        partial(causal_attention, scale=0.3), tuple(x.to(kind) for x in inputs(70))
    )


@pytest.mark.parametrize(("heads", "kv_heads", "kv_time"), [(3, 2, 8), (4, 4, 7), (4, 2, 9)])
def test_shapes_that_do_not_fit_are_refused(
    path: str, heads: int, kv_heads: int, kv_time: int
) -> None:
    """Both paths say what is wrong, rather than read beyond a tensor's end."""
    q = torch.randn(1, 8, heads, 32)
    k, v = torch.randn(2, 1, kv_time, kv_heads, 32)
    with pytest.raises(ValueError, match="share|has the shape"):
        causal_attention(q, k, v, 1.0)
