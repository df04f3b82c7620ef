"""Gated linear attention, the recurrence of HGRN2 (Qin et al. 2024; Yang et al. 2024, GLA).

    S_t = diag(exp g_t) S_{t-1} + k_t v_t^T         S of shape (K, V) per head
    o_t = scale * q_t^T S_t

Computed in chunks of C steps: inside a chunk as masked attention, between chunks through S.
Legend: B batch, T time, H heads, K key dim, V value dim, X = B * H, N chunks, C steps in a chunk;
inside this file tensors stand heads first, (X, N, C, dim), with zeros behind the end: they change
no state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels import native, paths
from models.kernels.gpu import gated_linear_library, launch
from models.kernels.shapes import expect

# Inside a chunk exp(G_t - G_s), G the running sum of g, is split into exp(G_t - M) exp(M - G_s)
# with M half the chunk's sum. Both stay within exp(80), and float32 ends at exp(88), as long as
# the gates of a chunk sum to -160 or more; stronger forgetting takes shorter chunks. The C++
# version multiplies gates instead and has no such limit.
CHUNKS = (64, 32, 16, 8)
LOWEST_SUM = -160.0
TINY = 1e-38  # of a decay: it has a logarithm and may be divided by
LOG2_E = 1.4426950408889634  # exp2 is several times faster than exp


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """q, k, g (B, T, H, K), v (B, T, H, V) -> o (B, T, H, V) and the last state (B, H, K, V).

    `g` is the logarithm of the forget gate, at most 0; a gate below exp(-20) may be rounded up
    to that. `scale` defaults to K ** -0.5. Computes in float32 at least; `o` has v's type. The
    states carry no gradient: ValueError if `initial_state` asks for one.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    expect("k", k, *q.shape)
    expect("g", g, *q.shape)
    state = _start(q, v, initial_state)
    with torch.autocast(q.device.type, enabled=False):
        inputs = (x.to(_work_type(v)).contiguous() for x in (q, k, v, g))
        o, state = _LogGatedAttention.apply(*inputs, state, scale)
    return o.to(v.dtype), state


