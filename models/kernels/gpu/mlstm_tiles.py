"""Triton functions of the mLSTM; `models.kernels.gpu.mlstm` launches them and has the legend.

Programs are numbered tile by tile within a head, so that those which run together read the same
rows. Exponents are differences of numbers that may be large, each a sum of two float32: as exact
as float64, and faster. They are to base two.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _exponents(x, head, t, time, mask) -> tuple[tl.tensor, tl.tensor]:
    """Logarithms to base two of one head (B, H, 2, T): what float32 holds, and the rest."""
    x += head.to(tl.int64) * 2 * time
    rest = x + time
    return tl.load(x + t, mask=mask, other=0.0), tl.load(rest + t, mask=mask, other=0.0)


@triton.jit
def _exponent(x, head, t, time) -> tuple[tl.tensor, tl.tensor]:
    """The same of one step."""
    x += head.to(tl.int64) * 2 * time + t
    return tl.load(x), tl.load(x + time)


@triton.jit
def _power(x_high, x_rest, y_high, y_rest) -> tl.tensor:
    """2^(x - y)."""
    return tl.exp2((x_high - y_high) + (x_rest - y_rest))


@triton.jit
def _head(program, time, heads, DIM: tl.constexpr) -> tl.tensor:
    """Offset at which the vectors of a head of a sequence begin in (B, T, H, DIM)."""
    batch, head = program // heads, program % heads
    return (batch.to(tl.int64) * time * heads + head) * DIM


@triton.jit
def _load(x, rows, time, columns, heads, DIM: tl.constexpr) -> tl.tensor:
    """A tile (rows, columns) of the vectors of a head; zero outside."""
    at = rows[:, None] * heads * DIM + columns[None, :]
    return tl.load(x + at, mask=(rows < time)[:, None] & (columns < DIM)[None, :], other=0.0)


@triton.jit
def _product(x, y, total, PRECISION: tl.constexpr) -> tl.tensor:
    return tl.dot(x, y, total, input_precision=PRECISION)


@triton.jit(do_not_specialize=["time", "heads", "updates", "count"])
def states(
    x, y, a, peak, before, dsum, initial_matrix, initial_vector,
    matrices, vectors, end_matrix, end_vector, time, heads, chunk, updates, count,
    K: tl.constexpr, V: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
    INNER: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """A tile of all states of a head: state = keep * state + sum of weight_s x_s y_s^T.

    With `dsum` the gradient of the states, from the last chunk to the first.
    """
    BACK: tl.constexpr = dsum is not None
    tiles_v: tl.constexpr = (V + COLUMNS - 1) // COLUMNS
    tiles_k: tl.constexpr = (K + TILE - 1) // TILE
    program = tl.program_id(0)
    head = program // (tiles_k * tiles_v)
    keys = program // tiles_v % tiles_k * TILE + tl.arange(0, TILE)
    values = program % tiles_v * COLUMNS + tl.arange(0, COLUMNS)
    # The first program of those with the same keys stores the vectors.
    stored = keys < tl.where(program % tiles_v == 0, K, 0)
    x += _head(head, time, heads, K)
    y += _head(head, time, heads, V)
    matrix, vector = tl.zeros((TILE, COLUMNS), tl.float32), tl.zeros((TILE,), tl.float32)
    wide = head.to(tl.int64)
    slot = wide * count
    if initial_matrix is not None:
        matrix = _load(initial_matrix + wide * K * V, keys, K, values, 1, V)
        vector = tl.load(initial_vector + wide * K + keys, mask=keys < K, other=0.0)
        _store_state(matrices, vectors, slot, matrix, vector, keys, values, stored, K, V)
        slot += 1
    last = (time - 1) // chunk
    for n in range(updates):
        c = last - n if BACK else n
        start, stop = c * chunk, tl.minimum(c * chunk + chunk, time)
        matrix, vector = _pass_chunk(
            x, y, a, peak, before, dsum, matrix, vector, head, start, stop, time, heads,
            keys, values, K, V, INNER, PRECISION,
        )  # fmt: skip
        if end_matrix is not None:  # noqa: SIM102 - decided when compiling
            if c == last:
                _store_state(
                    end_matrix, end_vector, wide, matrix, vector, keys, values, stored, K, V
                )
        if matrices is not None:  # noqa: SIM102
            if c < last or BACK:
                index = slot + (c - 1 if BACK else c)
                _store_state(matrices, vectors, index, matrix, vector, keys, values, stored, K, V)


@triton.jit
def _pass_chunk(
    x, y, a, peak, before, dsum, matrix, vector, head, start, stop, time, heads, keys, values,
    K: tl.constexpr, V: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """The state behind a chunk from that in front of it; or the other way, its gradient."""
    BACK: tl.constexpr = dsum is not None
    first, first_rest = _exponent(before, head, start, time)
    highest, highest_rest = _exponent(peak, head, stop - 1, time)
    keep = _power(first, first_rest, highest, highest_rest)
    matrix, vector = matrix * keep, vector * keep
    for s in range(start, stop, INNER):
        steps = s + tl.arange(0, INNER)
        real = steps < stop
        if BACK:
            own, own_rest = _exponents(peak, head, steps, time, real)
            weight = _power(first, first_rest, own, own_rest)
        else:
            own, own_rest = _exponents(a, head, steps, time, real)
            weight = _power(own, own_rest, highest, highest_rest) * K**-0.5
        left = _load(x, steps, stop, keys, heads, K)
        weighted = left.to(tl.float32) * tl.where(real, weight, 0.0)[:, None]
        right = _load(y, steps, stop, values, heads, V)
        matrix = _product(tl.trans(weighted.to(left.dtype)), right, matrix, PRECISION)
        if BACK:
            row = head.to(tl.int64) * time
            weighted *= tl.load(dsum + row + steps, mask=real, other=0.0)[:, None]
        vector += tl.sum(weighted, 0)
    return matrix, vector


@triton.jit
def _store_state(
    matrices, vectors, index, matrix, vector, keys, values, stored,
    K: tl.constexpr, V: tl.constexpr,
) -> None:  # fmt: skip
    """A tile of the state at an index; of its vector the part that this program stores."""
    inside = (keys < K)[:, None] & (values < V)[None, :]
    at = keys[:, None] * V + values[None, :]
    tl.store(matrices + index * K * V + at, matrix, mask=inside)
    tl.store(vectors + index * K + keys, vector, mask=stored)


@triton.jit(do_not_specialize=["time", "heads", "count", "shift"])
def scores(
    x, y, a, peak, before, dsum, vectors, out, row_sum, time, heads, chunk, count, shift,
    DIM: tl.constexpr, SCALE: tl.constexpr, STEPS: tl.constexpr, TILE: tl.constexpr,
    INNER: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Rows of (x_t . y_s + dsum_t) exp(a_s - P_t) / sqrt(K) for the steps s of their chunk."""
    tiles = (time + TILE - 1) // TILE
    program = tl.program_id(0)
    head, tile = program // tiles, tiles - 1 - program % tiles  # the longest first
    t = tile * TILE + tl.arange(0, TILE)
    real = t < time
    row = head.to(tl.int64) * time
    x += _head(head, time, heads, DIM)
    y += _head(head, time, heads, DIM)
    out += head.to(tl.int64) * tiles * TILE * chunk
    highest, highest_rest = _exponents(peak, head, t, time, real)
    start = tile * TILE // chunk * chunk
    sums = tl.zeros((TILE,), tl.float32)
    for s in range(start, tile * TILE + TILE, STEPS):
        steps = s + tl.arange(0, STEPS)
        total = tl.zeros((TILE, STEPS), tl.float32)
        for d in range(0, DIM, INNER):
            columns = d + tl.arange(0, INNER)
            left = _load(x, t, time, columns, heads, DIM)
            right = _load(y, steps, time, columns, heads, DIM)
            total = _product(left, tl.trans(right), total, PRECISION)
        if dsum is not None:
            total += tl.load(dsum + row + t, mask=real, other=0.0)[:, None]
        own, own_rest = _exponents(a, head, steps, time, steps < time)
        weight = _power(own[None, :], own_rest[None, :], highest[:, None], highest_rest[:, None])
        counts = (steps[None, :] <= t[:, None]) & real[:, None]
        total = tl.where(counts, total * (weight * SCALE), 0.0)
        tl.store(out + t[:, None] * chunk + (steps - start)[None, :], total)
        sums += tl.sum(total, 1)
    if row_sum is not None:
        if vectors is not None:
            slot = start // chunk + shift
            if slot >= 0:
                vectors += (head.to(tl.int64) * count + slot) * DIM
                along = _along(x, vectors, t, time, heads, DIM, TILE, INNER)
                first, first_rest = _exponent(before, head, start, time)
                sums += along * _power(first, first_rest, highest, highest_rest)
        tl.store(row_sum + row + t, sums, mask=real)


