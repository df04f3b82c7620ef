"""The selective scan against the algorithm of mamba-ssm's `selective_scan_ref` in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from kernel_checks import LENGTHS, assert_matches, assert_passes_nan_on
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels.gpu.launch import Launch, recording
from models.kernels.selective_scan import selective_scan, selective_scan_reference
from tests.models.compilation import SHARED_MEMORY, compile_for

BATCH, STATES = 2, 5


def inputs(
    time: int, *, dim: int = 48, states: int = STATES, delta_scale: float = 1.0
) -> tuple[Tensor, ...]:
    """u, delta, a, b, c, skip, gate and the bias of delta; `a` as Mamba starts with it."""
    torch.manual_seed(time)
    u, gate = torch.randn(2, BATCH, dim, time)
    delta = delta_scale * torch.randn(BATCH, dim, time)
    a = -torch.arange(1.0, states + 1).repeat(dim, 1)
    b, c = torch.randn(2, BATCH, states, time)
    skip, bias = torch.randn(2, dim)
    return u, delta, a, b, c, skip, gate, bias


def bare_inputs(time: int, **changes: Any) -> tuple[Tensor, ...]:
    """The first five; delta is not negative, which without softplus would let the states grow."""
    u, delta, a, b, c, *_ = inputs(time, **changes)
    return u, delta.abs(), a, b, c


def whole(function: Any, *x: Tensor, **options: Any) -> Tensor:
    """The output of `selective_scan` or of its reference with all that may surround it."""
    u, delta, a, b, c, skip, gate, bias = x
    options = {"skip": skip, "gate": gate, "delta_bias": bias, "delta_softplus": True, **options}
    y: Tensor = function(u, delta, a, b, c, **options)[0]
    return y


def bare(function: Any, *x: Tensor) -> Tensor:
    """The same without anything around it."""
    y: Tensor = function(*x)[0]
    return y


@pytest.mark.parametrize("time", [*LENGTHS, 31, 32, 33])
@pytest.mark.parametrize("dim", [16, 80, 12])
def test_it_is_the_recurrence(path: str, time: int, dim: int) -> None:
    """Output and all gradients, for any length and for widths that the C++ path does not take."""
    assert_matches(
        partial(whole, selective_scan),
        partial(whole, selective_scan_reference),
        inputs(time, dim=dim),
        2e-6,
    )


@pytest.mark.parametrize("delta_scale", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("states", [1, 8, 16, 40])
def test_bare_for_any_decay_and_state_size(path: str, delta_scale: float, states: int) -> None:
    """Without softplus, bias, skip and gate, from no decay to total decay."""
    assert_matches(
        partial(bare, selective_scan),
        partial(bare, selective_scan_reference),
        bare_inputs(70, states=states, delta_scale=delta_scale),
        2e-6,
    )


@pytest.mark.parametrize("shift", [-30.0, 0.0, 30.0, 200.0])
def test_softplus_from_end_to_end(path: str, shift: float) -> None:
    """Steps from next to nothing (1e-13) to hundreds: forgetting nothing, forgetting all."""
    *rest, bias = inputs(40, delta_scale=5.0)
    assert_matches(
        partial(whole, selective_scan),
        partial(whole, selective_scan_reference),
        (*rest, bias + shift),
        3e-6,
    )


@pytest.mark.parametrize("split", [1, 32, 50])
def test_it_continues_from_a_state(path: str, split: int) -> None:
    """Two pieces, the second from the first one's state, are the whole; with an initial state all
    gradients are still those of the reference; the state itself carries none."""
    u, delta, a, b, c = bare_inputs(70)
    expected, end = selective_scan(u, delta, a, b, c)
    (u1, u2), (d1, d2), (b1, b2), (c1, c2) = (
        x.split([split, 70 - split], 2) for x in (u, delta, b, c)
    )
    first, state = selective_scan(u1.clone().requires_grad_(), d1, a, b1, c1)
    second, last = selective_scan(u2, d2, a, b2, c2, initial_state=state)
    assert not state.requires_grad
    torch.testing.assert_close(torch.cat([first, second], 2), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last, end, rtol=1e-5, atol=1e-5)
    assert_matches(
        partial(whole, selective_scan, initial_state=state),
        partial(whole, selective_scan_reference, initial_state=state),
        inputs(split),
        2e-6,
    )


def test_a_state_that_wants_a_gradient_is_refused(path: str) -> None:
    state = torch.zeros(BATCH, 48, STATES, requires_grad=True)
    with pytest.raises(ValueError, match="detach"):
        selective_scan(*bare_inputs(3), initial_state=state)


def test_the_last_state_is_that_of_the_recurrence(path: str) -> None:
    """Also where the number of states is not a multiple of the C++ path's tile."""
    *first, skip, gate, bias = inputs(37)
    _, got = selective_scan(*first, delta_bias=bias, delta_softplus=True)
    _, want = selective_scan_reference(*first, delta_bias=bias, delta_softplus=True)
    assert (got.double() - want).abs().max() < 5e-6


