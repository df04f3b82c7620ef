"""The mLSTM cell of xLSTM (Beck et al. 2024, equations 19-27), stabilised, in chunks of time.

With the keys scaled by 1/sqrt(key dim), F_t the running sum of log sigmoid(f), a_s = i_s - F_s and
P_t = max over s <= t of a_s, the recurrence of the paper unrolls to

    h_t     = sum_s (q_t . k_s) exp(a_s - P_t) v_s / scale_t
    scale_t = max(|sum_s (q_t . k_s) exp(a_s - P_t)|, exp(-m_t)) + eps     m_t = F_t + P_t

A chunk computes the sums over its own steps as products of matrices, and those over all earlier
steps through the state in front of it:

    memory     = sum_s exp(a_s - P) k_s v_s^T  (key dim, value dim)        P = P_t of the last step
    normalizer = sum_s exp(a_s - P) k_s        (key dim,)

so that the cost is linear in time. The backward computes scores and states again. A state that is
carried over counts as one more step with a = its log scale m. The gates are few numbers with long
sums: they are computed in float64.

PyTorch, `cpp/mlstm.cpp` and, on GPUs, `gpu/mlstm.py` compute the same sums; the last multiplies
bf16 vectors, weights and states in bf16, and adds in float32.

Legend: B batch, T time, H heads, K key dim, V value dim, L steps of a chunk. Chunks of vectors are
(B, H, L, dim), everything about gates is (B, H, T) or (B, H, L).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import native, paths
from models.kernels.gpu import launch, mlstm_library
from models.kernels.shapes import expect

CHUNK = 128  # of the torch path
MIN_TASKS = 8  # the C++ path divides heads among threads, and their columns if heads are few
EPS = 1e-6  # as in the xlstm package
LOWEST_LOG_FORGET = -1e4  # whose exponential is 0

State = tuple[Tensor, Tensor, Tensor]


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    *,
    initial_state: State | None = None,
    return_state: bool = True,
) -> tuple[Tensor, State | None]:
    """q, k (B, T, H, K), v (B, T, H, V), gates before activation (B, T, H) -> h like v, state.

    The state is (memory (B, H, K, V), normalizer (B, H, K), log scale m (B, H)), as in the xlstm
    package: memory and normalizer times exp(m) are those of the unstabilised recurrence. It is
    carried without gradient, from zero if there is no `initial_state`, and returned as None unless
    `return_state`. Computes in float32 at least and returns that type.

    Raises ValueError if `initial_state` requires a gradient.
    """
    expect("k", k, *q.shape)
    expect("v", v, *q.shape[:3], -1)
    expect("igate", igate, *q.shape[:3])
    expect("fgate", fgate, *q.shape[:3])
    if initial_state is not None:
        batch, _, heads, key = q.shape
        shapes = ((batch, heads, key, v.shape[3]), (batch, heads, key), (batch, heads))
        for part, shape in zip(initial_state, shapes, strict=True):
            expect("a part of initial_state", part, *shape)
        if any(part.requires_grad for part in initial_state):
            raise ValueError("initial_state requires a gradient, but states carry none: detach it")
    with torch.autocast(q.device.type, enabled=False):
        work = torch.promote_types(v.dtype, torch.float32)
        if paths.uses_library("mlstm", q.device.type) and mlstm_library.takes(q, k, v):
            paths.note("mlstm", "library")
            inputs = (q, k, v, igate, fgate)
            return mlstm_library.mlstm(*inputs, initial_state, return_state, EPS)
        state = [x.to(work) for x in initial_state] if initial_state else [None, None, None]
        h, *end = _MLSTM.apply(q, k, v, igate, fgate, *state, return_state)
    return h, (end[0], end[1], end[2]) if return_state else None


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
    if initial_state is None:
        memory = q.new_zeros(*k[:, 0].shape, v.shape[-1])
        initial_state = memory, memory[..., 0], torch.full_like(igate[:, 0], -torch.inf)
    memory, normalizer, m = (x.double() for x in initial_state)
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


class _MLSTM(torch.autograd.Function):
    """Keeps its inputs, the output and one number per step; recomputes matrices and states."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        igate: Tensor,
        fgate: Tensor,
        memory: Tensor | None,
        normalizer: Tensor | None,
        m: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, ...]:
        ctx.on_gpu = _triton_takes(q, k, v, igate, fgate)
        if ctx.on_gpu:
            return _forward_triton(ctx, q, k, v, igate, fgate, memory, normalizer, m, return_state)
        gates = _gates(igate, fgate, m, torch.promote_types(v.dtype, torch.float32))
        inputs = (q, k, v, *gates[:4], memory, normalizer)
        run = _forward_native if _native_takes(q, k, v) else _forward_torch
        h, row_sum, *end = run(*inputs, return_state)
        ctx.save_for_backward(*inputs[:3], igate, fgate, memory, normalizer, m, h, row_sum)
        end.append(gates.m[:, :, -1].to(h.dtype))
        ctx.mark_non_differentiable(*end)
        return h, *end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.on_gpu:
            return *_backward_triton(ctx, dh), None, None, None, None
        q, k, v, igate, fgate, memory, normalizer, m, h, row_sum = ctx.saved_tensors
        gates = _gates(igate, fgate, m, h.dtype)
        run = _backward_native if _native_takes(q, k, v) else _backward_torch
        inputs = (q, k, v, *gates[:4], memory, normalizer)
        dq, dk, dv, q_dq, k_dk, dscale = run(*inputs, h, row_sum, dh)
        dgates = _gate_gradients(gates, fgate, q_dq, k_dk, dscale)
        return dq, dk, dv, *dgates, None, None, None, None


