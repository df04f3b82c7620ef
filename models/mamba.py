"""Mamba (Gu & Dao 2023): transformers' `MambaForCausalLM`, fast on every device.

The classes below are the library's with another forward, which calls the kernels of this package
wherever a model lies: without the packages mamba-ssm and causal-conv1d, which need a compiler to
install, the library loops over time in Python. (`BABYSWEEP_KERNELS=library` takes the functions of
these two packages on a GPU where they can be imported, and never that loop.) Parameters,
checkpoints, configs and caches are the library's, which itself is left as it is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MambaConfig
from transformers.models.mamba import modeling_mamba as library

from models.any_device import FusedRMSNorm, replace_layers, stream_norm
from models.calls import mask_of_call, refuse_unknown
from models.kernels import mamba_layer, paths
from models.kernels.depthwise_conv import causal_depthwise_conv
from models.kernels.selective_scan import selective_scan
from models.registry import Architecture, ParamCount, TextShape, register, small_init_std


class AnyDeviceRMSNorm(FusedRMSNorm, library.MambaRMSNorm):
    """The library's RMS norm."""


class AnyDeviceMixer(library.MambaMixer):
    """The library's layer; keeps the channels last throughout."""

    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Any = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """hidden_states (batch, time, dim); attention_mask (batch, time), 0 for padding.

        Without inputs the state of the scan only decays: padding leaves an empty state empty.
        """
        past = None
        if cache_params is not None:
            past = cache_params.get_recurrent_state(self.layer_idx)
        up = self.in_proj(_without_padding(hidden_states, attention_mask))
        a = -torch.exp(self.A_log.float())
        if cache_params is None and attention_mask is None and self._takes_at_once(up, a):
            return self.out_proj(self._all_at_once(up, a))
        u, gate = up.chunk(2, -1)
        u = _without_padding(self._convolve(u, cache_params), attention_mask)
        ranks = [self.time_step_rank, self.ssm_state_size, self.ssm_state_size]
        time_step, b, c = self.x_proj(u).split(ranks, -1)
        y, last = selective_scan(
            u.mT,
            F.linear(time_step, self.dt_proj.weight).mT,
            a,
            b.mT,
            c.mT,
            skip=self.D,
            gate=gate.mT,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            initial_state=past,
        )
        if cache_params is not None:
            cache_params.update_recurrent_state(last, self.layer_idx)
        return self.out_proj(y.mT)

    @property
    def _is_silu(self) -> bool:
        return self.activation in ("silu", "swish")

    def _takes_at_once(self, up: Tensor, a: Tensor) -> bool:
        return self._is_silu and mamba_layer.takes(up, self.conv1d.weight[:, 0], a)

    def _all_at_once(self, up: Tensor, a: Tensor) -> Tensor:
        """Compute what lies between both projections at once; no padding, no past."""
        projections = (self.x_proj.weight, self.dt_proj.weight, self.dt_proj.bias)
        return mamba_layer.mamba_layer(up, *self._taps(), *projections, a, self.D)

    def _taps(self) -> tuple[Tensor, Tensor]:
        """Weight (channels, width) and bias (channels,) of the convolution."""
        weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
        return weight, weight.new_zeros(len(weight)) if bias is None else bias

    def _convolve(self, u: Tensor, cache_params: Any) -> Tensor:
        """The short convolution with its activation, behind the cached inputs if there is a cache.

        u (batch, time, channels) -> the same shape.
        """
        time = u.shape[1]
        if cache_params is not None:
            u = cache_params.update_conv_state(
                u.mT, self.layer_idx, conv_kernel_size=self.conv_kernel_size
            ).mT
        u = causal_depthwise_conv(u, *self._taps(), silu=self._is_silu)[:, -time:]
        return u if self._is_silu else self.act(u)


