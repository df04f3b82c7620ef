"""xLSTM (Beck et al. 2024): the block stack of the `xlstm` package as a Hugging Face model.

The package's layers stay as they are; their inner parts compute through `models.kernels`, on any
device, because the package's sLSTM is a Python loop over time (or a CUDA extension with another
weight layout) and its mLSTM builds several (time x time) matrices. Parameters keep the package's
names and its "vanilla" layout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput
from xlstm import (
    FeedForwardConfig,
    mLSTMBlockConfig,
    mLSTMLayerConfig,
    sLSTMBlockConfig,
    sLSTMLayerConfig,
    xLSTMBlockStack,
    xLSTMBlockStackConfig,
)
from xlstm.blocks.mlstm.cell import mLSTMCell
from xlstm.blocks.slstm.cell import sLSTMCell_vanilla
from xlstm.components.conv import CausalConv1d
from xlstm.components.linear_headwise import LinearHeadwiseExpand
from xlstm.components.ln import MultiHeadLayerNorm

from models.causal_lm import (
    RecurrentForCausalLM,
    RecurrentPreTrainedModel,
    require_right_padding,
)
from models.kernels.block_diagonal import block_diagonal_linear
from models.kernels.depthwise_conv import causal_depthwise_conv
from models.kernels.mlstm import mlstm
from models.kernels.slstm import slstm
from models.registry import Architecture, ParamCount, TextShape, register

CONV_WIDTH = 4
PROJECTION_BLOCK = 4  # width of the blocks of the mLSTM's q, k and v projections


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
        use_cache: bool = False,
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


class MLSTMCell(mLSTMCell):
    """The package's mLSTM cell with its matrix memory computed by `models.kernels.mlstm`."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        """q, k, v (batch, time, inner) -> (batch, time, inner)."""
        # Both gates read q, k and v side by side: one sum of three products for the two.
        weights = torch.cat([self.igate.weight, self.fgate.weight]).chunk(3, dim=1)
        gates = torch.cat([self.igate.bias, self.fgate.bias])
        for x, weight in zip((q, k, v), weights, strict=True):
            gates = gates + nn.functional.linear(x, weight)
        heads = (self.config.num_heads, -1)
        hidden, _ = mlstm(*(x.unflatten(-1, heads) for x in (q, k, v)), *gates.chunk(2, dim=-1))
        return self.outnorm(hidden.transpose(1, 2)).transpose(1, 2).flatten(2)


class SLSTMCell(sLSTMCell_vanilla):
    """The package's sLSTM cell with its recurrence computed by `models.kernels.slstm`."""

    def forward(self, input: Tensor, state: None = None, lengths: None = None) -> tuple:
        """input (batch, time, 4 * dim), gate by gate -> (batch, heads, time, head dim), no state.

        The caller, the package's sLSTM layer, reads the state only when it generates by steps.
        """
        if state is not None or lengths is not None:
            raise ValueError("this sLSTM runs whole sequences from a zero state only")
        gates = (self.config.num_gates, self.config.num_heads, self.config.head_dim)
        bias = self._bias.view(gates)
        hidden, _ = slstm(input.unflatten(-1, gates) + bias, self._recurrent_kernel)
        return hidden.transpose(1, 2), None


class ChannelsLastConv(CausalConv1d):
    """The package's causal convolution without its transposes."""

    def forward(
        self, x: Tensor, conv_state: None = None, return_last_state: bool = False
    ) -> Tensor:
        """(batch, time, dim) -> the same."""
        if conv_state is not None or return_last_state:
            raise ValueError("this convolution runs whole sequences from a zero state only")
        return causal_depthwise_conv(x, self.conv.weight[:, 0], self.conv.bias)


class HeadwiseLinear(LinearHeadwiseExpand):
    """The package's block-diagonal projection, with small blocks multiplied together."""

    def forward(self, x: Tensor) -> Tensor:
        out = block_diagonal_linear(x, self.weight)
        return out if self.bias is None else out + self.bias


class PerHeadLayerNorm(MultiHeadLayerNorm):
    """The package's per-head norm as a layer norm, which is faster on CPUs than a group norm."""

    def forward(self, input: Tensor) -> Tensor:
        """(batch, heads, time, head dim) -> the same shape, laid out (batch, time, heads, dim)."""
        _, heads, _, dim = input.shape
        normed = nn.functional.layer_norm(input.transpose(1, 2), (dim,), eps=self.eps)
        return (normed * self.weight_proxy.view(heads, dim)).transpose(1, 2)


_FAST: dict[type[nn.Module], type[nn.Module]] = {
    mLSTMCell: MLSTMCell,
    sLSTMCell_vanilla: SLSTMCell,
    CausalConv1d: ChannelsLastConv,
    LinearHeadwiseExpand: HeadwiseLinear,
    MultiHeadLayerNorm: PerHeadLayerNorm,
}


class XLSTMPreTrainedModel(RecurrentPreTrainedModel):
    config_class = XLSTMConfig
    supports_gradient_checkpointing = True


class XLSTMModel(XLSTMPreTrainedModel):
    """Embedding and blocks, with the norm after the last block."""

    def __init__(self, config: XLSTMConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.block_stack = xLSTMBlockStack(_stack_config(config))
        self.gradient_checkpointing = False
        for module in self.block_stack.modules():
            if type(module) is mLSTMCell:
                module.causal_mask = None  # the kernel needs none, and it would limit the length
            # Same parameters and attributes, another way of computing.
            module.__class__ = _FAST.get(type(module), type(module))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """input_ids (batch, time) -> hidden states (batch, time, hidden_size)."""
        require_right_padding(attention_mask)
        hidden = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        for block in self.block_stack.blocks:
            if self.gradient_checkpointing and self.training:
                hidden = self._gradient_checkpointing_func(block, hidden)
            else:
                hidden = block(hidden)
        return BaseModelOutput(last_hidden_state=self.block_stack.post_blocks_norm(hidden))


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


def flops_per_token(config: XLSTMConfig, context: int) -> float:
    """The mLSTM counts as it is computed here, in parallel form: like attention, without a
    discount for causality."""
    num_slstm = len(config.slstm_at)
    mlstm_block = 2 * _mlstm_matrix_params(config) + 2 * 2 * context * config.inner_size
    slstm_block = 2 * _slstm_matrix_params(config)
    return (
        (config.num_hidden_layers - num_slstm) * mlstm_block
        + num_slstm * slstm_block
        + 2 * config.vocab_size * config.hidden_size
    )


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
    )
)
