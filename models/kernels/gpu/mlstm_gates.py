"""The mLSTM's gates in Triton: their running sums and peaks, and their gradients.

Few numbers with long sums, in float64 as in `models.kernels.mlstm`, which has the formulas. One
program takes one head of one sequence. Gates are (batch, time, heads), possibly strided; all else
is (batch, heads, time), but exponents are (batch, heads, 2, time): logarithms to base two, what
float32 holds of them and the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.launch import launch

WARPS, WARPS_BACKWARD = 4, 8  # float64 takes long: more of it side by side
LOG2_E = tl.constexpr(1.4426950408889634)


class Gates(NamedTuple):
    """Names as in `models.kernels.mlstm`; the first three are exponents."""

    a: Tensor
    peak: Tensor
    before: Tensor
    floor: Tensor


def scan(
    igate: Tensor, fgate: Tensor, m: Tensor | None, lowest_log_forget: float
) -> tuple[Gates, Tensor]:
    """Gates from before activation, m (batch, heads) -> their sums, and m of the last step."""
    batch, time, heads = igate.shape
    a, peak, before = igate.new_empty(3, batch, heads, 2, time, dtype=torch.float32)
    floor = igate.new_empty(batch, heads, time, dtype=torch.float32)
    end = igate.new_empty(batch, heads, dtype=torch.float32)
    first = None if m is None else m.contiguous()
    launch(
        _scan,
        (batch * heads,),
        *(igate, fgate, first, a, peak, before, floor, end),
        *(time, heads, *igate.stride(), *fgate.stride(), float(lowest_log_forget)),
        num_warps=WARPS,
        BLOCK=_block(time),
    )
    return Gates(a, peak, before, floor), end


def gradients(
    igate: Tensor,
    fgate: Tensor,
    gates: Gates,
    q_dq: Tensor,
    k_dk: Tensor,
    dscale: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of both gates; q_dq and k_dk (parts, batch, heads, time) are sums in parts."""
    batch, time, heads = fgate.shape
    digate = torch.empty_like(igate, memory_format=torch.contiguous_format)
    dfgate = torch.empty_like(fgate, memory_format=torch.contiguous_format)
    launch(
        _gradients,
        (batch * heads,),
        *(fgate, gates.a, gates.before, q_dq, k_dk, dscale, digate, dfgate),
        *(batch, time, heads, len(q_dq), *fgate.stride(), float(eps)),
        num_warps=WARPS_BACKWARD,
        BLOCK=_block(time),
    )
    return digate, dfgate


def _block(time: int) -> int:
    """Steps that a program scans at once."""
    return 64 if time <= 64 else 256


@triton.jit
def _larger(x, y) -> tl.tensor:
    return tl.where(x >= y, x, tl.where(x != x, x, y))  # NaN beats any number


@triton.jit
def _store(x, t, time, value, mask) -> None:
    value = value * LOG2_E
    high = value.to(tl.float32)
    is_exact = value == high.to(tl.float64)  # as infinity is
    rest = tl.where(is_exact, 0.0, value) - tl.where(is_exact, 0.0, high.to(tl.float64))
    tl.store(x + t, high, mask=mask)
    tl.store(x + time + t, rest, mask=mask)


@triton.jit
def _rises(a, before, t, time, mask) -> tl.tensor:
    """Whether the peak lies at a step; without the rest of the digits where these are equal."""
    high, low = tl.load(a + t, mask=mask, other=0.0), tl.load(before + t, mask=mask, other=0.0)
    rest = tl.load(a + time + t, mask=mask, other=0.0)
    low_rest = tl.load(before + time + t, mask=mask, other=0.0)
    return (high > low) | ((high == low) & (rest >= low_rest))


@triton.jit
def _then(later_value, later_gate, value, gate) -> tuple[tl.tensor, tl.tensor]:
    """Two steps, the later one first, of r_t = value_t + gate_t r_{t+1}."""
    return value + gate * later_value, gate * later_gate


VARYING = ["time", "heads", "i_batch", "i_time", "i_head", "f_batch", "f_time", "f_head"]


