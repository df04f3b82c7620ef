"""What the tests must be told of each architecture; everything else they ask the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from torch import Tensor, nn

import models
from models.kernels import (
    depthwise_conv,
    gated_delta_rule,
    gated_linear_attention,
    mlstm,
    selective_scan,
    slstm,
)

Function = Callable[..., Any]
Watch = Callable[[Function], Function]
"""From a function to the same with its arithmetic counted."""


@dataclass(frozen=True)
class Facts:
    """Of one architecture.

    Attributes:
        cpp: kernels that a training step at `mini` runs in C++, the loss's apart.
        triton: modules of `models.kernels.gpu` that a trial launches, the loss's apart.
        mini: the width that is solved at `mini`, frozen, for there are recorded results.
        recurrences: what stands for its recurrences, by the name of the function it replaces, so
            that their arithmetic can be counted step by step.
    """

    cpp: set[str] = field(default_factory=set)
    triton: set[str] = field(default_factory=set)
    mini: dict[str, int] = field(default_factory=dict)
    recurrences: Callable[[Watch], dict[str, Any]] = lambda watch: {}


def slow_but(*quick: str) -> list[Any]:
    """All architectures as parameters of a test, which is slow for all but some."""
    return [
        pytest.param(arch, marks=[] if arch in quick else [pytest.mark.slow])
        for arch in models.architectures()
    ]


def _lstm(watch: Watch) -> dict[str, Any]:
    return {"torch.nn.LSTM.forward": watch(nn.LSTM.forward)}


def _xlstm(watch: Watch) -> dict[str, Any]:
    matrix, scalar = watch(mlstm.mlstm_reference), watch(slstm.slstm_reference)

    def scalar_cell(x: Tensor, recurrent: Tensor, *, bias: Tensor, **_: Any) -> Any:
        return scalar(x + bias, recurrent)  # biases do not count

    return {
        "models.xlstm.causal_depthwise_conv": bare_conv(watch),
        "models.xlstm.mlstm": lambda *inputs, **_: matrix(*inputs),
        "models.xlstm.slstm": scalar_cell,
        # no products with the zeros between blocks
        "models.kernels.block_diagonal.DENSE_WIDTH": 1,
    }


def _mamba(watch: Watch) -> dict[str, Any]:
    recurrence = watch(selective_scan.recurrence_reference)
    return {
        # Of the reference only the recurrence inside counts.
        "models.kernels.selective_scan.recurrence_reference": recurrence,
        "models.mamba.selective_scan": selective_scan.selective_scan_reference,
        "models.mamba.causal_depthwise_conv": bare_conv(watch),
    }


def _hgrn2(watch: Watch) -> dict[str, Any]:
    module = "models.kernels.gated_linear_attention"
    recurrence = watch(gated_linear_attention.gated_linear_attention_reference)
    return {
        # Of the reference only the recurrence inside counts.
        f"{module}.gated_linear_attention_reference": recurrence,
        "models.hgrn2.hgrn2_attention": gated_linear_attention.hgrn2_attention_reference,
    }


def _gated_deltanet(watch: Watch) -> dict[str, Any]:
    return {
        "models.gated_deltanet.causal_depthwise_conv": bare_conv(watch),
        "models.gated_deltanet.gated_delta_rule": watch(
            gated_delta_rule.gated_delta_rule_reference
        ),
    }


def bare_conv(watch: Watch) -> Function:
    """The convolution without the activation behind it, which does not count."""
    conv = watch(depthwise_conv.causal_depthwise_conv_reference)
    return lambda x, weight, bias, **_: conv(x, weight, bias)


FACTS = {
    "transformer": Facts(
        cpp={"rms_norm", "causal_attention"},
        triton={"rms_norm", "rotary", "swiglu"},
        mini={"intermediate_size": 216},
    ),
    "lstm": Facts(mini={"hidden_size": 172}, recurrences=_lstm),
    "xlstm": Facts(
        cpp={"mlstm", "slstm", "depthwise_conv", "block_diagonal", "gated_head_norm"},
        triton={
            *("mlstm_gates", "mlstm_tiles", "slstm", "depthwise_conv", "block_diagonal"),
            *("gated_head_norm", "layer_norm"),
        },
        mini={"ffn_size": 496},
        recurrences=_xlstm,
    ),
    "mamba": Facts(
        cpp={"rms_norm", "depthwise_conv", "selective_scan"},
        triton={"rms_norm", "depthwise_conv", "selective_scan"},
        recurrences=_mamba,
    ),
    "hgrn2": Facts(
        cpp={"rms_norm", "gated_linear_attention"},
        triton={"rms_norm", "swiglu", "gated_linear_attention", "gated_linear_gradients"},
        mini={"intermediate_size": 216},
        recurrences=_hgrn2,
    ),
    "gated_deltanet": Facts(
        cpp={"rms_norm", "depthwise_conv"},
        triton={
            *("rms_norm", "swiglu", "depthwise_conv"),
            *("gated_delta_rule", "gated_delta_gradients"),
        },
        mini={"intermediate_size": 128},
        recurrences=_gated_deltanet,
    ),
}
