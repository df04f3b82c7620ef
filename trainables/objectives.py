"""What a trial minimises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from models.kernels.linear_cross_entropy import linear_cross_entropy
from models.kernels.linear_distillation import FactoredLogits, linear_distillation
from trainables.corpus import IGNORED


class NextTokenObjective(nn.Module):
    """Next-token cross-entropy of a causal language model.

    A module of its own, so that `DistributedDataParallel` wraps the whole way from tokens to loss.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Summed cross-entropy in nats of `targets` given `inputs`, both (batch, time)."""
        head = _head(self.model, inputs)
        return linear_cross_entropy(
            head.hidden, head.weight, head.bias, targets.flatten(), ignore_index=IGNORED
        )


class DistillationObjective(nn.Module):
    """The distillation loss of `linear_distillation`: next tokens, and the teachers' probabilities.

    Args:
        model: the student.
        teachers: models with the same vocabulary. They stay in evaluation mode, without gradients,
            and are no part of this module: no optimizer, checkpoint or averaging sees them.
        alpha, temperature, reverse: see `linear_distillation`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        teachers: Sequence[PreTrainedModel],
        alpha: float,
        temperature: float,
        reverse: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self._teachers = [teacher.eval().requires_grad_(False) for teacher in teachers]
        self._options: dict[str, Any] = {
            "alpha": alpha,
            "temperature": temperature,
            "reverse": reverse,
        }

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Summed loss in nats of `targets` given `inputs`, both (batch, time)."""
        with torch.no_grad():
            guides = [_head(teacher, inputs) for teacher in self._teachers]
        student = _head(self.model, inputs)
        return linear_distillation(
            student, guides, targets.flatten(), ignore_index=IGNORED, **self._options
        )


def _head(model: PreTrainedModel, inputs: torch.Tensor) -> FactoredLogits:
    """The model's hidden states of all tokens, (batch * time, dim), and its head."""
    hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
    head: Any = model.get_output_embeddings()
    return FactoredLogits(hidden.flatten(0, 1), head.weight, head.bias)
