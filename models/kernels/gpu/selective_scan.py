"""The selective scan in Triton, with softplus, bias, skip and gate inside.

Legend for shapes: B batch, T time, D channels, N states of a channel (a power of two in the
kernels), K steps that a program takes at once.

Programs go from step to step, with the states of some channels of one sequence in registers.
Nothing but the inputs is kept for the backward. It runs the recurrence once more for the states
before every K-th step, the borders (4 N / K bytes for each number in u, while it runs), and once
more from each of these, holding K states in registers while it walks back. Each program writes its
part of the gradients of b and c, together N / 4 bytes for each number in u.

A program is one warp, a lane is a channel and has all its states: so sums over states stay in a
thread. What is summed over channels, for the gradients of b and c, is transposed, two steps a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels.gpu.launch import launch

CHANNELS = 32  # of a program: one warp, each thread with all states of a channel
MOST_STEPS = 8  # that a program takes at once
LOG2_E, LN_2 = tl.constexpr(math.log2(math.e)), tl.constexpr(math.log(2))


@torch.compiler.disable
def selective_scan(
    u: Tensor,
    delta: Tensor,
    gate: Tensor | None,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor | None,
    bias: Tensor | None,
    initial: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """u, delta, gate (B, T, D), a (D, N), b, c (B, T, N), skip, bias (D,), initial (B, D, N) -> y
    (B, T, D), of u's type, and the last state (B, D, N), in float32, without a gradient.

    The rows of u, delta, gate, b and c may lie apart; each tensor may be float32 or bf16.
    """
    rows = (None if x is None else _rows(x) for x in (u, delta, gate, b, c))
    u, delta, gate, b, c = rows  # type: ignore[assignment]
    skip, bias = (None if x is None else x.contiguous() for x in (skip, bias))
    y, last = _Scan.apply(u, delta, gate, a, b, c, skip, bias, initial, softplus)
    return y, last.mT


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


class _Scan(torch.autograd.Function):
    """Keeps its inputs only."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, softplus = inputs
        y, last = forward(tensors, softplus)
        ctx.save_for_backward(*tensors)
        ctx.softplus = softplus
        ctx.mark_non_differentiable(last)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> Any:
        return *backward(ctx.saved_tensors, dy, ctx.softplus), None, None


def forward(tensors: Sequence[Any], softplus: bool) -> tuple[Tensor, Tensor]:
    """y (B, T, D) and the last state (B, N, D), from the tensors that `selective_scan` takes, their
    last axis without gaps."""
    u, a = tensors[0], tensors[3]
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    last = u.new_empty(len(u), *a.mT.shape, dtype=torch.float32)
    steps, shared = _steps_forward(u, a.shape[1]), _shared(*tensors[3:6])
    _run_forward(tensors, *shared, softplus, steps, y, last, None)
    return y, last


