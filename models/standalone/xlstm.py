"""xLSTM (Beck et al. 2024, arXiv 2405.04517): blocks with a matrix memory, mLSTM, or a scalar one,
sLSTM.

The parameters have the names and shapes of the authors' package.
"""

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
    at_least_float32,
    causal_conv,
)

CONV_WIDTH = 4
PROJECTION_BLOCK = 4  # width of the blocks of the mLSTM's q, k and v projections
NORM_EPS = 1e-5
CELL_EPS = 1e-6  # beside what an mLSTM's output is divided by


class XLSTMConfig(PretrainedConfig):
    """Shape of the model: `inner_size` is the width of the mLSTM, `ffn_size` that of the
    feed-forward layer behind an sLSTM, `slstm_at` the indices of the sLSTM blocks among all."""

    model_type = "babysweep_xlstm"

    def __init__(
        self,
        vocab_size: int = 16_000,
        hidden_size: int = 1024,
        inner_size: int = 2048,
        ffn_size: int = 1344,
        num_hidden_layers: int = 48,
        num_heads: int = 4,
        slstm_at: tuple[int, ...] = (),
        max_position_embeddings: int = 512,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.inner_size = inner_size
        self.ffn_size = ffn_size
        self.num_hidden_layers = num_hidden_layers
        self.num_heads = num_heads
        self.slstm_at = list(slstm_at)
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**{"tie_word_embeddings": False, **kwargs})


