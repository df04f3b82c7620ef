"""The sLSTM cell of xLSTM (Beck et al. 2024, equations 8-18), with recurrent weights per head.

    i, f, z, o = x_t + R h_{t-1}                             before activation
    m_t = max(log sigmoid(f) + m_{t-1}, i)                   stabiliser
    c_t = exp(log sigmoid(f) + m_{t-1} - m_t) c_{t-1} + exp(i - m_t) tanh(z)
    n_t = exp(log sigmoid(f) + m_{t-1} - m_t) n_{t-1} + exp(i - m_t)
    h_t = sigmoid(o) c_t / n_t

An empty memory is h = c = n = 0 with m = -inf. The recurrence cannot be parallelised over time;
what makes it fast here is one autograd node for the whole sequence in place of one per operation
and step, and in C++ one task per head and few rows, which stays in the cache.
Legend: T time, B batch, H heads, G = 4 gates (input, forget, cell, output), D head dim.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import native
from models.kernels.gpu import launch
from models.kernels.shapes import expect

# As in slstm.cpp: the columns of a panel of weights, the rows of a task, the steps between marks.
PANEL, ROWS, STEPS = 2 * native.LANES, 8, 8
WIDEST_TRITON = 256  # head dim

State: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]  # h, c, n, m, each (B, H, D)


def slstm(
    x: Tensor,
    recurrent: Tensor,
    *,
    bias: Tensor | None = None,
    initial_state: State | None = None,
) -> tuple[Tensor, State]:
    """x (B, T, G, H, D); recurrent (H, G * D, D); bias (G, H, D) -> h (B, T, H, D), last state.

    Computes in float32 at least and returns that type; in Triton, where x is bf16, the products of
    h are bf16's and h is bf16. The state (h, c, n, m), each (B, H, D), is
    carried without a gradient: ValueError if the initial one requires it. Where its n is 0 the
    memory counts as empty, whatever its m.

    First steps with i = -1e30 and f = z = o = 0 are as good as absent: their h is 0, and the first
    step behind them gives what they put into n a weight of exactly 0. Steps with i = -1e30 and
    f = 1e30, at any place, leave c, n and m as they are.
    """
    batch, _, _, heads, dim = x.shape
    expect("x", x, batch, -1, 4, heads, dim)
    expect("recurrent", recurrent, heads, 4 * dim, dim)
    for part in initial_state or ():
        expect("a part of initial_state", part, batch, heads, dim)
    if initial_state is not None and any(part.requires_grad for part in initial_state):
        raise ValueError("slstm carries its initial_state without a gradient: detach it")
    if launch.takes("slstm", x, recurrent, fits=dim <= WIDEST_TRITON):
        return _slstm_triton(x, recurrent, bias, initial_state)
    if bias is not None:
        x = x + bias
    with torch.autocast(x.device.type, enabled=False):
        work = torch.promote_types(x.dtype, torch.float32)
        x, recurrent = x.to(work), recurrent.to(work)
        h, (c, n, m) = _SLSTM.apply(x, recurrent, _start(x, initial_state, work))
    return h, (h[:, -1].detach().clone(), c, n, m)


def _start(x: Tensor, initial_state: State | None, work: torch.dtype) -> Tensor:
    """h, c, n and m before the first step, (4, B, H, D)."""
    if initial_state is None:
        batch, _, _, heads, dim = x.shape
        state = x.new_zeros(4, batch, heads, dim, dtype=work)
    else:
        state = torch.stack([part.to(work) for part in initial_state])
    state[3].masked_fill_(state[2] == 0, -torch.inf)
    return state


def slstm_reference(
    x: Tensor,
    recurrent: Tensor,
    *,
    bias: Tensor | None = None,
    initial_state: State | None = None,
) -> tuple[Tensor, State]:
    """Step by step in float64; arguments and results as in `slstm`."""
    x, recurrent = x.double(), recurrent.double()
    if bias is not None:
        x = x + bias.double()
    batch, time, gates, heads, dim = x.shape
    recurrent = recurrent.view(heads, gates, dim, dim)
    h = c = n = x.new_zeros(batch, heads, dim)
    m = torch.full_like(h, -torch.inf)
    if initial_state is not None:
        h, c, n, m = (part.double() for part in initial_state)
    outputs = []
    for t in range(time):
        i, f, z, o = (x[:, t] + torch.einsum("hgij,bhj->bghi", recurrent, h)).unbind(1)
        log_forget = F.logsigmoid(f) + m
        m = torch.maximum(log_forget, i)
        forget, keep = torch.exp(log_forget - m), torch.exp(i - m)
        c = forget * c + keep * torch.tanh(z)
        n = forget * n + keep
        h = torch.sigmoid(o) * c / n
        outputs.append(h)
    return torch.stack(outputs, 1), (h.detach(), c.detach(), n.detach(), m.detach())


class _SLSTM(torch.autograd.Function):
    """x (B, T, G, H, D), recurrent (H, G * D, D), state h, c, n, m (4, B, H, D) -> h (B, T, H, D)
    and the last c, n, m (3, B, H, D).

    m is a constant in the backward: h does not depend on it, as it scales c and n alike.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, recurrent: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        ctx.native = _native_takes(x, recurrent)
        forward = _forward_native if ctx.native else _forward_torch
        h, last, *saved = forward(x.contiguous(), recurrent.contiguous(), state)
        ctx.save_for_backward(recurrent, state, h, *saved)
        ctx.mark_non_differentiable(last)
        return h, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        recurrent, *saved = ctx.saved_tensors
        backward = _backward_native if ctx.native else _backward_torch
        dx, drecurrent = backward(dh.contiguous(), recurrent.contiguous(), *saved)
        return dx, drecurrent, None


