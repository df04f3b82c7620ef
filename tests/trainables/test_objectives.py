"""The objective of a trial against PyTorch's cross-entropy of the model's logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import models
from trainables.corpus import IGNORED
from trainables.objectives import DistillationObjective, NextTokenObjective


@pytest.mark.parametrize("arch", models.architectures())
def test_it_is_the_cross_entropy_of_the_logits(arch: str) -> None:
    """The sum over tokens that are not ignored, with the same gradient for every parameter."""
    torch.manual_seed(0)
    model = models.build_model(models.build_config(arch, "mini", vocab_size=100, context=12))
    ids = torch.randint(0, 100, (3, 13))
    inputs, targets = ids[:, :-1], ids[:, 1:].clone()
    targets[:, ::4] = IGNORED
    parameters = list(model.parameters())

    logits = model(input_ids=inputs).logits.flatten(0, 1)
    expected = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
    expected_gradients = torch.autograd.grad(expected, parameters)

    loss = NextTokenObjective(model)(inputs, targets)
    gradients = torch.autograd.grad(loss, parameters)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for gradient, want in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", models.architectures())
def test_distillation_is_the_definition_of_the_logits(arch: str) -> None:
    """Of any architecture: (1 - alpha) CE + alpha T^2 KL of both models' logits, and its gradient;
    the teacher is in evaluation mode and gets no gradient."""
    torch.manual_seed(0)
    student, teacher = (
        models.build_model(models.build_config(name, "mini", vocab_size=100, context=12))
        for name in (arch, "hgrn2")
    )
    with torch.no_grad():
        teacher.get_output_embeddings().weight.mul_(20)  # an opinion to learn from
    ids = torch.randint(0, 100, (3, 13))
    inputs, targets = ids[:, :-1], ids[:, 1:].clone()
    targets[:, ::4] = IGNORED
    parameters = list(student.parameters())

    log_q = (student(input_ids=inputs).logits / 2).log_softmax(-1).flatten(0, 1)
    p = (teacher(input_ids=inputs).logits.detach() / 2).softmax(-1).flatten(0, 1)
    counted = targets.flatten() != IGNORED
    divergence = F.kl_div(log_q[counted], p[counted], reduction="sum")
    logits = student(input_ids=inputs).logits.flatten(0, 1)
    entropy = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
    expected = 0.7 * entropy + 0.3 * 4 * divergence
    expected_gradients = torch.autograd.grad(expected, parameters)

    teacher.train()
    objective = DistillationObjective(student, [teacher], 0.3, 2.0, False)
    loss = objective(inputs, targets)
    gradients = torch.autograd.grad(loss, parameters)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for gradient, want in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, want, rtol=1e-3, atol=1e-3)
    assert not teacher.training
    assert len(list(objective.parameters())) == len(parameters)
