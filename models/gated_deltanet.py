"""Gated DeltaNet (Yang, Kautz, Hatamizadeh 2024, arXiv 2412.06464) on the kernels of this package.

Config and parameters have the names and shapes of flash-linear-attention's `GatedDeltaNetConfig`
and `GatedDeltaNetForCausalLM`, whose checkpoints open here and the other way round; fla itself,
which runs on GPUs only, is not needed.

Legend: B batch, T time, H heads of keys, K head dim of keys, V of values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from models.any_device import RMSNorm, add_norm, plain_weights
from models.causal_lm import (
    LayerState,
    RecurrentForCausalLM,
    RecurrentModel,
    RecurrentPreTrainedModel,
    behind_text,
    last_inputs,
)
from models.fla_configs import SAME_RESULT, feed_forward_width, refuse_variants
from models.kernels.depthwise_conv import causal_depthwise_conv
from models.kernels.gated_delta_rule import gated_delta_rule
from models.kernels.rms_norm import rms_norm
from models.kernels.swiglu import linear_swiglu, swiglu
from models.registry import Architecture, ParamCount, TextShape, register, small_init_std

LENGTH_EPS = 1e-6  # added by fla to the sum of squares of queries and keys

# Fields of which only fla's default is computed here: other layers, and another loss.
ONLY_DEFAULT: dict[str, object] = {
    "attn": None,
    "attnres_block_size": None,
    "hidden_act": "swish",
    "output_gate_activation": "swish",
    "use_gate": True,
    "use_l2warp": False,
    "use_short_conv": True,
}


class GatedDeltaNetConfig(PreTrainedConfig):
    """Shape of a Gated DeltaNet language model, with fla's fields and defaults.

    `head_dim` is that of queries and keys, `expand_v` the ratio of a value's to it; `num_v_heads`,
    if given, a multiple of `num_heads`, lets several heads of values share a key and a query.
    Without `intermediate_size` the feed-forward layer is about 2/3 `hidden_ratio` `hidden_size`
    wide. `allow_neg_eigval` lets the writing strength reach 2.
    """

    model_type = "gated_deltanet"

    def __init__(
        self,
        vocab_size: int = 32_000,
        hidden_size: int = 2048,
        expand_v: float = 2.0,
        head_dim: int = 256,
        num_heads: int = 6,
        num_v_heads: int | None = None,
        allow_neg_eigval: bool = False,
        conv_size: int = 4,
        hidden_ratio: int | None = 4,
        intermediate_size: int | None = None,
        num_hidden_layers: int = 21,
        max_position_embeddings: int = 2048,
        norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.expand_v = expand_v
        self.head_dim = head_dim
        self.num_heads = num_heads
        self.num_v_heads = num_v_heads
        self.allow_neg_eigval = allow_neg_eigval
        self.conv_size = conv_size
        self.hidden_ratio = hidden_ratio
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.max_position_embeddings = max_position_embeddings
        self.norm_eps = norm_eps
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        special_tokens = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
        others = {"tie_word_embeddings": False, **special_tokens, **SAME_RESULT, **ONLY_DEFAULT}
        super().__init__(**{**others, **kwargs})

    @property
    def value_heads(self) -> int:
        return self.num_v_heads or self.num_heads

    @property
    def key_width(self) -> int:
        """Width of the keys, or queries, of all heads."""
        return self.num_heads * self.head_dim

    @property
    def value_width(self) -> int:
        """Width of the values of all heads."""
        return self.value_heads * round(self.head_dim * self.expand_v)

    @property
    def mlp_width(self) -> int:
        """Width of the feed-forward layers."""
        return feed_forward_width(self.hidden_size, self.intermediate_size, self.hidden_ratio)


class OutputProjection(nn.Linear):
    """A linear layer that writes into the residual stream."""


class GatedDeltaNet(nn.Module):
    """The layer of figure 1; state: last inputs of the convolutions (B, taps - 1, channels), then
    that of `gated_delta_rule`."""

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__()
        self.config = config
        hidden, keys, values = config.hidden_size, config.key_width, config.value_width
        heads = config.value_heads

        def convolution(width: int) -> nn.Conv1d:
            return nn.Conv1d(width, width, config.conv_size, groups=width, bias=False)

        self.q_proj = nn.Linear(hidden, keys, bias=False)
        self.k_proj = nn.Linear(hidden, keys, bias=False)
        self.v_proj = nn.Linear(hidden, values, bias=False)
        self.a_proj = nn.Linear(hidden, heads, bias=False)
        self.b_proj = nn.Linear(hidden, heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.q_conv1d, self.k_conv1d = convolution(keys), convolution(keys)
        self.v_conv1d = convolution(values)
        self.g_proj = nn.Linear(hidden, values, bias=False)
        self.o_norm = RMSNorm(values // heads, config.norm_eps)
        self.o_proj = OutputProjection(values, hidden, bias=False)

    def forward(
        self,
        x: Tensor,
        state: LayerState | None,
        lengths: Tensor | None,
        keep_state: bool,
    ) -> tuple[Tensor, LayerState | None]:
        """x (B, T, dim), the rest as `RecurrentModel` has it -> the same, new state."""
        past_inputs, memory = (None, None) if state is None else state
        inputs = _project(x, self.q_proj, self.k_proj, self.v_proj)
        q, k, v = self._convolve(inputs, past_inputs)
        g, beta = self._gates(x)
        if keep_state and lengths is not None:
            padding = behind_text(lengths, x.shape[1])[..., None]
            g, beta = g.masked_fill(padding, 0.0), beta.masked_fill(padding, 0.0)
        o, end = gated_delta_rule(q, k, v, g, beta, initial_state=memory, return_state=keep_state)
        gate = self.g_proj(x)
        y = self.o_proj(swiglu(gate, self.o_norm(o).flatten(2).to(gate.dtype)))
        if end is None:
            return y, None
        return y, (last_inputs(inputs, self.config.conv_size - 1, past_inputs, lengths), end)

    def _convolve(self, inputs: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """inputs (B, T, channels of q, k and v) -> q, k (B, T, heads, K) of length 1, and v
        (B, T, heads, V), as many heads of each as there are of values."""
        config = self.config
        convolutions = (self.q_conv1d, self.k_conv1d, self.v_conv1d)
        weight = torch.cat([convolution.weight[:, 0] for convolution in convolutions])
        bias = weight.new_zeros(len(weight))
        mixed = causal_depthwise_conv(inputs, weight, bias, silu=True, initial_state=past)
        both, v = mixed.split([2 * config.key_width, config.value_width], -1)
        # The RMS norm divides by the root of the mean of squares, with one gain for all.
        gain = weight.new_full((config.head_dim,), config.head_dim**-0.5)
        both = both.unflatten(-1, (2 * config.num_heads, -1))
        q, k = rms_norm(both, gain, LENGTH_EPS / config.head_dim).chunk(2, 2)
        sharing = config.value_heads // config.num_heads
        if sharing > 1:
            q, k = (vectors.repeat_interleave(sharing, 2) for vectors in (q, k))
        return q, k, v.unflatten(-1, (config.value_heads, -1))

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of the forget gate, as Mamba 2 has it, and the writing strength, (B, T, H)
        in float32 at least."""
        a, b = _project(x, self.a_proj, self.b_proj).chunk(2, -1)
        work = torch.promote_types(a.dtype, torch.float32)
        step = F.softplus(a.to(work) + self.dt_bias.to(work))
        strength = b.to(work).sigmoid()
        if self.config.allow_neg_eigval:
            strength = 2 * strength
        return -self.A_log.to(work).exp() * step, strength


