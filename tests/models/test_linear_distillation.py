"""The chunked distillation loss against its definition in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels.gpu import distillation as gpu
from models.kernels.gpu.launch import Launch, recording
from models.kernels.linear_cross_entropy import linear_cross_entropy
from models.kernels.linear_distillation import (
    FactoredLogits,
    linear_distillation,
    linear_distillation_reference,
)
from tests.models.compilation import SHARED_MEMORY, compile_for

IGNORED = -100


def head(
    tokens: int, dim: int, vocab: int, *, bias: bool = True, scale: float = 1.0
) -> FactoredLogits:
    last = torch.randn(vocab) if bias else None
    return FactoredLogits(
        scale * torch.randn(tokens, dim), torch.randn(vocab, dim) / math.sqrt(dim), last
    )


def case(
    tokens: int = 37, vocab: int = 50, teachers: int = 1, scale: float = 1.0
) -> tuple[FactoredLogits, list[FactoredLogits], Tensor]:
    torch.manual_seed(tokens + vocab + teachers)
    student = head(tokens, 16, vocab, scale=scale)
    guides = [head(tokens, 24, vocab, bias=i == 0, scale=2 * scale) for i in range(teachers)]
    targets = torch.randint(0, vocab, (tokens,))
    targets[::5] = IGNORED
    return student, guides, targets


def differentiated(loss: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def assert_is_distillation(
    inputs: tuple[FactoredLogits, list[FactoredLogits], Tensor],
    tolerance: float = 1e-6,
    chunk=None,
    **options,
) -> None:
    """Loss and gradients of the student's hidden states, weight and bias, relative to the largest
    entry of each."""
    student, teachers, targets = inputs
    tensors = (student.hidden, student.weight, student.bias)
    fast = [x.detach().clone().requires_grad_() for x in tensors]
    slow = [x.detach().double().requires_grad_() for x in tensors]
    got = linear_distillation(FactoredLogits(*fast), teachers, targets, chunk=chunk, **options)
    want = linear_distillation_reference(FactoredLogits(*slow), teachers, targets, **options)
    pairs = zip(differentiated(got, fast), differentiated(want, slow), strict=True)
    for index, (x, y) in enumerate(pairs):
        error = (x.double() - y).abs().max() / y.abs().max()
        assert error < tolerance, f"tensor {index} (0 is the loss): relative error {error:.1e}"


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_the_definition(path: str, alpha: float, temperature: float) -> None:
    """Value to 1e-6 of the float64 reference, gradients as well, for any weight and temperature."""
    assert_is_distillation(case(), alpha=alpha, temperature=temperature)


@pytest.mark.parametrize("chunk", [1, 7, 36, 37, 1000])
def test_any_chunk(path: str, chunk: int) -> None:
    """The border between chunks is nowhere to be seen, ignored targets included."""
    assert_is_distillation(case(), chunk=chunk, alpha=0.5, temperature=2.0)


@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 500, 8191])
def test_any_vocabulary(path: str, vocab: int) -> None:
    """Whole vectors of 16 or not, down to a single token (whose loss is zero)."""
    inputs = case(vocab=vocab)
    if vocab == 1:
        student, teachers, targets = inputs
        assert linear_distillation(student, teachers, targets, alpha=0.5).abs() < 1e-6
    else:
        assert_is_distillation(inputs, alpha=0.5, tolerance=2e-6)


@pytest.mark.parametrize("scale", [1e-3, 10.0, 100.0])
def test_logits_of_any_size(path: str, scale: float) -> None:
    """From flat guesses to logits of hundreds, where all but one probability vanish."""
    assert_is_distillation(case(scale=scale, vocab=300), alpha=0.5, tolerance=5e-6)


@pytest.mark.parametrize("teachers", [1, 2, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_ensembles_and_the_reverse_divergence(teachers: int, reverse: bool) -> None:
    """The mean of the teachers' probabilities counts, in either direction."""
    inputs = case(teachers=teachers)
    assert_is_distillation(inputs, alpha=0.7, temperature=2.0, reverse=reverse, tolerance=3e-6)