class LayerNorm(nn.Module):
    """A layer norm without bias, of all of a vector or of each head, with the gain 1 + weight."""

    def __init__(self, width: int, heads: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> the same shape."""
        parts = at_least_float32(x).unflatten(-1, (self.heads, -1))
        normed = F.layer_norm(parts, parts.shape[-1:], eps=NORM_EPS).flatten(-2)
        return (normed * (1 + self.weight)).to(x.dtype)


class BlockLinear(nn.Module):
    """A linear layer whose weight is a block-diagonal matrix."""

    def __init__(self, blocks: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(blocks, width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., blocks * width) -> the same shape."""
        parts = x.unflatten(-1, (len(self.weight), -1))
        return torch.einsum("...bi,boi->...bo", parts, self.weight).flatten(-2)


class ShortConv(nn.Module):
    """A convolution over a step and those before it, channel by channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, CONV_WIDTH, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, width) -> the same shape."""
        return causal_conv(self.conv, x)


class MatrixCell(nn.Module):
    """The mLSTM cell (equations 19-27), in its parallel form (appendix A.3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.igate = nn.Linear(3 * width, heads)
        self.fgate = nn.Linear(3 * width, heads)
        self.outnorm = LayerNorm(width, heads)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (batch, time, width) -> the normed output, likewise."""
        gates_in = torch.cat([q, k, v], -1)
        igate, fgate = self.igate(gates_in).mT, self.fgate(gates_in).mT
        q, k, v = (
            at_least_float32(each).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (q, k, v)
        )
        out = parallel_mlstm(q, k, v, igate, fgate)
        return self.outnorm(out.transpose(1, 2).flatten(2)).to(gates_in.dtype)


def parallel_mlstm(q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor) -> Tensor:
    """The sums that the recurrence of the mLSTM unrolls to, with F_t the running sum of
    log sigmoid(f):

        h_t = sum_{s <= t} w_ts v_s / max(|sum_s w_ts|, exp(-m_t))
        w_ts = (q_t . k_s) / sqrt(key dim) exp(F_t - F_s + i_s - m_t)
        m_t = max_{s <= t} (F_t - F_s + i_s)

    q, k, v (batch, heads, time, dim), gates before activation (batch, heads, time) -> h like v.
    """
    # Differences of long sums: in float64.
    total = F.logsigmoid(fgate.double()).cumsum(-1)
    exponent = total[..., :, None] - total[..., None, :] + igate.double()[..., None, :]
    later = torch.ones(exponent.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    exponent = exponent.masked_fill(later, -torch.inf)
    highest = exponent.amax(-1, keepdim=True).detach()  # h does not depend on it
    weights = (q @ k.mT) * q.shape[-1] ** -0.5 * (exponent - highest).exp().to(q.dtype)
    scale = torch.maximum(weights.sum(-1, keepdim=True).abs(), (-highest).exp().to(q.dtype))
    return (weights @ v) / (scale + CELL_EPS)


class MatrixLayer(nn.Module):
    """The layer around an mLSTM cell (figure 11)."""

    def __init__(self, config: XLSTMConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.inner_size
        blocks = inner // PROJECTION_BLOCK
        self.proj_up = nn.Linear(hidden, 2 * inner, bias=False)
        self.q_proj = BlockLinear(blocks, PROJECTION_BLOCK)
        self.k_proj = BlockLinear(blocks, PROJECTION_BLOCK)
        self.v_proj = BlockLinear(blocks, PROJECTION_BLOCK)
        self.conv1d = ShortConv(inner)
        self.mlstm_cell = MatrixCell(inner, config.num_heads)
        self.learnable_skip = nn.Parameter(torch.ones(inner))
        self.proj_down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, hidden) -> the same shape."""
        inner, gate = self.proj_up(x).chunk(2, -1)
        convolved = self.conv1d(inner)
        h = self.mlstm_cell(self.q_proj(convolved), self.k_proj(convolved), self.v_proj(inner))
        return self.proj_down((h + self.learnable_skip * convolved) * F.silu(gate))


class ScalarCell(nn.Module):
    """The sLSTM cell (equations 8-18), with recurrent weights for each head."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.heads, self.dim = heads, dim
        self._recurrent_kernel_ = nn.Parameter(torch.zeros(heads, 4 * dim, dim))
        self._bias_ = nn.Parameter(torch.zeros(4 * heads * dim))

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, 4, heads, dim), the inputs of the gates -> h (batch, time, heads, dim).

        i, f, z, o = x_t + R h_{t-1} + b                         before activation
        m_t = max(log sigmoid(f) + m_{t-1}, i)                   stabiliser
        c_t = exp(log sigmoid(f) + m_{t-1} - m_t) c_{t-1} + exp(i - m_t) tanh(z)
        n_t = exp(log sigmoid(f) + m_{t-1} - m_t) n_{t-1} + exp(i - m_t)
        h_t = sigmoid(o) c_t / n_t
        """
        recurrent = self._recurrent_kernel_.view(self.heads, 4, self.dim, self.dim).to(x.dtype)
        x = x + self._bias_.view(4, self.heads, self.dim)
        h = c = n = x.new_zeros(len(x), self.heads, self.dim)
        m = torch.full_like(h, -torch.inf)
        outputs = []
        for inputs in x.unbind(1):
            i, f, z, o = (inputs + torch.einsum("hgij,bhj->bghi", recurrent, h)).unbind(1)
            kept = F.logsigmoid(f) + m
            m = torch.maximum(kept, i).detach()  # h does not depend on it
            forget, write = (kept - m).exp(), (i - m).exp()
            c = forget * c + write * torch.tanh(z)
            n = forget * n + write
            h = torch.sigmoid(o) * c / n
            outputs.append(h)
        return torch.stack(outputs, 1)


class ScalarLayer(nn.Module):
    """The layer around an sLSTM cell (figure 10)."""

    def __init__(self, config: XLSTMConfig) -> None:
        super().__init__()
        hidden, heads = config.hidden_size, config.num_heads
        dim = hidden // heads
        self.conv1d = ShortConv(hidden)
        self.fgate = BlockLinear(heads, dim)
        self.igate = BlockLinear(heads, dim)
        self.zgate = BlockLinear(heads, dim)
        self.ogate = BlockLinear(heads, dim)
        self.slstm_cell = ScalarCell(heads, dim)
        self.group_norm = LayerNorm(hidden, heads)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, hidden) -> the same shape.

        As in the authors' package, the output of `fgate` goes to the cell's input gate, and the
        other way round.
        """
        convolved = self.conv1d(x)
        gates = [self.fgate(convolved), self.igate(convolved), self.zgate(x), self.ogate(x)]
        inputs = at_least_float32(torch.stack(gates, 2))
        heads = (self.slstm_cell.heads, self.slstm_cell.dim)
        return self.group_norm(self.slstm_cell(inputs.unflatten(-1, heads)).flatten(2)).to(x.dtype)


class FeedForward(nn.Module):
    """A gated feed-forward layer with GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj_up = nn.Linear(width, 2 * inner, bias=False)
        self.proj_down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, time, width) -> the same shape."""
        gate, up = self.proj_up(x).chunk(2, -1)
        return self.proj_down(F.gelu(gate) * up)


class XLSTMBlock(nn.Module):
    """One of the two layers behind a norm and beside a residual connection; behind an sLSTM also a
    feed-forward layer."""

    def __init__(self, config: XLSTMConfig, is_scalar: bool) -> None:
        super().__init__()
        self.xlstm_norm = LayerNorm(config.hidden_size)
        self.xlstm = ScalarLayer(config) if is_scalar else MatrixLayer(config)
        self.ffn_norm = LayerNorm(config.hidden_size) if is_scalar else None
        self.ffn = FeedForward(config.hidden_size, config.ffn_size) if is_scalar else None

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (batch, time, width) -> the same shape."""
        hidden = hidden + self.xlstm(self.xlstm_norm(hidden))
        if self.ffn is None or self.ffn_norm is None:
            return hidden
        return hidden + self.ffn(self.ffn_norm(hidden))


class XLSTMStack(nn.Module):
    """The blocks, and the norm after the last."""

    def __init__(self, config: XLSTMConfig) -> None:
        super().__init__()
        numbers = range(config.num_hidden_layers)
        blocks = (XLSTMBlock(config, number in config.slstm_at) for number in numbers)
        self.blocks = nn.ModuleList(blocks)
        self.post_blocks_norm = LayerNorm(config.hidden_size)


class XLSTMModel(PlainModel):
    """Embedding and blocks, with the norm after the last block."""

    config_class = XLSTMConfig

    def __init__(self, config: XLSTMConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.block_stack = XLSTMStack(config)
        self.post_init()

    def sequence(self) -> nn.ModuleList:
        return self.block_stack.blocks

    def finish(self, hidden: Tensor) -> Tensor:
        return self.block_stack.post_blocks_norm(hidden)


class XLSTMForCausalLM(PlainForCausalLM):
    config_class = XLSTMConfig
    body = XLSTMModel


class XLSTMForSequenceClassification(PlainForSequenceClassification):
    config_class = XLSTMConfig
    body = XLSTMModel
