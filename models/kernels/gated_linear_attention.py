"""Gated linear attention, the recurrence of HGRN2 (Qin et al. 2024; Yang et al. 2024, GLA).

    S_t = diag(exp g_t) S_{t-1} + k_t v_t^T         S of shape (K, V) per head
    o_t = scale * q_t^T S_t

Computed in chunks of C steps: inside a chunk as masked attention, between chunks through S.
Legend: B batch, T time, H heads, K key dim, V value dim, N chunks, C steps in a chunk, and
X = B * H; inside this file tensors are laid out (N, X, C, dim).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Inside a chunk exp(G_t - G_s), G the running sum of g, is split into exp(G_t - M) exp(M - G_s)
# with M half the chunk's sum. Both stay within exp(80), and float32 ends at exp(88), as long as
# the gates of a chunk sum to -160 or more; stronger forgetting takes shorter chunks.
CHUNKS = (64, 32, 16, 8)
LOWEST_SUM = -160.0


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
    if initial_state is not None and initial_state.requires_grad:
        raise ValueError("initial_state needs a gradient, which this kernel does not give")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast(q.device.type, enabled=False):
        work = torch.promote_types(v.dtype, torch.float32)
        q, k, g = (x.to(work) for x in (q, k, g))
        chunk = _safe_chunk(g.detach())
        if chunk == 0:
            chunk = CHUNKS[-1]
            g = g.clamp(min=LOWEST_SUM / chunk)
        if initial_state is None:
            initial_state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])
        o, state = _ChunkedGLA.apply(q, k, v.to(work), g, initial_state.to(work), scale, chunk)
    return o.to(v.dtype), state


def gated_linear_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """The recurrence step by step in float64; arguments and results as in the chunked form."""
    q, k, v, g = (x.double() for x in (q, k, v, g))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])
    outputs = []
    for t in range(q.shape[1]):
        state = g[:, t, :, :, None].exp() * state + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append(torch.einsum("bhk,bhkv->bhv", scale * q[:, t], state))
    return torch.stack(outputs, 1), state


def _safe_chunk(g: Tensor) -> int:
    """The longest chunk whose gates all sum to LOWEST_SUM or more; 0 if there is none."""
    longest = min(CHUNKS, key=lambda chunk: (chunk < g.shape[1], chunk))  # no need to pad further
    for chunk in CHUNKS:
        if chunk > longest:
            continue
        padded = F.pad(g, (0, 0, 0, 0, 0, -g.shape[1] % chunk))
        # "not below" also lets NaN through to the result
        if not padded.unflatten(1, (-1, chunk)).sum(2).min() < LOWEST_SUM:
            return chunk
    return 0


class _ChunkedGLA(torch.autograd.Function):
    """The chunked form; keeps its inputs only and recomputes the rest in the backward."""

    @staticmethod
    def forward(ctx, q, k, v, g, initial_state, scale, chunk):
        ctx.save_for_backward(q, k, v, g, initial_state)
        ctx.scale, ctx.chunk = scale, chunk
        queries, keys, values, _, half = _prepare(q, k, v, g, scale, chunk)
        o = (queries @ keys.mT).tril_() @ values  # tril selects: inf above the diagonal is harmless
        middles, state = _chunk_states(keys, values, half, initial_state)
        o += queries @ middles
        state = state.view(initial_state.shape)
        ctx.mark_non_differentiable(state)
        return _join(o, q.shape), state

    @staticmethod
    def backward(ctx, do, _):
        q, k, v, g, initial_state = ctx.saved_tensors
        queries, keys, values, growth, half = _prepare(q, k, v, g, ctx.scale, ctx.chunk)
        do = _split(do, ctx.chunk)
        middles, _ = _chunk_states(keys, values, half, initial_state)

        scores = (queries @ keys.mT).tril_()
        dscores = (do @ values.mT).tril_()
        dqueries = dscores @ keys + do @ middles.mT
        dkeys = dscores.mT @ queries
        dvalues = scores.mT @ do
        dstate = torch.zeros_like(middles[0])  # gradient of the state after the chunk
        for n in reversed(range(len(do))):
            if n < len(do) - 1:
                dstate = half[n] * dstate
                dkeys[n].baddbmm_(values[n], dstate.mT)
                dvalues[n].baddbmm_(keys[n], dstate)
            dstate = half[n] * torch.baddbmm(dstate, queries[n].mT, do[n])

        # g_t scales all that later queries read of earlier keys.
        dg = _join(queries * dqueries - keys * dkeys, q.shape)
        dg = dg.sum(1, keepdim=True) - dg.cumsum(1) + dg
        dq = _join(dqueries.mul_(growth).mul_(ctx.scale), q.shape)
        dk = _join(dkeys.div_(growth), q.shape)
        return dq, dk, _join(dvalues, v.shape), dg, None, None, None


def _prepare(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Chunks of scaled queries, keys and values, and their two gates.

    `growth` (N, X, C, K) is exp(G - M), `half` (N, X, K, 1) is exp(M): see LOWEST_SUM.
    """
    q, k, v, g = (_split(x, chunk) for x in (q, k, v, g))
    # A triangular product is several times faster than cumsum along a strided axis.
    running = torch.ones(chunk, chunk, dtype=g.dtype, device=g.device).tril_() @ g
    middle = running[:, :, -1:] / 2
    growth = (running - middle).exp_()
    half = middle.exp_().mT.contiguous()
    return (q * growth).mul_(scale), k / growth, v, growth, half


def _chunk_states(
    keys: Tensor, values: Tensor, half: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """States as the middle of every chunk sees them (N, X, K, V), and the last state (X, K, V)."""
    state = initial_state.flatten(0, 1)
    middles = keys.new_empty(len(keys), *state.shape)
    for n in range(len(keys)):
        torch.mul(half[n], state, out=middles[n])
        state = torch.baddbmm(middles[n], keys[n].mT, values[n]).mul_(half[n])
    return middles, state


def _split(x: Tensor, chunk: int) -> Tensor:
    """(B, T, H, dim) -> (N, B * H, C, dim), zeros behind the end: they change no state."""
    batch, time, heads, dim = x.shape
    x = F.pad(x, (0, 0, 0, 0, 0, -time % chunk))
    x = x.view(batch, -1, chunk, heads, dim).permute(1, 0, 3, 2, 4)
    return x.reshape(-1, batch * heads, chunk, dim)


def _join(x: Tensor, shape: torch.Size) -> Tensor:
    """(N, B * H, C, dim) -> (B, T, H, dim): the inverse of `_split`."""
    batch, time, heads = shape[:3]
    chunks, _, chunk, dim = x.shape
    x = x.view(chunks, batch, heads, chunk, dim).permute(1, 0, 3, 2, 4)
    return x.reshape(batch, chunks * chunk, heads, dim)[:, :time]