def test_alpha_zero_is_cross_entropy(path: str) -> None:
    """Without weight the teacher does not matter: loss and gradients of plain pretraining."""
    student, teachers, targets = case()
    leaves = [student.hidden.requires_grad_(), student.weight.requires_grad_()]
    distilled = linear_distillation(student, teachers, targets, alpha=0.0)
    plain = linear_cross_entropy(*leaves, student.bias, targets)
    for x, y in zip(differentiated(distilled, leaves), differentiated(plain, leaves), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def test_the_loss_is_a_sum_over_tokens(path: str) -> None:
    """Cutting the batch anywhere leaves the sum as it is: no factor of batch or length hides."""
    student, teachers, targets = case(tokens=24)
    whole = linear_distillation(student, teachers, targets, alpha=0.5, temperature=2.0)
    parts = [
        linear_distillation(
            FactoredLogits(student.hidden[rows], student.weight, student.bias),
            [FactoredLogits(t.hidden[rows], t.weight, t.bias) for t in teachers],
            targets[rows],
            alpha=0.5,
            temperature=2.0,
        )
        for rows in (slice(0, 5), slice(5, 6), slice(6, 24))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn(path: str) -> None:
    """The divergence is zero and so is its gradient."""
    torch.manual_seed(0)
    student = head(10, 16, 40)
    student.hidden.requires_grad_()
    teacher = FactoredLogits(student.hidden.detach().clone(), student.weight, student.bias)
    targets = torch.randint(0, 40, (10,))
    loss = linear_distillation(student, [teacher], targets, alpha=1.0, temperature=2.0)
    (gradient,) = torch.autograd.grad(loss, student.hidden)
    assert loss.abs() < 1e-6
    assert gradient.abs().max() < 1e-6


def test_no_gradient_reaches_a_teacher(path: str) -> None:
    """Its hidden states and head are constants, even if they could be trained."""
    student, teachers, targets = case()
    leaves = [teachers[0].hidden.requires_grad_(), teachers[0].weight.requires_grad_()]
    student.hidden.requires_grad_()
    linear_distillation(student, teachers, targets, alpha=0.5).backward()
    assert student.hidden.grad is not None
    assert all(leaf.grad is None for leaf in leaves)


def test_tokens_that_the_teacher_rules_out_cost_nothing(path: str) -> None:
    """A probability of exactly zero contributes nothing to the divergence, and stays finite."""
    student, teachers, targets = case()
    assert teachers[0].bias is not None
    teachers[0].bias[3] = -math.inf
    loss = linear_distillation(student, teachers, targets, alpha=0.5)
    assert loss.isfinite()
    teachers[0].bias[3] = -1e4
    close = linear_distillation(student, teachers, targets, alpha=0.5)
    assert loss.item() == pytest.approx(close.item(), rel=1e-6)


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("position", [0, 5, 49])
def test_nan_in_nan_out(path: str, who: str, position: int) -> None:
    """A NaN in any logit of either model makes the loss NaN."""
    student, teachers, targets = case()
    bias = student.bias if who == "student" else teachers[0].bias
    assert bias is not None
    bias[position] = math.nan
    assert linear_distillation(student, teachers, targets, alpha=0.5).isnan()


def test_under_autocast_it_is_within_bf16s_accuracy(path: str) -> None:
    """Products in bf16, sums in float32, gradients of the leaves' types."""
    student, teachers, targets = case(tokens=300, vocab=1000, scale=0.3)
    leaves = [student.hidden.requires_grad_(), student.weight.requires_grad_()]
    options = {"alpha": 0.5, "temperature": 2.0}
    exact = linear_distillation_reference(student, teachers, targets, **options)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = linear_distillation(student, teachers, targets, chunk=128, **options)
    assert rounded.dtype == torch.float32
    assert 0 < abs(rounded.item() / exact.item() - 1) < 1e-3
    for got, want in zip(
        torch.autograd.grad(rounded, leaves), torch.autograd.grad(exact, leaves), strict=True
    ):
        assert got.dtype == torch.float32
        assert (got - want).norm() < 2e-2 * want.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha weighs the divergence, 0 to 1, not 1.5"),
        ({"alpha": -0.1}, "0 to 1, not -0.1"),
        ({"alpha": 0.5, "temperature": 0.0}, "temperature must be positive, not 0.0"),
        ({"alpha": 0.5, "temperature": math.nan}, "temperature must be positive, not nan"),
    ],
)
def test_impossible_weights_are_errors(options: dict[str, float], message: str) -> None:
    student, teachers, targets = case()
    with pytest.raises(ValueError, match=message):
        linear_distillation(student, teachers, targets, **options)


def test_what_does_not_fit_is_an_error() -> None:
    """No teacher, another vocabulary, other tokens, an unknown target."""
    student, teachers, targets = case()
    with pytest.raises(ValueError, match="needs a teacher"):
        linear_distillation(student, [], targets, alpha=0.5)
    with pytest.raises(ValueError, match="teacher's head has the shape"):
        linear_distillation(student, [head(37, 16, 51)], targets, alpha=0.5)
    with pytest.raises(ValueError, match="teacher's hidden has the shape"):
        linear_distillation(student, [head(36, 16, 50)], targets, alpha=0.5)
    targets[1] = 50
    with pytest.raises(IndexError, match="50 is out of bounds"):
        linear_distillation(student, teachers, targets, alpha=0.5)


def test_triton_is_the_definition(on_triton: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several blocks, the last one not full; and one teacher's forward divergence only."""
    monkeypatch.setattr(gpu, "WIDEST", 256)
    options = {"alpha": 0.3, "temperature": 2.0}
    assert_is_distillation(case(tokens=11, vocab=600), **options)
    assert_is_distillation(case(tokens=11, vocab=512, scale=100.0), tolerance=5e-6, **options)
    assert_is_distillation(case(tokens=11, teachers=2), tolerance=3e-6, **options)


def test_an_unknown_target_on_a_gpu(on_triton: None) -> None:
    """Raising would mean waiting for the device: the loss is NaN."""
    student, teachers, targets = case(tokens=3)
    targets[1] = 50
    assert linear_distillation(student, teachers, targets, alpha=0.5).isnan()
    assert linear_distillation(student, teachers, targets, alpha=1.0).isnan()


def test_alpha_one_is_the_divergence_alone(path: str) -> None:
    """Even where the cross-entropy is infinite."""
    student, teachers, targets = case()
    bias = [head.bias for head in (student, teachers[0])]
    for x in bias:
        assert x is not None
        x[3] = -math.inf
    targets[1] = 3
    assert linear_distillation(student, teachers, targets, alpha=1.0).isfinite()
    assert linear_distillation(student, teachers, targets, alpha=0.5).item() == math.inf


def launches(vocab: int, kind: torch.dtype) -> list[Launch]:
    """What loss and gradients launch."""
    with FakeTensorMode(), recording() as recorded:
        student, teacher = (
            FactoredLogits(
                torch.empty(512, 64, dtype=kind, requires_grad=True),
                torch.empty(vocab, 64, dtype=kind),
            )
            for _ in range(2)
        )
        targets = torch.empty(512, dtype=torch.int64)
        linear_distillation(student, [teacher], targets, alpha=0.5).backward()
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
