"""The mLSTM cell of xLSTM (Beck et al. 2024, equations 19-27) in its stabilised parallel form.

With F_t the running sum of log sigmoid(f) and a_s = i_s - F_s:

    D_ts = exp(F_t + a_s - m_t) for s <= t, else 0        m_t = F_t + max over s <= t of a_s
    h_t  = sum_s (q_t . k_s / sqrt(d)) D_ts v_s / n_t
    n_t  = max(|sum_s (q_t . k_s / sqrt(d)) D_ts|, exp(-m_t)) + eps

Rows t are taken in blocks, so that at most a block of the (time x time) matrix is alive.
Legend: X = batch * heads; inside this file tensors are (X, time, dim) and gates (X, time).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 64
EPS = 1e-6  # as in the xlstm package


def mlstm(q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor) -> Tensor:
    """q, k, v (batch, heads, time, dim), gates before activation (batch, heads, time) -> like v.

    Computes in float32 at least and returns that type.
    """
    with torch.autocast(q.device.type, enabled=False):
        work = torch.promote_types(v.dtype, torch.float32)
        flat = (x.to(work).flatten(0, 1) for x in (q, k, v, igate, fgate))
        return _MLSTM.apply(*flat).view(v.shape)


def mlstm_reference(q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor) -> Tensor:
    """The recurrent form (equations 19-27) in float64; arguments as in `mlstm`."""
    q, k, v, igate, fgate = (x.double() for x in (q, k, v, igate, fgate))
    k = k * q.shape[-1] ** -0.5
    log_forget = F.logsigmoid(fgate)
    memory = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3])  # (batch, heads, dim, dim)
    normalizer = q.new_zeros(*q.shape[:2], q.shape[3])
    m = torch.full_like(igate[:, :, 0], -torch.inf)
    outputs = []
    for t in range(q.shape[2]):
        previous, m = m, torch.maximum(log_forget[:, :, t] + m, igate[:, :, t])
        forget = (log_forget[:, :, t] + previous - m).exp()[..., None]
        keep_key = (igate[:, :, t] - m).exp()[..., None] * k[:, :, t]
        memory = forget[..., None] * memory + keep_key[..., None] * v[:, :, t, None]
        normalizer = forget * normalizer + keep_key
        scale = (q[:, :, t] * normalizer).sum(-1).abs()
        scale = torch.maximum(scale, (-m).exp()) + EPS
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, :, t], memory) / scale[..., None])
    return torch.stack(outputs, 2)


class _MLSTM(torch.autograd.Function):
    """Keeps its inputs, the output and one number per row; recomputes the matrices."""

    @staticmethod
    def forward(ctx, q, k, v, igate, fgate):
        a, peak, _, floor = _gates(igate, fgate)
        h = torch.empty_like(v)
        row_sum = torch.empty_like(igate)
        for rows, columns in _blocks(q.shape[1]):
            _, weights = _weights(q, k, a, peak, rows, columns)
            h[:, rows] = weights @ v[:, columns]
            row_sum[:, rows] = weights.sum(-1)
        scale = torch.maximum(row_sum.abs(), floor) + EPS
        h /= scale[..., None]
        ctx.save_for_backward(q, k, v, igate, fgate, h, row_sum, scale)
        return h

    @staticmethod
    def backward(ctx, dh):
        q, k, v, igate, fgate, h, row_sum, scale = ctx.saved_tensors
        a, peak, peak_at, floor = _gates(igate, fgate)
        dh = dh / scale[..., None]
        dscale = -(dh * h).sum(-1)
        # The row sum sets the scale only where it is above the floor.
        drow_sum = dscale * row_sum.sign() * (row_sum.abs() > floor)

        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        da, drunning = torch.zeros_like(a), torch.empty_like(a)
        for rows, columns in _blocks(q.shape[1]):
            decay, weights = _weights(q, k, a, peak, rows, columns)
            dv[:, columns] += weights.mT @ dh[:, rows]
            dweights = dh[:, rows] @ v[:, columns].mT + drow_sum[:, rows, None]
            dlog_decay = weights.mul_(dweights)
            drunning[:, rows] = dlog_decay.sum(2)
            da[:, columns] += dlog_decay.sum(1)
            dscores = dweights.mul_(decay)
            dq[:, rows] = dscores @ k[:, columns]
            dk[:, columns] += dscores.mT @ q[:, rows]
        root = q.shape[-1] ** -0.5
        # m scales numerator and denominator alike, all but eps: only there h depends on it.
        dm = EPS * dscale
        drunning += dm
        da.scatter_add_(1, peak_at, dm)
        drunning -= da
        dlog_forget = drunning.flip(-1).cumsum(-1).flip(-1)
        return dq.mul_(root), dk.mul_(root), dv, da, dlog_forget * torch.sigmoid(-fgate)


def _gates(igate: Tensor, fgate: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a, its running maximum and where that lies, and exp(-m); all (X, time)."""
    running = F.logsigmoid(fgate).cumsum(-1)
    a = igate - running
    peak, peak_at = a.cummax(-1)
    return a, peak, peak_at, torch.exp(-(running + peak))


def _blocks(time: int) -> list[tuple[slice, slice]]:
    """Blocks of rows, each with the columns that its rows may read."""
    ends = [min(start + BLOCK, time) for start in range(0, time, BLOCK)]
    return [(slice(end - 1 - (end - 1) % BLOCK, end), slice(0, end)) for end in ends]


def _weights(
    q: Tensor, k: Tensor, a: Tensor, peak: Tensor, rows: slice, columns: slice
) -> tuple[Tensor, Tensor]:
    """D and (q k^T / sqrt(d)) * D for some rows, both (X, rows, columns)."""
    decay = torch.exp_(a[:, None, columns] - peak[:, rows, None])
    decay[:, :, rows.start :].tril_()  # earlier columns are all in the past
    weights = torch.bmm(q[:, rows], k[:, columns].mT).mul_(q.shape[-1] ** -0.5).mul_(decay)
    return decay, weights
