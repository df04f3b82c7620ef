"""The chunked cross-entropy against PyTorch's own in float64."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from kernel_checks import assert_matches, assert_passes_nan_on
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from models.kernels import linear_loss
from models.kernels.gpu import cross_entropy as gpu
from models.kernels.gpu.launch import Launch, recording
from models.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_reference,
)
from tests.models.compilation import SHARED_MEMORY, compile_for

IGNORED = -100
Case = tuple[Tensor, Tensor, Tensor | None, Tensor]


def case(
    tokens: int = 37, dim: int = 16, vocab: int = 50, bias: bool = True, scale: float = 1.0
) -> Case:
    torch.manual_seed(tokens + vocab)
    hidden, weight = scale * torch.randn(tokens, dim), torch.randn(vocab, dim)
    targets = torch.randint(0, vocab, (tokens,))
    targets[::5] = IGNORED
    return hidden, weight, torch.randn(vocab) if bias else None, targets


def assert_is_cross_entropy(
    inputs: Case, *, ignore_index: int = IGNORED, tolerance: float = 2e-6, **kwargs: int
) -> None:
    """The loss, and the gradients of hidden states, weight and bias, of a multiple of it."""
    hidden, weight, bias, targets = inputs
    leaves = (hidden, weight) if bias is None else (hidden, weight, bias)

    def per_token(function, *leaves: Tensor, **options: int) -> Tensor:
        last = leaves[2] if bias is not None else None
        total = function(*leaves[:2], last, targets, ignore_index=ignore_index, **options)
        return total / len(targets)

    assert_matches(
        partial(per_token, linear_cross_entropy, **kwargs),
        partial(per_token, linear_cross_entropy_reference),
        leaves,
        tolerance,
    )


@pytest.mark.parametrize("chunk", [1, 7, 36, 37, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_cross_entropy_for_any_chunk(path: str, chunk: int, bias: bool) -> None:
    """The border between chunks is nowhere to be seen, ignored targets included."""
    assert_is_cross_entropy(case(bias=bias), chunk=chunk)


@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 500, 1024, 8191])
def test_any_vocabulary(path: str, vocab: int) -> None:
    """Whole vectors of 16 or not, down to a single token."""
    assert_is_cross_entropy(case(vocab=vocab))


@pytest.mark.parametrize("scale", [1e-3, 10.0, 100.0])
def test_logits_of_any_size(path: str, scale: float) -> None:
    """From a flat guess to logits of hundreds, where all but one probability vanish."""
    assert_is_cross_entropy(case(scale=scale, vocab=300), tolerance=5e-6)


def test_the_ignored_index_may_be_a_token(path: str) -> None:
    """As with padding that counts as a token of the vocabulary."""
    hidden, weight, bias, targets = case()
    targets = targets.clamp(min=0)
    assert (targets == 0).any()
    assert_is_cross_entropy((hidden, weight, bias, targets), ignore_index=0)


def test_nothing_to_predict(path: str) -> None:
    """No token, or only ignored ones: zero, with gradients of zero."""
    hidden, weight, bias, targets = case()
    for tokens in (0, 37):
        leaves = [hidden[:tokens].requires_grad_(), weight.requires_grad_()]
        nothing = torch.full_like(targets[:tokens], IGNORED)
        loss = linear_cross_entropy(*leaves, bias, nothing)
        assert loss.item() == 0
        assert not any(gradient.any() for gradient in torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_what_needs_no_gradient_gets_none(path: str, frozen: str) -> None:
    leaves = dict(zip(("hidden", "weight", "bias"), case(), strict=False))
    for name, tensor in leaves.items():
        tensor.requires_grad_(name != frozen)
    linear_cross_entropy(**leaves, targets=case()[3]).backward()
    assert [name for name, tensor in leaves.items() if tensor.grad is None] == [frozen]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_divergence_is_never_hidden(path: str, value: float) -> None:
    """A hidden state that is no finite number gives a loss that is none."""
    hidden, weight, bias, targets = case()
    hidden[1, 0] = value
    assert not linear_cross_entropy(hidden, weight, bias, targets).isfinite()


def test_nan_in_nan_out(path: str) -> None:
    hidden, weight, bias, targets = case()
    targets = targets.clamp(min=0)
    assert bias is not None
    assert_passes_nan_on(
        lambda *leaves: linear_cross_entropy(*leaves, targets)[None], (hidden, weight, bias)
    )


def test_impossible_tokens_have_no_gradient(path: str) -> None:
    """A logit of -inf is a probability of zero, and an infinite loss if it is the target."""
    hidden, weight, bias, targets = case()
    assert bias is not None
    bias[3] = -math.inf
    bias.requires_grad_()
    targets[targets == 3] = 4
    loss = linear_cross_entropy(hidden, weight, bias, targets)
    (gradient,) = torch.autograd.grad(loss, bias)
    assert loss.isfinite()
    assert gradient[3] == 0
    targets[1] = 3
    assert linear_cross_entropy(hidden, weight, bias, targets).item() == math.inf


def test_autocast_computes_in_bf16_and_sums_in_float32(path: str) -> None:
    """Under bf16 autocast loss and gradients are within bf16's accuracy of the exact ones, and of
    their own inputs' types."""
    inputs = case(tokens=300, dim=64, vocab=1000, scale=0.1)
    leaves = [x.requires_grad_() for x in inputs[:3] if x is not None]
    exact = linear_cross_entropy_reference(*inputs, ignore_index=IGNORED)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = linear_cross_entropy(*inputs, chunk=128)
    assert rounded.dtype == torch.float32
    assert 0 < abs(rounded.item() / exact.item() - 1) < 1e-4
    gradients = torch.autograd.grad(rounded, leaves)
    for got, want in zip(gradients, torch.autograd.grad(exact, leaves), strict=True):
        assert got.dtype == torch.float32
        assert (got - want).norm() < 1e-2 * want.norm()


