"""Transformer: the LLaMA architecture of the transformers library, with its SDPA attention."""

from __future__ import annotations

from transformers import LlamaConfig

from models.registry import Architecture, ParamCount, TextShape, register, small_init_std


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