class _Gates(NamedTuple):
    """The gates of a sequence, summed up for the cell, all (B, H, T)."""

    a: Tensor
    peak: Tensor  # P
    before: Tensor  # P one step earlier; the log scale of the initial state at first
    floor: Tensor  # exp(-m) in the type of the computation
    m: Tensor
    peak_at: Tensor  # the step where P lies, -1 for the initial state


def _gates(igate: Tensor, fgate: Tensor, m: Tensor | None, work: torch.dtype) -> _Gates:
    """igate, fgate (B, T, H), m (B, H) of the initial state."""
    # Bounded, or one shut gate would cost the running sum the digits of all later ones.
    log_forget = F.logsigmoid(fgate.double()).clamp(min=LOWEST_LOG_FORGET)
    running = log_forget.transpose(1, 2).cumsum(-1)
    a = igate.double().transpose(1, 2) - running
    first = a.new_full(a.shape[:2], -torch.inf) if m is None else m.double()
    peak, peak_at = torch.cat([first[..., None], a], -1).cummax(-1)
    before, peak = peak[..., :-1].contiguous(), peak[..., 1:].contiguous()
    m_t = running + peak
    return _Gates(a.contiguous(), peak, before, torch.exp(-m_t).to(work), m_t, peak_at[..., 1:] - 1)