@triton.jit(do_not_specialize=VARYING)
def _scan(
    igate,
    fgate,
    m,
    a,
    peak,
    before,
    floor,
    end,
    time,
    heads,
    i_batch,
    i_time,
    i_head,
    f_batch,
    f_time,
    f_head,
    lowest_log_forget,
    BLOCK: tl.constexpr,
) -> None:
    program = tl.program_id(0).to(tl.int64)
    batch, head = program // heads, program % heads
    row = program * time
    running, highest = tl.full((), 0.0, tl.float64), tl.full((), float("-inf"), tl.float64)
    if m is not None:
        highest = tl.load(m + program).to(tl.float64)
    a, peak, before = a + 2 * row, peak + 2 * row, before + 2 * row
    _store(before, 0, time, highest, None)
    for start in range(0, time, BLOCK):
        t = start + tl.arange(0, BLOCK)
        real = t < time
        opened = tl.load(fgate + batch * f_batch + head * f_head + t * f_time, mask=real, other=0.0)
        opened = opened.to(tl.float64)
        log_forget = tl.where(opened < 0, opened, 0.0) - tl.log(1 + tl.exp(-tl.abs(opened)))
        log_forget = tl.where(log_forget < lowest_log_forget, lowest_log_forget, log_forget)
        log_forget = tl.where(real, log_forget, 0.0)
        total = running + tl.cumsum(log_forget)
        entry = tl.load(igate + batch * i_batch + head * i_head + t * i_time, mask=real, other=0.0)
        height = tl.where(real, entry.to(tl.float64) - total, float("-inf"))
        top = _larger(highest, tl.associative_scan(height, 0, _larger))
        _store(a, t, time, height, real)
        _store(peak, t, time, top, real)
        _store(before, t + 1, time, top, t + 1 < time)
        tl.store(floor + row + t, tl.exp(-(total + top)), mask=real)
        tl.store(end + program + t * 0, total + top, mask=t == time - 1)
        running += tl.sum(log_forget)
        highest = _larger(highest, tl.reduce(height, 0, _larger))


@triton.jit(do_not_specialize=["batches", "time", "heads", "parts", "f_batch", "f_time", "f_head"])
def _gradients(
    fgate,
    a,
    before,
    q_dq,
    k_dk,
    dscale,
    digate,
    dfgate,
    batches,
    time,
    heads,
    parts,
    f_batch,
    f_time,
    f_head,
    eps,
    BLOCK: tl.constexpr,
) -> None:
    """Compute gates' gradients from the last step to the first, as `models.kernels.mlstm` does.

    The gradient of m goes to the step where the peak lies: a step at which a rises to a new peak
    collects it from all steps until the next such one.
    """
    program = tl.program_id(0).to(tl.int64)
    batch, head = program // heads, program % heads
    row = program * time
    a, before = a + 2 * row, before + 2 * row
    part = tl.cast(batches, tl.int64) * heads * time
    collected, behind = tl.full((), 0.0, tl.float64), tl.full((), 0.0, tl.float64)
    blocks = tl.cdiv(time, BLOCK)
    for block in range(blocks):
        start = (blocks - 1 - block) * BLOCK
        t = start + tl.arange(0, BLOCK)
        real = t < time
        dq_sum, dk_sum = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
        for index in range(parts):
            dq_sum += tl.load(q_dq + index * part + row + t, mask=real, other=0.0)
            dk_sum += tl.load(k_dk + index * part + row + t, mask=real, other=0.0)
        dm = eps * tl.load(dscale + row + t, mask=real, other=0.0).to(tl.float64)
        is_peak = _rises(a, before, t, time, real)
        is_followed = _rises(a, before, t + 1, time, t + 1 < time)
        open_to_next = tl.where(is_followed, 0.0, 1.0).to(tl.float64)
        sums, gate = tl.associative_scan((dm, open_to_next), 0, _then, reverse=True)
        sums += gate * collected
        da = dk_sum + tl.where(is_peak, sums, 0.0)
        drunning = tl.where(real, dq_sum + dm - da, 0.0)
        dlog_forget = behind + tl.cumsum(drunning, reverse=True)
        at = batch * f_batch + head * f_head + t * f_time
        closed = 1 / (1 + tl.exp(tl.load(fgate + at, mask=real, other=0.0).to(tl.float64)))
        out = (batch * time + t) * heads + head
        tl.store(digate + out, da.to(tl.float32), mask=real)
        tl.store(dfgate + out, (dlog_forget * closed).to(tl.float32), mask=real)
        behind += tl.sum(drunning)
        collected = tl.sum(tl.where(t == start, sums, 0.0))
