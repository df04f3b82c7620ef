"""Gated DeltaNet (Yang, Kautz & Hatamizadeh 2024, arXiv 2412.06464)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig

from models.standalone.skeleton import (
    PlainForCausalLM,
    PlainForSequenceClassification,
    PlainModel,
    RMSNorm,
    SwiGLU,
    at_least_float32,
    causal_conv,
    inner_width,
)

CHUNK = 64  # steps that are computed at once
LENGTH_EPS = 1e-6  # added to the sum of squares of queries and keys


class GatedDeltaNetConfig(PretrainedConfig):
    """Shape of the model, with the fields and defaults of flash-linear-attention's config.

    `head_dim` is that of queries and keys, `expand_v` the ratio of a value's to it; `num_v_heads`,
    a multiple of `num_heads`, lets several heads of values share a key and a query.
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
        special_tokens = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
        super().__init__(**{"tie_word_embeddings": False, **special_tokens, **kwargs})


class GatedDeltaNet(nn.Module):
    """The layer of figure 1."""

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__()
        self.config = config
        self.value_heads = heads = config.num_v_heads or config.num_heads
        hidden, keys = config.hidden_size, config.num_heads * config.head_dim
        values = heads * round(config.head_dim * config.expand_v)

        def convolution(width: int) -> nn.Conv1d:
            return nn.Conv1d(width, width, config.conv_size, groups=width, bias=False)

        self.q_proj = nn.Linear(hidden, keys, bias=False)
        self.k_proj = nn.Linear(hidden, keys, bias=False)
        self.v_proj = nn.Linear(hidden, values, bias=False)
        self.a_proj = nn.Linear(hidden, heads, bias=False)
        self.b_proj = nn.Linear(hidden, heads, bias=False)
        self.A_log = nn.Parameter(torch.zeros(heads))
        self.dt_bias = nn.Parameter(torch.zeros(heads))
        self.q_conv1d, self.k_conv1d = convolution(keys), convolution(keys)
        self.v_conv1d = convolution(values)
        self.g_proj = nn.Linear(hidden, values, bias=False)
        self.o_norm = RMSNorm(values // heads, config.norm_eps)
        self.o_proj = nn.Linear(values, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, hidden) -> the same shape."""
        q, k, v = (
            at_least_float32(causal_conv(conv, project(x))).unflatten(-1, (heads, -1))
            for project, conv, heads in (
                (self.q_proj, self.q_conv1d, self.config.num_heads),
                (self.k_proj, self.k_conv1d, self.config.num_heads),
                (self.v_proj, self.v_conv1d, self.value_heads),
            )
        )
        sharing = self.value_heads // self.config.num_heads
        q, k = (
            (each * torch.rsqrt(each.square().sum(-1, keepdim=True) + LENGTH_EPS))
            .repeat_interleave(sharing, 2)
            .transpose(1, 2)
            for each in (q, k)
        )
        # As Mamba 2 has it: a rate exp(A_log), and a step that depends on the input.
        step = F.softplus(at_least_float32(self.a_proj(x)) + self.dt_bias)
        decay = -self.A_log.to(step.dtype).exp() * step
        strength = at_least_float32(self.b_proj(x)).sigmoid()
        if self.config.allow_neg_eigval:
            strength = 2 * strength
        out = gated_delta_rule(q, k, v.transpose(1, 2), decay.mT, strength.mT).transpose(1, 2)
        gate = self.g_proj(x)
        return self.o_proj(F.silu(gate) * self.o_norm(out).flatten(2).to(gate.dtype))


def gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """Equation 10, for the transposed state S of shape (key dim, value dim):

        S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T
        o_t = S_t^T q_t / sqrt(key dim)

    q, k (batch, heads, time, key dim), v (batch, heads, time, value dim), g and beta (batch, heads,
    time) -> o like v. In a chunk behind the state S, with G the running sum of g, the updates
    u_t = beta_t (v_t - exp(g_t) S_{t-1}^T k_t) solve a triangular system (section 3.3):

        u_t + beta_t sum_{s < t} (k_t . k_s) exp(G_t - G_s) u_s = beta_t (v_t - exp(G_t) S^T k_t)
    """
    q = q * q.shape[-1] ** -0.5
    state = v.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    outputs = []
    for chunk in zip(*(each.split(CHUNK, 2) for each in (q, k, v, g, beta)), strict=True):
        q_c, k_c, v_c, g_c, beta_c = chunk
        total = g_c.cumsum(2)
        steps = total.shape[2]
        later = torch.ones(steps, steps, dtype=torch.bool, device=v.device).triu(1)
        decay = (total[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()
        past, beta_c = total.exp()[..., None], beta_c[..., None]
        system = (beta_c * (k_c @ k_c.mT) * decay).tril(-1)
        right = beta_c * (v_c - past * (k_c @ state))
        update = torch.linalg.solve_triangular(
            system + torch.eye(steps, dtype=v.dtype, device=v.device), right, upper=False
        )
        outputs.append(past * (q_c @ state) + ((q_c @ k_c.mT) * decay) @ update)
        left = (total[..., -1:] - total).exp()[..., None]
        state = past[:, :, -1:] * state + (k_c * left).mT @ update
    return torch.cat(outputs, 2)


class GatedDeltaNetBlock(nn.Module):
    """Recurrence and feed-forward layer, each behind a norm and beside a residual connection."""

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.attn_norm = RMSNorm(width, config.norm_eps)
        self.attn = GatedDeltaNet(config)
        self.mlp_norm = RMSNorm(width, config.norm_eps)
        self.mlp = SwiGLU(width, inner_width(config))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (batch, time, width) -> the same shape."""
        hidden = hidden + self.attn(self.attn_norm(hidden))
        return hidden + self.mlp(self.mlp_norm(hidden))


class GatedDeltaNetModel(PlainModel):
    """Embedding and blocks, with the norm after the last block."""

    config_class = GatedDeltaNetConfig

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        blocks = (GatedDeltaNetBlock(config) for _ in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.post_init()

    def sequence(self) -> nn.ModuleList:
        return self.layers

    def finish(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden)


class GatedDeltaNetForCausalLM(PlainForCausalLM):
    config_class = GatedDeltaNetConfig
    body = GatedDeltaNetModel
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}


class GatedDeltaNetForSequenceClassification(PlainForSequenceClassification):
    config_class = GatedDeltaNetConfig
    body = GatedDeltaNetModel
