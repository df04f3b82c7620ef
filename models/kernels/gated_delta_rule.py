"""The gated delta rule (Yang, Kautz, Hatamizadeh 2024, Gated Delta Networks, arXiv 2412.06464).

Equation 10 of the paper, for the transposed state S of shape (K, V) per head:

    S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T
    o_t = scale * S_t^T q_t

A step forgets by one gate, reads what the state holds under its key, and writes the difference to
its value: S_t = exp(g_t) S_{t-1} + k_t u_t^T with u_t = beta_t (v_t - exp(g_t) S_{t-1}^T k_t).

In a chunk of C steps behind the state S, with G the running sum of g inside the chunk and
D_ts = exp(G_t - G_s) for s <= t, the updates u solve a triangular system (section 3.3, the extended
WY representation),

    u_t + beta_t sum_{s < t} (k_t . k_s) D_ts u_s = beta_t (v_t - exp(G_t) S^T k_t)

whose matrix is inverted once for each chunk. Outputs and the next state are then products of
matrices:

    o_t = scale * (exp(G_t) S^T q_t + sum_{s <= t} (q_t . k_s) D_ts u_s)
    S'  = exp(G_C) S + sum_s exp(G_C - G_s) k_s u_s^T

All exponents are sums of logarithms of gates, at most 0, so that nothing overflows. The sums are
few numbers and differences are taken of them: they are in float64.

Legend: B batch, T time, H heads, K key dim, V value dim, X = B * H, N chunks, C steps in a chunk;
inside this file tensors stand heads first, (X, N, C, dim), with zeros behind the end: such steps
change no state.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import paths
from models.kernels.gpu import launch
from models.kernels.shapes import expect

CHUNK = 64  # steps, at most
LOWEST_LOG_DECAY = -1e4  # of a step: sums of -inf would have no differences
LOWEST_SUM = -60.0  # exp(-60) is nothing beside 1; smaller decays make slow denormal products


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """q, k (B, T, H, K), v (B, T, H, V), g and beta (B, T, H) -> o like v, and the last state
    (B, H, K, V), or None unless `return_state`.

    `g` is the logarithm of the forget gate, at most 0; `beta`, the writing strength, lies between 0
    and 1, or 2 for negative eigenvalues; keys have length 1, or the state may grow. g = 0 with
    beta = 0 keeps the state. `scale` defaults to K ** -0.5. Computes in float32 at least; `o` has
    v's type. Saves its inputs only.

    Raises ValueError for shapes that do not fit, and if `initial_state` requires a gradient: states
    carry none.
    """
    expect("k", k, *q.shape)
    expect("v", v, *q.shape[:3], -1)
    expect("g", g, *q.shape[:3])
    expect("beta", beta, *q.shape[:3])
    if initial_state is not None:
        expect("initial_state", initial_state, q.shape[0], *q.shape[2:], v.shape[3])
        if initial_state.requires_grad:
            raise ValueError("initial_state requires a gradient, but states carry none: detach it")
        initial_state = initial_state.to(_work_type(v)).contiguous()
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast(q.device.type, enabled=False):
        o, state = _GatedDeltaRule.apply(q, k, v, g, beta, initial_state, scale)
    return o, state if return_state else None


def gated_delta_rule_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """The recurrence step by step in float64; arguments and results as in the chunked form."""
    q, k, v, g, beta = (x.double() for x in (q, k, v, g, beta))
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    if initial_state is None:
        initial_state = q.new_zeros(q.shape[0], *q.shape[2:], v.shape[3])
    state, outputs = initial_state.double(), []
    for t in range(q.shape[1]):
        state = g[:, t, :, None, None].exp() * state
        held = torch.einsum("bhk,bhkv->bhv", k[:, t], state)
        update = beta[:, t, :, None] * (v[:, t] - held)
        state = state + k[:, t, :, :, None] * update[:, :, None]
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outputs, 1), state.detach() if return_state else None


class _GatedDeltaRule(torch.autograd.Function):
    """Keeps its inputs only and recomputes the rest in the backward: what autograd would keep of
    the chunks is several times as much."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
        initial_state: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        on_triton = _triton_takes(q, k, v, g, beta)
        if on_triton:
            q, k, v, g, beta = (x.contiguous() for x in (q, k, v, g, beta))
        ctx.save_for_backward(q, k, v, g, beta, initial_state)
        ctx.scale, ctx.on_triton = scale, on_triton
        if on_triton:
            from models.kernels.gpu import gated_delta_rule as gpu

            o, last = gpu.forward(gpu.Inputs(q, k, v, g, beta, initial_state, scale))
        else:
            paths.note("gated_delta_rule", "torch")
            o, last = _forward(_prepare(q, k, v, g, beta, scale), initial_state)
            o, last = _time_first(o, v), last.unflatten(0, (q.shape[0], q.shape[2]))
        ctx.mark_non_differentiable(last)
        return o, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, _: Any) -> Any:
        q, k, v, g, beta, initial_state = ctx.saved_tensors
        if ctx.on_triton:
            from models.kernels.gpu import gated_delta_rule as gpu

            x = gpu.Inputs(q, k, v, g, beta, initial_state, ctx.scale)
            return *gpu.backward(x, do.contiguous()), None, None
        with torch.autocast(q.device.type, enabled=False):  # the caller's may be on
            c = _prepare(q, k, v, g, beta, ctx.scale)
            do = _chunked(do, c.keys)
            dq, dk, dv, dg, dbeta = _backward(c, do, initial_state)
        gradients = (dq.mul_(ctx.scale), dk, dv, dg[..., 0], dbeta[..., 0])
        inputs = (q, k, v, g, beta)
        return *map(_time_first, gradients, inputs), None, None