@triton.jit
def _along(
    x, vector, t, time, heads, DIM: tl.constexpr, TILE: tl.constexpr, INNER: tl.constexpr
) -> tl.tensor:
    """x_t . vector (TILE,)"""
    along = tl.zeros((TILE,), tl.float32)
    for d in range(0, DIM, INNER):
        columns = d + tl.arange(0, INNER)
        part = tl.load(vector + columns, mask=columns < DIM, other=0.0)
        left = _load(x, t, time, columns, heads, DIM).to(tl.float32)
        along += tl.sum(left * part[None, :], 1)
    return along


@triton.jit(do_not_specialize=["batches", "time", "heads", "count", "shift"])
def combine(
    x, matrices, vectors, vector_weight, weights, y, a, peak, before, row_sum, floor,
    out, along, products, batches, time, heads, chunk, count, shift, eps,
    IN: tl.constexpr, OUT: tl.constexpr, IS_KEY: tl.constexpr, AHEAD: tl.constexpr,
    SCALE: tl.constexpr, TILE: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """A tile of out_t = sum over s of weight_ts y_s + factor_t (x_t . state + vector).

    The steps s are those up to t in its chunk, and the state is that in front of it; or, looking
    AHEAD, steps from t on with weight_st, and the gradient of the state behind the chunk. The
    state's matrix is (IN, OUT), or (OUT, IN) where OUT IS_KEY, with which the vector comes, too.
    """
    columns_in_all: tl.constexpr = (OUT + TILE - 1) // TILE
    tiles = (time + TILE - 1) // TILE
    program = tl.program_id(0)
    head = program // (tiles * columns_in_all)
    tile = program // columns_in_all % tiles
    columns = program % columns_in_all * TILE + tl.arange(0, TILE)
    t = tile * TILE + tl.arange(0, TILE)
    real = t < time
    row = head.to(tl.int64) * time
    start = tile * TILE // chunk * chunk
    stop = tl.minimum(start + chunk, time)
    total = tl.zeros((TILE, TILE), tl.float32)
    if matrices is not None:
        slot = start // chunk + shift
        if slot >= 0 and slot < count:
            index = head.to(tl.int64) * count + slot
            total = _of_state(
                x, matrices, vectors, vector_weight, total, index, head, t, columns, time, heads,
                IN, OUT, IS_KEY, INNER, PRECISION,
            )  # fmt: skip
            total *= _factor(a, peak, before, head, t, start, stop, time, AHEAD, SCALE)[:, None]
    y += _head(head, time, heads, OUT)
    weights += head.to(tl.int64) * tiles * TILE * chunk
    low = tile * TILE if AHEAD else start
    high = stop if AHEAD else tile * TILE + TILE
    for s in range(low, high, INNER):
        steps = s + tl.arange(0, INNER)
        right = _load(y, steps, time, columns, heads, OUT)
        if AHEAD:
            left = tl.trans(tl.load(weights + steps[:, None] * chunk + (t - start)[None, :]))
        else:
            left = tl.load(weights + t[:, None] * chunk + (steps - start)[None, :])
        total = _product(left, right, total, PRECISION)
    if row_sum is not None:
        sums = tl.abs(tl.load(row_sum + row + t, mask=real, other=0.0))
        lowest = tl.load(floor + row + t, mask=real, other=1.0)
        total /= (tl.where(lowest > sums, lowest, sums) + eps)[:, None]
    if along is not None:
        along += _head(head, time, heads, OUT)
        other = _load(along, t, time, columns, heads, OUT).to(tl.float32)
        part = tl.cast(program % columns_in_all, tl.int64) * batches * heads * time
        tl.store(products + part + row + t, tl.sum(total * other, 1), mask=real)
    out += _head(head, time, heads, OUT)
    at = t[:, None] * heads * OUT + columns[None, :]
    tl.store(out + at, total, mask=real[:, None] & (columns < OUT)[None, :])


@triton.jit
def _of_state(
    x, matrices, vectors, vector_weight, total, index, head, t, columns, time, heads,
    IN: tl.constexpr, OUT: tl.constexpr, IS_KEY: tl.constexpr, INNER: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Adds x_t . state + vector to total, for the state at an index."""
    x += _head(head, time, heads, IN)
    matrices += index * IN * OUT
    for d in range(0, IN, INNER):
        inner = d + tl.arange(0, INNER)
        left = _load(x, t, time, inner, heads, IN)
        if IS_KEY:
            right = tl.trans(_load(matrices, columns, OUT, inner, 1, IN))
        else:
            right = _load(matrices, inner, IN, columns, 1, OUT)
        total = _product(left, right, total, PRECISION)
    if IS_KEY:
        vector = tl.load(vectors + index * OUT + columns, mask=columns < OUT, other=0.0)
        if vector_weight is not None:
            row = head.to(tl.int64) * time
            gain = tl.load(vector_weight + row + t, mask=t < time, other=0.0)
            total += gain[:, None] * vector[None, :]
        else:
            total += vector[None, :]
    return total


@triton.jit
def _factor(
    a, peak, before, head, t, start, stop, time, AHEAD: tl.constexpr, SCALE: tl.constexpr
) -> tl.tensor:
    """Weight of the state in front of a chunk at step t; or looking AHEAD, what step t counts in
    the state behind it."""
    if AHEAD:
        own, own_rest = _exponents(a, head, t, time, t < time)
        highest, highest_rest = _exponent(peak, head, stop - 1, time)
        return _power(own, own_rest, highest, highest_rest) * SCALE
    else:
        first, first_rest = _exponent(before, head, start, time)
        highest, highest_rest = _exponents(peak, head, t, time, t < time)
        return _power(first, first_rest, highest, highest_rest)


@triton.jit(do_not_specialize=["rows", "time", "heads"])
def differentiate_scale(
    h,
    dh,
    row_sum,
    floor,
    dnumerator,
    dscale,
    dsum,
    rows,
    time,
    heads,
    eps,
    V: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """Rows of h = numerator / scale: the gradients of both, and of the row sum, which sets the
    scale where it is above the floor."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < rows
    at = ((row // heads // time).to(tl.int64) * heads + row % heads) * time + row // heads % time
    sums = tl.load(row_sum + at, mask=real, other=0.0)
    lowest = tl.load(floor + at, mask=real, other=1.0)
    columns = tl.arange(0, WIDTH)
    inside = real[:, None] & (columns < V)[None, :]
    entries = row.to(tl.int64)[:, None] * V + columns[None, :]
    gradient = tl.load(dh + entries, mask=inside, other=0.0).to(tl.float32)
    kept = tl.load(h + entries, mask=inside, other=0.0)
    rounded, of_scale, of_sum = undo_scale(
        kept, gradient, sums, lowest, eps, dnumerator.dtype.element_ty
    )
    tl.store(dnumerator + entries, rounded, mask=inside)
    tl.store(dscale + at, of_scale, mask=real)
    tl.store(dsum + at, of_sum, mask=real)


@triton.jit
def undo_scale(h, dh, sums, lowest, eps, TYPE: tl.constexpr) -> tuple[tl.tensor, ...]:
    """Rows of h (rows, columns) = numerator / scale, and what sets their scale (rows,): gradients
    of the numerator, rounded, of the scale, and of the row sum."""
    size = tl.abs(sums)
    scale = tl.where(lowest > size, lowest, size) + eps
    rounded = (dh / scale[:, None]).to(TYPE)
    # From the rounded gradient, so that what cancels in the scores' gradients still does.
    gradient = -tl.sum(rounded.to(tl.float32) * h, 1)
    sign = tl.where(sums > 0, 1.0, tl.where(sums < 0, -1.0, sums))
    return rounded, gradient, tl.where(size > lowest, gradient * sign, 0.0)
