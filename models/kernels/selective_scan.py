"""The selective state-space recurrence of Mamba (Gu & Dao 2023, section 3.3).

    h_t = exp(delta_t A) * h_{t-1} + delta_t u_t B_t        per channel, h of `state` numbers
    y_t = sum over the state of C_t * h_t

Legend for shapes: T time, B batch, D channels ("intermediate size"), N state.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import native, paths
from models.kernels.gpu import launch, mamba_library
from models.kernels.shapes import expect

# Steps whose states PyTorch holds at once. A chunk of 4 steps stays in the cache of one core for
# the usual widths; the backward recomputes the states chunk by chunk from the chunk borders.
CHUNK = 4

NATIVE_CHUNK, NATIVE_TILE = 32, 8  # CHUNK and TILE of the C++ version
# Of a channel, in a thread of Triton's programs: from 32 on some of them leave the registers, which
# is still far faster than PyTorch's scan.
TRITON_STATES = 64

LOG2_E = math.log2(math.e)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    skip: Tensor | None = None,
    gate: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The scan with Mamba's surroundings; shapes as in the mamba-ssm library.

    `u` and `delta` are (B, D, T), `a` is (D, N), `b` and `c` are (B, N, T), `skip` (the D of the
    paper) and `delta_bias` are (D,), `gate` is (B, D, T), `initial_state` is (B, D, N), zero if
    there is none. Views of tensors (B, T, ...) are the fastest. Computes in float32 at least.

    Returns the output (B, D, T), of u's type, and the last state (B, D, N), in the type of the
    computation. States carry no gradient: an initial state that wants one is a ValueError.
    """
    batch, dim, time = u.shape
    state = a.shape[1]
    expect("delta", delta, *u.shape)
    expect("a", a, dim, -1)
    expect("b", b, batch, state, time)
    expect("c", c, batch, state, time)
    for name, x, shape in (
        ("skip", skip, (dim,)),
        ("delta_bias", delta_bias, (dim,)),
        ("gate", gate, u.shape),
        ("initial_state", initial_state, (batch, dim, state)),
    ):
        if x is not None:
            expect(name, x, *shape)
    if initial_state is not None and initial_state.requires_grad:
        raise ValueError(
            "initial_state wants a gradient, but the scan passes none to earlier pieces of a "
            "sequence; call detach() on it"
        )
    with torch.autocast(u.device.type, enabled=False):
        inputs = _Inputs(u, delta, a, b, c, skip, gate, delta_bias, delta_softplus, initial_state)
        if _library_takes(inputs):
            paths.note("selective_scan", "library")
            y, last = mamba_library.selective_scan(*inputs[:-1])
        elif _triton_takes(inputs):
            y, last = _scan_triton(inputs)
        else:
            y, last = _scan_native(inputs) if _native_takes(inputs) else _scan_torch(inputs)
    return y.to(u.dtype), last


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    skip: Tensor | None = None,
    gate: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same step by step in float64: the algorithm of mamba-ssm's `selective_scan_ref`."""
    u, delta, a, b, c = (x.double() for x in (u, delta, a, b, c))
    if delta_bias is not None:
        delta = delta + delta_bias.double()[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    start = u.new_zeros(len(u), *a.shape) if initial_state is None else initial_state.double()
    delta_tbd, drive_tbd, b_tbn, c_tbn = _time_first(delta, delta * u, b, c)
    y_tbd, last = recurrence_reference(delta_tbd, drive_tbd, a, b_tbn, c_tbn, start)
    y = y_tbd.permute(1, 2, 0)
    if skip is not None:
        y = y + u * skip.double()[:, None]
    if gate is not None:
        y = y * F.silu(gate.double())
    return y, last


def recurrence_reference(
    delta: Tensor, drive: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence alone: delta, drive = delta u (T, B, D), a (D, N), b, c (T, B, N) and the
    first state (B, D, N) -> y (T, B, D), last state."""
    outputs = []
    for delta_t, drive_t, b_t, c_t in zip(delta, drive, b, c, strict=True):
        state = torch.exp(delta_t[..., None] * a) * state + drive_t[..., None] * b_t[:, None]
        outputs.append((state * c_t[:, None]).sum(2))
    return torch.stack(outputs), state


def _time_first(*tensors: Tensor) -> list[Tensor]:
    return [x.permute(2, 0, 1) for x in tensors]


class _Inputs(NamedTuple):
    """The arguments of `selective_scan`."""

    u: Tensor
    delta: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    skip: Tensor | None
    gate: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool
    initial_state: Tensor | None

    def start(self, a_nd: Tensor) -> Tensor:
        """The state before the first step, (B, N, D), for `a` as the computation wants it."""
        state = a_nd.new_zeros(len(self.u), *a_nd.shape)
        if self.initial_state is not None:
            state[:, : self.a.shape[1]] = self.initial_state.mT
        return state


def _scan_torch(x: _Inputs) -> tuple[Tensor, Tensor]:
    work = torch.promote_types(x.u.dtype, torch.float32)
    inputs = (big.to(work).contiguous() for big in _time_first(x.u, x.delta, x.b, x.c))
    u_tbd, delta_tbd, b_tbn, c_tbn = inputs
    if x.delta_bias is not None:
        delta_tbd = delta_tbd + x.delta_bias.to(work)
    if x.delta_softplus:
        delta_tbd = F.softplus(delta_tbd)
    drive_tbd = delta_tbd * u_tbd
    a_nd = x.a.to(work).t().contiguous()
    y_tbd, last_bnd = _Recurrence.apply(delta_tbd, drive_tbd, a_nd, b_tbn, c_tbn, x.start(a_nd))
    if x.skip is not None:
        y_tbd = torch.addcmul(y_tbd, u_tbd, x.skip.to(work))
    y = y_tbd.permute(1, 2, 0)
    if x.gate is not None:
        y = y * F.silu(x.gate.to(work))
    return y, last_bnd.mT


class _Recurrence(torch.autograd.Function):
    """delta, drive (T, B, D), a (N, D), b, c (T, B, N), state (B, N, D) -> y (T, B, D), last state.

    `drive` is delta * u. Only the states at the chunk borders are kept for the backward.
    """

    @staticmethod
    def forward(
        ctx: Any, delta: Tensor, drive: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        y = torch.empty_like(delta)
        borders = []
        for start in range(0, len(delta), CHUNK):
            steps = slice(start, start + CHUNK)
            borders.append(state)
            decay, states = _chunk_states(delta[steps], drive[steps], a, b[steps], state)
            state = states[-1].clone()  # a view would keep the whole chunk alive
            torch.sum(torch.mul(states, c[steps, :, :, None], out=decay), 2, out=y[steps])
        ctx.save_for_backward(delta, drive, a, b, c, *borders)
        ctx.mark_non_differentiable(state)
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> Any:
        delta, drive, a, b, c, *borders = ctx.saved_tensors
        ddelta, ddrive, db, dc = (torch.empty_like(x) for x in (delta, drive, b, c))
        da = torch.zeros_like(a)
        dstate = torch.zeros_like(borders[0])  # gradient of the chunk's last state from later ones
        for index in reversed(range(len(borders))):
            steps = slice(index * CHUNK, (index + 1) * CHUNK)
            before = borders[index]
            decay, states = _chunk_states(delta[steps], drive[steps], a, b[steps], before)
            dy_steps = dy[steps, :, None]

            dstates = c[steps, :, :, None] * dy_steps  # (chunk, B, N, D)
            dstates[-1] += dstate
            for t in range(len(dstates) - 1, 0, -1):
                dstates[t - 1].addcmul_(decay[t], dstates[t])
            dstate = decay[0] * dstates[0]

            work = torch.empty_like(states)
            torch.sum(torch.mul(states, dy_steps, out=work), 3, out=dc[steps])
            torch.sum(torch.mul(dstates, drive[steps, :, None], out=work), 3, out=db[steps])
            torch.sum(torch.mul(dstates, b[steps, :, :, None], out=work), 2, out=ddrive[steps])

            # d(loss)/d(delta a): the decay's gradient times the decay itself.
            dlog_decay = dstates.mul_(decay)
            dlog_decay[0].mul_(before)
            dlog_decay[1:].mul_(states[:-1])
            torch.sum(torch.mul(dlog_decay, a, out=work), 2, out=ddelta[steps])
            da += torch.mul(dlog_decay, delta[steps, :, None], out=work).sum((0, 1))
        return ddelta, ddrive, da, db, dc, None


def _chunk_states(
    delta: Tensor, drive: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Decays exp(delta a) and states of a few steps, both (steps, B, N, D)."""
    # PyTorch's exp2 is several times faster on CPUs than its exp, and as exact.
    decay = torch.exp2_(delta[:, :, None] * (a * LOG2_E))
    states = drive[:, :, None] * b[:, :, :, None]
    for t in range(len(states)):
        state = states[t].addcmul_(decay[t], state)
    return decay, states


def _library_takes(x: _Inputs) -> bool:
    inputs, states = [*_big(x), x.b, x.c], x.a.shape[1]
    wanted = paths.uses_library("selective_scan", x.u.device.type)
    return wanted and mamba_library.takes_scan(inputs, states, x.initial_state)


def _triton_takes(x: _Inputs) -> bool:
    tensors = [tensor for tensor in x if isinstance(tensor, Tensor)]
    return launch.takes("selective_scan", *tensors, fits=x.a.shape[1] <= TRITON_STATES)


def _scan_triton(x: _Inputs) -> tuple[Tensor, Tensor]:
    from models.kernels.gpu import selective_scan as gpu

    u_btd, delta_btd, b_btn, c_btn = (tensor.mT for tensor in (x.u, x.delta, x.b, x.c))
    gate_btd = None if x.gate is None else x.gate.mT
    inputs = (u_btd, delta_btd, gate_btd, x.a, b_btn, c_btn, x.skip, x.delta_bias, x.initial_state)
    y_btd, last = gpu.selective_scan(*inputs, x.delta_softplus)
    return y_btd.mT, last


def _native_takes(x: _Inputs) -> bool:
    fits = x.u.shape[1] % native.LANES == 0
    return native.takes("selective_scan", *_big(x), fits=fits, types=native.ELEMENT_TYPES)


def _big(x: _Inputs) -> list[Tensor]:
    return [x.u, x.delta] if x.gate is None else [x.u, x.delta, x.gate]


def _scan_native(x: _Inputs) -> tuple[Tensor, Tensor]:
    """Reads u, delta and gate as bf16 if all of them are, else as float32."""
    all_bf16 = all(big.dtype == torch.bfloat16 for big in _big(x))
    dtype = torch.bfloat16 if all_bf16 else torch.float32
    u_btd, delta_btd = (big.mT.to(dtype).contiguous() for big in (x.u, x.delta))
    gate_btd = None if x.gate is None else x.gate.mT.to(dtype)
    missing = -x.a.shape[1] % NATIVE_TILE  # states that are zero at first and remain so
    a_nd = F.pad(x.a.float(), (0, missing)).t().contiguous()
    b_btn, c_btn = (F.pad(small.mT.float(), (0, missing)).contiguous() for small in (x.b, x.c))
    zeros_d = a_nd.new_zeros(a_nd.shape[1])
    skip_d = zeros_d if x.skip is None else x.skip.float().contiguous()
    bias_d = zeros_d if x.delta_bias is None else x.delta_bias.float().contiguous()
    tensors = (u_btd, delta_btd, gate_btd, a_nd, b_btn, c_btn, skip_d, bias_d)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    y_btd, last_bnd = _NativeScan.apply(*tensors, x.start(a_nd), x.delta_softplus, keep)
    return y_btd.mT, last_bnd[:, : x.a.shape[1]].mT


class _NativeScan(torch.autograd.Function):
    """The whole of `selective_scan`, channels last; returns y and the last state.

    u, delta, gate (B, T, D), a (N, D), b, c (B, T, N), skip, bias (D,), state (B, N, D). Keeps its
    inputs and, if `keep`, the states at the chunk borders, (B, chunks, N, D).
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, _, softplus, _ = inputs
        y, last, borders = _forward_native(*inputs)
        ctx.save_for_backward(*tensors, borders)
        ctx.softplus = softplus
        ctx.mark_non_differentiable(last)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> Any:
        *tensors, borders = ctx.saved_tensors
        gradients = list(_backward_native(*tensors, borders, dy.contiguous(), ctx.softplus))
        if tensors[2] is None:
            gradients[2] = None
        return (*gradients, None, None, None)


@torch.library.custom_op("babysweep::selective_scan", mutates_args=())
def _forward_native(
    u: Tensor,
    delta: Tensor,
    gate: Tensor | None,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor,
    bias: Tensor,
    state: Tensor,
    softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    y, last, borders = _empty_outputs(u, state, keep)
    inputs, sizes = _arguments((u, delta, gate, a, b, c, skip, bias), softplus)
    outputs = (y, last, borders if keep else None)
    native.call("selective_scan", "forward", *inputs, state, *outputs, *sizes)
    return y, last, borders


@_forward_native.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    gate: Tensor | None,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor,
    bias: Tensor,
    state: Tensor,
    softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_outputs(u, state, keep)


def _empty_outputs(u: Tensor, state: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    chunks = -(-u.shape[1] // NATIVE_CHUNK) if keep else 0
    borders = state.new_empty(len(state), chunks, *state.shape[1:])
    return torch.empty_like(u), torch.empty_like(state), borders


@torch.library.custom_op("babysweep::selective_scan_backward", mutates_args=())
def _backward_native(
    u: Tensor,
    delta: Tensor,
    gate: Tensor | None,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor,
    bias: Tensor,
    borders: Tensor,
    dy: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the first eight; without a gate its own has no rows."""
    du, ddelta, dgate, _, db, dc, *_ = _empty_gradients(u, gate, a, b, skip)
    da = a.new_empty(len(u), *a.shape)
    dskip, dbias = a.new_empty(2, len(u), a.shape[1])
    inputs, sizes = _arguments((u, delta, gate, a, b, c, skip, bias), softplus)
    outputs = (du, ddelta, None if gate is None else dgate, db, dc, da, dskip, dbias)
    native.call("selective_scan", "backward", *inputs, borders, dy, *outputs, *sizes)
    return du, ddelta, dgate, da.sum(0), db, dc, dskip.sum(0), dbias.sum(0)


@_backward_native.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    gate: Tensor | None,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor,
    bias: Tensor,
    borders: Tensor,
    dy: Tensor,
    softplus: bool,
) -> tuple[Tensor, ...]:
    return _empty_gradients(u, gate, a, b, skip)


def _empty_gradients(
    u: Tensor, gate: Tensor | None, a: Tensor, b: Tensor, vector: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    big = (
        torch.empty_like(u),
        torch.empty_like(u),
        u.new_empty((0 if gate is None else len(u), *u.shape[1:])),
    )
    small = (torch.empty_like(a), torch.empty_like(b), torch.empty_like(b))
    return (*big, *small, torch.empty_like(vector), torch.empty_like(vector))


def _arguments(
    tensors: tuple[Tensor | None, ...], softplus: bool
) -> tuple[list[native.Argument], list[int]]:
    """The arguments that both C++ functions begin and end with."""
    u, delta, gate, a, *rest = tensors
    assert u is not None
    assert a is not None
    gate_rows = None if gate is None else native.Rows(native.rows(gate))
    stride = 0 if gate_rows is None else gate_rows.tensor.stride(0)
    sizes = [*u.shape, len(a), stride, int(softplus), int(u.dtype == torch.bfloat16)]
    return [u, delta, gate_rows, a, *rest], sizes