def test_a_model_in_bf16(path: str) -> None:
    """bf16 parameters get bf16 gradients, of sums over chunks in float32."""
    hidden, weight, bias, targets = case(tokens=300, vocab=200)
    leaves = [x.bfloat16().requires_grad_() for x in (hidden, weight, bias) if x is not None]
    loss = linear_cross_entropy(*leaves, targets, chunk=16)
    exact = linear_cross_entropy_reference(*leaves, targets, ignore_index=IGNORED)
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, leaves)
    for got, want in zip(gradients, torch.autograd.grad(exact, leaves), strict=True):
        assert got.dtype == torch.bfloat16
        assert (got - want).norm() < 1e-2 * want.norm()


def test_float64_stays_exact(path: str) -> None:
    hidden, weight, bias, targets = case()
    assert bias is not None
    inputs = (hidden.double(), weight.double(), bias.double(), targets)
    assert_is_cross_entropy(inputs, tolerance=1e-13)


@pytest.mark.parametrize("target", [50, -1])
def test_an_unknown_target_is_an_error(path: str, target: int) -> None:
    """On a GPU, where raising would mean waiting, it makes the loss NaN, so that training stops."""
    hidden, weight, bias, targets = case(vocab=50)
    targets[2] = target
    if path == "triton":
        assert linear_cross_entropy(hidden, weight, bias, targets).isnan()
        return
    with pytest.raises(IndexError, match=f"{target} is out of bounds"):
        linear_cross_entropy(hidden, weight, bias, targets)


def test_triton_is_cross_entropy(on_triton: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several blocks, the last one not full."""
    monkeypatch.setattr(gpu, "WIDEST", 256)
    assert_is_cross_entropy(case(tokens=11, vocab=600))
    assert_is_cross_entropy(case(tokens=11, vocab=512, scale=100.0), tolerance=5e-6)


@pytest.mark.parametrize(
    ("tokens", "vocab"), [(0, 7), (1, 2**31), (32704, 16_000), (10_000, 50_000)]
)
def test_chunks_on_a_gpu(tokens: int, vocab: int) -> None:
    """Their logits take half a gigabyte at most, and the last is about as large as the others."""
    chunk = linear_loss._default_chunk(tokens, vocab, torch.bfloat16, "cuda")
    assert chunk * vocab * 2 <= linear_loss.LOGITS_BYTES or chunk == 1
    chunks = math.ceil(tokens / chunk)
    assert tokens - (chunks - 1) * chunk > chunk - chunks or tokens == 0


def launches(vocab: int, kind: torch.dtype) -> list[Launch]:
    """What loss and gradients launch."""
    with FakeTensorMode(), recording() as recorded:
        hidden, weight = (torch.empty(n, 64, dtype=kind, requires_grad=True) for n in (512, vocab))
        targets = torch.empty(512, dtype=torch.int64)
        linear_cross_entropy(hidden, weight, None, targets).backward()
    return recorded


@pytest.mark.slow
def test_it_compiles_at_every_size() -> None:
    """Without spills, on three generations of GPUs, in bf16 and float32; odd vocabularies as well,
    whose rows are not aligned."""
    kinds = (torch.bfloat16, torch.float32)
    vocabularies = (99, 2048, 8192, 16_000, 65_537)
    recorded = [x for vocab in vocabularies for kind in kinds for x in launches(vocab, kind)]
    for usage in compile_for(recorded, (80, 90, 100)):
        assert usage.spilled == 0, usage
        assert usage.shared <= SHARED_MEMORY[86], usage


def test_any_number_of_threads_gives_the_same_bits(path: str) -> None:
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        hidden, weight, bias, targets = case(tokens=300, vocab=100)
        leaves = [hidden.requires_grad_(), weight.requires_grad_()]
        loss = linear_cross_entropy(*leaves, bias, targets, chunk=64)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_targets_of_another_type_or_length_are_refused(path: str) -> None:
    """They would be read as other numbers, or beyond their end."""
    hidden, weight = torch.randn(6, 16), torch.randn(32, 16)
    with pytest.raises(TypeError, match="int64"):
        linear_cross_entropy(hidden, weight, None, torch.zeros(6, dtype=torch.int32))
    with pytest.raises(ValueError, match="targets has the shape"):
        linear_cross_entropy(hidden, weight, None, torch.zeros(5, dtype=torch.int64))


def test_a_loss_without_gradients_computes_none(path: str) -> None:
    """Validation does not pay for the head's gradient."""
    hidden, weight = torch.randn(6, 16), torch.randn(32, 16, requires_grad=True)
    targets = torch.zeros(6, dtype=torch.int64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        linear_cross_entropy(hidden, weight, None, targets)
    assert counter.get_total_flops() == 2 * 6 * 16 * 32