class MLP(nn.Module):
    """The feed-forward layer with SwiGLU."""

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.mlp_width
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = OutputProjection(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = plain_weights(self.gate_proj, self.up_proj)
        if weights is None:
            return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
        return self.down_proj(linear_swiglu(x, *weights))


class Block(GradientCheckpointingLayer):
    """Both layers behind a norm each, on the residual stream; a layer for `RecurrentModel`."""

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attn = GatedDeltaNet(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self,
        hidden: Tensor,
        state: LayerState | None,
        lengths: Tensor | None,
        keep_state: bool,
    ) -> tuple[Tensor, LayerState | None]:
        update, end = self.attn(self.attn_norm(hidden), state, lengths, keep_state)
        normed, hidden = add_norm(update, hidden, self.mlp_norm.weight, self.mlp_norm.eps)
        return hidden + self.mlp(normed), end


def _project(x: Tensor, *layers: nn.Linear) -> Tensor:
    """The outputs of several layers side by side: one product, unless a layer does more."""
    weights = plain_weights(*layers)
    if weights is None:
        return torch.cat([layer(x) for layer in layers], -1)
    return F.linear(x, torch.cat(weights))


class GatedDeltaNetPreTrainedModel(RecurrentPreTrainedModel):
    config_class = GatedDeltaNetConfig
    _no_split_modules = ["Block"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Matrices as fla has them, but for two; gates as Mamba 2 and fla have them: rates
        exp(A_log) even between 0 and 16, steps softplus(dt_bias) between 0.001 and 0.1, even in
        the logarithm.

        The two that write into the residual stream are divided by the number of writes: each is
        then about as large as the embeddings, not five times, and bf16 leaves logits four times as
        exact. Convolutions have PyTorch's weights, as in the other architectures: with fla's, of
        the matrices' size, values come so near to 0 that the eps of the output norm shuts the
        layer.
        """
        if isinstance(module, nn.Linear | nn.Embedding):
            writes = (
                2 * self.config.num_hidden_layers if isinstance(module, OutputProjection) else 1
            )
            nn.init.normal_(module.weight, std=self.config.initializer_range / writes)
        elif isinstance(module, nn.Conv1d):
            module.reset_parameters()
        elif isinstance(module, GatedDeltaNet):
            rate = torch.empty_like(module.A_log).uniform_(1e-3, 16.0)
            init.copy_(module.A_log, rate.log())
            step = torch.empty_like(module.dt_bias).uniform_(math.log(1e-3), math.log(0.1)).exp()
            # The inverse of softplus: y + log(1 - exp(-y)).
            init.copy_(module.dt_bias, step + torch.log(-torch.expm1(-step)))


class GatedDeltaNetModel(GatedDeltaNetPreTrainedModel, RecurrentModel):
    """Embedding and blocks, with the norm after the last block.

    Raises ValueError for a config of fla's with layers of another kind.
    """

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__(config)
        is_silu = config.output_gate_activation == "silu"  # another name of swish
        only = ONLY_DEFAULT | ({"output_gate_activation": "silu"} if is_silu else {})
        refuse_variants("Gated DeltaNet", config, only)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.post_init()

    def recurrent_layers(self) -> nn.ModuleList:
        return self.layers

    def finish(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden)


class GatedDeltaNetForCausalLM(GatedDeltaNetPreTrainedModel, RecurrentForCausalLM):
    """The body with a linear head, which is the embedding table if the config ties the two."""

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__(config)
        self.model = GatedDeltaNetModel(config)
        self.add_head(config.hidden_size, config.vocab_size)


def build_config(
    text: TextShape,
    *,
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    head_dim: int,
) -> GatedDeltaNetConfig:
    return GatedDeltaNetConfig(
        vocab_size=text.vocab_size,
        max_position_embeddings=text.context,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_heads=num_heads,
        head_dim=head_dim,
        initializer_range=small_init_std(hidden_size),
        **text.special_tokens(),
    )


def num_params(config: GatedDeltaNetConfig) -> ParamCount:
    hidden, heads = config.hidden_size, config.value_heads
    # convolutions, two gate parameters per head, the output norm, the norms before both layers
    vectors = config.conv_size * _conv_channels(config) + 2 * heads
    vectors += config.value_width // heads + 2 * hidden
    per_layer = _matrix_params(config) + vectors
    return ParamCount(
        embedding=2 * config.vocab_size * hidden,
        non_embedding=config.num_hidden_layers * per_layer + hidden,
    )


def flops_per_token(config: GatedDeltaNetConfig, context: int) -> int:
    """FLOPs by number of state: decay (1), readout under the key (2), update (2), readout (2). By
    number of a value: difference and strength (2). By number of a key: the scale of the query (1).
    By head: the exponential of the gate (1)."""
    heads, values = config.value_heads, config.value_width
    recurrence = 7 * config.head_dim * values + 2 * values + heads * (config.head_dim + 1)
    convolutions = 2 * config.conv_size * _conv_channels(config)
    per_layer = 2 * _matrix_params(config) + convolutions + recurrence
    return config.num_hidden_layers * per_layer + 2 * config.vocab_size * config.hidden_size


def state_size(config: GatedDeltaNetConfig, context: int) -> int:
    """A (key dim, value dim) matrix per head, and the inputs of the convolutions."""
    convolutions = (config.conv_size - 1) * _conv_channels(config)
    return config.num_hidden_layers * (config.head_dim * config.value_width + convolutions)


def _conv_channels(config: GatedDeltaNetConfig) -> int:
    return 2 * config.key_width + config.value_width


def _matrix_params(config: GatedDeltaNetConfig) -> int:
    """Weights of one layer that multiply every token: q and k, v, gate and output, the two gates
    of the recurrence, and the feed-forward layer."""
    widths = 2 * config.key_width + 3 * config.value_width + 2 * config.value_heads
    return config.hidden_size * (widths + 3 * config.mlp_width)


register(
    Architecture(
        name="gated_deltanet",
        model_type=GatedDeltaNetConfig.model_type,
        build_config=build_config,
        num_params=num_params,
        flops_per_token=flops_per_token,
        state_size=state_size,
    )
)
