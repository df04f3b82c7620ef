"""LSTM language model: embedding, a stack of `torch.nn.LSTM` layers, linear head."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from models.causal_lm import (
    LayerState,
    RecurrentForCausalLM,
    RecurrentModel,
    RecurrentPreTrainedModel,
)
from models.kernels import paths
from models.registry import Architecture, ParamCount, TextShape, register

_CUDNN_BF16 = 91_300  # version of cuDNN whose LSTM knows bf16

LATER_GAIN = 2.0  # with it the outputs of all layers are of one size, about 0.2


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
        use_cache: bool = True,
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
    _no_split_modules = ["LSTMLayer"]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)  # no norm follows, and the gates need inputs of size 1
        elif isinstance(module, nn.LSTM):
            body: Any = self.base_model
            _init_lstm(module, gain=1.0 if module is body.layers[0].lstm else LATER_GAIN)


class LSTMLayer(GradientCheckpointingLayer):
    """Dropout and one `nn.LSTM` layer."""

    is_residual = False  # the output takes the place of the input (see `trainables.dropout`)

    def __init__(self, input_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)

    def forward(
        self,
        hidden: Tensor,
        state: LayerState | None,
        lengths: Tensor | None,
        keep_state: bool,
    ) -> tuple[Tensor, LayerState | None]:
        """A layer as `RecurrentModel` wants it; state: output and cell (batch, hidden_size)."""
        paths.note("lstm", "torch")
        hidden = self.dropout(hidden)
        past = None if state is None else tuple(x[None].to(hidden.dtype) for x in state)
        if lengths is None or not keep_state:  # padding lies behind the text and harms nobody
            hidden, end = self._run(hidden, past)
        else:
            hidden, end = self._run_to(lengths, hidden, past)
        return hidden, tuple(x[0].detach() for x in end) if keep_state else None

    def _run(
        self, hidden: Tensor, past: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`self.lstm`; under autocast in autocast's type, or in float32 where the device's library
        does not know it.

        On a GPU PyTorch itself would take float16 whatever the type, in which the gradients of a
        mean over many tokens vanish.
        """
        device = hidden.device.type
        if not torch.is_autocast_enabled(device):
            return self.lstm(hidden, past)
        if device == "cpu" and not _onednn_knows_bf16():
            past = None if past is None else tuple(state.float() for state in past)
            with torch.autocast("cpu", enabled=False):
                return self.lstm(hidden.float(), past)
        if device != "cuda":
            return self.lstm(hidden, past)
        dtype = torch.get_autocast_dtype("cuda")
        if dtype == torch.bfloat16 and (torch.backends.cudnn.version() or 0) < _CUDNN_BF16:
            dtype = torch.float32
        with torch.autocast("cuda", enabled=False):
            return self.run_in(dtype, hidden, past)

    def run_in(
        self, dtype: torch.dtype, hidden: Tensor, past: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`self.lstm` on weights and inputs of this type."""
        if past is None:
            zeros = hidden.new_zeros(1, len(hidden), self.lstm.hidden_size, dtype=dtype)
            past = (zeros, zeros)
        weights = [weight.to(dtype) for weight in self.lstm.parameters()]
        start = tuple(state.to(dtype) for state in past)
        with warnings.catch_warnings():
            # cuDNN copies them into one piece of memory, as PyTorch's autocast does.
            warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
            options = (True, 1, 0.0, self.training, False, True)
            output, *end = torch._VF.lstm(hidden.to(dtype), start, weights, *options)
        return output, tuple(end)

    def _run_to(
        self, lengths: Tensor, hidden: Tensor, past: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run `self.lstm`; returns also the state behind the first `lengths` (batch,) tokens."""
        if hidden.device.type == "cuda":  # in float32, for the reason that `_run` has
            hidden = hidden.float()
            past = None if past is None else tuple(state.float() for state in past)
        # A packed sequence has one token at least; the state of the empty ones is put back.
        packed = pack_padded_sequence(
            hidden, lengths.cpu().clamp(min=1), batch_first=True, enforce_sorted=False
        )
        with torch.autocast("cuda", enabled=False):
            packed_output, end = self.lstm(packed, past)
        output, _ = pad_packed_sequence(
            packed_output, batch_first=True, total_length=hidden.shape[1]
        )
        if past is None:
            past = tuple(torch.zeros_like(x) for x in end)
        empty = (lengths == 0)[:, None]
        return output, tuple(
            torch.where(empty, old, new) for old, new in zip(past, end, strict=True)
        )


class LSTMModel(RecurrentModel, LSTMPreTrainedModel):
    """Embedding and LSTM layers; the hidden states are those of the last layer."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        inputs = [config.embedding_size] + [config.hidden_size] * (config.num_hidden_layers - 1)
        self.layers = nn.ModuleList(
            LSTMLayer(size, config.hidden_size, config.dropout) for size in inputs
        )
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def recurrent_layers(self) -> nn.ModuleList:
        return self.layers

    def finish(self, hidden: Tensor) -> Tensor:
        return self.dropout(hidden)


class LSTMForCausalLM(RecurrentForCausalLM, LSTMPreTrainedModel):
    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.model = LSTMModel(config)
        self.add_head(config.hidden_size, config.vocab_size)


def _onednn_knows_bf16() -> bool:
    """Whether oneDNN has LSTMs in bfloat16 for this CPU: without AVX-512 it has none, and PyTorch
    asks for them all the same. Its own are 14 times as slow as oneDNN's in float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.no_grad()
def _init_lstm(lstm: nn.LSTM, gain: float) -> None:
    """Input weights that keep the signal alive, zero biases, and forget gates that start open.

    The gates read inputs of size 1 with variance `gain` squared. PyTorch's uniform weights, which
    only the recurrent ones start with, halve the signal from layer to layer: a stack of three then
    learns next to nothing for hundreds of steps. The forget bias of 1 (Jozefowicz et al. 2015)
    lets gradients through from the first step on.
    """
    for name, parameter in lstm.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.normal_(parameter, std=gain / math.sqrt(lstm.input_size))
        elif name.startswith("weight_hh"):
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


def flops_per_token(config: LSTMConfig, context: int) -> int:
    # Per unit: four sums of gates and their activations, three operations for the cell, two for h.
    cells = 13 * config.num_hidden_layers * config.hidden_size
    return 2 * _matrix_params(config) + cells + 2 * config.vocab_size * config.hidden_size


def state_size(config: LSTMConfig, context: int) -> int:
    """Output and cell of every layer."""
    return 2 * config.num_hidden_layers * config.hidden_size


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
        state_size=state_size,
        # The first had PyTorch's uniform input weights, and two layers of 920 at `small`.
        revision=2,
    )
)
