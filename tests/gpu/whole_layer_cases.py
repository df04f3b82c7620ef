"""Cases of whole layers, which are one function to autograd, against their parts' references."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels import mamba_layer, mlstm_layer
from models.kernels.depthwise_conv import causal_depthwise_conv_reference
from models.kernels.gated_head_norm import gated_head_norm_reference
from models.kernels.mlstm import mlstm_reference
from models.kernels.selective_scan import selective_scan_reference
from tests.gpu.cases import Case, Inputs, by_shape, case_of, draw
from tests.gpu.layer_cases import EPS, in_products


def _mlstm_pieces(
    up: Tensor,
    conv: Tensor,
    conv_bias: Tensor,
    q_blocks: Tensor,
    k_blocks: Tensor,
    v_blocks: Tensor,
    gate: Tensor,
    gate_bias: Tensor,
    norm: Tensor,
    skip: Tensor,
) -> Tensor:
    """The layer in the type of its inputs, from references and PyTorch."""
    inner, output_gate = up.chunk(2, -1)
    x = causal_depthwise_conv_reference(inner, conv, conv_bias, silu=True).to(up.dtype)

    def project(x: Tensor, weight: Tensor) -> Tensor:
        blocks = x.unflatten(-1, (len(weight), -1))
        return torch.einsum("btni,noi->btno", blocks, weight.to(x.dtype)).flatten(-2)

    q, k, v = project(x, q_blocks), project(x, k_blocks), project(inner, v_blocks)
    gates = F.linear(torch.cat([q, k, v], -1).to(gate.dtype), gate, gate_bias).chunk(2, -1)
    heads = (len(gate_bias) // 2, -1)
    h, _ = mlstm_reference(*(p.unflatten(-1, heads) for p in (q, k, v)), *gates)
    return gated_head_norm_reference(h, x, output_gate, norm, skip, EPS).to(up.dtype)


def _mlstm_layer_case(**shape: Any) -> Case:
    def make(T: int, D: int) -> Inputs:
        width = 4 * D
        blocks = {f"{name}_blocks": draw(D, 4, 4) / 2 for name in "qkv"}
        conv = {"conv": draw(width, 4) / 2, "conv_bias": draw(width)}
        gates = {"gate": draw(8, 3 * width) / math.sqrt(3 * width), "gate_bias": draw(8)}
        norm = {"norm": 1 + draw(width) / 10, "skip": draw(width)}
        return {"up": draw(2, T, 2 * width), **conv, **blocks, **gates, **norm}

    def layer(**inputs: Tensor) -> Tensor:
        up, conv, bias, *blocks = tuple(inputs.values())[:6]
        if not mlstm_layer.takes(up, conv, *blocks):
            return _mlstm_pieces(**inputs)  # as the model does
        gates_and_norm = tuple(inputs.values())[6:]
        three = (blocks[0], blocks[1], blocks[2])
        return mlstm_layer.mlstm_layer(up, conv, bias, three, *gates_and_norm, heads=4, eps=EPS)

    kept = "conv conv_bias q_blocks k_blocks v_blocks gate gate_bias norm skip"
    run = in_products(layer, "up")
    case = case_of("mlstm_layer", make, run, _mlstm_pieces, kept, **shape)
    # In bf16 each part rounds what the next one reads: more than a single kernel's tolerance. In
    # float32 the gates' gradients err by a part of the largest of them, as in the mLSTM's cases,
    # and those of their weights are sums over all steps, most of them far smaller.
    return replace(case, types=(torch.float32,), loosened=10.0)


def _mamba_pieces(
    up: Tensor,
    conv: Tensor,
    conv_bias: Tensor,
    x_weight: Tensor,
    step_weight: Tensor,
    step_bias: Tensor,
    a: Tensor,
    skip: Tensor,
) -> Tensor:
    """The layer in the type of its inputs, from references and PyTorch."""
    inner, gate = up.chunk(2, -1)
    u = causal_depthwise_conv_reference(inner, conv, conv_bias, silu=True).to(up.dtype)
    states = a.shape[1]
    small, b, c = F.linear(u, x_weight.to(u.dtype)).split([step_weight.shape[1], states, states], 2)
    delta = F.linear(small, step_weight.to(u.dtype))
    inputs, surroundings = (x.mT for x in (u, delta)), {"skip": skip, "gate": gate.mT}
    y, _ = selective_scan_reference(
        *inputs, a, b.mT, c.mT, **surroundings, delta_bias=step_bias, delta_softplus=True
    )
    return y.mT.to(up.dtype)


def _mamba_layer_case(**shape: Any) -> Case:
    def make(T: int, D: int, N: int) -> Inputs:
        rank = max(1, D // 32)
        conv = {"conv": draw(D, 4) / 2, "conv_bias": draw(D)}
        products = {
            "x_weight": draw(rank + 2 * N, D) / math.sqrt(D),
            "step_weight": draw(D, rank) / math.sqrt(rank),
        }
        rates = {"a": -torch.arange(1.0, N + 1).repeat(D, 1), "skip": draw(D)}
        return {"up": draw(2, T, 2 * D), **conv, **products, "step_bias": draw(D), **rates}

    def layer(**inputs: Tensor) -> Tensor:
        if not mamba_layer.takes(inputs["up"], inputs["conv"], inputs["a"]):
            return _mamba_pieces(**inputs)  # as the model does
        return mamba_layer.mamba_layer(*inputs.values())

    kept = "conv conv_bias x_weight step_weight step_bias a skip"
    run = in_products(layer, "up")
    # In bf16 each part rounds what the next one reads: more than a single kernel's tolerance.
    case = case_of("mamba_layer", make, run, _mamba_pieces, kept, **shape)
    return replace(case, types=(torch.float32,))


WHOLE_LAYER_CASES: list[Case] = [
    *by_shape(_mlstm_layer_case, [{"D": dim} for dim in (408, 512)], D=64),
    *by_shape(_mamba_layer_case, [{"D": 1536, "N": 16}, {"D": 50, "N": 5}], D=256, N=8),
]
