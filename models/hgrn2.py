"""HGRN2 (Qin et al. 2024): fla's `HGRN2ForCausalLM` with the kernels of this package.

fla's layers fail on CPU tensors, and on a GPU they tune kernel after kernel for minutes before the
first step has ended. The classes below are fla's own with a second path, on any device, that
computes the same from the same parameters with `models.kernels`. So there is one set of weights
and one checkpoint format, that of fla, and nothing of the library is patched. (An independent
module with fla's parameter names would gain nothing: the time goes into matrix products and the
recurrence. And it would repeat fla's cache and generation.)

`BABYSWEEP_KERNELS=library` takes fla's layers on a GPU.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    # fla tells that Triton finds no device; that is what this module is for.
    warnings.filterwarnings("ignore", message="Triton is not supported")
    from fla.layers import hgrn2 as fla_layer
    from fla.layers.utils import get_layer_cache, update_layer_cache
    from fla.models import hgrn2 as fla_hgrn2
    from fla.models.hgrn2 import HGRN2Config
    from fla.modules import GatedMLP, RMSNorm

from models.any_device import add_norm, norm, replace_layers
from models.kernels import paths
from models.kernels.gated_linear_attention import hgrn2_attention
from models.kernels.swiglu import swiglu
from models.registry import Architecture, ParamCount, TextShape, register, small_init_std

# fla normalises the output of the recurrence without handing the config's eps to its kernel.
OUTPUT_NORM_EPS = 1e-5


def takes_fla(x: Tensor) -> bool:
    """Whether fla's own layers are wanted."""
    return paths.uses_library("gated_linear_attention", x.device.type)


class AnyDeviceRMSNorm(RMSNorm):
    """fla's RMSNorm; the own path serves the ways in which HGRN2 calls it."""

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        if takes_fla(x):
            return super().forward(x, residual, prenorm, **kwargs)
        if residual is None:
            normed, total = norm(x, self.weight, self.eps), x
        else:
            normed, total = add_norm(x, residual, self.weight, self.eps)
        return (normed, total) if prenorm else normed


class AnyDeviceGatedMLP(GatedMLP):
    """fla's SwiGLU feed-forward layer."""

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        if self.hidden_act != "swish" or takes_fla(x):
            return super().forward(x, **kwargs)
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class AnyDeviceHGRN2Attention(fla_layer.HGRN2Attention):
    """fla's HGRN2 layer. The own path has no short convolution, which no preset uses, and no
    sequences end to end; on a GPU fla serves both."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = False,
        lower_bound: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None, Any]:
        """hidden_states (batch, time, dim); attention_mask (batch, time), 0 for padding.

        Padding may stand on either side: it leaves the state as it is, which is what fla does by
        cutting it out.
        """
        on_cpu = hidden_states.device.type == "cpu"
        special = self.use_short_conv or kwargs.get("cu_seqlens") is not None
        if takes_fla(hidden_states) or (special and not on_cpu):
            return super().forward(
                hidden_states,
                attention_mask,
                past_key_values,
                use_cache,
                lower_bound=lower_bound,
                **kwargs,
            )
        if special:
            raise ValueError(
                "HGRN2 on a CPU takes neither use_short_conv=True nor cu_seqlens; "
                "use a GPU, or a model without short convolution and a padded batch"
            )
        query, forget, value = (
            project(hidden_states) for project in (self.q_proj, self.f_proj, self.i_proj)
        )
        if attention_mask is not None:
            padding = attention_mask[:, -hidden_states.shape[1] :, None] == 0
            forget = forget.masked_fill(padding, torch.inf)  # keeps the state

        layer_cache = get_layer_cache(self, past_key_values)
        past = None if layer_cache is None else layer_cache["recurrent_state"]
        heads = (self.num_heads, -1)
        out, state = hgrn2_attention(
            query.unflatten(-1, heads),
            forget.unflatten(-1, heads),
            value.unflatten(-1, heads),
            None if self.layer_idx == 0 else lower_bound,  # fla's first layer has no bound
            initial_state=None if past is None else past.mT,  # fla keeps it as (value, key)
        )
        update_layer_cache(
            self,
            past_key_values,
            recurrent_state=state.mT if use_cache else None,
            conv_state=None,
            offset=hidden_states.shape[1],
        )
        normed = norm(out.flatten(-2), self.g_norm.weight, OUTPUT_NORM_EPS)
        return self.o_proj(normed), None, past_key_values


_ANY_DEVICE: dict[type[nn.Module], type[nn.Module]] = {
    RMSNorm: AnyDeviceRMSNorm,
    GatedMLP: AnyDeviceGatedMLP,
    fla_layer.HGRN2Attention: AnyDeviceHGRN2Attention,
}


class HGRN2ForCausalLM(fla_hgrn2.HGRN2ForCausalLM):
    """fla's model with layers that run anywhere at once; checkpoints are interchangeable."""

    def __init__(self, config: HGRN2Config) -> None:
        super().__init__(config)
        replace_layers(self, _ANY_DEVICE)


def build_config(
    text: TextShape,
    *,
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    expand_ratio: int,
) -> HGRN2Config:
    return HGRN2Config(
        vocab_size=text.vocab_size,
        max_position_embeddings=text.context,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        expand_ratio=expand_ratio,
        use_lower_bound=True,
        use_short_conv=False,
        norm_eps=1e-6,
        fuse_cross_entropy=False,  # fla's fused loss exists on GPUs only
        initializer_range=small_init_std(hidden_size),
        tie_word_embeddings=False,
        **text.special_tokens(),
    )


def num_params(config: HGRN2Config) -> ParamCount:
    vectors = 4 * config.hidden_size  # two norms, the output norm, one row of lower bounds
    per_layer = _matrix_params(config) + vectors
    return ParamCount(
        embedding=2 * config.vocab_size * config.hidden_size,
        non_embedding=config.num_hidden_layers * per_layer + config.hidden_size,
    )


def flops_per_token(config: HGRN2Config, context: int) -> int:
    """Per number of state: decay (1), update (2), readout (2). Per number of a key: the exponential
    of its gate, and the scale of the query."""
    recurrence = 5 * config.hidden_size * config.expand_ratio + 2 * config.hidden_size
    per_layer = 2 * _matrix_params(config) + recurrence
    return config.num_hidden_layers * per_layer + 2 * config.vocab_size * config.hidden_size


def state_size(config: HGRN2Config, context: int) -> int:
    """A (key dim, value dim) matrix per head and layer."""
    return config.num_hidden_layers * config.hidden_size * config.expand_ratio


def _matrix_params(config: HGRN2Config) -> int:
    """Weights of one layer that multiply every token."""
    return 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size


register(
    Architecture(
        name="hgrn2",
        model_type=HGRN2Config.model_type,
        build_config=build_config,
        num_params=num_params,
        flops_per_token=flops_per_token,
        state_size=state_size,
    )
)
