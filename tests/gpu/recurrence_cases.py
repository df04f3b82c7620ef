"""Cases of the recurrences: lengths, extreme gates, padding, states.

Legend: B batch, T time, K head dim of keys and values, D head dim or channels, N state.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.gated_delta_rule import gated_delta_rule, gated_delta_rule_reference
from models.kernels.gated_linear_attention import (
    gated_linear_attention,
    gated_linear_attention_reference,
    hgrn2_attention,
    hgrn2_attention_reference,
)
from models.kernels.mlstm import mlstm, mlstm_reference
from models.kernels.selective_scan import selective_scan, selective_scan_reference
from models.kernels.slstm import slstm, slstm_reference
from tests.gpu.cases import MIDDLE, Case, Function, Inputs, by_shape, case_of, draw
from tests.models.kernel_checks import log_gates

SHUT, OPEN = -1e30, 1e30  # gates of padding, as `models.xlstm` sets them


def _detach_state(recurrence: Function, *inputs: Tensor, **named: Tensor) -> tuple[Tensor, Tensor]:
    """States are compared, but carry no gradient."""
    output, state = recurrence(*inputs, **named)
    return output, state.detach()


def _delta_case(**shape: Any) -> Case:
    def make(
        T: int,
        K: int,
        gates: str = "wide",
        alike: float = 0.0,
        strength: float = 2.0,
        padding: bool = False,
        state: bool = False,
    ) -> Inputs:
        common = alike * F.normalize(draw(1, 1, 1, 1, K), dim=-1)
        q, k = F.normalize(common + F.normalize(draw(2, 2, T, 2, K), dim=-1), dim=-1)
        g, beta = log_gates(gates, (2, T, 2)), strength * torch.rand(2, T, 2)
        if alike:
            beta = strength - beta / 20
        if padding:
            g[:, -(T // 3) :] = beta[:, -(T // 3) :] = 0.0  # keeps the state
        inputs = {"q": q, "k": k, "v": draw(2, T, 2, 2 * K), "g": g, "beta": beta}
        return {**inputs, "initial_state": draw(2, 2, K, 2 * K)} if state else inputs

    # Keys of length 1: scaled as below outputs are of order one.
    both = (partial(f, scale=1.0) for f in (gated_delta_rule, gated_delta_rule_reference))
    functions = (partial(_detach_state, f) for f in both)
    return case_of("gated_delta_rule", make, *functions, "g beta", "initial_state", **shape)


def _gla_case(**shape: Any) -> Case:
    def make(T: int, K: int, gates: str = "wide", state: bool = False) -> Inputs:
        parts = {"q": draw(2, T, 2, K), "k": draw(2, T, 2, K), "v": draw(2, T, 2, K)}
        inputs = {**parts, "g": log_gates(gates, (2, T, 2, K))}
        return {**inputs, "initial_state": draw(2, 2, K, K)} if state else inputs

    both = (gated_linear_attention, gated_linear_attention_reference)
    functions = (partial(_detach_state, f) for f in both)
    return case_of("gated_linear_attention", make, *functions, "g", "initial_state", **shape)


def _hgrn2_case(**shape: Any) -> Case:
    def make(T: int, K: int, scale: float = 3.0, padding: bool = False) -> Inputs:
        f = scale * draw(2, T, 2, K)
        if padding:
            f[0, : T // 3] = f[1, -(T // 3) :] = torch.inf  # keeps the state
        inputs = {"q": draw(2, T, 2, K), "f": f, "v": draw(2, T, 2, K)}
        return {**inputs, "lower_bound": 0.3 + 0.6 * torch.rand(2 * K)}

    functions = (partial(_detach_state, f) for f in (hgrn2_attention, hgrn2_attention_reference))
    case = case_of("hgrn2_attention", make, *functions, "lower_bound", **shape)
    return replace(case, loosened=10.0)  # for the bound, whose gradient is divided by the gate


def _mlstm_case(**shape: Any) -> Case:
    def make(T: int, K: int, gates: float = 1.0, kind: str = "", state: bool = False) -> Inputs:
        inputs = {name: draw(2, T, 2, K) for name in ("q", "k", "v")}
        igate, fgate = gates * draw(2, T, 2), gates * (3 + draw(2, T, 2))
        if kind == "padding":
            igate[:, -(T // 3) :], fgate[:, -(T // 3) :] = SHUT, OPEN
        if kind == "reset":
            fgate[:, T // 2] = -1e4
        if state:
            inputs |= {"memory": draw(2, 2, K, K), "normalizer": draw(2, 2, K)}
            inputs |= {"m": draw(2, 2)}
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
    case = case_of("mlstm", make, *functions, "igate fgate", constants, **shape)
    return replace(case, loosened=5.0 * max(1.0, shape.get("gates", 1.0)))


def _slstm_case(**shape: Any) -> Case:
    def make(
        T: int,
        D: int,
        B: int = 2,
        scale: float = 1.0,
        padding: int = 0,
        state: bool = False,
        bias: bool = False,
    ) -> Inputs:
        x = draw(B, T, 4, 4, D)
        x[:, :, :2] *= scale
        x[:, :padding] = torch.tensor([SHUT, 0.0, 0.0, 0.0])[:, None, None]  # absent
        inputs = {"x": x, "recurrent": draw(4, 4 * D, D) / D}
        if state:
            n = 1 + torch.rand(B, 4, D)
            names = ("h", "c", "n", "m")
            inputs |= dict(zip(names, (*torch.rand(2, B, 4, D), n, draw(B, 4, D)), strict=True))
        if bias:
            inputs["bias"] = draw(4, 4, D)
        return inputs

    def run(cell: Function, x: Tensor, recurrent: Tensor, **state: Tensor) -> tuple[Tensor, ...]:
        start = tuple(state[name] for name in ("h", "c", "n", "m")) if state else None
        h, (last, c, n, m) = cell(x, recurrent, initial_state=start)
        return h, last, c / n, n.log() + m

    def ours(bias: Tensor | None = None, **inputs: Tensor) -> tuple[Tensor, ...]:
        return run(partial(slstm, bias=bias), **inputs)

    def reference(x: Tensor, bias: Tensor | None = None, **inputs: Tensor) -> tuple[Tensor, ...]:
        return run(slstm_reference, x if bias is None else x + bias, **inputs)

    return case_of("slstm", make, ours, reference, "recurrent bias", "h c n m", **shape)


def _scan_case(**shape: Any) -> Case:
    def make(T: int, D: int, N: int, shift: float = 0.0, state: bool = False) -> Inputs:
        inputs = {name: draw(2, T, D) for name in ("u", "delta", "gate")}
        inputs |= {"b": draw(2, T, N), "c": draw(2, T, N)}
        inputs |= {"a": -torch.arange(1.0, N + 1).repeat(D, 1), "skip": draw(D)}
        inputs |= {"delta_bias": draw(D) + shift}
        return {**inputs, "initial_state": draw(2, D, N)} if state else inputs

    def run(scan: Function, u, delta, gate, a, b, c, **others: Tensor) -> tuple[Tensor, Tensor]:
        inputs = (x.mT for x in (u, delta))  # views, as the layer has them
        options = {**others, "gate": gate.mT, "delta_softplus": True}
        y, last = scan(*inputs, a, b.mT, c.mT, **options)
        return y.mT, last.detach()

    functions = partial(run, selective_scan), partial(run, selective_scan_reference)
    constants = "initial_state"
    return case_of("selective_scan", make, *functions, "a skip delta_bias", constants, **shape)


RECURRENCE_CASES: list[Case] = [
    *by_shape(_delta_case, [{"K": dim} for dim in (96, 256, 128, 10)], K=32),
    *(_delta_case(T=MIDDLE, K=32, gates=kind) for kind in ("open", "closed", "rare", "reset")),
    # Keys much alike, also those that write twice over: inverses of chunks have large entries, and
    # updates cancel each other, which bf16 has not the digits for.
    *(
        replace(
            _delta_case(T=MIDDLE, K=32, gates="open", alike=10.0, strength=strength),
            types=(torch.float32,),
            loosened=5.0,
        )
        for strength in (1.0, 2.0)
    ),
    _delta_case(T=MIDDLE, K=32, padding=True),
    *(_delta_case(T=time, K=32, state=True) for time in (1, MIDDLE)),
    *by_shape(_gla_case, [{"K": 128}], K=32),
    *(_gla_case(T=MIDDLE, K=32, gates=kind) for kind in ("open", "closed", "rare", "reset")),
    *(_gla_case(T=time, K=32, state=True) for time in (1, MIDDLE)),
    *by_shape(_hgrn2_case, [{"K": 128}], K=32),
    _hgrn2_case(T=512, K=128),
    _hgrn2_case(T=MIDDLE, K=32, scale=30.0),
    _hgrn2_case(T=MIDDLE, K=32, padding=True),
    *by_shape(_mlstm_case, [{"K": dim} for dim in (208, 408, 512, 10)], K=64),
    # Sums that nearly cancel, of numbers that bf16 rounds.
    replace(_mlstm_case(T=MIDDLE, K=64, gates=10.0), types=(torch.float32,)),
    *(_mlstm_case(T=MIDDLE, K=64, kind=kind) for kind in ("padding", "reset")),
    *(_mlstm_case(T=time, K=64, state=True) for time in (1, MIDDLE)),
    *by_shape(_slstm_case, [{"D": dim} for dim in (96, 192, 256, 10)], D=32),
    _slstm_case(T=MIDDLE, D=256, B=16),
    _slstm_case(T=MIDDLE, D=32, B=19, scale=10.0),
    _slstm_case(T=MIDDLE, D=32, padding=7),
    *(_slstm_case(T=time, D=32, state=True) for time in (1, MIDDLE)),
    *(_slstm_case(T=time, D=32, bias=True) for time in (7, 48, MIDDLE)),
    *by_shape(
        _scan_case,
        [{"D": 768, "N": 16}, {"D": 1536, "N": 16}, {"D": 2048, "N": 8}, {"D": 50, "N": 5}],
        D=256,
        N=8,
    ),
    *(_scan_case(T=MIDDLE, D=256, N=8, shift=shift) for shift in (-30.0, 30.0, 200.0)),
    *(_scan_case(T=time, D=256, N=8, state=True) for time in (1, MIDDLE)),
]