def _forward_torch(x: Tensor, recurrent: Tensor, state: Tensor) -> tuple[Tensor, ...]:
    """h and the last state as in `_SLSTM`, and what the backward reads, each (T, H, B, D)."""
    x = x.permute(1, 3, 0, 2, 4).contiguous()
    time, heads, batch, gates, dim = x.shape
    h_past, c_past, n_past, m = state.transpose(1, 2)
    transposed = recurrent.mT.contiguous()
    h, c, n, keep, forget, forget_slope, z, o = x.new_empty(8, time, heads, batch, dim)
    for t in range(time):
        flat = x[t].view(heads, batch, gates * dim)
        raw = torch.baddbmm(flat, h_past, transposed).view_as(x[t])
        raw_i, raw_f, raw_z, raw_o = raw.unbind(2)
        torch.tanh(raw_z, out=z[t])
        torch.sigmoid(raw_o, out=o[t])
        log_forget = F.logsigmoid(raw_f).add_(m)
        m = torch.maximum(log_forget, raw_i)
        torch.exp(log_forget.sub_(m), out=forget[t])
        torch.mul(forget[t], torch.sigmoid(-raw_f), out=forget_slope[t])
        torch.exp(raw_i - m, out=keep[t])
        torch.addcmul(keep[t] * z[t], forget[t], c_past, out=c[t])
        torch.addcmul(keep[t], forget[t], n_past, out=n[t])
        torch.mul(o[t], c[t] / n[t], out=h[t])
        h_past, c_past, n_past = h[t], c[t], n[t]
    last = torch.stack([c_past, n_past, m]).transpose(1, 2)
    return h.permute(2, 0, 1, 3), last, c, n, keep, forget, forget_slope, z, o


