"""Transformer: the LLaMA architecture of the transformers library.

The classes below are the library's own with faster ways through them, on any device: RMS norms and
SwiGLU in one pass each, and for whole sequences without padding mask and cache the rotary embedding
and the attention of `models.kernels`. Parameters, checkpoints, configs and every other way through
the model are the library's, which itself is left as it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama import modeling_llama as library
from transformers.utils import TransformersKwargs

from models.any_device import FusedRMSNorm, add_norm, plain_weights, replace_layers
from models.calls import mask_of_call, refuse_unknown
from models.kernels import paths
from models.kernels.causal_attention import causal_attention
from models.kernels.rotary import linear_rotary, takes_triton
from models.kernels.swiglu import linear_swiglu, swiglu
from models.registry import Architecture, ParamCount, TextShape, register, small_init_std

# Keywords that the library's layers look for, beside those of `forward`.
OF_THE_LIBRARY = frozenset(TransformersKwargs.__annotations__) | {"ignore_index", "shift_labels"}
# Arguments of the library's attention functions that change the result.
SPECIAL = ("is_causal", "softcap", "position_bias", "cache", "s_aux")


class DeferredSum(NamedTuple):
    """The residual stream and what a block adds to it, (batch, time, dim) each.

    The next norm adds them up as it reads them.
    """

    stream: Tensor
    branch: Tensor


class AnyDeviceRMSNorm(FusedRMSNorm, library.LlamaRMSNorm):
    """The library's RMS norm, also of a sum."""

    def forward(self, hidden_states: Tensor | DeferredSum) -> Tensor:
        """hidden_states (..., dim) -> the same shape."""
        if isinstance(hidden_states, DeferredSum):
            return self.of_sum(hidden_states)[0]
        return super().forward(hidden_states)

    def of_sum(self, x: DeferredSum) -> tuple[Tensor, Tensor]:
        """The norm of the sum, and the sum."""
        return add_norm(x.branch, x.stream, self.weight, self.variance_epsilon)


class AnyDeviceMLP(library.LlamaMLP):
    """The library's feed-forward layer."""

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, dim) -> the same shape."""
        is_silu = self.config.hidden_act in ("silu", "swish")
        if not is_silu or paths.uses_library("swiglu", x.device.type):
            paths.note("swiglu", "library")
            return super().forward(x)
        weights = plain_weights(self.gate_proj, self.up_proj)
        if weights is None:
            return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
        return self.down_proj(linear_swiglu(x, *weights))


class AnyDeviceAttention(library.LlamaAttention):
    """The library's attention layer."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        """hidden_states (batch, time, dim), cos and sin -> (batch, time, dim) and None.

        An empty mask hides nothing (see `take_short_cuts`).
        """
        if attention_mask is not None and attention_mask.numel() == 0:
            attention_mask = None
        if not self._is_plain(hidden_states, attention_mask, past_key_values, kwargs):
            paths.note("causal_attention", "library")
            paths.note("rotary", "library")
            return super().forward(
                hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
            )
        projections, tables = (self.q_proj, self.k_proj, self.v_proj), position_embeddings
        weights, dim = plain_weights(*projections), self.head_dim
        if weights and tables and takes_triton(dim, hidden_states, *weights, *tables):
            query, key, value = linear_rotary(hidden_states, weights, *tables, dim)
            tables = None
        else:
            query, key, value = (x(hidden_states).unflatten(-1, (-1, dim)) for x in projections)
        out = causal_attention(query, key, value, self.scaling, tables)
        return self.o_proj(out.flatten(-2)), None

    def _is_plain(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Any,
        options: dict[str, Any],
    ) -> bool:
        """Whether this is causal attention over whole sequences, without dropout.

        The library makes no mask for such sequences under its default implementation, "sdpa";
        another implementation is what the caller wants to run.
        """
        drops = self.training and self.attention_dropout
        special = drops or any(options.get(name) is not None for name in SPECIAL)
        whole = attention_mask is None and past_key_values is None
        default = self.config._attn_implementation == "sdpa"
        library_wanted = paths.uses_library("causal_attention", hidden_states.device.type)
        return whole and default and not special and not library_wanted


class AnyDeviceDecoderLayer(library.LlamaDecoderLayer):
    """The library's block, which adds to the residual stream and normalises the sum at once."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor | DeferredSum,
        attention_mask: Tensor | None = None,
        leaves_sum: bool = False,
        **kwargs: Any,
    ) -> Tensor | DeferredSum:
        """hidden_states (batch, time, dim) -> the same shape; `leaves_sum`: not yet added up."""
        first: Any = self.input_layernorm
        second: Any = self.post_attention_layernorm
        if isinstance(hidden_states, DeferredSum):
            normed, stream = first.of_sum(hidden_states)
        elif paths.uses_library("rms_norm", hidden_states.device.type):
            return super().forward(hidden_states, attention_mask, **kwargs)
        else:
            normed, stream = first(hidden_states), hidden_states
        attended, _ = self.self_attn(normed, attention_mask=attention_mask, **kwargs)
        normed, stream = second.of_sum(DeferredSum(stream, attended))
        fed = self.mlp(normed)
        return DeferredSum(stream, fed) if leaves_sum else stream + fed


