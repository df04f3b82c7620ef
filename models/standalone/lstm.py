"""LSTM language model (Hochreiter & Schmidhuber 1997): embedding, `torch.nn.LSTM` layers, head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from models.standalone.skeleton import (
    PlainForCausalLM,
    PlainForSequenceClassification,
    PlainModel,
)


class LSTMConfig(PretrainedConfig):
    """Shape of the model; `dropout` acts on the embeddings, between the layers and at the end."""

    model_type = "babysweep_lstm"

    def __init__(
        self,
        vocab_size: int = 16_000,
        embedding_size: int = 512,
        hidden_size: int = 4096,
        num_hidden_layers: int = 2,
        dropout: float = 0.0,
        max_position_embeddings: int = 512,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.dropout = dropout
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**{"tie_word_embeddings": False, **kwargs})


class LSTMLayer(nn.Module):
    """Dropout and one layer of cells."""

    def __init__(self, input_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (batch, time, input) -> (batch, time, hidden).

        In the type of the weights, also under autocast: not all processors have LSTMs in bf16, and
        on a GPU PyTorch would take float16, in which gradients vanish.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            return self.lstm(self.dropout(hidden).to(self.lstm.weight_ih_l0.dtype))[0]


class LSTMModel(PlainModel):
    """Embedding and LSTM layers; the hidden states are those of the last layer."""

    config_class = LSTMConfig

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        inputs = [config.embedding_size] + [config.hidden_size] * (config.num_hidden_layers - 1)
        self.layers = nn.ModuleList(
            LSTMLayer(size, config.hidden_size, config.dropout) for size in inputs
        )
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def sequence(self) -> nn.ModuleList:
        return self.layers

    def finish(self, hidden: Tensor) -> Tensor:
        return self.dropout(hidden)


class LSTMForCausalLM(PlainForCausalLM):
    config_class = LSTMConfig
    body = LSTMModel


class LSTMForSequenceClassification(PlainForSequenceClassification):
    config_class = LSTMConfig
    body = LSTMModel
