"""Transformer: the LLaMA architecture of the transformers library, with its SDPA attention.

Importing this module gives transformers' `sdpa` attention a faster path for short sequences
without padding mask on the CPU; everything else goes on to the library.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, LlamaConfig
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from models.kernels.attention import causal_attention
from models.registry import Architecture, ParamCount, TextShape, register, small_init_std

# Beyond this the (time x time) scores outgrow the caches and the fused kernel wins.
LONGEST_SHORT_SEQUENCE = 256


# Arguments of the library that change the result.
SPECIAL = ("softcap", "position_bias", "cache", "s_aux")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (batch, heads, time, dim) -> (batch, time, heads, dim), as transformers wants it."""
    time = query.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    whole_sequence = attention_mask is None and causal and 1 < time == key.shape[2]
    short = query.device.type == "cpu" and time <= LONGEST_SHORT_SEQUENCE
    special = dropout or any(kwargs.get(name) is not None for name in SPECIAL)
    if special or not (whole_sequence and short):
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )
    groups = getattr(module, "num_key_value_groups", 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = causal_attention(query, repeat_kv(key, groups), repeat_kv(value, groups), scale)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("sdpa", _attention)


def build_config(
    text: TextShape,
    *,
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int | None = None,
) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=text.vocab_size,
        max_position_embeddings=text.context,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads or num_heads,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        initializer_range=small_init_std(hidden_size),
        tie_word_embeddings=False,
        **text.special_tokens(),
    )


def num_params(config: LlamaConfig) -> ParamCount:
    norms = (2 * config.num_hidden_layers + 1) * config.hidden_size
    return ParamCount(
        embedding=2 * config.vocab_size * config.hidden_size,
        non_embedding=config.num_hidden_layers * _matrix_params(config) + norms,
    )


def flops_per_token(config: LlamaConfig, context: int) -> float:
    """Scores and weighted values count for the whole context: no discount for causality."""
    attention = 2 * 2 * context * config.hidden_size
    per_layer = 2 * _matrix_params(config) + attention
    return config.num_hidden_layers * per_layer + 2 * config.vocab_size * config.hidden_size


def _matrix_params(config: LlamaConfig) -> int:
    """Weights of one layer that multiply every token."""
    heads = config.num_attention_heads
    kv_heads = config.num_key_value_heads or heads
    query_and_output = 2 * config.hidden_size**2
    key_and_value = query_and_output * kv_heads // heads
    return query_and_output + key_and_value + 3 * config.hidden_size * config.intermediate_size


register(
    Architecture(
        name="transformer",
        model_type="llama",
        build_config=build_config,
        num_params=num_params,
        flops_per_token=flops_per_token,
    )
)