def _steps_forward(u: Tensor, states: int) -> int:
    """Steps whose inputs are loaded at once, as many as fit into the registers of an A100."""
    steps = 16 // u.element_size()
    return max(2, min(steps, 16 * steps // triton.next_power_of_2(states)))


def _run_forward(
    tensors: Any,
    rates: Tensor,
    bc: Tensor,
    softplus: bool,
    steps: int,
    y: Any,
    last: Any,
    borders: Any,
) -> None:
    """Fills y and last, or borders (B, T / steps, N, D)."""
    u, delta, gate, *_, skip, bias, initial = tensors
    if borders is not None:
        gate = skip = None  # which the states do not depend on
    (batch, time, dim), states = u.shape, len(rates)
    items, rows = _strides(u=u, delta=delta, gate=gate)
    launch(
        _forward,
        (batch * triton.cdiv(dim, CHANNELS),),
        *(u, delta, gate, rates, bc, skip, bias),
        *(None if initial is None else initial.mT.contiguous(), y, last, borders),
        *(time, bc.shape[1], 0, *items),
        num_warps=CHANNELS // 32,
        DIM=dim,
        STATES=states,
        D=CHANNELS,
        N=triton.next_power_of_2(states),
        STEPS=steps,
        SOFTPLUS=softplus,
        **rows,
    )


def backward(
    tensors: Sequence[Any], dy: Tensor, softplus: bool, dgate: Tensor | None = None
) -> list[Any]:
    """Gradients of u, delta, gate, a, b, c, skip and bias.

    That of the gate goes into `dgate`, of the gate's strides, if given.
    """
    u, delta, gate, a, b, c, skip, bias, _ = tensors
    dy, like_gate = _rows(dy), dgate is not None
    (batch, time, dim), states = u.shape, a.shape[1]
    block_n = triton.next_power_of_2(states)
    steps = 2 if block_n > 16 else 4
    chunks, blocks = triton.cdiv(time, steps), triton.cdiv(dim, CHANNELS)
    borders = u.new_empty(batch, chunks, states, dim, dtype=torch.float32)
    rates, bc = _shared(a, b, c)
    _run_forward(tensors, rates, bc, softplus, steps, None, None, borders)
    du, ddelta = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, delta))
    if gate is not None and dgate is None:
        dgate = torch.empty_like(gate, memory_format=torch.contiguous_format)
    dbc = u.new_empty(blocks, batch, time, 2, states, dtype=torch.float32)
    dchannels = u.new_empty(batch, states + 2, dim, dtype=torch.float32)
    items, rows = _strides(u=u, delta=delta, gate=gate, dy=dy)
    launch(
        _backward,
        (batch * blocks,),
        *(u, delta, gate, rates, bc, skip, bias, borders, dy),
        *(du, ddelta, dgate, dbc, dchannels),
        *(batch, time, bc.shape[1], 0, *items),
        num_warps=CHANNELS // 32,
        DIM=dim,
        STATES=states,
        LEVELS=CHANNELS.bit_length() - 1,
        N=block_n,
        STEPS=steps,
        SOFTPLUS=softplus,
        LIKE_GATE=like_gate,
        **rows,
    )
    db, dc = dbc.sum(0).unbind(2)
    da, dskip, dbias = dchannels.sum(0).split([states, 1, 1])
    return [
        *(du, ddelta, dgate, da.mT.to(a.dtype), db.to(b.dtype), dc.to(c.dtype)),
        None if skip is None else dskip[0].to(skip.dtype),
        None if bias is None else dbias[0].to(bias.dtype),
    ]