@pytest.mark.parametrize("time", [1, 40])
def test_layout_does_not_matter(path: str, time: int) -> None:
    """The layer hands over views: transposed, cut out of wider rows, or both."""
    u, delta, a, b, c, skip, gate, bias = inputs(time)
    expected = whole(selective_scan, u, delta, a, b, c, skip, gate, bias)
    wide = torch.cat([u, gate], 1).mT.contiguous().mT
    views = wide.chunk(2, 1)
    got = whole(selective_scan, views[0], delta.mT.contiguous().mT, a, b, c, skip, views[1], bias)
    torch.testing.assert_close(got, expected)


def test_bfloat16_rounds_inputs_and_outputs_only(path: str) -> None:
    """On inputs that bf16 holds exactly, output and gradients are off by one rounding (2^-8)."""
    assert_rounds_once(70)


def assert_rounds_once(time: int) -> None:
    x = [tensor.bfloat16() for tensor in inputs(time)]
    x[2] = x[2].float()
    fast = [tensor.clone().requires_grad_() for tensor in x]
    slow = [tensor.double().requires_grad_() for tensor in x]
    y, expected = whole(selective_scan, *fast), whole(selective_scan_reference, *slow)
    weight = torch.randn_like(expected).bfloat16()
    (y * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    assert y.dtype == torch.bfloat16
    got_all = [y, *(tensor.grad for tensor in fast)]
    want_all = [expected, *(tensor.grad for tensor in slow)]
    for got, want in zip(got_all, want_all, strict=True):
        assert got is not None
        assert want is not None
        error = (got.double() - want).abs() / (want.abs() + 1e-2 * want.abs().max())
        assert error.max() < 2**-8 + 1e-4


def test_float64_stays_float64(path: str) -> None:
    """Inputs in float64 are computed in float64."""
    x = tuple(tensor.double() for tensor in inputs(40))
    assert_matches(
        partial(whole, selective_scan), partial(whole, selective_scan_reference), x, 1e-11
    )


def test_autocast_does_not_reach_inside(path: str) -> None:
    """Under autocast, float32 inputs give the same float32 output as without it."""
    x = inputs(40)
    with torch.autocast("cpu", torch.bfloat16):
        got = whole(selective_scan, *x)
    assert torch.equal(got, whole(selective_scan, *x))


def test_threads_change_no_bit(path: str) -> None:
    """Output and gradients are bitwise the same on one thread and on three."""
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            x = [tensor.clone().requires_grad_() for tensor in inputs(65, dim=144)]
            y = whole(selective_scan, *x)
            y.square().sum().backward()
            results.append([y, *(tensor.grad for tensor in x)])
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def test_nan_in_nan_out(path: str) -> None:
    assert_passes_nan_on(partial(whole, selective_scan), inputs(40))
    assert_passes_nan_on(partial(bare, selective_scan), bare_inputs(40))


def test_nan_does_not_spread_to_other_channels(path: str) -> None:
    """A NaN in one channel of one sequence stays there."""
    assert_nan_stays(time=40, at=7)


def assert_nan_stays(time: int, at: int) -> None:
    x = inputs(time)
    x[0][1, 20, at] = torch.nan
    bad = whole(selective_scan, *x).isnan()
    assert bad[1, 20, at:].all()
    assert bad.sum() == time - at


def test_it_compiles(path: str) -> None:
    """`torch.compile` sees through to operators with fake versions (checked with its eager
    backend)."""
    x = inputs(40)
    compiled = torch.compile(partial(whole, selective_scan), backend="aot_eager")
    torch.testing.assert_close(compiled(*x), whole(selective_scan, *x))


def test_it_is_that_of_mamba_ssm(path: str) -> None:
    """Where mamba-ssm is installed: its own reference, in float32."""
    library = pytest.importorskip("mamba_ssm.ops.selective_scan_interface")
    u, delta, a, b, c, skip, gate, bias = inputs(40)
    want, want_last = library.selective_scan_ref(
        u, delta, a, b, c, skip, gate, bias, delta_softplus=True, return_last_state=True
    )
    got, last = selective_scan(
        u, delta, a, b, c, skip=skip, gate=gate, delta_bias=bias, delta_softplus=True
    )
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last, want_last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("time", "dim", "states", "shift"), [(1, 5, 1, 0), (9, 40, 5, 200)])
def test_triton(on_triton: None, time: int, dim: int, states: int, shift: float) -> None:
    """Odd lengths and widths, extreme steps, and a state that is carried over, with gradients."""
    *rest, bias = inputs(time, dim=dim, states=states, delta_scale=5.0)
    state = torch.randn(BATCH, dim, states)
    assert_matches(
        partial(whole, selective_scan, initial_state=state),
        partial(whole, selective_scan_reference, initial_state=state),
        (*rest, bias + shift),
        3e-6,
    )
    options: dict[str, Any] = {"delta_bias": bias + shift, "delta_softplus": True}
    _, got = selective_scan(*rest[:5], initial_state=state, **options)
    _, want = selective_scan_reference(*rest[:5], initial_state=state, **options)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_triton_in_bfloat16_on_views(on_triton: None) -> None:
    assert_rounds_once(5)
    test_layout_does_not_matter("triton", 1)
    assert_nan_stays(time=3, at=1)


