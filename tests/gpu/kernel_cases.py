"""The cases in which every kernel is checked: lengths, the presets' widths, extreme gates, states.

A kernel's lengths run at the widths of `mini`, where the reference, step by step in float64, is
quick; one length in between runs at the widths of every other preset.
Legend: B batch, T time, H heads, K key dim, V value dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.block_diagonal import block_diagonal_linear
from models.kernels.causal_attention import causal_attention, causal_attention_reference
from models.kernels.depthwise_conv import causal_depthwise_conv, causal_depthwise_conv_reference
from models.kernels.gated_head_norm import gated_head_norm, gated_head_norm_reference
from models.kernels.gated_linear_attention import (
    gated_linear_attention,
    gated_linear_attention_reference,
    hgrn2_attention,
    hgrn2_attention_reference,
)
from models.kernels.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_reference
from models.kernels.linear_distillation import (
    Head,
    linear_distillation,
    linear_distillation_reference,
)
from models.kernels.mlstm import mlstm, mlstm_reference
from models.kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_reference
from models.kernels.rotary import rotary, rotary_reference
from models.kernels.selective_scan import selective_scan, selective_scan_reference
from models.kernels.slstm import slstm, slstm_reference
from models.kernels.swiglu import swiglu, swiglu_reference

LENGTHS = (1, 7, 48, 64, 65, 512, 1334)
MIDDLE = 65  # of the presets' widths: one step more than the usual chunk
IGNORED = -100
EPS = 1e-5
SHUT, OPEN = -1e30, 1e30  # gates of padding, as `models.xlstm` sets them

Inputs = dict[str, Tensor]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A kernel on certain inputs.

    Attributes:
        kernel: its name in `models.kernels.paths.TABLE`.
        name: what is special about the case.
        inputs: makes the arguments by name, in float32 on the CPU, the same at every call.
        run, reference: called with them, return a tensor or a tuple of tensors.
        parameters: names of inputs that are float32 also where the others are bf16.
        constants: names of inputs without gradient, float32 as well.
        types: in which the inputs come.
        loosened: factor on the tolerance in float32, where a result is a difference or a quotient
            of larger numbers.
    """

    kernel: str
    name: str
    inputs: Callable[[], Inputs]
    run: Function
    reference: Function
    parameters: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()
    types: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    loosened: float = 1.0

    def __str__(self) -> str:
        return f"{self.kernel} {self.name}"


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape)


def _case(
    kernel: str,
    make: Callable[..., Inputs],
    run: Function,
    reference: Function,
    parameters: str = "",
    constants: str = "",
    **shape: Any,
) -> Case:
    """A case named after its shape, with inputs that depend on nothing else."""

    def inputs() -> Inputs:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make(**shape)

    name = " ".join(f"{key}={value}" for key, value in shape.items())
    kept, constant = frozenset(parameters.split()), frozenset(constants.split())
    return Case(kernel, name, inputs, run, reference, kept, constant)


def _by_shape(case: Callable[..., Case], widths: list[dict[str, Any]], **mini: Any) -> list[Case]:
    """Every length at the widths of `mini`, and the middle one at each of the others."""
    lengths = [case(T=time, **mini) for time in LENGTHS]
    return lengths + [case(T=MIDDLE, **width) for width in widths]


# ---- norms and activations


def _norm_case(**shape: Any) -> Case:
    def make(T: int, dim: int) -> Inputs:
        return {"x": _draw(2, T, dim), "weight": 1 + 0.1 * _draw(dim)}

    run, reference = partial(rms_norm, eps=EPS), partial(rms_norm_reference, eps=EPS)
    return _case("rms_norm", make, run, reference, "weight", **shape)


