"""What a trial minimises."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from models.kernels.linear_cross_entropy import linear_cross_entropy
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
        hidden = self.model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        head = self.model.get_output_embeddings()
        return linear_cross_entropy(
            hidden.flatten(0, 1),
            head.weight,
            head.bias,
            targets.flatten(),
            ignore_index=IGNORED,
        )
