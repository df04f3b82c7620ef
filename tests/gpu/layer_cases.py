"""Cases of the kernels without a state: norms, activations, projections, attention, losses."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.block_diagonal import block_diagonal_linear, block_diagonal_pair
from models.kernels.causal_attention import causal_attention, causal_attention_reference
from models.kernels.depthwise_conv import causal_depthwise_conv, causal_depthwise_conv_reference
from models.kernels.gated_head_norm import gated_head_norm, gated_head_norm_reference, head_norm
from models.kernels.layer_norm import stream_layer_norm
from models.kernels.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_reference
from models.kernels.linear_distillation import (
    FactoredLogits,
    linear_distillation,
    linear_distillation_reference,
)
from models.kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_reference, stream_rms_norm
from models.kernels.rotary import linear_rotary, rotary, rotary_reference
from models.kernels.swiglu import linear_swiglu, swiglu, swiglu_reference
from tests.gpu.cases import MIDDLE, Case, Function, Inputs, by_shape, case_of, draw

IGNORED = -100
LOUDER = 10.0  # factor on losses, for gradients of order one
EPS = 1e-5


# ---- norms and activations


def _norm_case(**shape: Any) -> Case:
    def make(T: int, dim: int) -> Inputs:
        return {"x": draw(2, T, dim), "weight": 1 + 0.1 * draw(dim)}

    run, reference = partial(rms_norm, eps=EPS), partial(rms_norm_reference, eps=EPS)
    return case_of("rms_norm", make, run, reference, "weight", **shape)


def _add_norm_case(**shape: Any) -> Case:
    def make(T: int, dim: int) -> Inputs:
        return {"x": draw(2, T, dim), "residual": draw(2, T, dim), "weight": 1 + draw(dim) / 10}

    def reference(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        return rms_norm_reference(total, weight, EPS), total

    # The residual stream is float32 where layers answer in bf16.
    run, kept = partial(add_rms_norm, eps=EPS), "residual weight"
    return case_of("add_rms_norm", make, run, reference, kept, **shape)


def _stream_norm_case(norm: Any, norm_reference: Function, **shape: Any) -> Case:
    def make(T: int, dim: int) -> Inputs:
        return {"x": 1 + draw(2, T, dim), "weight": 1 + draw(dim) / 10}

    def run(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        y, passed = norm(x, weight, EPS, x.dtype)
        return y, passed

    def reference(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return norm_reference(x, weight), x

    return case_of(norm.__name__, make, run, reference, "weight", **shape)


def _layer_norm_reference(x: Tensor, weight: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, None, EPS)


_stream_layer_norm_case = partial(_stream_norm_case, stream_layer_norm, _layer_norm_reference)
_stream_rms_norm_case = partial(
    _stream_norm_case, stream_rms_norm, partial(rms_norm_reference, eps=EPS)
)


def _swiglu_case(**shape: Any) -> Case:
    def make(T: int, dim: int, scale: float = 1.0) -> Inputs:
        return {"gate": scale * draw(2, T, dim), "up": draw(2, T, dim)}

    return case_of("swiglu", make, swiglu, swiglu_reference, **shape)


def _head_norm_case(**shape: Any) -> Case:
    def make(T: int, D: int, gate: float = 3.0) -> Inputs:
        width = 4 * D
        return {
            "h": 0.5 + draw(2, T, 4, D),
            "x": draw(2, T, width),
            "gate": gate * draw(2, T, width),
            "weight": draw(width),
            "skip": draw(width),
        }

    run, reference = partial(gated_head_norm, eps=EPS), partial(gated_head_norm_reference, eps=EPS)
    # The mLSTM in front of it returns float32.
    return case_of("gated_head_norm", make, run, reference, "h weight skip", **shape)


def _plain_head_norm_case(**shape: Any) -> Case:
    def make(T: int, D: int) -> Inputs:
        return {"h": 0.5 + draw(2, T, 4, D), "weight": draw(4 * D)}

    def reference(h: Tensor, weight: Tensor) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], eps=EPS).flatten(-2) * weight

    # The sLSTM in front of it returns float32.
    run = partial(head_norm, eps=EPS, dtype=torch.float32)
    return case_of("head_norm", make, run, reference, "h weight", **shape)


# ---- projections, convolution, attention


def in_products(run: Function, input_name: str) -> Function:
    """Under autocast where this input is in bf16, as the weights are not."""

    def inside(**inputs: Tensor) -> Any:
        x = inputs[input_name]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            return run(**inputs)

    return inside


def _block_case(**shape: Any) -> Case:
    def make(T: int, blocks: int, size: int, outputs: int = 0) -> Inputs:
        weight = draw(blocks, outputs or size, size) / math.sqrt(size)
        return {"x": draw(2, T, blocks * size), "weight": weight}

    def reference(x: Tensor, weight: Tensor) -> Tensor:
        blocks = x.unflatten(-1, (len(weight), -1))
        return torch.einsum("btni,noi->btno", blocks, weight).flatten(-2)

    run = in_products(block_diagonal_linear, "x")
    return case_of("block_diagonal", make, run, reference, "weight", **shape)


def _block_pair_case(**shape: Any) -> Case:
    def make(T: int, blocks: int) -> Inputs:
        weights = {"first": draw(blocks, 4, 4) / 2, "second": draw(blocks, 4, 4) / 2}
        return {"x": draw(2, T, 4 * blocks), **weights}

    def reference(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        blocks, weights = x.unflatten(-1, (len(first), -1)), torch.cat([first, second], 1)
        both = torch.einsum("btni,noi->btno", blocks, weights).chunk(2, -1)
        return torch.cat([one.flatten(-2) for one in both], -1)

    def pair(**inputs: Tensor) -> Tensor:
        return torch.cat(block_diagonal_pair(**inputs), -1)

    run = in_products(pair, "x")
    return case_of("block_diagonal_pair", make, run, reference, "first second", **shape)


def _linear_swiglu_case(**shape: Any) -> Case:
    def make(T: int, dim: int, inner: int) -> Inputs:
        weights = {name: draw(inner, dim) / math.sqrt(dim) for name in ("gate", "up")}
        return {"x": draw(2, T, dim), **weights}

    def reference(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        return swiglu_reference(x @ gate.mT, x @ up.mT)

    run = in_products(linear_swiglu, "x")
    return case_of("linear_swiglu", make, run, reference, "gate up", **shape)


def _conv_case(**shape: Any) -> Case:
    def make(T: int, dim: int, state: bool = False) -> Inputs:
        inputs = {"x": draw(2, T, 2 * dim), "weight": draw(dim, 4) / 2, "bias": draw(dim)}
        return {**inputs, "past": draw(2, 3, dim)} if state else inputs

    def run(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None = None) -> Tensor:
        half = x[..., : len(weight)]  # of a joint projection, as the layers have it
        return causal_depthwise_conv(half, weight, bias, silu=True, initial_state=past)

    def reference(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None = None) -> Tensor:
        half, steps = x[..., : len(weight)], x.shape[1]
        if past is not None:
            half = torch.cat([past, half], 1)
        return causal_depthwise_conv_reference(half, weight, bias, silu=True)[:, -steps:]

    return case_of("depthwise_conv", make, run, reference, "weight bias", "past", **shape)


def _queries_and_keys(T: int, heads: int, kv_heads: int, dim: int) -> Inputs:
    """With the tables of their rotation."""
    angles = torch.arange(T)[:, None] / 100 ** torch.linspace(0, 1, dim // 2)
    angles = torch.cat([angles, angles], -1)[None]
    pair = {"q": draw(2, T, heads, dim), "k": draw(2, T, kv_heads, dim)}
    return {**pair, "cos": angles.cos(), "sin": angles.sin()}


def _rotary_case(**shape: Any) -> Case:
    def run(rotate: Function, **x: Tensor) -> Tensor:
        return torch.cat(rotate(**x), 2)

    functions = partial(run, rotary), partial(run, rotary_reference)
    return case_of("rotary", _queries_and_keys, *functions, constants="cos sin", **shape)


def _linear_rotary_case(**shape: Any) -> Case:
    def make(T: int, heads: int, dim: int) -> Inputs:
        width = heads * dim
        tables = {name: _queries_and_keys(T, 1, 1, dim)[name] for name in ("cos", "sin")}
        weights = {name: draw(width, width) / math.sqrt(width) for name in ("wq", "wk", "wv")}
        return {"x": draw(2, T, width), **weights, **tables}

    def run(x: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return torch.cat(linear_rotary(x, (wq, wk, wv), cos, sin, cos.shape[-1]), 2)

    def reference(
        x: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, cos: Tensor, sin: Tensor
    ) -> Tensor:
        q, k, v = ((x @ weight.mT).unflatten(-1, (-1, cos.shape[-1])) for weight in (wq, wk, wv))
        return torch.cat([*rotary_reference(q, k, cos, sin), v], 2)

    ours = in_products(run, "x")
    return case_of("linear_rotary", make, ours, reference, "wq wk wv", "cos sin", **shape)


def _attention_case(**shape: Any) -> Case:
    def make(T: int, heads: int, kv_heads: int, dim: int) -> Inputs:
        return {**_queries_and_keys(T, heads, kv_heads, dim), "v": draw(2, T, kv_heads, dim)}

    def run(attend: Function, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return attend(q, k, v, q.shape[-1] ** -0.5, (cos, sin))

    functions = partial(run, causal_attention), partial(run, causal_attention_reference)
    return case_of("causal_attention", make, *functions, constants="cos sin", **shape)


# ---- losses


def _targets(tokens: int, vocab: int) -> Tensor:
    targets = torch.randint(0, vocab, (tokens,))
    targets[4::5] = IGNORED
    return targets


def _cross_entropy_case(**shape: Any) -> Case:
    def make(T: int, dim: int, vocab: int, scale: float = 1.0) -> Inputs:
        weight = scale * draw(vocab, dim) / math.sqrt(dim)
        return {"hidden": draw(2 * T, dim), "weight": weight, "targets": _targets(2 * T, vocab)}

    def run(loss: Function, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        # Not the mean: its gradients would be too small to tell right from wrong.
        return LOUDER * loss(hidden, weight, None, targets, ignore_index=IGNORED)

    ours = in_products(partial(run, linear_cross_entropy), "hidden")
    reference = partial(run, linear_cross_entropy_reference)
    return case_of("linear_cross_entropy", make, ours, reference, "weight", **shape)


def _distillation_case(**shape: Any) -> Case:
    def make(T: int, dim: int, vocab: int, teachers: int = 1, reverse: bool = False) -> Inputs:
        inputs = {"hidden": draw(2 * T, dim), "weight": draw(vocab, dim) / math.sqrt(dim)}
        for index in range(teachers):
            inputs[f"teacher{index}"] = draw(2 * T, dim)
            inputs[f"head{index}"] = draw(vocab, dim) / math.sqrt(dim)
        return {**inputs, "targets": _targets(2 * T, vocab)}

    def run(loss: Function, hidden: Tensor, weight: Tensor, targets: Tensor, **x: Tensor) -> Tensor:
        count = len(x) // 2
        teachers = [FactoredLogits(x[f"teacher{i}"], x[f"head{i}"]) for i in range(count)]
        options = {"alpha": 0.5, "temperature": 2.0, "reverse": shape.get("reverse", False)}
        student = FactoredLogits(hidden, weight)
        return LOUDER * loss(student, teachers, targets, ignore_index=IGNORED, **options)

    ours = in_products(partial(run, linear_distillation), "hidden")
    reference = partial(run, linear_distillation_reference)
    constants = "teacher0 head0 teacher1 head1"
    return case_of("linear_distillation", make, ours, reference, "weight", constants, **shape)


WIDTHS = [{"dim": dim} for dim in (384, 768, 1024, 50)]
HEADS = [{"heads": 12, "kv_heads": 12, "dim": 64}, {"heads": 32, "kv_heads": 4, "dim": 32}]
LAYER_CASES: list[Case] = [
    *by_shape(_norm_case, WIDTHS, dim=128),
    *by_shape(_add_norm_case, WIDTHS, dim=128),
    *by_shape(_stream_layer_norm_case, WIDTHS, dim=128),
    *by_shape(_stream_rms_norm_case, WIDTHS, dim=128),
    *by_shape(_swiglu_case, [{"dim": dim} for dim in (752, 2048, 2816, 4096, 50)], dim=216),
    _swiglu_case(T=MIDDLE, dim=216, scale=100.0),
    *by_shape(_head_norm_case, [{"D": dim} for dim in (208, 408, 512, 10)], D=64),
    _head_norm_case(T=MIDDLE, D=64, gate=100.0),
    *by_shape(_plain_head_norm_case, [{"D": dim} for dim in (96, 192, 256, 10)], D=32),
    *by_shape(
        _block_case,
        [
            *({"blocks": width // 4, "size": 4} for width in (832, 1632, 2048)),
            *({"blocks": 4, "size": dim, "outputs": 2 * dim} for dim in (32, 96, 192, 256)),
        ],
        blocks=64,
        size=4,
    ),
    *by_shape(_block_pair_case, [{"blocks": n} for n in (208, 408, 512)], blocks=64),
    *by_shape(_linear_swiglu_case, [{"dim": 768, "inner": 2048}], dim=128, inner=216),
    *by_shape(_conv_case, [{"dim": dim} for dim in (768, 1536, 1632, 2048, 50)], dim=256),
    *(_conv_case(T=time, dim=256, state=True) for time in (1, MIDDLE)),
    *by_shape(_rotary_case, HEADS, heads=4, kv_heads=4, dim=32),
    *by_shape(_linear_rotary_case, [{"heads": 12, "dim": 64}], heads=4, dim=32),
    *by_shape(_attention_case, HEADS, heads=4, kv_heads=4, dim=32),
    *by_shape(
        _cross_entropy_case,
        [{"dim": 384, "vocab": 8192}, {"dim": 768, "vocab": 16_000}, {"dim": 50, "vocab": 501}],
        dim=128,
        vocab=2048,
    ),
    # Logits of hundreds, which bf16 rounds by more than one.
    replace(_cross_entropy_case(T=MIDDLE, dim=128, vocab=2048, scale=30.0), types=(torch.float32,)),
    *by_shape(_distillation_case, [{"dim": 768, "vocab": 16_000}], dim=128, vocab=2048),
    _distillation_case(T=MIDDLE, dim=128, vocab=2048, teachers=2, reverse=True),
]
