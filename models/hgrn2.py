"""HGRN2 (Qin et al. 2024, arXiv 2404.07904): gated linear attention, then a feed-forward layer.

Config, parameters, initialisation and results are those of `HGRN2ForCausalLM` of the library
flash-linear-attention (fla): checkpoints go both ways. The module is one of our own because fla is
for GPUs. Its layers fail on CPU tensors; on a GPU they tune kernel after kernel for minutes before
the first step has ended; and importing it costs every process seconds, and puts models that need a
GPU in the place of transformers' own, Mamba among them.

With `BABYSWEEP_KERNELS=library` fla's kernels compute the recurrence on a GPU; nothing else of it
is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from models.any_device import RMSNorm, add_norm
from models.causal_lm import (
    LayerState,
    RecurrentForCausalLM,
    RecurrentLayer,
    RecurrentModel,
    RecurrentPreTrainedModel,
    behind_text,
)
from models.fla_configs import SAME_RESULT, feed_forward_width, refuse_variants
from models.kernels.gated_linear_attention import hgrn2_attention
from models.kernels.swiglu import swiglu
from models.registry import Architecture, ParamCount, TextShape, register, small_init_std

OUTPUT_NORM_EPS = 1e-5  # of the norm behind the recurrence, whatever the config's: fla's kernel's
# Fields of which only fla's default is computed here.
ONLY_DEFAULT: dict[str, object] = {
    "attn": None,  # layers of softmax attention among the others
    "attnres_block_size": None,
    "elementwise_affine": True,
    "hidden_act": "swish",
    "use_l2warp": False,
    "use_short_conv": False,
}


class HGRN2Config(PreTrainedConfig):
    """Shape of an HGRN2 language model: the fields of fla's config, with its defaults.

    `expand_ratio` is the width of a head; if it is None, `num_heads` decides. The feed-forward
    width is `intermediate_size` or, if that is None, about two thirds of `hidden_ratio` times
    `hidden_size`.

    Raises:
        ValueError: neither `expand_ratio` nor `num_heads` is given.
    """

    model_type = "hgrn2"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        hidden_size: int = 2048,
        num_hidden_layers: int = 24,
        num_heads: int | None = None,
        expand_ratio: int | None = 128,
        conv_size: int = 4,
        use_lower_bound: bool = True,
        hidden_ratio: int | None = 4,
        intermediate_size: int | None = None,
        max_position_embeddings: int = 2048,
        norm_eps: float = 1e-6,
        use_cache: bool = True,
        initializer_range: float = 0.02,
        vocab_size: int = 32_000,
        **kwargs: Any,
    ) -> None:
        if expand_ratio is None:
            if num_heads is None:
                raise ValueError("HGRN2 needs expand_ratio or num_heads, and both are None")
            expand_ratio = hidden_size // num_heads
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_heads = num_heads or hidden_size // expand_ratio
        self.expand_ratio = expand_ratio
        self.conv_size = conv_size
        self.use_lower_bound = use_lower_bound
        self.hidden_ratio = hidden_ratio
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.norm_eps = norm_eps
        self.use_cache = use_cache
        self.initializer_range = initializer_range
        self.vocab_size = vocab_size
        for name, default in (SAME_RESULT | ONLY_DEFAULT).items():
            setattr(self, name, kwargs.pop(name, default))
        special_tokens = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
        super().__init__(**{**special_tokens, "tie_word_embeddings": False, **kwargs})


class HGRN2Attention(nn.Module):
    """Gated linear attention with a lower bound of its forget gates.

    Its state is a matrix (batch, heads, key dim, value dim).
    """

    def __init__(self, config: HGRN2Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = width // config.expand_ratio
        self.q_proj = nn.Linear(width, width, bias=False)
        self.f_proj = nn.Linear(width, width, bias=False)
        self.i_proj = nn.Linear(width, width, bias=False)
        self.g_norm = RMSNorm(width, eps=OUTPUT_NORM_EPS)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self,
        hidden: Tensor,
        state: LayerState | None,
        lengths: Tensor | None,
        keep_state: bool,
        lower_bound: Tensor | None,
    ) -> tuple[Tensor, LayerState | None]:
        """A layer as `RecurrentModel` wants it, with lower_bound (dim,), or None for 0."""
        query, forget, value = (
            project(hidden) for project in (self.q_proj, self.f_proj, self.i_proj)
        )
        if keep_state and lengths is not None:
            padding = behind_text(lengths, hidden.shape[1])[..., None]
            forget = forget.masked_fill(padding, torch.inf)  # forgets nothing, and takes nothing in
        heads = (self.num_heads, -1)
        out, end = hgrn2_attention(
            query.unflatten(-1, heads),
            forget.unflatten(-1, heads),
            value.unflatten(-1, heads),
            lower_bound,
            initial_state=None if state is None else state[0],
        )
        return self.o_proj(self.g_norm(out.flatten(-2))), (end,) if keep_state else None


class HGRN2MLP(nn.Module):
    """SwiGLU feed-forward layer."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, dim) -> the same shape."""
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class HGRN2Block(GradientCheckpointingLayer):
    """Recurrence and feed-forward layer, each behind a norm and beside a residual connection."""

    def __init__(self, config: HGRN2Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.attn_norm = RMSNorm(width, eps=config.norm_eps)
        self.attn = HGRN2Attention(config)
        self.mlp_norm = RMSNorm(width, eps=config.norm_eps)
        self.mlp = HGRN2MLP(width, _ffn_width(config))

    def forward(
        self,
        hidden: Tensor,
        state: LayerState | None,
        lengths: Tensor | None,
        keep_state: bool,
        lower_bound: Tensor | None,
    ) -> tuple[Tensor, LayerState | None]:
        """Attend as `HGRN2Attention` does, and add the input to the output."""
        update, end = self.attn(self.attn_norm(hidden), state, lengths, keep_state, lower_bound)
        normed, hidden = add_norm(update, hidden, self.mlp_norm.weight, self.mlp_norm.eps)
        return hidden + self.mlp(normed), end


class HGRN2PreTrainedModel(RecurrentPreTrainedModel):
    config_class = HGRN2Config
    _no_split_modules = ["HGRN2Block"]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)


