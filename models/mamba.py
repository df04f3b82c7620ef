"""Mamba: transformers' `MambaForCausalLM`, with a fast selective scan on the CPU.

On CUDA the library's own choice stands: the mamba-ssm and causal-conv1d kernels where they are
installed. transformers binds them when it is imported, so that on a machine which has them a
model on the CPU would reach CUDA code; importing this module routes by device instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor
from transformers import MambaConfig
from transformers.activations import ACT2FN
from transformers.models.mamba import modeling_mamba

from models.kernels.depthwise_conv import causal_depthwise_conv
from models.kernels.selective_scan import selective_scan
from models.registry import Architecture, ParamCount, TextShape, register, small_init_std


def _scan_on_cpu(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,  # the library's switches between its own slow paths
) -> Tensor | tuple[Tensor, Tensor]:
    """`selective_scan` under the signature of transformers' `mamba_selective_scan`."""
    y, last_state = selective_scan(
        hidden_states,
        dt,
        A,
        B,
        C,
        skip=D,
        gate=z,
        delta_bias=delta_bias,
        delta_softplus=delta_softplus,
    )
    return (y, last_state) if return_last_state else y


def _conv_on_cpu(
    hidden_states: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> Tensor:
    """`causal_depthwise_conv` under the signature of transformers' `causal_conv1d_fn`.

    hidden_states (batch, dim, time), weight (dim, width) -> (batch, dim, time).
    """
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    y = causal_depthwise_conv(hidden_states.mT, weight, bias)
    return (y if activation is None else ACT2FN[activation](y)).mT


def _by_device(library: Callable[..., Any], on_cpu: Callable[..., Any]) -> Callable[..., Any]:
    """`on_cpu` if the first argument lies on the CPU, else `library`."""

    @wraps(on_cpu)
    def choose(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        function = on_cpu if tensor.device.type == "cpu" else library
        return function(tensor, *args, **kwargs)

    return choose


def _route_by_device() -> None:
    """Give transformers' Mamba a CPU path for every kernel that it may have bound.

    `__wrapped__` is the library's plain-torch version behind its dispatcher: fast enough for
    the single steps of `generate`, and silent.
    """
    own = {"mamba_selective_scan": _scan_on_cpu, "causal_conv1d_fn": _conv_on_cpu}
    for name in (
        "mamba_inner_fn",
        "mamba_selective_scan",
        "mamba_selective_state_update",
        "causal_conv1d_fn",
        "causal_conv1d_update",
    ):
        library = getattr(modeling_mamba, name)
        setattr(modeling_mamba, name, _by_device(library, own.get(name, library.__wrapped__)))


_route_by_device()


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
