"""The language-model head that the LSTM and the xLSTM share.

Their libraries give a body only; this adds what a Hugging Face causal LM has around it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from models.registry import small_init_std


class RecurrentPreTrainedModel(PreTrainedModel):
    """Initialisation and embedding access; `base_model` is the attribute `model`."""

    base_model_prefix = "model"
    _input_embed_layer = "embeddings"

    def _init_weights(self, module: nn.Module) -> None:
        # The bodies initialise themselves in their constructors; table and head are ours.
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=small_init_std(module.embedding_dim))


class RecurrentForCausalLM(RecurrentPreTrainedModel, GenerationMixin):
    """A body with a linear head that is not tied to the embedding table.

    Subclasses build `self.model` and then call `add_head`. There is no cache: `generate` runs
    the whole sequence again for every new token.
    """

    def add_head(self, width: int, vocab_size: int) -> None:
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.lm_head:
            nn.init.normal_(module.weight, std=small_init_std(module.in_features))

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits (batch, time, vocab), of the last `logits_to_keep` positions if that is not 0.

        With `labels` (batch, time), not shifted, the mean cross-entropy comes along.
        """
        hidden = self.model(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds
        ).last_hidden_state
        logits = self.lm_head(hidden[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        return CausalLMOutput(loss=loss, logits=logits)


def require_right_padding(attention_mask: Tensor | None) -> None:
    """Raise ValueError for padding on the left, which a recurrence would read as text.

    Padding on the right needs no mask: the models are causal.
    """
    if attention_mask is not None and not torch.all(attention_mask[:, 0]):
        raise ValueError(
            "the attention mask hides the first token of a sequence; this model wants padding "
            "on the right (tokenizer.padding_side = 'right')"
        )