def _triton_takes(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> bool:
    """A tile of the state, with all its keys, stays in registers, which bounds their width."""
    widest = 256 if v.dtype == torch.bfloat16 else 128
    fits = q.shape[3] <= widest and q.dtype == k.dtype == v.dtype
    return launch.takes("gated_delta_rule", q, k, v, g, beta, fits=fits)


# ---- In PyTorch


class _Chunks(NamedTuple):
    """A sequence in chunks, and what its gates amount to."""

    queries: Tensor  # (X, N, C, K), scaled
    keys: Tensor  # (X, N, C, K)
    values: Tensor  # (X, N, C, V)
    beta: Tensor  # (X, N, C, 1)
    decay: Tensor  # (X, N, C, C): D, zero above the diagonal
    opening: Tensor  # (X, N, C, 1): exp(G_t), what is left at step t of the state before the chunk
    closing: Tensor  # (X, N, C, 1): exp(G_C - G_s), what is left of step s behind the chunk
    kept: Tensor  # (X, N, 1, 1): exp(G_C)


def _prepare(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float) -> _Chunks:
    batch, time, heads, _ = q.shape
    count = math.ceil(time / CHUNK)
    length = math.ceil(time / count)  # chunks of one length, with the least padding
    like = v.new_empty(batch * heads, count, length, 0, dtype=_work_type(v))
    queries, keys, values, beta = (_chunked(x, like) for x in (q, k, v, beta[..., None]))
    gates = g[..., None].double().clamp(min=LOWEST_LOG_DECAY)
    sums = _chunked(gates, like.double())[..., 0].cumsum(-1)
    ends = sums[..., -1:]

    def exponential(x: Tensor) -> Tensor:
        return x.clamp(LOWEST_SUM, 0).to(like.dtype).exp_()

    decay = exponential(sums[..., None] - sums[..., None, :]).tril_()
    opening, closing, kept = (exponential(x)[..., None] for x in (sums, ends - sums, ends))
    return _Chunks(queries.mul_(scale), keys, values, beta, decay, opening, closing, kept)


class _ChunkSolution(NamedTuple):
    """Results of the triangular systems, and of the recurrence over the chunks."""

    overlaps: Tensor  # (X, N, C, C): products of keys
    inverse: Tensor  # (X, N, C, C): of the system's matrix
    reads: Tensor  # (X, N, C, K): what the updates read of the state before the chunk
    writes: Tensor  # (X, N, C, K): the keys as the state behind the chunk has them
    updates: Tensor  # (X, N, C, V): u
    states: Tensor  # (X, N, K, V): before the chunks
    last: Tensor  # (X, K, V): the state behind all


def _forward(c: _Chunks, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Outputs (X, N, C, V), and the state behind all (X, K, V)."""
    solved = _solve(c, initial_state)
    o = (c.queries @ c.keys.mT).mul_(c.decay) @ solved.updates
    o += (c.queries @ solved.states).mul_(c.opening)
    return o, solved.last


def _solve(c: _Chunks, initial_state: Tensor | None) -> _ChunkSolution:
    """Solve for all updates and states, from the initial state (B, H, K, V) or from zeros."""
    if initial_state is None:
        state = c.keys.new_zeros(len(c.keys), c.keys.shape[-1], c.values.shape[-1])
    else:
        state = initial_state.flatten(0, 1)
    overlaps = c.keys @ c.keys.mT
    lower = (overlaps * c.decay).mul_(c.beta)
    one = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    # It reads only what lies below the diagonal.
    inverse = torch.linalg.solve_triangular(lower, one, upper=False, unitriangular=True)
    updates = inverse @ (c.values * c.beta)
    reads = inverse @ (c.keys * (c.opening * c.beta))
    writes = c.keys * c.closing
    states = updates.new_empty(*updates.shape[:2], *state.shape[1:])
    for n in range(updates.shape[1]):
        states[:, n] = state
        updates[:, n].baddbmm_(reads[:, n], state, alpha=-1)
        state = torch.baddbmm(c.kept[:, n] * state, writes[:, n].mT, updates[:, n])
    return _ChunkSolution(overlaps, inverse, reads, writes, updates, states, state)


def _backward(c: _Chunks, do: Tensor, initial_state: Tensor | None) -> tuple[Tensor, ...]:
    """do (X, N, C, V) -> gradients of scaled q, k, v (X, N, C, dim), g and beta (X, N, C, 1)."""
    solved = _solve(c, initial_state)
    scores = (c.queries @ c.keys.mT).mul_(c.decay)
    dupdates, dstates = _backward_updates(c, solved, scores, do)
    dright = solved.inverse.mT @ dupdates  # of the system's right side
    dmatrix = (dright @ solved.updates.mT).mul_(c.decay).tril_(-1)  # of its matrix, but for beta
    dscores = do @ solved.updates.mT
    from_state = (do @ solved.states.mT).mul_(c.opening)  # of the queries
    held = (dright @ solved.states.mT).mul_(c.opening)  # of what the keys read, but for beta
    to_state = (solved.updates @ dstates.mT).mul_(c.closing)  # of the keys

    # beta scales a value less what the state holds under the key, that of the chunk included.
    read, written = _sum(c.keys * held), _sum(c.keys * to_state)
    inside = dmatrix * solved.overlaps
    dbeta = _sum(c.values * dright).sub_(read).sub_(_sum(inside))
    # A running sum of gates scales what its step reads, and is divided out of what it writes.
    inside.mul_(c.beta).neg_().addcmul_(dscores, scores).tril_(-1)
    dsums = _sum(c.queries * from_state).addcmul_(read, c.beta, value=-1).sub_(written)
    dsums += _sum(inside) - inside.sum(-2)[..., None]
    dsums[:, :, -1] += written.sum(2) + (c.kept * solved.states * dstates).sum((2, 3))[..., None]
    dg = dsums.flip(2).cumsum(2).flip(2)

    dscores.mul_(c.decay)
    dmatrix.mul_(c.beta)
    dq = (dscores @ c.keys).add_(from_state)
    dk = (dscores.mT @ c.queries).sub_((dmatrix + dmatrix.mT) @ c.keys)
    dk.addcmul_(held, c.beta, value=-1).add_(to_state)
    return dq, dk, dright.mul_(c.beta), dg, dbeta


def _backward_updates(
    c: _Chunks, solved: _ChunkSolution, scores: Tensor, do: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the updates (X, N, C, V), and of the states behind the chunks (X, N, K, V)."""
    dupdates = scores.mT @ do
    dstates = (c.queries * c.opening).mT @ do  # at first of the states before
    dstate = torch.zeros_like(dstates[:, 0])
    for n in reversed(range(do.shape[1])):
        dupdates[:, n].baddbmm_(solved.writes[:, n], dstate)
        before = dstates[:, n].addcmul(c.kept[:, n], dstate)
        before.baddbmm_(solved.reads[:, n].mT, dupdates[:, n], alpha=-1)
        dstates[:, n] = dstate
        dstate = before
    return dupdates, dstates


def _sum(x: Tensor) -> Tensor:
    return x.sum(-1, keepdim=True)


def _work_type(v: Tensor) -> torch.dtype:
    return torch.promote_types(v.dtype, torch.float32)


def _chunked(x: Tensor, like: Tensor) -> Tensor:
    """x (B, T, H, dim) -> (X, N, C, dim), chunks and type those of `like` (X, N, C, any)."""
    batch, time, heads, dim = x.shape
    _, count, length, _ = like.shape
    y = like.new_empty(batch, heads, count * length, dim)
    y[:, :, :time] = x.transpose(1, 2)
    y[:, :, time:] = 0
    return y.view(-1, count, length, dim)


def _time_first(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_chunked`, which x (X, N, C, ...) may also be without `dim`: shape and type
    of `like`."""
    batch, time, heads = like.shape[:3]
    y = torch.empty_like(like, memory_format=torch.contiguous_format)
    return y.copy_(x.reshape(batch, heads, -1, *x.shape[3:])[:, :, :time].transpose(1, 2))