class HGRN2Model(HGRN2PreTrainedModel, RecurrentModel):
    """Embedding and blocks, with the norm after the last block.

    Raises:
        ValueError: the config asks for what is not computed here.
    """

    def __init__(self, config: HGRN2Config) -> None:
        _check(config)
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        if config.use_lower_bound:
            shape = config.num_hidden_layers, config.hidden_size
            self.lower_bounds = nn.Parameter(torch.zeros(shape))
        self.layers = nn.ModuleList(HGRN2Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.post_init()

    def recurrent_layers(self) -> Iterable[RecurrentLayer]:
        """The layers with their lower bounds, which rise from 0 in the first towards 1: sums over
        a softmax along the layers."""
        bounds: list[Tensor | None] = [None] * len(self.layers)
        if self.config.use_lower_bound:
            shares = self.lower_bounds.softmax(0, dtype=torch.float)
            bounds[1:] = (shares.cumsum(0) - shares[0])[1:]
        return map(_with_bound, self.layers, bounds)

    def finish(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden)


class HGRN2ForCausalLM(HGRN2PreTrainedModel, RecurrentForCausalLM):
    """The body with a linear head, which is the embedding table if the config ties the two."""

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}

    def __init__(self, config: HGRN2Config) -> None:
        super().__init__(config)
        self.model = HGRN2Model(config)
        self.add_head(config.hidden_size, config.vocab_size)


def _with_bound(layer: nn.Module, bound: Tensor | None) -> RecurrentLayer:
    """The layer with its last argument; by position, as gradient checkpointing asks for."""
    return lambda *inputs: layer(*inputs, bound)


def _check(config: HGRN2Config) -> None:
    """Raise ValueError, in one sentence, if the config asks for what is not computed here."""
    refuse_variants("HGRN2", config, ONLY_DEFAULT)
    width, head = config.hidden_size, config.expand_ratio
    if width % head:
        raise ValueError(f"HGRN2's hidden_size, {width}, is no multiple of expand_ratio, {head}")


def _ffn_width(config: HGRN2Config) -> int:
    """Width of the feed-forward layer."""
    return feed_forward_width(config.hidden_size, config.intermediate_size, config.hidden_ratio)


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
        fuse_cross_entropy=False,  # for fla, whose fused loss exists on GPUs only
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
    """FLOPs by number of state: decay (1), update (2), readout (2). By number of a key: exponential
    of its gate (1), and the scale of the query (1)."""
    recurrence = 5 * config.hidden_size * config.expand_ratio + 2 * config.hidden_size
    per_layer = 2 * _matrix_params(config) + recurrence
    return config.num_hidden_layers * per_layer + 2 * config.vocab_size * config.hidden_size


def state_size(config: HGRN2Config, context: int) -> int:
    """A (key dim, value dim) matrix per head and layer."""
    return config.num_hidden_layers * config.hidden_size * config.expand_ratio


def _matrix_params(config: HGRN2Config) -> int:
    """Weights of one layer that multiply every token."""
    return 4 * config.hidden_size**2 + 3 * config.hidden_size * _ffn_width(config)


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
