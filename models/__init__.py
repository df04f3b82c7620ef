"""The language models under comparison, all as Hugging Face causal LMs.

Importing this package makes every architecture known to `AutoConfig` and
`AutoModelForCausalLM`. Hidden states after the final norm come from
`model.base_model(input_ids=..., use_cache=False).last_hidden_state` (batch, time, dim), the head
is `model.get_output_embeddings()`.
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

from models import registry
from models import sizes as _sizes  # before `def sizes`, which takes over the name
from models.opening import load, load_config, load_tokenizer
from models.registrations import keep_registrations, restore_registrations
from models.registry import ParamCount, TextShape, is_own

# isort: off
# Importing registers, in the order of `architectures()`.
from models.transformer import LlamaConfig, LlamaForCausalLM
from models.lstm import LSTMConfig, LSTMForCausalLM
from models.xlstm import XLSTMConfig, XLSTMForCausalLM
from models.mamba import MambaConfig, MambaForCausalLM
from models.hgrn2 import HGRN2Config, HGRN2ForCausalLM
from models.gated_deltanet import GatedDeltaNetConfig, GatedDeltaNetForCausalLM
# isort: on

# Small models load and save at once; a bar per file would only disturb the commands' own output.
disable_progress_bar()

AutoConfig.register(LSTMConfig.model_type, LSTMConfig, exist_ok=True)
AutoConfig.register(XLSTMConfig.model_type, XLSTMConfig, exist_ok=True)
AutoConfig.register(HGRN2Config.model_type, HGRN2Config, exist_ok=True)
AutoConfig.register(GatedDeltaNetConfig.model_type, GatedDeltaNetConfig, exist_ok=True)
AutoModelForCausalLM.register(LSTMConfig, LSTMForCausalLM, exist_ok=True)
AutoModelForCausalLM.register(XLSTMConfig, XLSTMForCausalLM, exist_ok=True)
AutoModelForCausalLM.register(HGRN2Config, HGRN2ForCausalLM, exist_ok=True)
AutoModelForCausalLM.register(GatedDeltaNetConfig, GatedDeltaNetForCausalLM, exist_ok=True)
# Subclasses in place of the library's classes, whose names and checkpoints they share.
AutoModelForCausalLM.register(LlamaConfig, LlamaForCausalLM, exist_ok=True)
AutoModelForCausalLM.register(MambaConfig, MambaForCausalLM, exist_ok=True)
keep_registrations()
restore_registrations()  # of what was imported before

__all__ = [
    "ParamCount",
    "architectures",
    "build_config",
    "build_model",
    "flops_per_token",
    "is_own",
    "load",
    "load_config",
    "load_tokenizer",
    "num_params",
    "revision",
    "sizes",
    "state_size",
]


def architectures() -> tuple[str, ...]:
    """Names of the architectures."""
    return registry.names()


def sizes() -> tuple[str, ...]:
    """Names of the sizes, from the smallest."""
    return tuple(_sizes.PRESETS)


def build_config(
    arch: str,
    size: str,
    *,
    vocab_size: int,
    context: int,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> PreTrainedConfig:
    """The config of `arch` at `size` for a vocabulary and a context length in tokens.

    Raises ValueError, with the valid names, for an unknown architecture or size.
    """
    architecture = registry.get(arch)
    text = TextShape(vocab_size, context, bos_token_id, eos_token_id, pad_token_id)
    return architecture.build_config(text, **_sizes.shape(arch, size))


def build_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A new float32 model, initialised from torch's global random state, which the caller seeds."""
    restore_registrations()
    return AutoModelForCausalLM.from_config(config)


def num_params(config: PreTrainedConfig) -> ParamCount:
    """Number of parameters of the model that `config` builds, without building it."""
    return registry.of_config(config).num_params(config)


def revision(arch: str) -> int:
    """Version of the architecture's shapes and initialisation; part of a trial's identity."""
    return registry.get(arch).revision


def flops_per_token(config: PreTrainedConfig, context: int) -> int:
    """FLOPs of one token's forward pass in a sequence of `context` tokens; training takes 3x.

    `registry.Architecture` says what counts.
    """
    return registry.of_config(config).flops_per_token(config, context)


def state_size(config: PreTrainedConfig, context: int) -> int:
    """Numbers that the model keeps of one sequence to continue it behind `context` tokens.

    A transformer keeps keys and values; the recurrent state of the others has the same size for any
    context.
    """
    return registry.of_config(config).state_size(config, context)
