"""HGRN2 (Qin et al. 2024, arXiv 2404.07904): gated linear attention, then a feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
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
    inner_width,
)

CHUNK = 16  # steps that are computed at once
OUTPUT_NORM_EPS = 1e-5  # of the norm behind the recurrence, whatever the config's


class HGRN2Config(PretrainedConfig):
    """Shape of the model, with the fields and defaults of flash-linear-attention's config.

    `expand_ratio` is the width of a head; if it is None, `num_heads` decides.
    """

    model_type = "hgrn2"

    def __init__(
        self,
        hidden_size: int = 2048,
        num_hidden_layers: int = 24,
        num_heads: int | None = None,
        expand_ratio: int | None = 128,
        use_lower_bound: bool = True,
        hidden_ratio: int | None = 4,
        intermediate_size: int | None = None,
        max_position_embeddings: int = 2048,
        norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        vocab_size: int = 32_000,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.expand_ratio = expand_ratio or hidden_size // (num_heads or 1)
        self.num_heads = hidden_size // self.expand_ratio
        self.use_lower_bound = use_lower_bound
        self.hidden_ratio = hidden_ratio
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.norm_eps = norm_eps
        self.initializer_range = initializer_range
        self.vocab_size = vocab_size
        special_tokens = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
        super().__init__(**{**special_tokens, "tie_word_embeddings": False, **kwargs})


class HGRN2Attention(nn.Module):
    """Gated linear attention with a lower bound of its forget gates (section 3 of the paper)."""

    def __init__(self, config: HGRN2Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.f_proj = nn.Linear(width, width, bias=False)
        self.i_proj = nn.Linear(width, width, bias=False)
        self.g_norm = RMSNorm(width, OUTPUT_NORM_EPS)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, bound: Tensor | None) -> Tensor:
        """x (batch, time, width), bound (width,) between 0 and 1, None for 0 -> like x.

        The forget gate is bound + (1 - bound) * sigmoid(f), the key 1 - gate, the query silu(q).
        """
        query, forget, value = (
            at_least_float32(project(x)) for project in (self.q_proj, self.f_proj, self.i_proj)
        )
        if bound is None:
            log_gate, key = F.logsigmoid(forget), torch.sigmoid(-forget)
        else:
            key = (1 - bound) * torch.sigmoid(-forget)
            log_gate = (bound + (1 - bound) * torch.sigmoid(forget)).log()
        heads = [
            each.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for each in (F.silu(query), key, value, log_gate)
        ]
        out = gated_linear_attention(*heads).transpose(1, 2).flatten(2)
        return self.o_proj(self.g_norm(out).to(x.dtype))


def gated_linear_attention(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """S_t = diag(exp g_t) S_{t-1} + k_t v_t^T and o_t = S_t^T q_t / sqrt(key dim).

    q, k, g (batch, heads, time, key dim), v (batch, heads, time, value dim) -> o like v.

    With G the running sum of g in a chunk of steps behind the state S,

        o_t = S^T (q_t exp(G_t)) + sum_{s <= t} (sum_i q_ti k_si exp(G_ti - G_si)) v_s

    where no exponent is above 0 (Yang et al. 2024, arXiv 2312.06635, section 4).
    """
    q = q * q.shape[-1] ** -0.5
    state = v.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    outputs = []
    for chunk in zip(*(each.split(CHUNK, 2) for each in (q, k, v, g)), strict=True):
        q_c, k_c, v_c, g_c = chunk
        total = g_c.cumsum(2)
        steps = total.shape[2]
        later = torch.ones(steps, steps, dtype=torch.bool, device=v.device).triu(1)[..., None]
        # (batch, heads, t, s, key dim), 0 where s is after t
        decay = (total[..., :, None, :] - total[..., None, :, :]).masked_fill(later, -torch.inf)
        scores = torch.einsum("bhti,bhsi,bhtsi->bhts", q_c, k_c, decay.exp())
        outputs.append((q_c * total.exp()) @ state + scores @ v_c)
        last = total[:, :, -1:]
        state = last.mT.exp() * state + (k_c * (last - total).exp()).mT @ v_c
    return torch.cat(outputs, 2)


class HGRN2Block(nn.Module):
    """Recurrence and feed-forward layer, each behind a norm and beside a residual connection."""

    def __init__(self, config: HGRN2Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.attn_norm = RMSNorm(width, config.norm_eps)
        self.attn = HGRN2Attention(config)
        self.mlp_norm = RMSNorm(width, config.norm_eps)
        self.mlp = SwiGLU(width, inner_width(config))

    def forward(self, hidden: Tensor, bound: Tensor | None) -> Tensor:
        """hidden (batch, time, width) -> the same shape; `bound` as of the attention."""
        hidden = hidden + self.attn(self.attn_norm(hidden), bound)
        return hidden + self.mlp(self.mlp_norm(hidden))


class HGRN2Model(PlainModel):
    """Embedding and blocks, with the norm after the last block."""

    config_class = HGRN2Config

    def __init__(self, config: HGRN2Config) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        if config.use_lower_bound:
            shape = config.num_hidden_layers, config.hidden_size
            self.lower_bounds = nn.Parameter(torch.zeros(shape))
        self.layers = nn.ModuleList(HGRN2Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.post_init()

    def sequence(self) -> Iterable[Callable[[Tensor], Tensor]]:
        """The layers with their lower bounds, which rise from 0 in the first towards 1: sums over
        a softmax along the layers (section 2 of the paper)."""
        bounds: list[Tensor | None] = [None] * len(self.layers)
        if self.config.use_lower_bound:
            shares = self.lower_bounds.softmax(0, dtype=torch.float)
            bounds[1:] = (shares.cumsum(0) - shares[0])[1:]
        return [
            partial(layer, bound=bound) for layer, bound in zip(self.layers, bounds, strict=True)
        ]

    def finish(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden)


class HGRN2ForCausalLM(PlainForCausalLM):
    config_class = HGRN2Config
    body = HGRN2Model
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}


class HGRN2ForSequenceClassification(PlainForSequenceClassification):
    config_class = HGRN2Config
    body = HGRN2Model