def take_short_cuts(
    body: library.LlamaModel, args: tuple[object, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Arguments for the library's body with which whole sequences take less time.

    Without a mask the library looks for sequences packed into one: it reads the positions, for
    which it waits for the device, and in a CUDA graph, where it cannot, makes a mask of all pairs
    of tokens. Positions that it numbers itself pack nothing; a mask of four dimensions it hands on
    as it is, so an empty one tells the attention layers that there is nothing to hide.

    And unless somebody looks at the layers' outputs, the sum at the end of each is left to the norm
    that follows.
    """
    caches = kwargs.get("use_cache")
    caches = body.config.use_cache if caches is None else caches
    given = any(
        kwargs.get(name) is not None
        for name in ("attention_mask", "position_ids", "past_key_values")
    )
    is_causal = getattr(body.config, "is_causal", True)
    skips_masks = is_causal and body.config._attn_implementation == "sdpa"
    if len(args) > 1 or caches or given or not skips_masks:
        return None
    weight = body.embed_tokens.weight
    mask = torch.empty(0, 0, 0, 0, device=weight.device)
    leaves_sum = not _is_watched(body, kwargs)
    return args, {**kwargs, "attention_mask": mask, "leaves_sum": leaves_sum}


def _check_call(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
    """A forward pre-hook: refuses arguments that the library's model would leave out in silence.

    Raises:
        ValueError: an unknown argument, or a mask of fewer columns than there are tokens.
    """
    refuse_unknown(module, kwargs, also=OF_THE_LIBRARY)
    mask_of_call(args, kwargs)


def _is_watched(body: library.LlamaModel, kwargs: dict[str, Any]) -> bool:
    """Whether anything but the next layer may see a layer's output."""
    shown = kwargs.get("output_hidden_states", body.config.output_hidden_states)
    hooked = any(
        type(layer) is not AnyDeviceDecoderLayer or layer._forward_hooks for layer in body.layers
    )
    library_wanted = paths.uses_library("rms_norm", body.embed_tokens.weight.device.type)
    return bool(shown or hooked or library_wanted or body.gradient_checkpointing)


_ANY_DEVICE: dict[type[nn.Module], type[nn.Module]] = {
    library.LlamaRMSNorm: AnyDeviceRMSNorm,
    library.LlamaMLP: AnyDeviceMLP,
    library.LlamaAttention: AnyDeviceAttention,
    library.LlamaDecoderLayer: AnyDeviceDecoderLayer,
}


class LlamaForCausalLM(library.LlamaForCausalLM):
    """The library's model with layers that are faster; same name, same checkpoints."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        replace_layers(self, _ANY_DEVICE)
        self.register_forward_pre_hook(_check_call, with_kwargs=True)
        self.model.register_forward_pre_hook(_check_call, with_kwargs=True)
        self.model.register_forward_pre_hook(take_short_cuts, with_kwargs=True)


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


def flops_per_token(config: LlamaConfig, context: int) -> int:
    attention = 2 * 2 * context * config.hidden_size  # scores, and values weighted by them
    per_layer = 2 * _matrix_params(config) + attention
    return config.num_hidden_layers * per_layer + 2 * config.vocab_size * config.hidden_size


def state_size(config: LlamaConfig, context: int) -> int:
    """The cache of keys and values; all other architectures keep the same for any context."""
    kv_heads = config.num_key_value_heads or config.num_attention_heads
    head_dim = config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers * 2 * kv_heads * head_dim * context


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
        state_size=state_size,
    )
)
