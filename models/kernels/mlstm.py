"""The mLSTM cell of xLSTM (Beck et al. 2024, equations 19-27), stabilised, in chunks of time.

With the keys scaled by 1/sqrt(key dim), F_t the running sum of log sigmoid(f), a_s = i_s - F_s and
P_t = max over s <= t of a_s, the recurrence of the paper unrolls to

    h_t     = sum_s (q_t . k_s) exp(a_s - P_t) v_s / scale_t
    scale_t = max(|sum_s (q_t . k_s) exp(a_s - P_t)|, exp(-m_t)) + eps     m_t = F_t + P_t

A chunk computes the sums over its own steps as products of matrices, and those over all earlier
steps through the state in front of it:

    memory     = sum_s exp(a_s - P) k_s v_s^T  (key dim, value dim)        P = P_t of the last step
    normalizer = sum_s exp(a_s - P) k_s        (key dim,)

so that the cost is linear in time. A state that is carried over counts as one more step with
a = its log scale m. The gates are few numbers with long sums: they are computed in float64.

Legend: B batch, T time, H heads, K key dim, V value dim, L steps of a chunk. Chunks of vectors are
(B, H, L, dim), everything about gates is (B, H, T) or (B, H, L).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64
EPS = 1e-6  # as in the xlstm package

State = tuple[Tensor, Tensor, Tensor]


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    *,
    initial_state: State | None = None,
) -> tuple[Tensor, State]:
    """q, k (B, T, H, K), v (B, T, H, V), gates before activation (B, T, H) -> h like v, state.

    The state is (memory (B, H, K, V), normalizer (B, H, K), log scale m (B, H)), as in the xlstm
    package: memory and normalizer times exp(m) are those of the unstabilised recurrence. It is
    carried without gradient. Computes in float32 at least and returns that type.

    Raises ValueError if `initial_state` requires a gradient.
    """
    if initial_state is not None and any(x.requires_grad for x in initial_state):
        raise ValueError("initial_state requires a gradient, but states carry none: detach it")
    with torch.autocast(q.device.type, enabled=False):
        work = torch.promote_types(v.dtype, torch.float32)
        if initial_state is None:
            initial_state = _empty_state(q, v)
        h, *state = _MLSTM.apply(q, k, v, igate, fgate, *(x.to(work) for x in initial_state))
    return h, (state[0], state[1], state[2])


def mlstm_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    *,
    initial_state: State | None = None,
) -> tuple[Tensor, State]:
    """The recurrent form (equations 19-27) in float64; arguments and results as in `mlstm`."""
    q, k, v, igate, fgate = (x.double() for x in (q, k, v, igate, fgate))
    k = k * q.shape[-1] ** -0.5
    log_forget = F.logsigmoid(fgate)
    memory, normalizer, m = (x.double() for x in initial_state or _empty_state(q, v))
    outputs = []
    for t in range(q.shape[1]):
        previous, m = m, torch.maximum(log_forget[:, t] + m, igate[:, t])
        forget = (log_forget[:, t] + previous - m).exp()[..., None]
        kept_key = (igate[:, t] - m).exp()[..., None] * k[:, t]
        memory = forget[..., None] * memory + kept_key[..., None] * v[:, t, :, None]
        normalizer = forget * normalizer + kept_key
        scale = (q[:, t] * normalizer).sum(-1).abs()
        scale = torch.maximum(scale, (-m).exp()) + EPS
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], memory) / scale[..., None])
    return torch.stack(outputs, 1), (memory.detach(), normalizer.detach(), m.detach())


def _empty_state(q: Tensor, v: Tensor) -> State:
    work = torch.promote_types(v.dtype, torch.float32)
    batch, _, heads, width = q.shape
    memory = v.new_zeros(batch, heads, width, v.shape[-1], dtype=work)
    return memory, memory.new_zeros(memory.shape[:-1]), memory.new_full((batch, heads), -torch.inf)


class _MLSTM(torch.autograd.Function):
    """Keeps its inputs, the output and one number per step; recomputes matrices and states."""

    @staticmethod
    def forward(ctx, q, k, v, igate, fgate, memory, normalizer, m):
        gates = _gates(igate, fgate, m)
        work, (batch, time, heads, _) = memory.dtype, q.shape
        h = v.new_empty(v.shape, dtype=work)
        row_sum = h.new_empty(batch, heads, time)
        state = (memory, normalizer)
        for rows in _chunks(time):
            chunk = _chunk(q, k, v, gates, rows, work)
            row_sum[:, :, rows], numerator = _read(chunk, *state)
            scale = torch.maximum(row_sum[:, :, rows].abs(), gates.floor[:, :, rows]) + EPS
            h[:, rows] = (numerator / scale[..., None]).transpose(1, 2)
            state = _write(chunk, *state)
        ctx.save_for_backward(q, k, v, igate, fgate, memory, normalizer, m, h, row_sum)
        end = (*state, gates.m[:, :, -1].to(work))
        ctx.mark_non_differentiable(*end)
        return h, *end

    @staticmethod
    def backward(ctx, dh, *_):
        q, k, v, igate, fgate, memory, normalizer, m, h, row_sum = ctx.saved_tensors
        gates = _gates(igate, fgate, m)
        scale = torch.maximum(row_sum.abs(), gates.floor) + EPS
        dscale = -((dh * h).sum(-1).transpose(1, 2) / scale)
        # The row sum sets the scale only where it is above the floor.
        drow_sum = dscale * row_sum.sign() * (row_sum.abs() > gates.floor)
        dh = dh / scale.transpose(1, 2)[..., None]
        dq, dk, dv, row, column = _backward_torch(q, k, v, gates, memory, normalizer, dh, drow_sum)
        return dq, dk, dv, *_gate_gradients(gates, fgate, row, column, dscale), None, None, None


class _Gates(NamedTuple):
    """What the gates of a sequence amount to, all (B, H, T)."""

    a: Tensor
    peak: Tensor  # P
    before: Tensor  # P one step earlier; the log scale of the initial state at first
    peak_at: Tensor  # the step where P lies, -1 for the initial state
    m: Tensor
    floor: Tensor  # exp(-m) in the type of the computation


class _Chunk(NamedTuple):
    q: Tensor
    k: Tensor  # divided by sqrt(K)
    v: Tensor
    decay: Tensor  # (B, H, L, L): weight of step s in row t, zero above the diagonal
    from_state: Tensor  # weight of the state in front of the chunk in row t
    to_state: Tensor  # weight of step s in the state behind the chunk
    keep: Tensor  # (B, H): weight of the state in front of the chunk in the one behind it


def _gates(igate: Tensor, fgate: Tensor, m: Tensor) -> _Gates:
    """igate, fgate (B, T, H), m (B, H) of the initial state."""
    running = F.logsigmoid(fgate.double()).transpose(1, 2).cumsum(-1)
    a = igate.double().transpose(1, 2) - running
    peak, peak_at = torch.cat([m.double()[..., None], a], -1).cummax(-1)
    m_t = running + peak[..., 1:]
    floor = torch.exp(-m_t).to(m.dtype)
    return _Gates(a, peak[..., 1:], peak[..., :-1], peak_at[..., 1:] - 1, m_t, floor)


def _chunks(time: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, time)) for start in range(0, time, CHUNK)]


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, gates: _Gates, rows: slice, work: torch.dtype
) -> _Chunk:
    a, peak, first = gates.a[:, :, rows], gates.peak[:, :, rows], gates.before[:, :, rows.start]
    last = peak[:, :, -1]
    distance = (a[:, :, None] - peak[..., None]).to(work)
    q, k, v = (x[:, rows].transpose(1, 2).to(work) for x in (q, k, v))
    return _Chunk(
        q=q.contiguous(),
        k=k * q.shape[-1] ** -0.5,
        v=v.contiguous(),
        decay=distance.exp_().tril_(),
        from_state=(first[..., None] - peak).to(work).exp_(),
        to_state=(a - last[..., None]).to(work).exp_(),
        keep=(first - last).to(work).exp_(),
    )


def _read(chunk: _Chunk, memory: Tensor, normalizer: Tensor) -> tuple[Tensor, Tensor]:
    """Row sums (B, H, L) and numerators (B, H, L, V) of the outputs of a chunk."""
    weights = (chunk.q @ chunk.k.mT).mul_(chunk.decay)
    query = chunk.q * chunk.from_state[..., None]
    row_sum = weights.sum(-1) + (query @ normalizer[..., None])[..., 0]
    return row_sum, (weights @ chunk.v).add_(query @ memory)


def _write(chunk: _Chunk, memory: Tensor, normalizer: Tensor) -> tuple[Tensor, Tensor]:
    """The state behind a chunk from that in front of it."""
    key, keep = chunk.k * chunk.to_state[..., None], chunk.keep[..., None]
    return (key.mT @ chunk.v).add_(keep[..., None] * memory), key.sum(-2) + keep * normalizer


def _backward_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: _Gates,
    memory: Tensor,
    normalizer: Tensor,
    dh: Tensor,
    drow_sum: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of q, k and v, and q . dq and k . dk of every step (B, H, T).

    dh is the gradient of the numerators.
    """
    work, root = memory.dtype, q.shape[-1] ** -0.5
    chunks = _chunks(q.shape[1])
    states = [(memory, normalizer)]
    for rows in chunks[:-1]:
        states.append(_write(_chunk(q, k, v, gates, rows, work), *states[-1]))
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    row, column = torch.empty_like(drow_sum), torch.empty_like(drow_sum)
    dmemory, dnormalizer = torch.zeros_like(memory), torch.zeros_like(normalizer)
    for rows in reversed(chunks):
        chunk, (memory, normalizer) = _chunk(q, k, v, gates, rows, work), states.pop()
        dnumerator = dh[:, rows].transpose(1, 2).contiguous()
        dsum = drow_sum[:, :, rows, None]
        dweights = (dnumerator @ chunk.v.mT).add_(dsum)
        weights = (chunk.q @ chunk.k.mT).mul_(chunk.decay)
        dscores = dweights.mul_(chunk.decay)

        dquery = (dnumerator @ memory.mT).addcmul_(dsum, normalizer[:, :, None])
        dq_chunk = (dscores @ chunk.k).addcmul_(dquery, chunk.from_state[..., None])
        dkey = (chunk.v @ dmemory.mT).add_(dnormalizer[:, :, None])
        dk_chunk = (dscores.mT @ chunk.q).addcmul_(dkey, chunk.to_state[..., None])
        key = chunk.k * chunk.to_state[..., None]
        dv[:, rows] = (weights.mT @ dnumerator).add_(key @ dmemory).transpose(1, 2)
        row[:, :, rows] = (chunk.q * dq_chunk).sum(-1)
        column[:, :, rows] = (chunk.k * dk_chunk).sum(-1)
        dq[:, rows] = dq_chunk.transpose(1, 2)
        dk[:, rows] = dk_chunk.mul_(root).transpose(1, 2)

        query, keep = chunk.q * chunk.from_state[..., None], chunk.keep[..., None]
        dmemory = (query.mT @ dnumerator).add_(keep[..., None] * dmemory)
        dnormalizer = (query * dsum).sum(-2) + keep * dnormalizer
    return dq, dk, dv, row, column


def _gate_gradients(
    gates: _Gates, fgate: Tensor, row: Tensor, column: Tensor, dscale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of both gates (B, T, H).

    The weight of step s in row t is an exponential of F_t + a_s, and it multiplies q_t and k_s:
    summed over s, its gradient is q_t . dq_t, and summed over t it is k_s . dk_s.
    """
    # m scales numerator and denominator alike, all but eps: only there h depends on it.
    dm = EPS * dscale.double()
    da = column.double().scatter_add(-1, gates.peak_at.clamp(min=0), dm * (gates.peak_at >= 0))
    drunning = row.double() + dm - da
    dlog_forget = drunning.flip(-1).cumsum(-1).flip(-1).transpose(1, 2)
    digate = da.transpose(1, 2).to(fgate.dtype)
    return digate, (dlog_forget * torch.sigmoid(-fgate.double())).to(fgate.dtype)