def _shared(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Tensors that all programs take, laid out for them: a (N, D); b and c in float32,
    (B, T, 2, N), with zeros up to whole chunks and a power of two of states.

    So no program converts b and c, nor asks where they end.
    """
    batch, time, states = b.shape
    shape = batch, triton.cdiv(time, MOST_STEPS) * MOST_STEPS, 2, triton.next_power_of_2(states)
    whole = shape[1] == time and shape[3] == states
    wide = (b.new_empty if whole else b.new_zeros)(shape, dtype=torch.float32)
    wide[:, :time, 0, :states] = b
    wide[:, :time, 1, :states] = c
    return a.mT.contiguous(), wide


def _strides(**tensors: Tensor | None) -> tuple[list[int], dict[str, int]]:
    """Strides from sequence to sequence, as arguments, and from step to step, as constants: U_ROW.

    The former are in units of ITEM_UNIT, which tells the compiler how all rows are aligned. The
    latter depend on the widths of a model only.
    """
    present = {name: x for name, x in tensors.items() if x is not None}
    some = next(iter(present.values()))
    # A single step's stride may be any number; it is not used.
    rows = {name: some.shape[2] if x.shape[1] == 1 else x.stride(1) for name, x in present.items()}
    items = {name: x.stride(0) for name, x in present.items()}
    unit = math.gcd(8, *items.values())
    constants = {f"{name.upper()}_ROW": rows.get(name, 0) for name in tensors}
    return [items.get(name, 0) // unit for name in tensors], {"ITEM_UNIT": unit, **constants}


@triton.jit
def _inverse(x) -> tl.tensor:
    """1 / x for x >= 1, in two instructions."""
    root = tl.rsqrt(x)
    return root * root


@triton.jit
def _sigmoid(x) -> tl.tensor:
    return _inverse(1 + tl.exp2(-x * LOG2_E))


@triton.jit
def _softplus(x) -> tuple[tl.tensor, tl.tensor]:
    """log(1 + exp(x)) and its derivative, exact to float32's precision for any size of the result.

    log(1 + e) = 2 artanh(s) with e = exp(-|x|) and s = e / (2 + e) <= 1/3; the polynomial is
    artanh(s) / s in s^2, fitted to 5e-9.
    """
    e = tl.exp2(-tl.abs(x) * LOG2_E)
    inverse = _inverse((1 + e) * (2 + e))
    s = e * (1 + e) * inverse
    square = s * s
    series = 0.20010764 + square * (0.140009 + square * 0.14006007)
    series = 1 + square * (0.33333208 + square * series)
    slope = tl.where(x > 0, 1.0, e) * (2 + e) * inverse
    return tl.where(x > 0, x, 0.0) + 2 * s * series, slope


@triton.jit
def _load(pointers, mask) -> tl.tensor:
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _load_given(x, at, mask) -> tl.tensor:
    """Zeros if nothing is given."""
    if x is None:
        return tl.zeros(mask.shape, tl.float32)
    else:
        return _load(x + at, mask)


@triton.jit
def _step_size(x, mask, shift, SOFTPLUS: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Step sizes and their derivatives with respect to what is in memory, x."""
    x = x + shift
    slope = x * 0 + 1
    if SOFTPLUS:
        x, slope = _softplus(x)
    return tl.where(mask, x, 0.0), slope


# Numbers about which nothing is compiled in. `zero` is added to where states lie in memory, so that
# the compiler knows neighbouring channels to lie side by side, and gives them to neighbouring
# lanes, but knows of no alignment, and gives no thread several of them at once.
_PLAIN = ["time", "padded", "zero", "u_item", "delta_item", "gate_item"]


@triton.jit(do_not_specialize=_PLAIN)
def _forward(
    u, delta, gate, a, bc, skip, bias, initial, y, last, borders,
    time, padded, zero, u_item, delta_item, gate_item,
    DIM: tl.constexpr, STATES: tl.constexpr, D: tl.constexpr, N: tl.constexpr,
    U_ROW: tl.constexpr, DELTA_ROW: tl.constexpr, GATE_ROW: tl.constexpr,
    ITEM_UNIT: tl.constexpr, STEPS: tl.constexpr, SOFTPLUS: tl.constexpr,
) -> None:  # fmt: skip
    """Scan D channels of one sequence; a state is (N, D), its first axis in a thread."""
    blocks = tl.cdiv(DIM, D)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    channel = tl.program_id(0) % blocks * D + tl.arange(0, D)
    n = tl.arange(0, N)
    inside = channel < DIM
    both = inside[None, :] & (n < STATES)[:, None]
    across, down = (channel + zero)[None, :], n[:, None] * DIM
    rate = _load(a + across + down, both) * LOG2_E
    h = _load_given(initial, item * STATES * DIM + across + down, both)
    gain, shift = _load_given(skip, channel, inside), _load_given(bias, channel, inside)
    item_unit = item * ITEM_UNIT
    for start in range(0, time, STEPS):
        step = tl.cast(start, tl.int64)
        if borders is not None:
            row = item * tl.cdiv(time, STEPS) + step // STEPS
            tl.store(borders + row * STATES * DIM + across + down, h, mask=both)
        u_at = u + item_unit * u_item + step * U_ROW + channel
        delta_at = delta + item_unit * delta_item + step * DELTA_ROW + channel
        bc_at = bc + (item * padded + step) * (2 * N) + n
        y_at, gate_at = y, gate
        if y is not None:
            y_at = y + (item * time + step) * DIM + channel
        if gate is not None:
            gate_at = gate + item_unit * gate_item + step * GATE_ROW + channel
        h = _pass_steps(
            u_at, delta_at, gate_at, bc_at, y_at, h, rate, gain, shift, channel,
            start, time, DIM, N, U_ROW, DELTA_ROW, GATE_ROW, STEPS, SOFTPLUS,
        )  # fmt: skip
    if last is not None:
        tl.store(last + item * DIM * STATES + across + down, h, mask=both)


@triton.jit
def _pass_steps(
    u, delta, gate, bc, y, h, rate, gain, shift, channel, start, time,
    DIM: tl.constexpr, N: tl.constexpr,
    U_ROW: tl.constexpr, DELTA_ROW: tl.constexpr, GATE_ROW: tl.constexpr,
    STEPS: tl.constexpr, SOFTPLUS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The state behind STEPS steps of a sequence, at these places, from that in front of them, h.

    Their outputs are stored together, so that no store keeps their loads from starting.
    """
    outputs = ()
    for k in tl.static_range(STEPS):
        there = channel < tl.where(start + k < time, DIM, 0)
        u_t = _load(u + k * U_ROW, there)
        # Behind the end delta is zero, and the state stays.
        delta_t = _load(delta + k * DELTA_ROW, there)
        delta_t, _ = _step_size(delta_t, there, shift, SOFTPLUS)
        b_t = tl.load(bc + k * 2 * N)
        h = tl.exp2(delta_t[None, :] * rate) * h + (delta_t * u_t)[None, :] * b_t[:, None]
        if y is not None:
            c_t = tl.load(bc + k * 2 * N + N)
            y_t = tl.sum(h * c_t[:, None], 0) + gain * u_t
            if gate is not None:
                gate_t = _load(gate + k * GATE_ROW, there)
                y_t = y_t * gate_t * _sigmoid(gate_t)
            outputs = outputs + (y_t,)  # type: ignore[assignment]
    if y is not None:
        for k in tl.static_range(STEPS):
            there = channel < tl.where(start + k < time, DIM, 0)
            tl.store(y + k * DIM, outputs[k], mask=there)
    return h


@triton.jit
def _sum_channels(x, R: tl.constexpr, LEVELS: tl.constexpr) -> tl.tensor:
    """(R, 2^LEVELS) -> (R,)

    Halves of the lanes swap halves of the rows and add what they get, and so on: a shuffle for each
    row, where `tl.sum` takes log2(D).
    """
    for level in tl.static_range(LEVELS):
        low, high = tl.split(tl.reshape(x, (R, 1 << (LEVELS - 1 - level), 2)))
        x = low + high
    return tl.reshape(x, (R,))


@triton.jit
def _store_sums(
    to, earlier, later, t, time, k: tl.constexpr,
    STATES: tl.constexpr, LEVELS: tl.constexpr, N: tl.constexpr,
) -> None:  # fmt: skip
    """Parts (N, 2^LEVELS) of the gradients of b or c of step t, the k-th, and of the next one."""
    both = tl.reshape(tl.permute(tl.join(earlier, later), (2, 0, 1)), (2 * N, 1 << LEVELS))
    row = tl.arange(0, 2 * N)
    there = row % N < tl.where(t + row // N < time, STATES, 0)
    at = (k + row // N) * (2 * STATES) + row % N
    tl.store(to + at, _sum_channels(both, 2 * N, LEVELS), mask=there)


@triton.jit(do_not_specialize=["batch", *_PLAIN, "dy_item"])
def _backward(
    u, delta, gate, a, bc, skip, bias, borders, dy, du, ddelta, dgate, dbc, dchannels,
    batch, time, padded, zero, u_item, delta_item, gate_item, dy_item,
    DIM: tl.constexpr, STATES: tl.constexpr, LEVELS: tl.constexpr, N: tl.constexpr,
    U_ROW: tl.constexpr, DELTA_ROW: tl.constexpr, GATE_ROW: tl.constexpr, DY_ROW: tl.constexpr,
    ITEM_UNIT: tl.constexpr, STEPS: tl.constexpr, SOFTPLUS: tl.constexpr,
    LIKE_GATE: tl.constexpr,
) -> None:  # fmt: skip
    """All steps of D channels of one sequence, from the last to the first; states as in `_forward`.

    db and dc are summed over the channels of the program, the rest over its steps.
    """
    D: tl.constexpr = 1 << LEVELS
    blocks = tl.cdiv(DIM, D)
    block = tl.program_id(0) % blocks
    item = (tl.program_id(0) // blocks).to(tl.int64)
    channel = block * D + tl.arange(0, D)
    n = tl.arange(0, N)
    inside = channel < DIM
    both = inside[None, :] & (n < STATES)[:, None]
    across, down = (channel + zero)[None, :], n[:, None] * DIM
    rate = _load(a + across + down, both) * LOG2_E
    gain, shift = _load_given(skip, channel, inside), _load_given(bias, channel, inside)
    item_unit = item * ITEM_UNIT
    u, delta, dy = u + item_unit * u_item, delta + item_unit * delta_item, dy + item_unit * dy_item
    DGATE_ROW: tl.constexpr = GATE_ROW if LIKE_GATE else DIM
    if gate is not None:
        gate += item_unit * gate_item
        dgate += (item_unit * gate_item if LIKE_GATE else item * time * DIM) + channel
    chunks = tl.cdiv(time, STEPS)
    borders += item * chunks * STATES * DIM
    dbc += (block * batch + item) * time * 2 * STATES
    dlater = tl.zeros((N, D), tl.float32)
    da = tl.zeros((N, D), tl.float32)
    dskip = tl.zeros((D,), tl.float32)
    dbias = tl.zeros((D,), tl.float32)
    for index in range(chunks):
        start = (chunks - 1 - index) * STEPS
        step = tl.cast(start, tl.int64)
        at = borders + step // STEPS * (STATES * DIM) + across + down
        h = tl.load(at, mask=both, other=0.0)
        out = (item * time + step) * DIM + channel
        gate_at, dgate_at = gate, dgate
        if gate is not None:
            gate_at = gate + step * GATE_ROW + channel
            dgate_at = dgate + step * DGATE_ROW
        dlater, da, dskip, dbias = _pass_back(
            u + step * U_ROW + channel, delta + step * DELTA_ROW + channel, gate_at,
            bc + (item * padded + step) * (2 * N) + n, dy + step * DY_ROW + channel, du,
            ddelta, dgate_at, dbc + step * 2 * STATES, h, dlater, da, dskip, dbias,
            rate, gain, shift, channel, start, time, zero, out, DIM, STATES, LEVELS, N,
            U_ROW, DELTA_ROW, GATE_ROW, DY_ROW, DGATE_ROW, STEPS, SOFTPLUS,
        )  # fmt: skip
    dchannels += item * (STATES + 2) * DIM
    tl.store(dchannels + across + down, da, mask=both)
    tl.store(dchannels + STATES * DIM + channel, dskip, mask=inside)
    tl.store(dchannels + (STATES + 1) * DIM + channel, dbias, mask=inside)


@triton.jit
def _pass_back(
    u, delta, gate, bc, dy, du, ddelta, dgate, dbc, h, dlater, da, dskip, dbias,
    rate, gain, shift, channel, start, time, zero, out,
    DIM: tl.constexpr, STATES: tl.constexpr, LEVELS: tl.constexpr, N: tl.constexpr,
    U_ROW: tl.constexpr, DELTA_ROW: tl.constexpr, GATE_ROW: tl.constexpr, DY_ROW: tl.constexpr,
    DGATE_ROW: tl.constexpr, STEPS: tl.constexpr, SOFTPLUS: tl.constexpr,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """STEPS steps forward from the state in front of them, h, and back through them: the sums of
    gradients with their parts."""
    us, raws, dys, gates = (), (), (), ()
    for k in tl.static_range(STEPS):  # all that may come from afar, before anything waits for it
        there = channel < tl.where(start + k < time, DIM, 0)
        us += (_load(u + k * U_ROW, there),)  # type: ignore[assignment]
        raws += (_load(delta + k * DELTA_ROW, there),)  # type: ignore[assignment]
        dys += (_load(dy + k * DY_ROW, there),)  # type: ignore[assignment]
        if gate is not None:
            gates += (_load(gate + k * GATE_ROW, there),)  # type: ignore[assignment]
    kept, deltas, slopes, ys, dgates = (h,), (), (), (), ()
    for k in tl.static_range(STEPS):
        there = channel < tl.where(start + k < time, DIM, 0)
        delta_t, slope = _step_size(raws[k], there, shift, SOFTPLUS)
        b_t = tl.load(bc + k * 2 * N)
        h = tl.exp2(delta_t[None, :] * rate) * h + (delta_t * us[k])[None, :] * b_t[:, None]
        kept, deltas, slopes = kept + (h,), deltas + (delta_t,), slopes + (slope,)  # type: ignore[assignment]
        dy_t = dys[k]  # type: ignore[var-annotated]
        if gate is not None:
            c_t = tl.load(bc + k * 2 * N + N)
            y_t = tl.sum(h * c_t[:, None], 0) + gain * us[k]
            dgate_t, dy_t = _through_gate(gates[k], y_t, dy_t)
            dgates = dgates + (dgate_t,)  # type: ignore[assignment]
        ys = ys + (dy_t,)  # type: ignore[assignment]
        if k % 2:
            later, earlier = h * dy_t[None, :], kept[k] * ys[k - 1][None, :]
            _store_sums(dbc + STATES, earlier, later, start + k - 1, time, k - 1, STATES, LEVELS, N)
    if gate is not None:
        for k in tl.static_range(STEPS):  # together, so that no store keeps the loads from starting
            there = channel < tl.where(start + k < time, DIM, 0)
            tl.store(dgate + k * DGATE_ROW, dgates[k], mask=there)
    parts = ()
    for k in tl.static_range(STEPS - 1, -1, -1):
        there = channel < tl.where(start + k < time, DIM, 0)
        u_t, dy_t, delta_t, slope = us[k], ys[k], deltas[k], slopes[k]  # type: ignore[var-annotated]
        b_t, c_t = tl.load(bc + k * 2 * N), tl.load(bc + k * 2 * N + N)
        dh = dlater + dy_t[None, :] * c_t[:, None]
        parts = parts + (dh * (delta_t * u_t)[None, :],)  # type: ignore[assignment]
        if k % 2 == 0:
            later, earlier = parts[STEPS - 2 - k], parts[STEPS - 1 - k]
            _store_sums(dbc, earlier, later, start + k, time, k, STATES, LEVELS, N)
        ddrive = tl.sum(dh * b_t[:, None], 0)
        # Taken once more: the compiler does not know that these are the numbers of the way forward,
        # which it would keep for all steps, where registers are short.
        dlater = dh * tl.exp2((delta_t + zero)[None, :] * rate)
        dexponent = dlater * kept[k]
        da += dexponent * delta_t[None, :]
        ddelta_t = (tl.sum(dexponent * rate, 0) * LN_2 + ddrive * u_t) * slope
        tl.store(du + out + k * DIM, ddrive * delta_t + dy_t * gain, mask=there)
        tl.store(ddelta + out + k * DIM, ddelta_t, mask=there)
        dskip += dy_t * u_t
        dbias += tl.where(there, ddelta_t, 0.0)
    return dlater, da, dskip, dbias


@triton.jit
def _through_gate(gate, y, dy) -> tuple[tl.tensor, tl.tensor]:
    """Gradients of the gate and of y, from that of y * gate * sigmoid(gate)."""
    opened = _sigmoid(gate)
    return dy * y * opened * (1 + gate * (1 - opened)), dy * gate * opened
