"""Knowledge distillation behind linear heads, chunked (see `linear_loss`).

Hinton, Vinyals & Dean 2015, arXiv 1503.02531: a student learns from the data and from the
probabilities of a teacher, here with the weights that BabyHGRN gives them (arXiv 2412.15978):

    loss = (1 - alpha) CE(targets, student) + alpha T^2 KL(teacher_T || student_T)

with the probabilities of both at temperature T; T^2 keeps the size of the gradients. Of several
teachers the mean of their probabilities counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels import native, paths
from models.kernels.gpu import launch
from models.kernels.linear_cross_entropy import cross_entropy_and_gradient
from models.kernels.linear_loss import linear_loss, product_type
from models.kernels.shapes import expect, expect_targets, expect_tokens


@dataclass(frozen=True)
class FactoredLogits:
    """Hidden states after the final norm and the head that makes logits of them.

    Attributes:
        hidden: (tokens, dim).
        weight: (vocab, dim).
        bias: (vocab,) or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None


def linear_distillation(
    student: FactoredLogits,
    teachers: Sequence[FactoredLogits],
    targets: Tensor,
    *,
    alpha: float,
    temperature: float = 1.0,
    reverse: bool = False,
    ignore_index: int = -100,
    chunk: int | None = None,
) -> Tensor:
    """Summed distillation loss in nats; gradients go to the student only.

    Args:
        student: its hidden states and head.
        teachers: theirs, for the same tokens and the same vocabulary; the dim may differ.
        targets: (tokens,), `ignore_index` where neither term counts.
        alpha: weight of the divergence, 0 to 1.
        temperature: T > 0.
        reverse: KL(student || teacher) in place of KL(teacher || student).
        ignore_index: must not be a token.
        chunk: tokens whose logits, of student and teachers, exist at once; see `linear_loss`.

    Returns:
        A scalar, float32 at least.

    Raises:
        ValueError: no teacher, alpha outside [0, 1], a temperature that is not positive, or another
            vocabulary.
        IndexError: as `linear_cross_entropy`.
    """
    check(alpha, temperature)
    if not teachers:
        raise ValueError("distillation needs a teacher")
    expect_targets(targets, len(student.hidden))
    for teacher in teachers:
        expect("teacher's hidden", teacher.hidden, len(targets), teacher.weight.shape[1])
        expect("teacher's head", teacher.weight, len(student.weight), teacher.weight.shape[1])
    dtype = product_type(student.hidden, student.weight)
    # Cast once, not with every chunk.
    heads = [
        (teacher.weight.detach().to(dtype), None if teacher.bias is None else teacher.bias.detach())
        for teacher in teachers
    ]

    def criterion(logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        guides = [
            F.linear(teacher.hidden[rows].detach().to(dtype), weight, _cast(bias, dtype))
            for teacher, (weight, bias) in zip(teachers, heads, strict=True)
        ]
        return _loss_and_gradient(
            logits, guides, targets[rows].contiguous(), alpha, temperature, reverse, ignore_index
        )

    return linear_loss(student.hidden, student.weight, student.bias, criterion, chunk)


def check(alpha: float, temperature: float) -> None:
    """Raise ValueError unless alpha is a share and the temperature positive."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha weighs the divergence, 0 to 1, not {alpha}")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive, not {temperature}")


def linear_distillation_reference(
    student: FactoredLogits,
    teachers: Sequence[FactoredLogits],
    targets: Tensor,
    *,
    alpha: float,
    temperature: float = 1.0,
    reverse: bool = False,
    ignore_index: int = -100,
) -> Tensor:
    """The definition, of all logits at once, in float64."""
    logits = _all_logits(student)
    cross_entropy = F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")
    log_q = (logits / temperature).log_softmax(-1)
    log_p = _log_mean(
        [(_all_logits(teacher).detach() / temperature).log_softmax(-1) for teacher in teachers]
    )
    log_a, log_b = (log_q, log_p) if reverse else (log_p, log_q)
    divergence = (log_a.exp() * (log_a - log_b)).sum(-1).masked_fill(targets == ignore_index, 0)
    return ((1 - alpha) * cross_entropy + alpha * temperature**2 * divergence).sum()


def _all_logits(head: FactoredLogits) -> Tensor:
    bias = None if head.bias is None else head.bias.double()
    return F.linear(head.hidden.double(), head.weight.double(), bias)


def _cast(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(dtype)


def _loss_and_gradient(
    logits: Tensor,
    guides: list[Tensor],
    targets: Tensor,
    alpha: float,
    temperature: float,
    reverse: bool,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Losses (rows,) and their gradients (rows, vocab), from the logits of student and teachers."""
    is_usual = len(guides) == 1 and not reverse
    fits = is_usual and logits.is_contiguous()
    if launch.takes("linear_distillation", logits, guides[0], fits=fits):
        from models.kernels.gpu import distillation as gpu

        guide = guides[0].contiguous()
        losses = gpu.distil_in_place(logits, guide, targets, alpha, temperature, ignore_index)
        return losses, logits
    if is_usual and native.takes("linear_distillation", logits, types=native.ELEMENT_TYPES):
        losses = _differentiate_native(logits, guides[0], targets, alpha, temperature, ignore_index)
        return losses, logits
    paths.note("linear_distillation", "torch")
    work = torch.promote_types(logits.dtype, torch.float32)
    log_q = torch.log_softmax(logits.to(work) / temperature, -1)
    log_p = _log_mean([torch.log_softmax(guide.to(work) / temperature, -1) for guide in guides])
    divergence, gradient = _divergence(log_q, log_p, reverse)
    ignored = targets == ignore_index
    divergence = divergence.masked_fill(ignored, 0)
    gradient = gradient.masked_fill(ignored[:, None], 0)
    if alpha == 1:  # also where the cross-entropy is infinite
        return temperature**2 * divergence, (temperature * gradient).to(logits.dtype)
    # Last, for it may overwrite the logits.
    losses, d_logits = cross_entropy_and_gradient(logits, targets, ignore_index)
    losses = (1 - alpha) * losses + alpha * temperature**2 * divergence
    d_logits = (1 - alpha) * d_logits.to(work) + alpha * temperature * gradient
    return losses, d_logits.to(logits.dtype)


def _log_mean(log_probs: list[Tensor]) -> Tensor:
    """Logarithm of the mean of probabilities."""
    if len(log_probs) == 1:
        return log_probs[0]
    return torch.stack(log_probs).logsumexp(0) - math.log(len(log_probs))


def _divergence(log_q: Tensor, log_p: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """The divergence (rows,) of a student q from a teacher p, and T times its gradient by q's
    logits (rows, vocab)."""
    q, p = log_q.exp(), log_p.exp()
    if not reverse:
        # A token that the teacher rules out, p = 0, contributes nothing.
        terms = torch.where(p > 0, p * (log_p - log_q), 0 * p)
        return terms.sum(-1), q - p
    terms = torch.where(q > 0, q * (log_q - log_p), 0 * q)
    divergence = terms.sum(-1)
    return divergence, terms - q * divergence[:, None]


@torch.library.custom_op("babysweep::distillation_gradient", mutates_args=("logits",))
def _differentiate_native(
    logits: Tensor,
    guides: Tensor,
    targets: Tensor,
    alpha: float,
    temperature: float,
    ignore_index: int,
) -> Tensor:
    expect_tokens(targets, logits.shape[1], ignore_index)
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    sizes = (*logits.shape, ignore_index, int(logits.dtype == torch.bfloat16))
    tensors = (logits, guides.contiguous(), targets, losses)
    native.call("linear_distillation", "distil", *tensors, float(alpha), float(temperature), *sizes)
    return losses


@_differentiate_native.register_fake
def _(
    logits: Tensor,
    guides: Tensor,
    targets: Tensor,
    alpha: float,
    temperature: float,
    ignore_index: int,
) -> Tensor:
    return logits.new_empty(len(logits), dtype=torch.float32)