def _backward_torch(
    dh: Tensor,
    recurrent: Tensor,
    state: Tensor,
    h: Tensor,
    c: Tensor,
    n: Tensor,
    keep: Tensor,
    forget: Tensor,
    forget_slope: Tensor,
    z: Tensor,
    o: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the recurrent weights."""
    dh, h = (tensor.permute(1, 2, 0, 3) for tensor in (dh, h))
    h_first, c_first, n_first, _ = state.transpose(1, 2)
    time, heads, batch, dim = h.shape
    # Factors that do not depend on the recurrence, for all steps at once.
    ratio = c / n
    o_over_n = o / n
    z_slope = keep * (1 - z * z)
    o_slope = ratio * o * (1 - o)
    draw = h.new_empty(time, heads, batch, 4, dim)
    dc, dn = torch.zeros_like(c[0]), torch.zeros_like(n[0])
    dh_t = dh[-1]
    for t in reversed(range(time)):
        c_past, n_past = (c[t - 1], n[t - 1]) if t else (c_first, n_first)
        direct = dh_t * o_over_n[t]
        dc = dc + direct
        dn = torch.addcmul(dn, direct, ratio[t], value=-1)
        draw_i, draw_f, draw_z, draw_o = draw[t].unbind(2)
        torch.mul(torch.addcmul(dn, dc, z[t]), keep[t], out=draw_i)
        torch.mul(torch.addcmul(dn * n_past, dc, c_past), forget_slope[t], out=draw_f)
        torch.mul(dc, z_slope[t], out=draw_z)
        torch.mul(dh_t, o_slope[t], out=draw_o)
        if t:
            flat = draw[t].view(heads, batch, 4 * dim)
            dh_t = torch.baddbmm(dh[t - 1], flat, recurrent)
            dc, dn = dc * forget[t], dn * forget[t]
    h_past = torch.cat([h_first[None], h[:-1]])
    # (H, G * D, T * B) times (H, T * B, D)
    flat = draw.permute(1, 3, 4, 0, 2).reshape(heads, 4 * dim, -1)
    drecurrent = flat @ h_past.transpose(0, 1).reshape(heads, -1, dim)
    return draw.permute(2, 0, 3, 1, 4), drecurrent


def _slstm_triton(
    x: Tensor, recurrent: Tensor, bias: Tensor | None, initial_state: State | None
) -> tuple[Tensor, State]:
    """Compute `slstm` in Triton."""
    with torch.autocast(x.device.type, enabled=False):
        recurrent = recurrent.to(x.dtype)
        state, started = _start(x, initial_state, torch.float32), initial_state is not None
        keep = torch.is_grad_enabled() and any(
            part is not None and part.requires_grad for part in (x, recurrent, bias)
        )
        h, (c, n, m) = _SLSTMTriton.apply(x, recurrent, bias, state, started, keep)
    return h, (h[:, -1].detach().clone(), c, n, m)


class _SLSTMTriton(torch.autograd.Function):
    """x (B, T, G, H, D), recurrent (H, G * D, D) of x's type, bias (G, H, D) or None, state
    h, c, n, m (4, B, H, D) -> h (B, T, H, D) and the last c, n, m (3, B, H, D).

    `started` is whether the state is other than empty, `keep` whether a backward follows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        recurrent: Tensor,
        bias: Tensor | None,
        state: Tensor,
        started: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        from models.kernels.gpu import slstm as gpu

        x = x if x.stride(-1) == 1 else x.contiguous()
        added = None if bias is None else bias.float().contiguous()
        h, last, kept = gpu.forward(x, added, recurrent.mT.contiguous(), state, started, keep)
        ctx.save_for_backward(recurrent, state, h, kept)
        ctx.bias_type = None if bias is None else bias.dtype
        ctx.mark_non_differentiable(last)
        return h, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        from models.kernels.gpu import slstm as gpu

        recurrent, state, h, kept = ctx.saved_tensors
        dx = gpu.backward(dh.contiguous(), recurrent.contiguous(), h, kept)
        h_past = torch.cat([state[0][:, None].to(h.dtype), h[:, :-1]], 1).flatten(0, 1)
        # (H, G * D, B * T) times (H, B * T, D)
        drecurrent = dx.flatten(3).flatten(0, 1).permute(1, 2, 0) @ h_past.transpose(0, 1)
        dx = dx.transpose(2, 3)
        dbias = None
        if ctx.bias_type is not None:
            dbias = dx.sum((0, 1), dtype=torch.float32).to(ctx.bias_type)
        return dx, drecurrent, dbias, None, None, None


def _native_takes(x: Tensor, recurrent: Tensor) -> bool:
    return native.takes("slstm", x, recurrent, fits=recurrent.shape[-1] % PANEL == 0)


def _panels(weights: Tensor) -> Tensor:
    """(H, depth, columns) -> (H, columns / PANEL, depth, PANEL)."""
    return weights.unflatten(-1, (-1, PANEL)).transpose(1, 2).contiguous()


def _empty_results(
    x: Tensor, recurrent: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h, the last state, the gates before activation, and c, n, m before every STEPS-th step."""
    batch, time, _, heads, dim = x.shape
    tasks, chunks = heads * -(-batch // ROWS), -(-time // STEPS)
    h = x.new_empty(batch, time, heads, dim)
    marks = x.new_empty(tasks, chunks, 3, ROWS, dim)
    return h, torch.empty_like(state[1:]), torch.empty_like(x), marks


@torch.library.custom_op("babysweep::slstm", mutates_args=())
def _forward_native(
    x: Tensor, recurrent: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    results = _empty_results(x, recurrent, state)
    sizes = results[0].shape
    native.call("slstm", "forward", x, _panels(recurrent.mT), state, *results, *sizes)
    return results


_forward_native.register_fake(_empty_results)


@torch.library.custom_op("babysweep::slstm_backward", mutates_args=())
def _backward_native(
    dh: Tensor, recurrent: Tensor, state: Tensor, h: Tensor, gates: Tensor, marks: Tensor
) -> tuple[Tensor, Tensor]:
    dx = torch.empty_like(gates)
    dweights = recurrent.new_zeros(len(marks) // len(recurrent), *recurrent.shape)
    inputs = (dh, _panels(recurrent), h, state[0], gates, marks)
    native.call("slstm", "backward", *inputs, dx, dweights, *h.shape)
    return dx, dweights.sum(0)


@_backward_native.register_fake
def _(
    dh: Tensor, recurrent: Tensor, state: Tensor, h: Tensor, gates: Tensor, marks: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(gates), torch.empty_like(recurrent)