def hgrn2_attention(
    q: Tensor,
    f: Tensor,
    v: Tensor,
    lower_bound: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated linear attention with the gates of HGRN2, straight from the layer's projections.

    q and f (B, T, H, K) are preactivations, v (B, T, H, V), lower_bound (H * K,) between 0 and 1,
    0 if there is none. The forget gate is bound + (1 - bound) * sigmoid(f), the key 1 - gate, the
    query silu(q); f = inf keeps the state. Results as of `gated_linear_attention`, to which it
    is equal; reading gates where they are used saves most passes over memory. Saves the inputs
    only, in their own type.
    """
    expect("f", f, *q.shape)
    state = _start(q, v, initial_state)
    if lower_bound is not None:
        expect("lower_bound", lower_bound, q.shape[2] * q.shape[3])
    library_wanted = paths.uses_library("gated_linear_attention", q.device.type)
    with torch.autocast(q.device.type, enabled=False):
        if library_wanted and gated_linear_library.takes(q, v):
            paths.note("gated_linear_attention", "library")
            return gated_linear_library.hgrn2_attention(q, f, v, lower_bound, state)
        if lower_bound is None:
            lower_bound = q.new_zeros(q.shape[2] * q.shape[3], dtype=_work_type(v))
        inputs = (x.to(v.dtype).contiguous() for x in (q, f, v))
        bound = lower_bound.to(_work_type(v)).contiguous()
        o, state = _BoundedAttention.apply(*inputs, bound, state, q.shape[-1] ** -0.5)
    return o, state


def gated_linear_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence step by step in float64; arguments and results as in the chunked form."""
    q, k, v, g = (x.double() for x in (q, k, v, g))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    state = _start(q, v, initial_state)
    state = _zeros(q, v) if state is None else state
    outputs = []
    for t in range(q.shape[1]):
        state = g[:, t, :, :, None].exp() * state + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append(torch.einsum("bhk,bhkv->bhv", scale * q[:, t], state))
    return torch.stack(outputs, 1), state


def hgrn2_attention_reference(
    q: Tensor,
    f: Tensor,
    v: Tensor,
    lower_bound: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """fla's formula of the gates, and the recurrence, in float64."""
    g = F.logsigmoid(f.double())
    if lower_bound is not None:
        bound = lower_bound.double().view(q.shape[2:])
        g = torch.logaddexp(bound.log(), torch.log1p(-bound) + g)
    return gated_linear_attention_reference(
        F.silu(q.double()), 1 - g.exp(), v, g, initial_state=initial_state
    )


def _start(q: Tensor, v: Tensor, initial_state: Tensor | None) -> Tensor | None:
    """The initial state (B, H, K, V), if there is one, in the type to compute in."""
    expect("v", v, *q.shape[:3], -1)
    if initial_state is None:
        return None
    expect("initial_state", initial_state, q.shape[0], *q.shape[2:], v.shape[3])
    if initial_state.requires_grad:
        raise ValueError("initial_state needs a gradient, which this kernel does not give")
    return initial_state.to(_work_type(v)).contiguous()


def _zeros(q: Tensor, v: Tensor) -> Tensor:
    """The state (B, H, K, V) of a sequence that starts here."""
    return q.new_zeros(q.shape[0], *q.shape[2:], v.shape[3], dtype=_work_type(v))


def _work_type(v: Tensor) -> torch.dtype:
    return torch.promote_types(v.dtype, torch.float32)


class _LogGatedAttention(torch.autograd.Function):
    """Keeps its inputs only and recomputes the rest in the backward."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        initial_state: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k, v, g, initial_state)
        ctx.scale = scale
        if _triton_takes(q, v, k, g):
            from models.kernels.gpu import gated_linear_attention as gpu

            o, state = gpu.forward(q, k, v, g, None, initial_state, scale)
        elif _native_takes(q, v):
            initial_state = _zeros(q, v) if initial_state is None else initial_state
            o, state = _forward_native(q, k, v, g, initial_state, scale)
        else:
            initial_state = _zeros(q, v) if initial_state is None else initial_state
            query, key, value, log = (_heads_first(x) for x in (q, k, v, g))
            log.clamp_(min=LOWEST_SUM)  # -inf would make the products of `_sums_within` NaN
            o, state = _forward_torch(query, key, value, log, initial_state, scale)
            o = _time_first(o, v)
        ctx.mark_non_differentiable(state)
        return o, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, _: Any) -> Any:
        q, k, v, g, initial_state = ctx.saved_tensors
        do = do.contiguous()
        if _triton_takes(q, v, k, g, do):
            from models.kernels.gpu import gated_linear_attention as gpu

            return *gpu.backward(q, k, v, g, None, initial_state, do, ctx.scale)[:4], None, None
        initial_state = _zeros(q, v) if initial_state is None else initial_state
        if _native_takes(q, v):
            return *_backward_native(q, k, v, g, initial_state, do, ctx.scale), None, None
        query, key, value, log, dout = (_heads_first(x) for x in (q, k, v, g, do))
        log.clamp_(min=LOWEST_SUM)
        with torch.autocast(do.device.type, enabled=False):  # the caller's may be on
            grads = _backward_torch(query, key, value, log, dout, initial_state, ctx.scale)
        return *map(_time_first, grads, (q, k, v, g)), None, None


class _BoundedAttention(torch.autograd.Function):
    """The same from preactivations."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        f: Tensor,
        v: Tensor,
        bound: Tensor,
        initial_state: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, f, v, bound, initial_state)
        ctx.scale = scale
        if _triton_takes(q, v, f):
            from models.kernels.gpu import gated_linear_attention as gpu

            o, state = gpu.forward(q, None, v, f, bound, initial_state, scale)
        elif _native_takes(q, v):
            initial_state = _zeros(q, v) if initial_state is None else initial_state
            o, state = _forward_bounded_native(q, f, v, bound, initial_state, scale)
        else:
            initial_state = _zeros(q, v) if initial_state is None else initial_state
            x, values = _heads_first(q), _heads_first(v)
            gates = _gates(_heads_first(f, padding=torch.inf), bound)
            o, state = _forward_torch(
                F.silu(x, inplace=True), gates.key, values, gates.log, initial_state, scale
            )
            o = _time_first(o, v)
        ctx.mark_non_differentiable(state)
        return o, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, _: Any) -> Any:
        q, f, v, bound, initial_state = ctx.saved_tensors
        do = do.contiguous()
        if _triton_takes(q, v, f, do):
            from models.kernels.gpu import gated_linear_attention as gpu

            dq, _, dv, df, dbound = gpu.backward(q, None, v, f, bound, initial_state, do, ctx.scale)
            return dq, df, dv, dbound, None, None
        initial_state = _zeros(q, v) if initial_state is None else initial_state
        if _native_takes(q, v):
            grads = _backward_bounded_native(q, f, v, bound, initial_state, do, ctx.scale)
            return *grads, None, None
        x, values = _heads_first(q), _heads_first(v)
        gates = _gates(_heads_first(f, padding=torch.inf), bound)
        dout = _heads_first(do)
        with torch.autocast(do.device.type, enabled=False):
            dquery, dkey, dv, dlog = _backward_torch(
                F.silu(x), gates.key, values, gates.log, dout, initial_state, ctx.scale
            )
        closed = 1 - gates.open
        dbound = None
        if ctx.needs_input_grad[3]:
            dbound = (dlog / gates.decay).sub_(dkey).mul_(closed)
            dbound = dbound.unflatten(0, (len(q), -1)).sum((0, 2)).flatten()
        df = (gates.open / gates.decay).mul_(dlog)  # the quotient is at most 1 / (1 - bound)
        df = df.addcmul_(dkey, gates.open, value=-1).mul_(closed).mul_(1 - gates.bound)
        dq = torch.ops.aten.silu_backward(dquery, x)
        return _time_first(dq, q), _time_first(df, f), _time_first(dv, v), dbound, None, None