class AnyDeviceBlock(library.MambaBlock):
    """The library's block; its norm also passes the stream on."""

    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Any = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """hidden_states (batch, time, dim) -> the same shape."""
        norm, is_watched = self.norm, self.norm._forward_hooks or self.norm._forward_pre_hooks
        library_wanted = paths.uses_library("rms_norm", hidden_states.device.type)
        plain = hidden_states.dtype == norm.weight.dtype == torch.float32
        if is_watched or library_wanted or not plain:
            whole: Any = super().forward  # its annotation wants masks of integers
            return whole(hidden_states, cache_params, attention_mask, **kwargs)
        normed, stream = stream_norm(hidden_states, norm.weight, norm.variance_epsilon)
        return stream + self.mixer(normed, cache_params, attention_mask)


def _without_padding(x: Tensor, attention_mask: Tensor | None) -> Tensor:
    """x (batch, time, dim), zero where the mask is; of a longer mask the last columns count."""
    if attention_mask is None:
        return x
    return x * attention_mask[:, -x.shape[1] :, None].to(x.dtype)


def _check_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A forward pre-hook: refuses what the library's model would take and leave out.

    Raises:
        ValueError: an unknown argument, or a mask that hides tokens between others: their steps
            would still let the state decay.
    """
    refuse_unknown(module, kwargs)
    mask = mask_of_call(args, kwargs)
    if mask is None:
        return
    shown = (mask != 0).long()
    begun = shown.cummax(1).values
    goes_on = shown.flip(1).cummax(1).values.flip(1)
    if bool((begun * goes_on > shown).any()):
        raise ValueError(
            "Mamba's attention mask hides tokens between others, which it cannot leave out: remove "
            "them from input_ids; only padding before or behind a text can be hidden"
        )


_ANY_DEVICE: dict[type[nn.Module], type[nn.Module]] = {
    library.MambaRMSNorm: AnyDeviceRMSNorm,
    library.MambaMixer: AnyDeviceMixer,
    library.MambaBlock: AnyDeviceBlock,
}


class MambaForCausalLM(library.MambaForCausalLM):
    """The library's model with layers of our own; same name, same checkpoints."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__(config)
        replace_layers(self, _ANY_DEVICE)
        for module in (self, self.backbone):
            module.register_forward_pre_hook(_check_call, with_kwargs=True)


def build_config(
    text: TextShape,
    *,
    hidden_size: int,
    num_layers: int,
    state_size: int,
) -> MambaConfig:
    return MambaConfig(
        vocab_size=text.vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        state_size=state_size,
        initializer_range=small_init_std(hidden_size),
        tie_word_embeddings=False,
        **text.special_tokens(),
    )


def num_params(config: MambaConfig) -> ParamCount:
    inner = config.intermediate_size
    vectors = inner * (config.conv_kernel + config.state_size + 3)  # conv, its bias, A, D, dt bias
    per_layer = _matrix_params(config) + vectors + config.hidden_size
    return ParamCount(
        embedding=2 * config.vocab_size * config.hidden_size,
        non_embedding=config.num_hidden_layers * per_layer + config.hidden_size,
    )


def flops_per_token(config: MambaConfig, context: int) -> int:
    """The scan counts 7 per channel and state: decay (2), drive (1), update (2), readout (2)."""
    inner = config.intermediate_size
    per_layer = 2 * _matrix_params(config) + inner * (
        2 * config.conv_kernel + 7 * config.state_size
    )
    return config.num_hidden_layers * per_layer + 2 * config.vocab_size * config.hidden_size


def state_size(config: MambaConfig, context: int) -> int:
    """The scan's state and, as transformers keeps them, as many past inputs as the convolution has
    taps (one more than it needs)."""
    per_channel = config.state_size + config.conv_kernel
    return config.num_hidden_layers * config.intermediate_size * per_channel


def _matrix_params(config: MambaConfig) -> int:
    """Weights of one layer that multiply every token: in, x, dt and out projections."""
    inner, rank = config.intermediate_size, int(config.time_step_rank)
    return inner * (3 * config.hidden_size + rank + 2 * config.state_size + rank)


register(
    Architecture(
        name="mamba",
        model_type=MambaConfig.model_type,
        build_config=build_config,
        num_params=num_params,
        flops_per_token=flops_per_token,
        state_size=state_size,
    )
)
