"""xLSTM (Beck et al. 2024): the block stack of the `xlstm` package as a Hugging Face model.

The package's modules hold the parameters, under its names and in its "vanilla" layout. What they
compute is written anew on `models.kernels`, for any device: the package's sLSTM is a Python loop
over time (or a CUDA extension with another weight layout), its mLSTM builds several (time x time)
matrices, and its layers take neither a state nor several tokens behind one.

Legend: B batch, T time, H heads, D head dim.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from xlstm import (
    FeedForwardConfig,
    mLSTMBlock,
    mLSTMBlockConfig,
    mLSTMLayer,
    mLSTMLayerConfig,
    sLSTMBlock,
    sLSTMBlockConfig,
    sLSTMLayer,
    sLSTMLayerConfig,
    xLSTMBlockStack,
    xLSTMBlockStackConfig,
)
from xlstm.blocks.mlstm.cell import mLSTMCell
from xlstm.blocks.xlstm_block import xLSTMBlock
from xlstm.components.conv import CausalConv1d
from xlstm.components.ln import LayerNorm

from models.any_device import replace_layers, working_type
from models.causal_lm import (
    LayerState,
    RecurrentForCausalLM,
    RecurrentModel,
    RecurrentPreTrainedModel,
    behind_text,
    last_inputs,
)
from models.kernels import mlstm_layer
from models.kernels.block_diagonal import block_diagonal_linear, block_diagonal_pair
from models.kernels.depthwise_conv import causal_depthwise_conv
from models.kernels.gated_head_norm import gated_head_norm, head_norm
from models.kernels.layer_norm import stream_layer_norm
from models.kernels.mlstm import mlstm
from models.kernels.slstm import slstm
from models.registry import Architecture, ParamCount, TextShape, register

CONV_WIDTH = 4
PROJECTION_BLOCK = 4  # width of the blocks of the mLSTM's q, k and v projections
# Gates before activation that let nothing in and forget nothing.
SHUT, OPEN = -1e30, 1e30


class XLSTMConfig(PreTrainedConfig):
    """Shape of an xLSTM language model.

    `inner_size` is the width of the mLSTM, `ffn_size` that of the feed-forward layer behind an
    sLSTM, `slstm_at` the indices of the sLSTM blocks among all blocks.
    """

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
        use_cache: bool = True,
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
        self.use_cache = use_cache
        super().__init__(**{"tie_word_embeddings": False, **kwargs})


class MatrixLayer(mLSTMLayer):
    """The package's mLSTM layer; state: last inputs of the convolution, then that of `mlstm`."""

    def forward(
        self,
        x: Tensor,
        state: LayerState | None,
        lengths: Tensor | None,
        keep_state: bool,
    ) -> tuple[Tensor, LayerState | None]:
        """x (B, T, dim), the rest as `RecurrentModel` has it -> the same, new state."""
        up = self.proj_up(x)
        if state is None and not keep_state and self._takes_at_once(up):
            return self.proj_down(self._all_at_once(up)), None
        inner, output_gate = up.chunk(2, -1)
        past_inputs, cell_state = None, None
        if state is not None:
            past_inputs, memory, normalizer, m = state
            cell_state = (memory, normalizer, m)
        convolved = _convolve(self.conv1d, inner, past_inputs)
        q, k = block_diagonal_pair(convolved, self.q_proj.weight, self.k_proj.weight)
        v = block_diagonal_linear(inner, self.v_proj.weight)
        igate, fgate = self._gates(q, k, v)
        if keep_state and lengths is not None:
            padding = behind_text(lengths, x.shape[1])[..., None]
            # In float32: half precision does not hold these values.
            igate = igate.float().masked_fill(padding, SHUT)
            fgate = fgate.float().masked_fill(padding, OPEN)
        heads = (self.mlstm_cell.config.num_heads, -1)
        q, k, v = (projected.unflatten(-1, heads) for projected in (q, k, v))
        h, end = mlstm(q, k, v, igate, fgate, initial_state=cell_state, return_state=keep_state)
        norm = self.mlstm_cell.outnorm
        y = gated_head_norm(
            h, convolved, output_gate, norm.weight_proxy, self.learnable_skip, norm.eps
        )
        y = self.proj_down(y)
        if end is None:
            return y, None
        return y, (last_inputs(inner, CONV_WIDTH - 1, past_inputs, lengths), *end)

    def _takes_at_once(self, up: Tensor) -> bool:
        blocks = (self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)
        return mlstm_layer.takes(up, self.conv1d.conv.weight[:, 0], *blocks)

    def _all_at_once(self, up: Tensor) -> Tensor:
        """Compute all from the projection up to that down at once, without a state."""
        conv, norm = self.conv1d.conv, self.mlstm_cell.outnorm
        return mlstm_layer.mlstm_layer(
            up,
            conv.weight[:, 0],
            conv.bias,
            (self.q_proj.weight, self.k_proj.weight, self.v_proj.weight),
            *self._gate_parameters(),
            norm.weight_proxy,
            self.learnable_skip,
            heads=self.mlstm_cell.config.num_heads,
            eps=norm.eps,
        )

    def _gate_parameters(self) -> tuple[Tensor, Tensor]:
        """Weight (2 H, 3 * inner) and bias (2 H,) of input and forget gate together."""
        igate, fgate = self.mlstm_cell.igate, self.mlstm_cell.fgate
        return torch.cat([igate.weight, fgate.weight]), torch.cat([igate.bias, fgate.bias])

    def _gates(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Input and forget gate before activation, (B, T, H).

        Both read q, k and v side by side: one sum of three products for the two.
        """
        weight_of_all, gates = self._gate_parameters()
        weights = weight_of_all.chunk(3, dim=1)
        for x, weight in zip((q, k, v), weights, strict=True):
            gates = gates + F.linear(x, weight)
        igate_value, fgate_value = gates.chunk(2, dim=-1)
        return igate_value, fgate_value


class ScalarLayer(sLSTMLayer):
    """The package's sLSTM layer; state: last inputs of the convolution, then that of `slstm`."""

    def forward(
        self,
        x: Tensor,
        state: LayerState | None,
        lengths: Tensor | None,
        keep_state: bool,
    ) -> tuple[Tensor, LayerState | None]:
        """x (B, T, dim), the rest as `RecurrentModel` has it -> the same, new state."""
        past_inputs, past_h, cell_state = None, None, None
        if state is not None:
            past_inputs, h, c, n, m = state
            past_h, cell_state = h.flatten(1)[:, None], (h, c, n, m)
        gates = self._gates(x, _convolve(self.conv1d, x, past_inputs))
        if keep_state and lengths is not None:
            padding = behind_text(lengths, x.shape[1])[..., None, None]
            # Half precision does not hold these values.
            gates = gates if gates.dtype == torch.bfloat16 else gates.float()
            igate, fgate, *others = gates.unbind(2)
            igate, fgate = igate.masked_fill(padding, SHUT), fgate.masked_fill(padding, OPEN)
            gates = torch.stack([igate, fgate, *others], 2)
        cell = self.slstm_cell
        bias = cell._bias.view(4, cell.config.num_heads, cell.config.head_dim)
        h, end = slstm(gates, cell._recurrent_kernel, bias=bias, initial_state=cell_state)
        y = head_norm(h, self.group_norm.weight_proxy, self.group_norm.eps, x.dtype)
        if not keep_state:
            return y, None
        # Padding changes h, if not the rest of the state: take it from the last real step.
        last_h = last_inputs(h.flatten(2), 1, past_h, lengths).view_as(end[0])
        return y, (last_inputs(x, CONV_WIDTH - 1, past_inputs, lengths), last_h, *end[1:])

    def _gates(self, x: Tensor, convolved: Tensor) -> Tensor:
        """The gates before activation without bias and recurrent part, (B, T, 4, H, D).

        The package feeds the output of `fgate` to its cell's input gate, and the other way round.
        """
        pairs = [
            block_diagonal_linear(inputs, torch.cat([first.weight, second.weight], 1))
            for inputs, first, second in (
                (convolved, self.fgate, self.igate),
                (x, self.zgate, self.ogate),
            )
        ]
        config = self.slstm_cell.config
        heads, dim = config.num_heads, config.head_dim
        both = [pair.unflatten(-1, (heads, 2, dim)).transpose(2, 3) for pair in pairs]
        return torch.cat(both, 2)


class Block(GradientCheckpointingLayer, xLSTMBlock):
    """The package's block, a layer as `RecurrentModel` wants it."""

    xlstm_norm: LayerNorm
    xlstm: nn.Module
    ffn_norm: LayerNorm
    ffn: nn.Module | None

    def forward(
        self,
        hidden: Tensor,
        state: LayerState | None,
        lengths: Tensor | None,
        keep_state: bool,
    ) -> tuple[Tensor, LayerState | None]:
        # An sLSTM's convolution reads more than half precision.
        is_matrix = isinstance(self.xlstm, mLSTMLayer)
        normed, hidden = _norm(self.xlstm_norm, hidden, rounds=is_matrix)
        update, end = self.xlstm(normed, state, lengths, keep_state)
        hidden = hidden + update
        if self.ffn is not None:
            normed, hidden = _norm(self.ffn_norm, hidden, rounds=True)
            hidden = hidden + self.ffn(normed)
        return hidden, end


def _norm(norm: LayerNorm, hidden: Tensor, *, rounds: bool) -> tuple[Tensor, Tensor]:
    """The norm, in the type that linear layers work in if it `rounds`; and `hidden` to go on with,
    as `stream_layer_norm` has it."""
    weight = norm.weight_proxy
    dtype = working_type(hidden, weight) if rounds else hidden.dtype
    return stream_layer_norm(hidden, weight, norm.eps, dtype)


# Same parameters and attributes, another way of computing.
_OURS: dict[type[nn.Module], type[nn.Module]] = {
    mLSTMBlock: Block,
    sLSTMBlock: Block,
    mLSTMLayer: MatrixLayer,
    sLSTMLayer: ScalarLayer,
}


def _convolve(conv: CausalConv1d, x: Tensor, past: Tensor | None) -> Tensor:
    """The package's convolution, with the SiLU behind it; x (B, T, dim) -> the same."""
    weight, bias = conv.conv.weight[:, 0], conv.conv.bias
    return causal_depthwise_conv(x, weight, bias, silu=True, initial_state=past)


class XLSTMPreTrainedModel(RecurrentPreTrainedModel):
    config_class = XLSTMConfig
    _no_split_modules = ["Block"]


class XLSTMModel(RecurrentModel, XLSTMPreTrainedModel):
    """Embedding and blocks, with the norm after the last block."""

    def __init__(self, config: XLSTMConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.block_stack = xLSTMBlockStack(_stack_config(config))
        for module in self.block_stack.modules():
            if isinstance(module, mLSTMCell):
                module.causal_mask = None  # of no use here, and as large as the context squared
        replace_layers(self.block_stack, _OURS)
        self.post_init()

    def recurrent_layers(self) -> nn.ModuleList:
        return self.block_stack.blocks

    def finish(self, hidden: Tensor) -> Tensor:
        return self.block_stack.post_blocks_norm(hidden)


class XLSTMForCausalLM(RecurrentForCausalLM, XLSTMPreTrainedModel):
    def __init__(self, config: XLSTMConfig) -> None:
        super().__init__(config)
        self.model = XLSTMModel(config)
        self.add_head(config.hidden_size, config.vocab_size)


def _stack_config(config: XLSTMConfig) -> xLSTMBlockStackConfig:
    return xLSTMBlockStackConfig(
        mlstm_block=mLSTMBlockConfig(
            mlstm=mLSTMLayerConfig(
                conv1d_kernel_size=CONV_WIDTH,
                qkv_proj_blocksize=PROJECTION_BLOCK,
                num_heads=config.num_heads,
                **_exact_width(config.inner_size, config.hidden_size),
            )
        ),
        slstm_block=sLSTMBlockConfig(
            slstm=sLSTMLayerConfig(
                backend="vanilla",
                num_heads=config.num_heads,
                conv1d_kernel_size=CONV_WIDTH,
                bias_init="powerlaw_blockdependent",
            ),
            feedforward=FeedForwardConfig(
                act_fn="gelu", **_exact_width(config.ffn_size, config.hidden_size)
            ),
        ),
        context_length=config.max_position_embeddings,
        num_blocks=config.num_hidden_layers,
        embedding_dim=config.hidden_size,
        slstm_at=list(config.slstm_at),
    )


def _exact_width(width: int, hidden_size: int) -> dict[str, Any]:
    """Arguments that make the package arrive at `width`: it wants a factor and then rounds."""
    return {
        "proj_factor": (width + 0.5) / hidden_size,
        "round_proj_up_dim_up": False,
        "round_proj_up_to_multiple_of": 1,
    }


def build_config(
    text: TextShape,
    *,
    hidden_size: int,
    inner_size: int,
    ffn_size: int,
    num_layers: int,
    num_heads: int,
    slstm_at: tuple[int, ...],
) -> XLSTMConfig:
    return XLSTMConfig(
        vocab_size=text.vocab_size,
        max_position_embeddings=text.context,
        hidden_size=hidden_size,
        inner_size=inner_size,
        ffn_size=ffn_size,
        num_hidden_layers=num_layers,
        num_heads=num_heads,
        slstm_at=slstm_at,
        **text.special_tokens(),
    )


def num_params(config: XLSTMConfig) -> ParamCount:
    hidden, inner, heads = config.hidden_size, config.inner_size, config.num_heads
    num_slstm = len(config.slstm_at)
    conv = CONV_WIDTH + 1
    # conv, skip and output norm of the inner width; two gate biases per head; the block's norm
    mlstm_vectors = inner * (conv + 2) + 2 * heads + hidden
    # conv, four gate biases, group norm, the norms before cell and FFN
    slstm_vectors = hidden * (conv + 4 + 1 + 2)
    non_embedding = (
        (config.num_hidden_layers - num_slstm) * (_mlstm_matrix_params(config) + mlstm_vectors)
        + num_slstm * (_slstm_matrix_params(config) + slstm_vectors)
        + hidden
    )
    return ParamCount(embedding=2 * config.vocab_size * hidden, non_embedding=non_embedding)


def flops_per_token(config: XLSTMConfig, context: int) -> int:
    """The mLSTM counts as a recurrence, whose cost does not depend on the context."""
    hidden, inner, heads = config.hidden_size, config.inner_size, config.num_heads
    num_slstm = len(config.slstm_at)
    # Per number of the memory: decay (1), update (2), readout (2). Per number of a head: scale and
    # weight of the key (2), the normalizer and its product with the query (4), the division of the
    # output (1). Per head: gates, m, and what the output is divided by.
    mlstm_cell = 5 * inner * inner // heads + 7 * inner + 13 * heads
    mlstm_block = 2 * _mlstm_matrix_params(config) + 2 * CONV_WIDTH * inner + mlstm_cell
    # Per unit: four sums of gates, seven operations for m and the two exponential gates, four for
    # c, two for n, three for h.
    slstm_cell = 20 * hidden
    slstm_block = 2 * _slstm_matrix_params(config) + 2 * CONV_WIDTH * hidden + slstm_cell
    return (
        (config.num_hidden_layers - num_slstm) * mlstm_block
        + num_slstm * slstm_block
        + 2 * config.vocab_size * config.hidden_size
    )


def state_size(config: XLSTMConfig, context: int) -> int:
    """mLSTM: memory, normalizer and m; sLSTM: h, c, n, m; both: the inputs of a convolution."""
    hidden, inner, heads = config.hidden_size, config.inner_size, config.num_heads
    num_slstm = len(config.slstm_at)
    mlstm_block = (CONV_WIDTH - 1) * inner + inner * inner // heads + inner + heads
    slstm_block = (CONV_WIDTH - 1) * hidden + 4 * hidden
    return (config.num_hidden_layers - num_slstm) * mlstm_block + num_slstm * slstm_block


def _mlstm_matrix_params(config: XLSTMConfig) -> int:
    """Weights of an mLSTM block that multiply every token: up, q, k, v, gates, down."""
    projections = 3 * config.hidden_size + 3 * PROJECTION_BLOCK + 3 * 2 * config.num_heads
    return config.inner_size * projections


def _slstm_matrix_params(config: XLSTMConfig) -> int:
    """Weights of an sLSTM block that multiply every token: four gates from input and from past
    output, block-diagonal over the heads, and the feed-forward layer."""
    gates = 2 * 4 * config.hidden_size**2 // config.num_heads
    return gates + 3 * config.hidden_size * config.ffn_size


register(
    Architecture(
        name="xlstm",
        model_type=XLSTMConfig.model_type,
        build_config=build_config,
        num_params=num_params,
        flops_per_token=flops_per_token,
        state_size=state_size,
    )
)