class _Gates(NamedTuple):
    """HGRN2's gates, heads first (X, T, K); `bound` (X, 1, K)."""

    open: Tensor  # sigmoid of the preactivation
    bound: Tensor
    decay: Tensor
    key: Tensor
    log: Tensor  # of the decay


def _gates(f: Tensor, bound: Tensor) -> _Gates:
    opened = f.sigmoid_()
    heads = len(bound) // f.shape[-1]
    bound = bound.view(heads, 1, -1).repeat(len(f) // heads, 1, 1)
    decay = torch.addcmul(bound, 1 - bound, opened).clamp_(min=TINY)
    return _Gates(opened, bound, decay, 1 - decay, decay.log())


# ---- In Triton


def _triton_takes(q: Tensor, v: Tensor, *others: Tensor) -> bool:
    """The widest heads are those whose values of a chunk fit into shared memory."""
    fits = q.shape[3] <= 256 and v.shape[3] * v.element_size() <= 512
    return launch.takes("gated_linear_attention", q, v, *others, fits=fits)


# ---- In PyTorch


def _forward_torch(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial_state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """q, k, g (X, T, K), v (X, T, V) -> o (X, T, V) and the last state (B, H, K, V)."""
    c = _prepare(q, k, v, g, scale)
    middles, state = _chunk_states(c, initial_state)
    # tril selects: inf above the diagonal is harmless
    o = (c.queries @ c.keys.mT).tril_() @ c.values
    o.flatten(0, 1).baddbmm_(c.queries.flatten(0, 1), middles.flatten(0, 1))
    return o.view(v.shape), state.view(initial_state.shape)


def _backward_torch(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, do: Tensor, initial_state: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    c = _prepare(q, k, v, g, scale)
    do = do.view(c.values.shape)
    middles, _ = _chunk_states(c, initial_state)
    scores = (c.queries @ c.keys.mT).tril_()
    dscores = do @ c.values.mT
    own = dscores.diagonal(dim1=2, dim2=3)[..., None].clone()
    dscores.tril_(-1)
    dqueries = dscores @ c.keys
    dqueries.flatten(0, 1).baddbmm_(do.flatten(0, 1), middles.flatten(0, 1).mT)
    dkeys, dvalues = dscores.mT @ c.queries, scores.mT @ do
    # The gradient of the state behind a chunk, as the chunk's middle sees it.
    dstate = torch.zeros_like(middles[:, 0])
    for n in reversed(range(do.shape[1])):
        if n < do.shape[1] - 1:
            dstate *= c.half[:, n]
            dkeys[:, n].baddbmm_(c.values[:, n], dstate.mT)
            dvalues[:, n].baddbmm_(c.keys[:, n], dstate)
        dstate.baddbmm_(c.queries[:, n].mT, do[:, n]).mul_(c.half[:, n])

    # A gate scales all that later queries read of earlier keys.
    dg = torch.mul(c.queries, dqueries).addcmul_(c.keys, dkeys, value=-1)
    later = _later_sums(dg)
    # None scales what a step's query and key give to each other: its rounding error stays out.
    dqueries.addcmul_(c.keys, own)
    dkeys.addcmul_(c.queries, own)
    dq = dqueries.mul_(c.growth).mul_(scale)
    dk = dkeys.div_(c.growth)
    return dq.view(q.shape), dk.view(k.shape), dvalues.view(v.shape), later.view(g.shape)


class _Chunks(NamedTuple):
    """Chunks of scaled queries, keys and values (X, N, C, dim), and their two gates: `growth`
    (X, N, C, K) is exp(G - M), `half` (X, N, K, 1) is exp(M): see LOWEST_SUM."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    growth: Tensor
    half: Tensor


def _prepare(q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float) -> _Chunks:
    running = _running_sums(g)
    q, k, v = (x.unflatten(1, running.shape[1:3]) for x in (q, k, v))
    middle = running[:, :, -1:] / 2
    growth = running.sub_(middle).exp2_()
    half = middle.exp2_().mT.contiguous()
    return _Chunks((q * growth).mul_(scale), k / growth, v, growth, half)


def _running_sums(g: Tensor) -> Tensor:
    """Sums of g (X, T, K) from the start of its chunk, as powers of two (X, N, C, K).

    In the longest chunks that all sum to LOWEST_SUM or more; if there are none, g is clamped.
    """
    for chunk in CHUNKS:
        if chunk <= g.shape[1]:
            running = _sums_within(g, chunk)
            # "not below" also lets NaN through to the result
            if not running[:, :, -1].min() < LOWEST_SUM * LOG2_E:
                return running
    return _sums_within(g.clamp(min=LOWEST_SUM / CHUNKS[-1]), CHUNKS[-1])


def _sums_within(g: Tensor, chunk: int) -> Tensor:
    chunks = g.unflatten(1, (-1, chunk))
    # A triangular product is several times faster than cumsum along a strided axis.
    return _triangle(chunks).mul_(LOG2_E) @ chunks


def _chunk_states(c: _Chunks, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """States as the middle of every chunk sees them (X, N, K, V), and the last state (X, K, V)."""
    state = initial_state.flatten(0, 1)
    middles = c.keys.new_empty(*c.keys.shape[:2], *state.shape[1:])
    for n in range(middles.shape[1]):
        torch.mul(c.half[:, n], state, out=middles[:, n])
        state = torch.baddbmm(middles[:, n], c.keys[:, n].mT, c.values[:, n]).mul_(c.half[:, n])
    return middles, state


def _later_sums(x: Tensor) -> Tensor:
    """x (X, N, C, dim) -> for every step the sum from it to the end of the sequence."""
    sums = _triangle(x).mT @ x
    chunks = sums[:, :, :1]
    return sums.add_(chunks.flip(1).cumsum(1).flip(1).sub_(chunks))


def _triangle(x: Tensor) -> Tensor:
    """Ones (C, C) on and below the diagonal, for x (X, N, C, dim)."""
    return torch.ones(x.shape[2], x.shape[2], dtype=x.dtype, device=x.device).tril_()


def _heads_first(x: Tensor, padding: float = 0.0) -> Tensor:
    """(B, T, H, dim) -> (B * H, T', dim) in float32 at least, T' a multiple of the chunk."""
    batch, time, heads, dim = x.shape
    chunk = min((chunk for chunk in CHUNKS if chunk >= time), default=CHUNKS[0])
    work = torch.promote_types(x.dtype, torch.float32)
    y = x.new_empty(batch, heads, time + -time % chunk, dim, dtype=work)
    y[:, :, :time] = x.transpose(1, 2)
    y[:, :, time:] = padding
    return y.flatten(0, 1)


def _time_first(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_heads_first`: shape and type of `like`."""
    batch, time, heads, _ = like.shape
    y = torch.empty_like(like)
    y.copy_(x.view(batch, heads, -1, x.shape[-1])[:, :, :time].transpose(1, 2))
    return y


# ---- In C++


def _native_takes(q: Tensor, v: Tensor) -> bool:
    fits = q.shape[3] % native.LANES == 0 and v.shape[3] % native.LANES == 0
    return native.takes("gated_linear_attention", q, v, fits=fits, types=native.ELEMENT_TYPES)


def _sizes(q: Tensor, v: Tensor) -> tuple[int, ...]:
    return *q.shape, v.shape[3]


@torch.library.custom_op("babysweep::gated_linear_attention", mutates_args=())
def _forward_native(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial_state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    o, state = torch.empty_like(v), initial_state.clone()
    tensors = (q, k, v, g, o, state)
    native.call("gated_linear_attention", "forward", *tensors, *_sizes(q, v), scale)
    return o, state


@_forward_native.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial_state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), torch.empty_like(initial_state)


@torch.library.custom_op("babysweep::gated_linear_attention_backward", mutates_args=())
def _backward_native(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial_state: Tensor, do: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv, dg = map(torch.empty_like, (q, k, v, g))
    tensors = (q, k, v, g, initial_state, do, dq, dk, dv, dg)
    native.call("gated_linear_attention", "backward", *tensors, *_sizes(q, v), scale)
    return dq, dk, dv, dg


@_backward_native.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial_state: Tensor, do: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv, dg = map(torch.empty_like, (q, k, v, g))
    return dq, dk, dv, dg


@torch.library.custom_op("babysweep::hgrn2_attention", mutates_args=())
def _forward_bounded_native(
    q: Tensor, f: Tensor, v: Tensor, bound: Tensor, initial_state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    o, state = torch.empty_like(v), initial_state.clone()
    tensors = (q, f, v, bound, o, state)
    sizes = (*_sizes(q, v), int(v.dtype == torch.bfloat16), scale)
    native.call("gated_linear_attention", "forward_bounded", *tensors, *sizes)
    return o, state


@_forward_bounded_native.register_fake
def _(
    q: Tensor, f: Tensor, v: Tensor, bound: Tensor, initial_state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), torch.empty_like(initial_state)


@torch.library.custom_op("babysweep::hgrn2_attention_backward", mutates_args=())
def _backward_bounded_native(
    q: Tensor, f: Tensor, v: Tensor, bound: Tensor, initial_state: Tensor, do: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, df, dv = map(torch.empty_like, (q, f, v))
    dbound = bound.new_empty(len(q), len(bound))
    tensors = (q, f, v, bound, initial_state, do, dq, df, dv, dbound)
    sizes = (*_sizes(q, v), int(v.dtype == torch.bfloat16), scale)
    native.call("gated_linear_attention", "backward_bounded", *tensors, *sizes)
    return dq, df, dv, dbound.sum(0)


@_backward_bounded_native.register_fake
def _(
    q: Tensor, f: Tensor, v: Tensor, bound: Tensor, initial_state: Tensor, do: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, df, dv = map(torch.empty_like, (q, f, v))
    return dq, df, dv, torch.empty_like(bound)
