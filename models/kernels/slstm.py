"""The sLSTM cell of xLSTM (Beck et al. 2024, equations 8-18), with recurrent weights per head.

    i, f, z, o = x_t + R h_{t-1}                             before activation
    m_t = max(log sigmoid(f) + m_{t-1}, i)                   stabiliser; m_1 = i
    c_t = exp(log sigmoid(f) + m_{t-1} - m_t) c_{t-1} + exp(i - m_t) tanh(z)
    n_t = exp(log sigmoid(f) + m_{t-1} - m_t) n_{t-1} + exp(i - m_t)
    h_t = sigmoid(o) c_t / n_t

The recurrence cannot be parallelised over time; what makes it fast here is one autograd node
for the whole sequence in place of one per operation and step.
Legend: T time, B batch, H heads, G = 4 gates (input, forget, cell, output), D head dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def slstm(x: Tensor, recurrent: Tensor) -> Tensor:
    """x (B, T, G, H, D), with the bias; recurrent (H, G * D, D) -> h (B, T, H, D).

    Computes in float32 at least and returns that type.
    """
    with torch.autocast(x.device.type, enabled=False):
        work = torch.promote_types(x.dtype, torch.float32)
        x_thbgd = x.to(work).permute(1, 3, 0, 2, 4).contiguous()
        return _SLSTM.apply(x_thbgd, recurrent.to(work)).permute(2, 0, 1, 3)


def slstm_reference(x: Tensor, recurrent: Tensor) -> Tensor:
    """Step by step in float64; arguments as in `slstm`."""
    x, recurrent = x.double(), recurrent.double()
    batch, time, gates, heads, dim = x.shape
    recurrent = recurrent.view(heads, gates, dim, dim)
    h = c = n = m = x.new_zeros(batch, heads, dim)
    outputs = []
    for t in range(time):
        i, f, z, o = (x[:, t] + torch.einsum("hgij,bhj->bghi", recurrent, h)).unbind(1)
        log_forget = F.logsigmoid(f) + m
        m = torch.maximum(log_forget, i) if t else i
        forget = torch.exp(log_forget - m) if t else torch.zeros_like(m)
        keep = torch.exp(i - m)
        c = forget * c + keep * torch.tanh(z)
        n = forget * n + keep
        h = torch.sigmoid(o) * c / n
        outputs.append(h)
    return torch.stack(outputs, 1)


class _SLSTM(torch.autograd.Function):
    """x (T, H, B, G, D), recurrent (H, G * D, D) -> h (T, H, B, D).

    m is a constant in the backward: h does not depend on it, as it scales c and n alike.
    """

    @staticmethod
    def forward(ctx, x, recurrent):
        time, heads, batch, gates, dim = x.shape
        transposed = recurrent.mT.contiguous()
        # All that the backward reads, one slice per step.
        h, c, n, keep, forget, forget_slope, z, o = x.new_empty(8, time, heads, batch, dim)
        m = x[0, :, :, 0]  # m_1 = i
        for t in range(time):
            raw = x[t]
            if t:
                flat = raw.view(heads, batch, gates * dim)
                raw = torch.baddbmm(flat, h[t - 1], transposed).view_as(raw)
            raw_i, raw_f, raw_z, raw_o = raw.unbind(2)
            torch.tanh(raw_z, out=z[t])
            torch.sigmoid(raw_o, out=o[t])
            if t:
                log_forget = F.logsigmoid(raw_f).add_(m)
                m = torch.maximum(log_forget, raw_i)
                torch.exp(log_forget.sub_(m), out=forget[t])
                torch.mul(forget[t], torch.sigmoid(-raw_f), out=forget_slope[t])
                torch.exp(raw_i - m, out=keep[t])
                torch.addcmul(keep[t] * z[t], forget[t], c[t - 1], out=c[t])
                torch.addcmul(keep[t], forget[t], n[t - 1], out=n[t])
            else:  # no past: the forget gate has nothing to act on, and may overflow
                torch.exp(raw_i - m, out=keep[t])  # 1, or NaN where the input is
                forget[t] = forget_slope[t] = 0
                torch.mul(keep[t], z[t], out=c[t])
                n[t] = keep[t]
            torch.mul(o[t], c[t] / n[t], out=h[t])
        ctx.save_for_backward(recurrent, h, c, n, keep, forget, forget_slope, z, o)
        return h

    @staticmethod
    def backward(ctx, dh):
        recurrent, h, c, n, keep, forget, forget_slope, z, o = ctx.saved_tensors
        time, heads, batch, dim = h.shape
        # Factors that do not depend on the recurrence, for all steps at once.
        ratio = c / n
        o_over_n = o / n
        z_slope = keep * (1 - z * z)
        o_slope = ratio * o * (1 - o)
        draw = torch.empty(time, heads, batch, 4, dim, dtype=h.dtype, device=h.device)
        dc, dn = torch.zeros_like(c[0]), torch.zeros_like(n[0])
        dh_t = dh[-1]
        for t in reversed(range(time)):
            direct = dh_t * o_over_n[t]
            dc = dc + direct
            dn = torch.addcmul(dn, direct, ratio[t], value=-1)
            draw_i, draw_f, draw_z, draw_o = draw[t].unbind(2)
            torch.mul(torch.addcmul(dn, dc, z[t]), keep[t], out=draw_i)
            torch.mul(dc, z_slope[t], out=draw_z)
            torch.mul(dh_t, o_slope[t], out=draw_o)
            if t:
                past = torch.addcmul(dn * n[t - 1], dc, c[t - 1])
                torch.mul(past, forget_slope[t], out=draw_f)
                flat = draw[t].view(heads, batch, 4 * dim)
                dh_t = torch.baddbmm(dh[t - 1], flat, recurrent)
                dc, dn = dc * forget[t], dn * forget[t]
            else:
                draw_f.zero_()
        # (H, G * D, (T - 1) * B) times (H, (T - 1) * B, D)
        flat = draw[1:].permute(1, 3, 4, 0, 2).reshape(heads, 4 * dim, -1)
        drecurrent = flat @ h[:-1].transpose(0, 1).reshape(heads, -1, dim)
        return draw, drecurrent
