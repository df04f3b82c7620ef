"""LSTM language model: embedding, a stack of `torch.nn.LSTM` layers, linear head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from models.causal_lm import (
    RecurrentForCausalLM,
    RecurrentPreTrainedModel,
    require_right_padding,
)
from models.registry import Architecture, ParamCount, TextShape, register


class LSTMConfig(PreTrainedConfig):
    """Shape of an LSTM language model.

    `dropout` acts on the embeddings, between the layers and before the head.
    """

    model_type = "babysweep_lstm"

    def __init__(
        self,
        vocab_size: int = 16_000,
        embedding_size: int = 512,
        hidden_size: int = 4096,
        num_hidden_layers: int = 2,
        dropout: float = 0.0,
        max_position_embeddings: int = 512,
        use_cache: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.dropout = dropout
        self.max_position_embeddings = max_position_embeddings
        self.use_cache = use_cache
        super().__init__(**{"tie_word_embeddings": False, **kwargs})


class LSTMPreTrainedModel(RecurrentPreTrainedModel):
    config_class = LSTMConfig

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)  # no norm follows, and the gates need inputs of size 1
        elif isinstance(module, nn.LSTM):
            _init_lstm(module)


class LSTMModel(LSTMPreTrainedModel):
    """Embedding and LSTM layers; the hidden states are those of the last layer."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            config.num_hidden_layers,
            batch_first=True,
            dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
        )
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """input_ids (batch, time) -> hidden states (batch, time, hidden_size)."""
        require_right_padding(attention_mask)
        embedded = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        hidden, _ = self.lstm(self.dropout(embedded))
        return BaseModelOutput(last_hidden_state=self.dropout(hidden))


class LSTMForCausalLM(RecurrentForCausalLM, LSTMPreTrainedModel):
    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.model = LSTMModel(config)
        self.add_head(config.hidden_size, config.vocab_size)


@torch.no_grad()
def _init_lstm(lstm: nn.LSTM) -> None:
    """PyTorch's uniform weights, zero biases, and forget gates that start open.

    The forget bias of 1 (Jozefowicz et al. 2015) lets gradients through from the first step on.
    """
    for name, parameter in lstm.named_parameters():
        if name.startswith("weight"):
            bound = lstm.hidden_size**-0.5
            nn.init.uniform_(parameter, -bound, bound)
        else:
            nn.init.zeros_(parameter)
            if name.startswith("bias_ih"):  # gates lie in the order input, forget, cell, output
                nn.init.ones_(parameter[lstm.hidden_size : 2 * lstm.hidden_size])


def build_config(
    text: TextShape,
    *,
    embedding_size: int,
    hidden_size: int,
    num_layers: int,
    dropout: float = 0.0,
) -> LSTMConfig:
    return LSTMConfig(
        vocab_size=text.vocab_size,
        max_position_embeddings=text.context,
        embedding_size=embedding_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        dropout=dropout,
        **text.special_tokens(),
    )


def num_params(config: LSTMConfig) -> ParamCount:
    biases = config.num_hidden_layers * 2 * 4 * config.hidden_size
    return ParamCount(
        embedding=config.vocab_size * (config.embedding_size + config.hidden_size),
        non_embedding=_matrix_params(config) + biases,
    )


def flops_per_token(config: LSTMConfig, context: int) -> float:
    return 2 * _matrix_params(config) + 2 * config.vocab_size * config.hidden_size


def _matrix_params(config: LSTMConfig) -> int:
    """Weights of all layers that multiply every token."""
    first = config.embedding_size + config.hidden_size
    others = (config.num_hidden_layers - 1) * 2 * config.hidden_size
    return 4 * config.hidden_size * (first + others)


register(
    Architecture(
        name="lstm",
        model_type=LSTMConfig.model_type,
        build_config=build_config,
        num_params=num_params,
        flops_per_token=flops_per_token,
    )
)