def _gate_gradients(
    gates: _Gates, fgate: Tensor, q_dq: Tensor, k_dk: Tensor, dscale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of both gates (B, T, H).

    The weight of step s in row t is an exponential of F_t + a_s, and it multiplies q_t and k_s:
    summed over s, its gradient is q_t . dq_t, and summed over t it is k_s . dk_s.
    """
    # m scales numerator and denominator alike, all but eps: only there h depends on it.
    dm = EPS * dscale.double()
    da = k_dk.double().scatter_add(-1, gates.peak_at.clamp(min=0), dm * (gates.peak_at >= 0))
    drunning = q_dq.double() + dm - da
    dlog_forget = drunning.flip(-1).cumsum(-1).flip(-1).transpose(1, 2)
    digate = da.transpose(1, 2).to(fgate.dtype)
    return digate, (dlog_forget * torch.sigmoid(-fgate.double())).to(fgate.dtype)


class _Chunk(NamedTuple):
    """A chunk of steps for the torch path; 1/sqrt(K) is in the weights."""

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor  # (B, H, L, L): weight of step s in row t, zero above the diagonal
    from_state: Tensor  # (B, H, L, 1): weight of the state in front of the chunk in row t
    to_state: Tensor  # (B, H, L, 1): weight of step s in the state behind the chunk
    keep: Tensor  # (B, H, 1): weight of the state in front of the chunk in the one behind it


def _chunks(time: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, time)) for start in range(0, time, CHUNK)]


def _chunk(
    rows: slice, q: Tensor, k: Tensor, v: Tensor, a: Tensor, peak: Tensor, before: Tensor
) -> _Chunk:
    work, root = torch.promote_types(v.dtype, torch.float32), math.log(q.shape[-1]) / 2
    a, peak, first = a[:, :, rows] - root, peak[:, :, rows], before[:, :, rows.start, None]
    last = peak[:, :, -1:]
    return _Chunk(
        q=_heads_first(q[:, rows], work),
        k=_heads_first(k[:, rows], work),
        v=_heads_first(v[:, rows], work),
        decay=(a[:, :, None] - peak[..., None]).to(work).exp_().tril_(),
        from_state=(first - peak).to(work).exp_()[..., None],
        to_state=(a - last).to(work).exp_()[..., None],
        keep=(first - last).to(work).exp_(),
    )


def _heads_first(x: Tensor, work: torch.dtype) -> Tensor:
    """(B, L, H, dim) -> (B, H, L, dim) of another type, in one copy."""
    x = x.transpose(1, 2)
    return torch.empty(x.shape, dtype=work, device=x.device).copy_(x)


def _write(
    chunk: _Chunk, memory: Tensor | None, normalizer: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The state behind a chunk from that in front of it."""
    key = chunk.k * chunk.to_state
    if memory is None or normalizer is None:
        return key.mT @ chunk.v, key.sum(-2)
    return (
        _add_product(chunk.keep[..., None] * memory, key.mT, chunk.v),
        torch.addcmul(key.sum(-2), chunk.keep, normalizer),
    )


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total + a @ b in the place of total."""
    total.flatten(0, 1).baddbmm_(a.flatten(0, 1), b.flatten(0, 1))
    return total


def _forward_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    peak: Tensor,
    before: Tensor,
    floor: Tensor,
    memory: Tensor | None,
    normalizer: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, ...]:
    """h, row sums (B, H, T), and the last memory and normalizer (or empty tensors)."""
    h, row_sum = floor.new_empty(v.shape), torch.empty_like(floor)
    for rows in _chunks(q.shape[1]):
        chunk = _chunk(rows, q, k, v, a, peak, before)
        weights = (chunk.q @ chunk.k.mT).mul_(chunk.decay)
        numerator, sums = weights @ chunk.v, weights.sum(-1)
        if memory is not None and normalizer is not None:
            query = chunk.q * chunk.from_state
            _add_product(numerator, query, memory)
            sums += (query @ normalizer[..., None])[..., 0]
        row_sum[:, :, rows] = sums
        scale = torch.maximum(sums.abs(), floor[:, :, rows]) + EPS
        h[:, rows] = numerator.div_(scale[..., None]).transpose(1, 2)
        if rows.stop < q.shape[1] or return_state:
            memory, normalizer = _write(chunk, memory, normalizer)
    if not return_state or memory is None or normalizer is None:
        return h, row_sum, h.new_empty(0), h.new_empty(0)
    return h, row_sum, memory, normalizer


def _backward_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    peak: Tensor,
    before: Tensor,
    floor: Tensor,
    memory: Tensor | None,
    normalizer: Tensor | None,
    h: Tensor,
    row_sum: Tensor,
    dh: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of q, k and v; q . dq, k . dk and the gradient of the scale, all (B, H, T)."""
    steps = _chunks(q.shape[1])
    chunks = [_chunk(rows, q, k, v, a, peak, before) for rows in steps]
    states = [(memory, normalizer)]
    for chunk in chunks[:-1]:
        states.append(_write(chunk, *states[-1]))
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    q_dq, k_dk, dscale = torch.empty(3, *floor.shape, dtype=floor.dtype, device=floor.device)
    dstate: tuple[Tensor, Tensor] | None = None
    for rows in reversed(steps):
        chunk, state = chunks.pop(), states.pop()
        sums = row_sum[:, :, rows]
        scale = torch.maximum(sums.abs(), floor[:, :, rows]) + EPS
        dscale_rows = -(dh[:, rows] * h[:, rows]).sum(-1).transpose(1, 2) / scale
        # The row sum sets the scale only where it is above the floor.
        dsum = (dscale_rows * sums.sign() * (sums.abs() > floor[:, :, rows]))[..., None]
        dnumerator = _heads_first(dh[:, rows], floor.dtype).div_(scale[..., None])
        dq_rows, dk_rows, dv_rows = _backward_chunk(chunk, state, dstate, dnumerator, dsum)

        dscale[:, :, rows] = dscale_rows
        q_dq[:, :, rows] = (chunk.q * dq_rows).sum(-1)
        k_dk[:, :, rows] = (chunk.k * dk_rows).sum(-1)
        dq[:, rows] = dq_rows.transpose(1, 2)
        dk[:, rows] = dk_rows.transpose(1, 2)
        dv[:, rows] = dv_rows.transpose(1, 2)
        if rows.start > 0:
            dstate = _backward_state(chunk, dstate, dnumerator, dsum)
    return dq, dk, dv, q_dq, k_dk, dscale


def _backward_chunk(
    chunk: _Chunk,
    state: tuple[Tensor | None, Tensor | None],
    dstate: tuple[Tensor, Tensor] | None,
    dnumerator: Tensor,
    dsum: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; `state` in front of the chunk, gradient `dstate` behind it,
    `dsum` (B, H, L, 1) of the row sums."""
    weights = (chunk.q @ chunk.k.mT).mul_(chunk.decay)
    dscores = (dnumerator @ chunk.v.mT).add_(dsum).mul_(chunk.decay)
    dq, dk, dv = dscores @ chunk.k, dscores.mT @ chunk.q, weights.mT @ dnumerator
    memory, normalizer = state
    if memory is not None and normalizer is not None:
        dquery = (dnumerator @ memory.mT).addcmul_(dsum, normalizer[:, :, None])
        dq.addcmul_(dquery, chunk.from_state)
    if dstate is not None:
        dmemory, dnormalizer = dstate
        dkey = (chunk.v @ dmemory.mT).add_(dnormalizer[:, :, None])
        dk.addcmul_(dkey, chunk.to_state)
        _add_product(dv, chunk.k * chunk.to_state, dmemory)
    return dq, dk, dv


def _backward_state(
    chunk: _Chunk, dstate: tuple[Tensor, Tensor] | None, dnumerator: Tensor, dsum: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of the state in front of a chunk, from that of the state behind it."""
    query = chunk.q * chunk.from_state
    dnormalizer = (query * dsum).sum(-2)
    if dstate is None:
        return query.mT @ dnumerator, dnormalizer
    dmemory = dstate[0].mul_(chunk.keep[..., None])
    return (
        _add_product(dmemory, query.mT, dnumerator),
        dnormalizer.addcmul_(chunk.keep, dstate[1]),
    )


def _triton_takes(*inputs: Tensor) -> bool:
    """Accepts any shape; q, k and v are of one type."""
    fits = len({x.dtype for x in inputs[:3]}) == 1
    return launch.takes("mlstm", *inputs, fits=fits)


def _forward_triton(
    ctx: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate: Tensor,
    fgate: Tensor,
    memory: Tensor | None,
    normalizer: Tensor | None,
    m: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, ...]:
    """Keeps the running sums, too, which are small and take longer to compute than to load."""
    from models.kernels.gpu import mlstm as gpu
    from models.kernels.gpu import mlstm_gates

    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    gates, m_end = mlstm_gates.scan(igate, fgate, m, LOWEST_LOG_FORGET)
    h, row_sum, *end = gpu.forward(q, k, v, gates, memory, normalizer, EPS, return_state)
    ctx.save_for_backward(q, k, v, igate, fgate, *gates, memory, normalizer, h, row_sum)
    end.append(m_end)
    ctx.mark_non_differentiable(*end)
    return h, *end


def _backward_triton(ctx: Any, dh: Tensor) -> tuple[Tensor, ...]:
    from models.kernels.gpu import mlstm as gpu
    from models.kernels.gpu import mlstm_gates

    q, k, v, igate, fgate, *sums, memory, normalizer, h, row_sum = ctx.saved_tensors
    gates = mlstm_gates.Gates(*sums)
    state = memory, normalizer
    grads = gpu.backward(q, k, v, gates, *state, h, row_sum, dh.contiguous(), EPS)
    dq, dk, dv, q_dq, k_dk, dscale = grads
    dgates = mlstm_gates.gradients(igate, fgate, gates, q_dq, k_dk, dscale, EPS)
    return dq, dk, dv, *dgates


def _native_takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Accepts any shape; the three are of one type, so that memory is read once."""
    same = q.dtype == k.dtype == v.dtype
    return same and native.takes("mlstm", q, k, v, types=native.ELEMENT_TYPES)


def _blocks(batch: int, heads: int, value: int) -> int:
    """Blocks of value columns per head, each some vectors wide and none empty; a matter of shapes
    only, so that results do not depend on the number of threads."""
    vectors = -(-value // native.LANES)
    blocks = min(-(-MIN_TASKS // (batch * heads)), vectors)
    return -(-vectors // -(-vectors // blocks))


def _shape(q: Tensor, v: Tensor) -> tuple[int, ...]:
    """The arguments of both C functions behind their tensors."""
    batch, time, heads, key = q.shape
    value = v.shape[-1]
    is_bf16 = int(q.dtype == torch.bfloat16)
    return batch, time, heads, key, value, _blocks(batch, heads, value), is_bf16


@torch.library.custom_op("babysweep::mlstm", mutates_args=())
def _forward_native(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    peak: Tensor,
    before: Tensor,
    floor: Tensor,
    memory: Tensor | None,
    normalizer: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h, row_sum = floor.new_empty(v.shape), floor.new_empty(floor.shape)
    memory_shape = (v.shape[0], v.shape[2], q.shape[3], v.shape[3]) if return_state else (0,)
    end = h.new_empty(memory_shape), h.new_empty(memory_shape[:-1] or (0,))
    inputs = _contiguous(q, k, v, a, peak, before, floor, memory, normalizer)
    native.call("mlstm", "forward", *inputs, h, row_sum, *end, *_shape(q, v))
    return h, row_sum, *end


@_forward_native.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    peak: Tensor,
    before: Tensor,
    floor: Tensor,
    memory: Tensor | None,
    normalizer: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, ...]:
    memory_shape = (v.shape[0], v.shape[2], q.shape[3], v.shape[3]) if return_state else (0,)
    shapes = (v.shape, floor.shape, memory_shape, memory_shape[:-1] or (0,))
    return tuple(floor.new_empty(shape) for shape in shapes)


@torch.library.custom_op("babysweep::mlstm_backward", mutates_args=())
def _backward_native(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    peak: Tensor,
    before: Tensor,
    floor: Tensor,
    memory: Tensor | None,
    normalizer: Tensor | None,
    h: Tensor,
    row_sum: Tensor,
    dh: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    blocks = _blocks(v.shape[0], v.shape[2], v.shape[3])
    work = q.dtype if blocks == 1 else torch.float32
    dq, dk = (q.new_empty(blocks, *q.shape, dtype=work) for _ in range(2))
    q_dq, k_dk = (floor.new_empty(blocks, *floor.shape) for _ in range(2))
    dv, dscale = v.new_empty(v.shape), floor.new_empty(floor.shape)
    inputs = _contiguous(q, k, v, a, peak, before, floor, memory, normalizer, h, row_sum, dh)
    outputs = (dq, dk, dv, q_dq, k_dk, dscale)
    native.call("mlstm", "backward", *inputs, *outputs, *_shape(q, v))
    dq, dk, q_dq, k_dk = (x.sum(0) if blocks > 1 else x[0] for x in (dq, dk, q_dq, k_dk))
    return dq.to(q.dtype), dk.to(k.dtype), dv, q_dq, k_dk, dscale


@_backward_native.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    peak: Tensor,
    before: Tensor,
    floor: Tensor,
    memory: Tensor | None,
    normalizer: Tensor | None,
    h: Tensor,
    row_sum: Tensor,
    dh: Tensor,
) -> tuple[Tensor, ...]:
    keys = (q.new_empty(q.shape) for _ in range(2))
    return *keys, v.new_empty(v.shape), *(floor.new_empty(floor.shape) for _ in range(3))


def _contiguous(*tensors: Tensor | None) -> list[Tensor]:
    """Tensors laid out for C++; an empty one, whose pointer is null, stands for None."""
    return [torch.empty(0) if x is None else x.contiguous() for x in tensors]
