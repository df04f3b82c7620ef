"""The mLSTM in Triton: products of matrices within chunks, states in front of them.

The sums are those of `models.kernels.mlstm`, with its names: each step s has the weight
(q_t . k_s) exp(a_s - P_t) / sqrt(K) in row t. Heads are too wide for a program to hold a row of the
output, so each kind of product is a kernel of its own, tile by tile:

    states    memory and normalizer in front of each chunk; their gradients behind each
    scores    the weights of a chunk's steps in its rows (T, L), row sums; their gradients
    combine   weights times vectors, plus vectors times states: h, dq, dk and dv

A chunk costs its length per step, a state the size of a head: sequences up to twice as long as a
head is wide are one chunk and have no states.

Legend: B batch, T time, H heads, K key dim, V value dim, L steps of a chunk, S stored states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from models.kernels.gpu import mlstm_tiles as tiles
from models.kernels.gpu.launch import dot_precision, launch
from models.kernels.gpu.mlstm_gates import Gates

CHUNK = 256  # steps, if heads are wider than a small tile
SMALL, LARGE = 64, 128  # rows and columns of a tile


@dataclass(frozen=True)
class Tiling:
    """The cut of a call into chunks and tiles: a matter of shapes and the type."""

    batch: int
    time: int
    heads: int
    key: int
    value: int
    dtype: torch.dtype

    @classmethod
    def of(cls, q: Tensor, v: Tensor) -> Tiling:
        batch, time, heads, key = q.shape
        return cls(batch, time, heads, key, v.shape[-1], q.dtype)

    @property
    def widest(self) -> int:
        return max(self.key, self.value)

    @property
    def tile(self) -> int:
        small = self.widest <= SMALL or self.dtype == torch.float32
        return SMALL if small else LARGE

    @property
    def chunk(self) -> int:
        chunk = SMALL if self.widest <= SMALL else CHUNK
        if self.time <= max(chunk, 2 * self.widest):
            return triton.cdiv(self.time, self.tile) * self.tile
        return chunk

    @property
    def chunks(self) -> int:
        return triton.cdiv(self.time, self.chunk)

    @property
    def row_tiles(self) -> int:
        return triton.cdiv(self.time, self.tile)

    @property
    def heads_in_all(self) -> int:
        return self.batch * self.heads

    def columns(self, width: int) -> int:
        """Tiles across vectors of this width."""
        return triton.cdiv(width, self.tile)

    def options(self) -> dict[str, Any]:
        """Constants and configuration that all launches share."""
        is_float = self.dtype == torch.float32
        return {
            "TILE": self.tile,
            "INNER": 16 if is_float else 64,
            "PRECISION": dot_precision(self.dtype),
            "num_stages": 2 if is_float else 3,
        }

    def warps(self, *, few: bool) -> int:
        """A few warps with large parts of a tile load less, but hold more: for wide heads, which
        take many steps to a product."""
        return 4 if self.tile == SMALL or (few and self.widest > CHUNK) else 8


@dataclass(frozen=True)
class States:
    """States of chunks: matrices (B * H, S, K, V), of the vectors' type, and vectors (B * H, S, K).

    Chunk c has the state c + `shift`; one that is not stored is zero.
    """

    matrices: Tensor | None
    vectors: Tensor | None
    count: int
    shift: int


NO_STATES = States(None, None, 0, 0)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    memory: Tensor | None,
    normalizer: Tensor | None,
    eps: float,
    return_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h (B, T, H, V), row sums (B, H, T), and the last memory and normalizer (or empty tensors).

    q, k (B, T, H, K) and v (B, T, H, V) are contiguous and of one type.
    """
    plan = Tiling.of(q, v)
    states, end = _states_in_front(plan, k, v, gates, memory, normalizer, return_state)
    row_sum = torch.empty_like(gates.floor)
    weights = _weights(plan, q, k, gates, states, row_sum)
    h = v.new_empty(v.shape, dtype=torch.float32)
    norm = (row_sum, gates.floor, float(eps))
    _launch_combine(plan, False, False, q, states, weights, v, gates, h, norm=norm)
    return h, row_sum, *end


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    memory: Tensor | None,
    normalizer: Tensor | None,
    h: Tensor,
    row_sum: Tensor,
    dh: Tensor,
    eps: float,
) -> tuple[Tensor, ...]:
    """Gradients of q, k and v; q . dq and k . dk in parts (parts, B, H, T), and that of the scale
    (B, H, T)."""
    plan = Tiling.of(q, v)
    dnumerator = torch.empty_like(v)
    dscale, dsum = torch.empty_like(row_sum), torch.empty_like(row_sum)
    width = triton.next_power_of_2(plan.value)
    rows, block = plan.heads_in_all * plan.time, max(1, 4096 // width)
    launch(
        tiles.differentiate_scale,
        (triton.cdiv(rows, block),),
        *(h, dh, row_sum, gates.floor, dnumerator, dscale, dsum),
        *(rows, plan.time, plan.heads, float(eps)),
        num_warps=4,
        V=plan.value,
        WIDTH=width,
        ROWS=block,
    )
    grads = backward_products(q, k, v, gates, memory, normalizer, dnumerator, dsum)
    return *grads, dscale


def backward_products(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    memory: Tensor | None,
    normalizer: Tensor | None,
    dnumerator: Tensor,
    dsum: Tensor,
) -> tuple[Tensor, ...]:
    """The first that `backward` returns, from gradients of h times its scale, and of row sums."""
    plan = Tiling.of(q, v)
    states, _ = _states_in_front(plan, k, v, gates, memory, normalizer, False)
    dstates = _states_behind(plan, q, dnumerator, gates, dsum)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    q_dq, k_dk = dsum.new_empty(2, plan.columns(plan.key), *dsum.shape)
    weights = _weights(plan, q, k, gates)
    _launch_combine(plan, False, True, k, dstates, weights, dnumerator, gates, dv)
    dscores = _weights(plan, dnumerator, v, gates, dsum=dsum, out=weights)
    towards_q = {"along": q, "products": q_dq, "vector_weight": dsum}
    _launch_combine(plan, True, False, dnumerator, states, dscores, k, gates, dq, **towards_q)
    towards_k = {"along": k, "products": k_dk}
    _launch_combine(plan, True, True, v, dstates, dscores, q, gates, dk, **towards_k)
    return dq, dk, dv, q_dq, k_dk


def _states_in_front(
    plan: Tiling,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    memory: Tensor | None,
    normalizer: Tensor | None,
    return_state: bool,
) -> tuple[States, tuple[Tensor, Tensor]]:
    """States in front of the chunks, the first only if one is given, and that behind the last."""
    given = int(memory is not None)
    states = _new_states(plan, k, plan.chunks - 1 + given, given - 1)
    size = (plan.batch, plan.heads, plan.key, plan.value) if return_state else (0,)
    end = gates.floor.new_empty(size), gates.floor.new_empty(size[:-1] or (0,))
    updates = plan.chunks - 1 + int(return_state)
    if states.count or updates:
        initial = (_contiguous(memory), _contiguous(normalizer))
        ends = end if return_state else (None, None)
        _launch_states(plan, k, v, gates, None, initial, states, ends, updates)
    return states, end


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _states_behind(
    plan: Tiling, q: Tensor, dnumerator: Tensor, gates: Gates, dsum: Tensor
) -> States:
    """Gradients of the states behind all chunks but the last, whose is zero."""
    states = _new_states(plan, q, plan.chunks - 1, 0)
    if states.count:
        nothing = (None, None)
        _launch_states(plan, q, dnumerator, gates, dsum, nothing, states, nothing, states.count)
    return states


def _new_states(plan: Tiling, k: Tensor, count: int, shift: int) -> States:
    if not count:
        return NO_STATES
    size = (plan.heads_in_all, count, plan.key)
    vectors = k.new_empty(size, dtype=torch.float32)
    return States(k.new_empty(*size, plan.value), vectors, count, shift)


def _launch_states(
    plan: Tiling,
    x: Tensor,
    y: Tensor,
    gates: Gates,
    dsum: Tensor | None,
    initial: tuple[Tensor | None, Tensor | None],
    states: States,
    end: tuple[Tensor | None, Tensor | None],
    updates: int,
) -> None:
    """Sum up states of x and y, k and v; or, given dsum, q and dnumerator, from the end on."""
    programs = plan.heads_in_all * plan.columns(plan.key) * triton.cdiv(plan.value, SMALL)
    launch(
        tiles.states,
        (programs,),
        *(x, y, gates.a, gates.peak, gates.before, dsum, *initial),
        *(states.matrices, states.vectors, *end),
        *(plan.time, plan.heads, plan.chunk, updates, states.count),
        K=plan.key,
        V=plan.value,
        COLUMNS=SMALL,
        num_warps=8,
        **plan.options(),
    )


def _weights(
    plan: Tiling,
    x: Tensor,
    y: Tensor,
    gates: Gates,
    states: States = NO_STATES,
    row_sum: Tensor | None = None,
    dsum: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """(B * H, rows, L): weights from x = q and y = k; or, given dsum, the gradients of the scores
    from x = dnumerator and y = v. Into `row_sum` their sums over all earlier steps."""
    rows = plan.row_tiles * plan.tile
    if out is None:
        out = x.new_empty(plan.heads_in_all, rows, plan.chunk)
    launch(
        tiles.scores,
        (plan.heads_in_all * plan.row_tiles,),
        *(x, y, gates.a, gates.peak, gates.before, dsum, states.vectors, out, row_sum),
        *(plan.time, plan.heads, plan.chunk, states.count, states.shift),
        DIM=x.shape[-1],
        SCALE=plan.key**-0.5,
        STEPS=SMALL,
        num_warps=plan.warps(few=True),
        **plan.options(),
    )
    return out


def _launch_combine(
    plan: Tiling,
    is_key: bool,
    is_backward: bool,
    x: Tensor,
    states: States,
    weights: Tensor,
    y: Tensor,
    gates: Gates,
    out: Tensor,
    *,
    norm: tuple[Tensor | None, Tensor | None, float] = (None, None, 0.0),
    along: Tensor | None = None,
    products: Tensor | None = None,
    vector_weight: Tensor | None = None,
) -> None:
    """out = weights times y + x times states; of width K or V, looking back or ahead in time."""
    row_sum, floor, eps = norm
    launch(
        tiles.combine,
        (plan.heads_in_all * plan.row_tiles * plan.columns(out.shape[-1]),),
        *(x, states.matrices, states.vectors, vector_weight, weights, y),
        *(gates.a, gates.peak, gates.before, row_sum, floor, out, along, products),
        *(plan.batch, plan.time, plan.heads, plan.chunk, states.count, states.shift, eps),
        IN=x.shape[-1],
        OUT=out.shape[-1],
        IS_KEY=is_key,
        AHEAD=is_backward,
        SCALE=plan.key**-0.5,
        num_warps=plan.warps(few=is_key and states.matrices is None),
        **plan.options(),
    )