# Channels, states and rank of delta of the presets' layers.
SIZES = {
    "mini": (256, 8, 8),
    "small": (768, 16, 24),
    "base": (1536, 16, 48),
    "paper": (2048, 8, 64),
}


def launches(size: str, kind: torch.dtype, time: int = 512) -> list[Launch]:
    """What a layer launches in a training step."""
    dim, states, rank = SIZES[size]
    with FakeTensorMode(), recording() as recorded:
        u, delta, joint = (
            torch.empty(4, time, width, dtype=kind, requires_grad=True)
            for width in (dim, dim, 2 * dim)
        )
        small = torch.empty(4, time, rank + 2 * states, dtype=kind, requires_grad=True)
        _, b, c = small.split([rank, states, states], -1)
        a, (skip, bias) = torch.empty(dim, states, requires_grad=True), torch.empty(2, dim)
        x = (u.mT, delta.mT, a, b.mT, c.mT, skip, joint[..., dim:].mT, bias)
        whole(selective_scan, *x).sum().backward()
    return recorded


def test_lengths_and_batches_share_what_is_compiled() -> None:
    """A step takes three kernels, for any number of sequences of any length."""
    short, long = (launches("small", torch.bfloat16, time=time) for time in (7, 512))
    constants = [[launch.constants for launch in recorded] for recorded in (short, long)]
    assert constants[0] == constants[1]
    assert len(set(long)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", ["base", "paper"])
def test_it_compiles_for_all_gpus(size: str, kind: torch.dtype) -> None:
    """Without spills, for both numbers of states; `test_compiled_kernels` has every preset."""
    for usage in compile_for(launches(size, kind), (80, 90, 100)):
        assert usage.spilled == 0, usage
        assert usage.shared <= SHARED_MEMORY[86], usage