def _add_norm_case(**shape: Any) -> Case:
    def make(T: int, dim: int) -> Inputs:
        return {"x": _draw(2, T, dim), "residual": _draw(2, T, dim), "weight": 1 + _draw(dim) / 10}

    def reference(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        return rms_norm_reference(total, weight, EPS), total

    # The residual stream is float32 where layers answer in bf16.
    run, kept = partial(add_rms_norm, eps=EPS), "residual weight"
    return _case("add_rms_norm", make, run, reference, kept, **shape)


def _swiglu_case(**shape: Any) -> Case:
    def make(T: int, dim: int, scale: float = 1.0) -> Inputs:
        return {"gate": scale * _draw(2, T, dim), "up": _draw(2, T, dim)}

    return _case("swiglu", make, swiglu, swiglu_reference, **shape)


def _head_norm_case(**shape: Any) -> Case:
    def make(T: int, D: int, gate: float = 3.0) -> Inputs:
        width = 4 * D
        return {
            "h": 0.5 + _draw(2, T, 4, D),
            "x": _draw(2, T, width),
            "gate": gate * _draw(2, T, width),
            "weight": _draw(width),
            "skip": _draw(width),
        }

    run, reference = partial(gated_head_norm, eps=EPS), partial(gated_head_norm_reference, eps=EPS)
    # The mLSTM in front of it returns float32.
    return _case("gated_head_norm", make, run, reference, "h weight skip", **shape)


# ---- projections, convolution, attention


def _block_case(**shape: Any) -> Case:
    def make(T: int, blocks: int, size: int, outputs: int = 0) -> Inputs:
        weight = _draw(blocks, outputs or size, size) / math.sqrt(size)
        return {"x": _draw(2, T, blocks * size), "weight": weight}

    def reference(x: Tensor, weight: Tensor) -> Tensor:
        blocks = x.unflatten(-1, (len(weight), -1))
        return torch.einsum("btni,noi->btno", blocks, weight).flatten(-2)

    def run(x: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            return block_diagonal_linear(x, weight)

    return _case("block_diagonal", make, run, reference, "weight", **shape)


def _conv_case(**shape: Any) -> Case:
    def make(T: int, dim: int, state: bool = False) -> Inputs:
        inputs = {"x": _draw(2, T, 2 * dim), "weight": _draw(dim, 4) / 2, "bias": _draw(dim)}
        return {**inputs, "past": _draw(2, 3, dim)} if state else inputs

    def run(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None = None) -> Tensor:
        half = x[..., : len(weight)]  # of a joint projection, as the layers have it
        return causal_depthwise_conv(half, weight, bias, silu=True, initial_state=past)

    def reference(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None = None) -> Tensor:
        half, steps = x[..., : len(weight)], x.shape[1]
        if past is not None:
            half = torch.cat([past, half], 1)
        return causal_depthwise_conv_reference(half, weight, bias, silu=True)[:, -steps:]

    return _case("depthwise_conv", make, run, reference, "weight bias", "past", **shape)


def _queries_and_keys(T: int, heads: int, kv_heads: int, dim: int) -> Inputs:
    """With the tables of their rotation."""
    angles = torch.arange(T)[:, None] / 100 ** torch.linspace(0, 1, dim // 2)
    angles = torch.cat([angles, angles], -1)[None]
    pair = {"q": _draw(2, T, heads, dim), "k": _draw(2, T, kv_heads, dim)}
    return {**pair, "cos": angles.cos(), "sin": angles.sin()}


def _rotary_case(**shape: Any) -> Case:
    functions = rotary, rotary_reference
    return _case("rotary", _queries_and_keys, *functions, constants="cos sin", **shape)


def _attention_case(**shape: Any) -> Case:
    def make(T: int, heads: int, kv_heads: int, dim: int) -> Inputs:
        return {**_queries_and_keys(T, heads, kv_heads, dim), "v": _draw(2, T, kv_heads, dim)}

    def run(attend: Function, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return attend(q, k, v, q.shape[-1] ** -0.5, (cos, sin))

    functions = partial(run, causal_attention), partial(run, causal_attention_reference)
    return _case("causal_attention", make, *functions, constants="cos sin", **shape)


# ---- recurrences


def _gates(kind: str, shape: tuple[int, ...]) -> Tensor:
    """Log forget gates from harmless to extreme."""
    wide = F.logsigmoid(3 * torch.randn(shape))
    if kind == "open":
        return -1e-4 * torch.rand(shape)
    if kind == "closed":
        return torch.full(shape, -20.0)
    if kind == "rare":
        return torch.where(torch.rand(shape) < 0.02, -100.0, wide)
    if kind == "reset":
        return torch.where(torch.rand(shape) < 0.02, -torch.inf, wide)
    return wide


def _detach_state(recurrence: Function, *inputs: Tensor, **named: Tensor) -> tuple[Tensor, Tensor]:
    """States are compared, but carry no gradient."""
    output, state = recurrence(*inputs, **named)
    return output, state.detach()


def _gla_case(**shape: Any) -> Case:
    def make(T: int, K: int, gates: str = "wide", state: bool = False) -> Inputs:
        parts = {"q": _draw(2, T, 2, K), "k": _draw(2, T, 2, K), "v": _draw(2, T, 2, K)}
        inputs = {**parts, "g": _gates(gates, (2, T, 2, K))}
        return {**inputs, "initial_state": _draw(2, 2, K, K)} if state else inputs

    both = (gated_linear_attention, gated_linear_attention_reference)
    functions = (partial(_detach_state, f) for f in both)
    return _case("gated_linear_attention", make, *functions, "g", "initial_state", **shape)


def _hgrn2_case(**shape: Any) -> Case:
    def make(T: int, K: int, scale: float = 3.0, padding: bool = False) -> Inputs:
        f = scale * _draw(2, T, 2, K)
        if padding:
            f[0, : T // 3] = f[1, -(T // 3) :] = torch.inf  # keeps the state
        inputs = {"q": _draw(2, T, 2, K), "f": f, "v": _draw(2, T, 2, K)}
        return {**inputs, "lower_bound": 0.3 + 0.6 * torch.rand(2 * K)}

    functions = (partial(_detach_state, f) for f in (hgrn2_attention, hgrn2_attention_reference))
    case = _case("hgrn2_attention", make, *functions, "lower_bound", **shape)
    return replace(case, loosened=10.0)  # for the bound, whose gradient is divided by the gate


def _mlstm_case(**shape: Any) -> Case:
    def make(T: int, K: int, gates: float = 1.0, kind: str = "", state: bool = False) -> Inputs:
        inputs = {name: _draw(2, T, 2, K) for name in ("q", "k", "v")}
        igate, fgate = gates * _draw(2, T, 2), gates * (3 + _draw(2, T, 2))
        if kind == "padding":
            igate[:, -(T // 3) :], fgate[:, -(T // 3) :] = SHUT, OPEN
        if kind == "reset":
            fgate[:, T // 2] = -1e4
        if state:
            inputs |= {"memory": _draw(2, 2, K, K), "normalizer": _draw(2, 2, K)}
            inputs |= {"m": _draw(2, 2)}
        return {**inputs, "igate": igate, "fgate": fgate}

    def run(
        cell: Function, memory=None, normalizer=None, m=None, **x: Tensor
    ) -> tuple[Tensor, ...]:
        h, state = cell(**x, initial_state=None if m is None else (memory, normalizer, m))
        memory, normalizer, m = state
        # Memory and normalizer mean something together with their scale only.
        return h, memory * m.exp()[..., None, None], normalizer * m.exp()[..., None]

    functions = partial(run, mlstm), partial(run, mlstm_reference)
    constants = "memory normalizer m"
    case = _case("mlstm", make, *functions, "igate fgate", constants, **shape)
    return replace(case, loosened=5.0 * max(1.0, shape.get("gates", 1.0)))


def _slstm_case(**shape: Any) -> Case:
    def make(
        T: int, D: int, B: int = 2, scale: float = 1.0, padding: int = 0, state: bool = False
    ) -> Inputs:
        x = _draw(B, T, 4, 4, D)
        x[:, :, :2] *= scale
        x[:, :padding] = torch.tensor([SHUT, 0.0, 0.0, 0.0])[:, None, None]  # absent
        inputs = {"x": x, "recurrent": _draw(4, 4 * D, D) / D}
        if state:
            n = 1 + torch.rand(B, 4, D)
            names = ("h", "c", "n", "m")
            inputs |= dict(zip(names, (*torch.rand(2, B, 4, D), n, _draw(B, 4, D)), strict=True))
        return inputs

    def run(cell: Function, x: Tensor, recurrent: Tensor, **state: Tensor) -> tuple[Tensor, ...]:
        start = tuple(state[name] for name in ("h", "c", "n", "m")) if state else None
        h, (last, c, n, m) = cell(x, recurrent, initial_state=start)
        return h, last, c / n, n.log() + m

    functions = partial(run, slstm), partial(run, slstm_reference)
    return _case("slstm", make, *functions, "recurrent", "h c n m", **shape)


def _scan_case(**shape: Any) -> Case:
    def make(T: int, D: int, N: int, shift: float = 0.0, state: bool = False) -> Inputs:
        inputs = {name: _draw(2, T, D) for name in ("u", "delta", "gate")}
        inputs |= {"b": _draw(2, T, N), "c": _draw(2, T, N)}
        inputs |= {"a": -torch.arange(1.0, N + 1).repeat(D, 1), "skip": _draw(D)}
        inputs |= {"delta_bias": _draw(D) + shift}
        return {**inputs, "initial_state": _draw(2, D, N)} if state else inputs

    def run(scan: Function, u, delta, gate, a, b, c, **others: Tensor) -> tuple[Tensor, Tensor]:
        inputs = (x.mT for x in (u, delta))  # views, as the layer has them
        options = {**others, "gate": gate.mT, "delta_softplus": True}
        y, last = scan(*inputs, a, b.mT, c.mT, **options)
        return y.mT, last.detach()

    functions = partial(run, selective_scan), partial(run, selective_scan_reference)
    constants = "initial_state"
    return _case("selective_scan", make, *functions, "a skip delta_bias", constants, **shape)


# ---- losses


def _targets(tokens: int, vocab: int) -> Tensor:
    targets = torch.randint(0, vocab, (tokens,))
    targets[4::5] = IGNORED
    return targets


def _in_products(run: Function) -> Function:
    """Under autocast where the hidden states are in bf16, as the weights of heads are not."""

    def inside(hidden: Tensor, **others: Tensor) -> Tensor:
        with torch.autocast(
            hidden.device.type, torch.bfloat16, enabled=hidden.dtype == torch.bfloat16
        ):
            return run(hidden=hidden, **others)

    return inside


def _cross_entropy_case(**shape: Any) -> Case:
    def make(T: int, dim: int, vocab: int, scale: float = 1.0) -> Inputs:
        weight = scale * _draw(vocab, dim) / math.sqrt(dim)
        return {"hidden": _draw(2 * T, dim), "weight": weight, "targets": _targets(2 * T, vocab)}

    def run(loss: Function, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return loss(hidden, weight, None, targets, ignore_index=IGNORED) / len(targets)

    ours = _in_products(partial(run, linear_cross_entropy))
    reference = partial(run, linear_cross_entropy_reference)
    return _case("linear_cross_entropy", make, ours, reference, "weight", **shape)


def _distillation_case(**shape: Any) -> Case:
    def make(T: int, dim: int, vocab: int, teachers: int = 1, reverse: bool = False) -> Inputs:
        inputs = {"hidden": _draw(2 * T, dim), "weight": _draw(vocab, dim) / math.sqrt(dim)}
        for index in range(teachers):
            inputs[f"teacher{index}"] = _draw(2 * T, dim)
            inputs[f"head{index}"] = _draw(vocab, dim) / math.sqrt(dim)
        return {**inputs, "targets": _targets(2 * T, vocab)}

    def run(loss: Function, hidden: Tensor, weight: Tensor, targets: Tensor, **x: Tensor) -> Tensor:
        count = len(x) // 2
        teachers = [Head(x[f"teacher{i}"], x[f"head{i}"]) for i in range(count)]
        options = {"alpha": 0.5, "temperature": 2.0, "reverse": shape.get("reverse", False)}
        student = Head(hidden, weight)
        total = loss(student, teachers, targets, ignore_index=IGNORED, **options)
        return total / len(targets)

    ours = _in_products(partial(run, linear_distillation))
    reference = partial(run, linear_distillation_reference)
    constants = "teacher0 head0 teacher1 head1"
    return _case("linear_distillation", make, ours, reference, "weight", constants, **shape)


WIDTHS = [{"dim": dim} for dim in (384, 768, 1024, 50)]
HEADS = [{"heads": 12, "kv_heads": 12, "dim": 64}, {"heads": 32, "kv_heads": 4, "dim": 32}]
CASES: list[Case] = [
    *_by_shape(_norm_case, WIDTHS, dim=128),
    *_by_shape(_add_norm_case, WIDTHS, dim=128),
    *_by_shape(_swiglu_case, [{"dim": dim} for dim in (752, 2048, 2816, 4096, 50)], dim=216),
    _swiglu_case(T=MIDDLE, dim=216, scale=100.0),
    *_by_shape(_head_norm_case, [{"D": dim} for dim in (208, 408, 512, 10)], D=64),
    _head_norm_case(T=MIDDLE, D=64, gate=100.0),
    *_by_shape(
        _block_case,
        [
            *({"blocks": width // 4, "size": 4} for width in (832, 1632, 2048)),
            *({"blocks": 4, "size": dim, "outputs": 2 * dim} for dim in (32, 96, 192, 256)),
        ],
        blocks=64,
        size=4,
    ),
    *_by_shape(_conv_case, [{"dim": dim} for dim in (768, 1536, 1632, 2048, 50)], dim=256),
    *(_conv_case(T=time, dim=256, state=True) for time in (1, MIDDLE)),
    *_by_shape(_rotary_case, HEADS, heads=4, kv_heads=4, dim=32),
    *_by_shape(_attention_case, HEADS, heads=4, kv_heads=4, dim=32),
    *_by_shape(_gla_case, [{"K": 128}], K=32),
    *(_gla_case(T=MIDDLE, K=32, gates=kind) for kind in ("open", "closed", "rare", "reset")),
    *(_gla_case(T=time, K=32, state=True) for time in (1, MIDDLE)),
    *_by_shape(_hgrn2_case, [{"K": 128}], K=32),
    _hgrn2_case(T=512, K=128),
    _hgrn2_case(T=MIDDLE, K=32, scale=30.0),
    _hgrn2_case(T=MIDDLE, K=32, padding=True),
    *_by_shape(_mlstm_case, [{"K": dim} for dim in (208, 408, 512, 10)], K=64),
    _mlstm_case(T=MIDDLE, K=64, gates=10.0),
    *(_mlstm_case(T=MIDDLE, K=64, kind=kind) for kind in ("padding", "reset")),
    *(_mlstm_case(T=time, K=64, state=True) for time in (1, MIDDLE)),
    *_by_shape(_slstm_case, [{"D": dim} for dim in (96, 192, 256, 10)], D=32),
    _slstm_case(T=MIDDLE, D=256, B=16),
    _slstm_case(T=MIDDLE, D=32, B=19, scale=10.0),
    _slstm_case(T=MIDDLE, D=32, padding=7),
    *(_slstm_case(T=time, D=32, state=True) for time in (1, MIDDLE)),
    *_by_shape(
        _scan_case,
        [{"D": 768, "N": 16}, {"D": 1536, "N": 16}, {"D": 2048, "N": 8}, {"D": 50, "N": 5}],
        D=256,
        N=8,
    ),
    *(_scan_case(T=MIDDLE, D=256, N=8, shift=shift) for shift in (-30.0, 30.0, 200.0)),
    *(_scan_case(T=time, D=256, N=8, state=True) for time in (1, MIDDLE)),
    *_by_shape(
        _cross_entropy_case,
        [{"dim": 384, "vocab": 8192}, {"dim": 768, "vocab": 16_000}, {"dim": 50, "vocab": 501}],
        dim=128,
        vocab=2048,
    ),
    # Logits of hundreds, which bf16 rounds by more than one.
    replace(_cross_entropy_case(T=MIDDLE, dim=128, vocab=2048, scale=30.0), types=(torch.float32,)),
    *_by_shape(_distillation_case, [{"dim": 768, "vocab": 16_000}], dim=128, vocab=2048),
    _distillation_case(T=MIDDLE, dim=128, vocab=2048, teachers=2, reverse=True),
]
