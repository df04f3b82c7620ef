"""The selective state-space recurrence of Mamba (Gu & Dao 2023, section 3.3).

    h_t = exp(delta_t A) * h_{t-1} + delta_t u_t B_t        per channel, h of `state` numbers
    y_t = sum over the state of C_t * h_t

Legend for shapes: T time, B batch, D channels ("intermediate size"), N state.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Steps whose states are held at once. A chunk of 4 steps stays in the cache of one core for the
# usual widths; the backward recomputes the states chunk by chunk from the chunk borders.
CHUNK = 4

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
) -> tuple[Tensor, Tensor]:
    """The scan with Mamba's surroundings; shapes as in the mamba-ssm library.

    `u` and `delta` are (B, D, T), `a` is (D, N), `b` and `c` are (B, N, T), `skip` (the D of the
    paper) and `delta_bias` are (D,), `gate` is (B, D, T). Computes in float32 at least.

    Returns the output (B, D, T), of u's type, and the last state (B, D, N), without gradient.
    """
    with torch.autocast(u.device.type, enabled=False):
        work = torch.promote_types(u.dtype, torch.float32)
        inputs = (x.to(work).permute(2, 0, 1).contiguous() for x in (u, delta, b, c))
        u_tbd, delta_tbd, b_tbn, c_tbn = inputs
        if delta_bias is not None:
            delta_tbd = delta_tbd + delta_bias.to(work)
        if delta_softplus:
            delta_tbd = F.softplus(delta_tbd)
        a_nd = a.to(work).t().contiguous()
        y_tbd, last_bnd = _SelectiveScan.apply(delta_tbd, delta_tbd * u_tbd, a_nd, b_tbn, c_tbn)
        if skip is not None:
            y_tbd = torch.addcmul(y_tbd, u_tbd, skip.to(work))
        y = y_tbd.permute(1, 2, 0)
        if gate is not None:
            y = y * F.silu(gate.to(work))
    return y.to(u.dtype), last_bnd.transpose(1, 2)


def selective_scan_reference(
    delta: Tensor, drive: Tensor, a: Tensor, b: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence step by step in float64; shapes as in `_SelectiveScan`."""
    delta, drive, a, b, c = (x.double() for x in (delta, drive, a, b, c))
    state = delta.new_zeros(delta.shape[1], *a.shape)
    outputs = []
    for t in range(len(delta)):
        state = torch.exp(delta[t, :, None] * a) * state + drive[t, :, None] * b[t, :, :, None]
        outputs.append((c[t, :, :, None] * state).sum(1))
    return torch.stack(outputs), state


class _SelectiveScan(torch.autograd.Function):
    """delta, drive (T, B, D), a (N, D), b, c (T, B, N) -> y (T, B, D), last state (B, N, D).

    `drive` is delta * u. Only the states at the chunk borders are kept for the backward.
    """

    @staticmethod
    def forward(ctx, delta, drive, a, b, c):
        time, batch, dim = delta.shape
        state = delta.new_zeros(batch, a.shape[0], dim)
        y = torch.empty_like(delta)
        borders = []
        for start in range(0, time, CHUNK):
            steps = slice(start, start + CHUNK)
            borders.append(state)
            decay, states = _chunk_states(delta[steps], drive[steps], a, b[steps], state)
            state = states[-1].clone()  # a view would keep the whole chunk alive
            torch.sum(torch.mul(states, c[steps, :, :, None], out=decay), 2, out=y[steps])
        ctx.save_for_backward(delta, drive, a, b, c, *borders)
        ctx.mark_non_differentiable(state)
        return y, state

    @staticmethod
    def backward(ctx, dy, _):
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
        return ddelta, ddrive, da, db, dc


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
