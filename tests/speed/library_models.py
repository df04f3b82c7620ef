"""The five architectures as their libraries compute them on a CPU, untouched by `models`.

Each model has the parameter names of ours, so that it loads our weights strictly and its gradients
can be compared by name.
"""

from __future__ import annotations

import copy
import importlib.util
from types import ModuleType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama import modeling_llama
from transformers.models.mamba import modeling_mamba
from transformers.utils import logging

PLAIN_SDPA = "library_sdpa"  # under a name of its own: `models` may answer to "sdpa"
FLA_OUTPUT_NORM_EPS = 1e-5  # fla normalises the recurrence's output with its kernel's default


def build(arch: str, model: Any) -> nn.Module:
    """The library's model with the weights of `model`, ours of the same architecture."""
    logging.set_verbosity_error()  # transformers' Mamba advises CUDA kernels
    library = _BUILDERS[arch](copy.deepcopy(model.config))
    library.load_state_dict(model.state_dict())
    return library.train()


def remove_layers(library: Any) -> None:
    """Leave embedding, final norm and head of a Hugging Face model."""
    library.base_model.layers = nn.ModuleList()


def logits(library: nn.Module, inputs: Tensor) -> Tensor:
    """inputs (batch, time) -> (batch, time, vocab)."""
    if isinstance(library, _Stack):
        return library(inputs)
    return library(input_ids=inputs, use_cache=False).logits


def hidden_states(library: Any, inputs: Tensor) -> Tensor:
    """inputs (batch, time) -> (batch, time, dim), after the final norm; not of a `_Stack`."""
    return library.base_model(input_ids=inputs, use_cache=False).last_hidden_state


def _untouched(module: ModuleType) -> ModuleType:
    """A second copy of a library's module, as it lies on the disk."""
    spec = importlib.util.find_spec(module.__name__)
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    return fresh


def _transformer(config: Any) -> nn.Module:
    """transformers' LLaMA with PyTorch's scaled dot-product attention and the library's norms."""
    AttentionInterface.register(PLAIN_SDPA, sdpa_attention_forward)
    config._attn_implementation = PLAIN_SDPA
    return _untouched(modeling_llama).LlamaForCausalLM(config)


def _mamba(config: Any) -> nn.Module:
    """transformers' Mamba on its slow path."""
    return _untouched(modeling_mamba).MambaForCausalLM(config)


def _hgrn2(config: Any) -> nn.Module:
    """fla's HGRN2 with fla's naive recurrence, and PyTorch for its other Triton kernels.

    As it is, fla's model fails on CPU tensors.
    """
    import fla.layers.hgrn2 as layer
    import fla.modules.mlp as mlp
    from fla.models.hgrn2 import modeling_hgrn2
    from fla.ops.gla.naive import naive_recurrent_gla

    def recurrence(
        q: Tensor, k: Tensor, v: Tensor, g: Tensor | None = None, gk: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        return naive_recurrent_gla(q, k, v, g if gk is None else gk)[0].to(v.dtype), None

    def norm_linear(x: Tensor, gain: Tensor, _: None, weight: Tensor, bias: None) -> Tensor:
        return F.linear(F.rms_norm(x.float(), gain.shape, gain, FLA_OUTPUT_NORM_EPS), weight, bias)

    layer.chunk_gla = layer.fused_recurrent_gla = recurrence
    layer.swish = F.silu
    layer.rms_norm_linear = norm_linear
    mlp.swiglu = lambda gate, x: F.silu(gate) * x
    config.fuse_norm = config.fuse_swiglu = False
    return modeling_hgrn2.HGRN2ForCausalLM(config)


class _Stack(nn.Module):
    """Embedding, a library's layers and a head, for libraries that have no language model."""

    def __init__(self, config: Any, name: str, layers: nn.Module, width: int, inner: int) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"embeddings": nn.Embedding(config.vocab_size, width)})
        self.model[name] = layers
        self.lm_head = nn.Linear(inner, config.vocab_size, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        embeddings, layers = self.model.values()
        return self.lm_head(layers(embeddings(inputs)))


def _xlstm(config: Any) -> nn.Module:
    """The xlstm package's own layers."""
    from xlstm import xLSTMBlockStack

    from models.xlstm import _stack_config

    stack = xLSTMBlockStack(_stack_config(config))
    return _Stack(config, "block_stack", stack, config.hidden_size, config.hidden_size)


class _LSTMLayer(nn.Module):
    """A layer of `torch.nn.LSTM`, under the name it has in ours."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, width, batch_first=True)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.lstm(hidden)[0]


def _lstm(config: Any) -> nn.Module:
    """The layers of torch.nn.LSTM."""
    inputs = [config.embedding_size] + [config.hidden_size] * (config.num_hidden_layers - 1)
    layers = nn.Sequential(*(_LSTMLayer(width, config.hidden_size) for width in inputs))
    return _Stack(config, "layers", layers, config.embedding_size, config.hidden_size)


_BUILDERS = {
    "transformer": _transformer,
    "lstm": _lstm,
    "xlstm": _xlstm,
    "mamba": _mamba,
    "hgrn2": _hgrn2,
}
