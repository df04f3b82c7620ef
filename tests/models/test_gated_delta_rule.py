"""The gated delta rule against its recurrence, step by step in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import assert_matches, assert_passes_nan_on, log_gates
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels import gated_delta_rule as module
from models.kernels.gated_delta_rule import gated_delta_rule, gated_delta_rule_reference
from models.kernels.gpu import gated_delta_rule as gpu
from models.kernels.gpu.launch import Launch, recording
from tests.models.compilation import SHARED_MEMORY, compile_for
from tests.models.triton_interpreter import take_triton

LENGTHS = [1, 7, 48, 64, 65, 130]
TOLERANCE = 3e-6


@pytest.fixture(params=["torch", pytest.param("triton", marks=pytest.mark.slow)])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way the rule computes: there is no C++."""
    if request.param == "triton":
        take_triton(monkeypatch)
    return request.param


def inputs(
    time: int, keys: int = 16, values: int = 24, kind: str = "wide", strength: float = 1.0
) -> tuple[Tensor, ...]:
    """q, k, v, g and beta up to `strength`, for two sequences and three heads."""
    torch.manual_seed(time)
    q, k = F.normalize(torch.randn(2, 2, time, 3, keys), dim=-1)
    v = torch.randn(2, time, 3, values)
    return q, k, v, log_gates(kind, (2, time, 3), share=0.05), strength * torch.rand(2, time, 3)


def output(rule: Any, **options: Any) -> Any:
    return lambda *x: rule(*x, **options)[0]


@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("kind", ["open", "wide", "closed", "rare", "reset"])
@pytest.mark.parametrize("state", [False, True])
def test_it_is_the_recurrence(path: str, time: int, kind: str, state: bool) -> None:
    """Output, gradients and the last state, for any length and any gates, with and without a state
    to start from."""
    x = inputs(time, kind=kind)
    initial = torch.randn(2, 3, 16, 24) if state else None
    options = {"initial_state": initial}
    assert_matches(
        output(gated_delta_rule, **options),
        output(gated_delta_rule_reference, **options),
        x,
        TOLERANCE,
    )
    _, last = gated_delta_rule(*x, **options)
    _, want = gated_delta_rule_reference(*x, **options)
    assert not last.requires_grad
    torch.testing.assert_close(last, want.float(), rtol=1e-5, atol=1e-5)


def test_equation_10_of_the_paper() -> None:
    """S_t = S_{t-1} (alpha_t (I - beta_t k_t k_t^T)) + beta_t v_t k_t^T, o_t = S_t q_t, as it is
    printed: the reference is this, with S transposed."""
    q, k, v, g, beta = (x[0, :, 0].double() for x in inputs(9))
    state, outputs = torch.zeros(24, 16, dtype=torch.float64), []
    for t in range(9):
        kept = torch.eye(16, dtype=torch.float64) - beta[t] * torch.outer(k[t], k[t])
        state = state @ (g[t].exp() * kept) + beta[t] * torch.outer(v[t], k[t])
        outputs.append(state @ q[t])
    o, last = gated_delta_rule_reference(*inputs(9), scale=1.0)
    torch.testing.assert_close(o[0, :, 0], torch.stack(outputs), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last[0, 0], state.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("time", [3, 5])
def test_gradients_are_those_of_finite_differences(
    time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, over one chunk and several."""
    monkeypatch.setattr(module, "CHUNK", 2)
    x = [tensor.double().requires_grad_() for tensor in inputs(time, 3, 2)]
    state = torch.randn(2, 3, 3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(output(gated_delta_rule, initial_state=state, scale=0.7), x)


@pytest.mark.parametrize("chunk", [1, 5, 16, 200])
def test_any_chunk_gives_the_same(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """How a sequence is cut is of no consequence."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert_matches(
        output(gated_delta_rule), output(gated_delta_rule_reference), inputs(70), TOLERANCE
    )


@pytest.mark.parametrize(("keys", "values"), [(16, 16), (5, 3), (32, 64), (1, 1)])
@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_any_width_and_strength(path: str, keys: int, values: int, strength: float) -> None:
    """Keys and values of any width; writing strengths up to 2, whose eigenvalues reach -1."""
    x = inputs(70, keys, values, strength=strength)
    assert_matches(output(gated_delta_rule), output(gated_delta_rule_reference), x, TOLERANCE)


def test_equal_keys_are_no_obstacle(path: str) -> None:
    """One key all along, at full strength and without forgetting: the system of a chunk, whose
    powers would reach 1e18, is solved to rounding, and the last value is what is read."""
    q, k, v, g, beta = inputs(130)
    k = q = k[:, :1].expand_as(k)
    g, beta = torch.zeros_like(g), torch.ones_like(beta)
    o, _ = gated_delta_rule(q, k, v, g, beta, scale=1.0)
    torch.testing.assert_close(o, v, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("split", [1, 37, 64, 99])
def test_it_continues_from_a_state(path: str, split: int) -> None:
    """Two pieces, the second started from the first one's state, equal the whole."""
    x = inputs(100)
    whole, last = gated_delta_rule(*x)
    first, state = gated_delta_rule(*(tensor[:, :split] for tensor in x))
    second, end = gated_delta_rule(*(t[:, split:] for t in x), initial_state=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(end, last, rtol=1e-5, atol=1e-5)


def test_padding_keeps_the_state(path: str) -> None:
    """g = 0 with beta = 0, to the bit within a chunk, whatever else is there."""
    q, k, v, g, beta = inputs(40)
    _, before = gated_delta_rule(*(x[:, :20] for x in (q, k, v, g, beta)))
    g[:, 20:] = beta[:, 20:] = 0.0
    _, after = gated_delta_rule(q, k, v, g, beta)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    assert before.abs().max() > 0.1


def test_bf16_is_rounded_once() -> None:
    """bf16 inputs give bf16 outputs and gradients, computed in float32."""
    low = [x.bfloat16().requires_grad_() for x in inputs(70)]
    high = [x.detach().float().requires_grad_() for x in low]
    for x in (low, high):
        o, state = gated_delta_rule(*x)
        assert (o.dtype, state.dtype) == (x[2].dtype, torch.float32)
        o.float().sum().backward()
    for got, want in zip(low, high, strict=True):
        assert got.grad.dtype == torch.bfloat16
        torch.testing.assert_close(got.grad, want.grad, check_dtype=False, rtol=2**-8, atol=1e-5)


def test_autocast_changes_nothing(path: str) -> None:
    """Products stay in float32, also where the backward runs under autocast, as a trial's does."""
    results = []
    for enabled in (False, True):
        x = [tensor.requires_grad_() for tensor in inputs(48)]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            o, _ = gated_delta_rule(*x)
            results.append((o, *torch.autograd.grad(o.square().sum(), x)))
    for got, want in zip(*results, strict=True):
        assert torch.equal(got, want)


def test_nan_passes_on(path: str) -> None:
    """A diverged run cannot hide."""
    state = torch.randn(2, 3, 16, 24)
    run = lambda *x: gated_delta_rule(*x[:-1], initial_state=x[-1])[0]  # noqa: E731
    assert_passes_nan_on(run, (*inputs(70), state))


def test_without_a_state_none_is_returned() -> None:
    assert gated_delta_rule(*inputs(5), return_state=False)[1] is None


def test_it_reads_nothing_from_the_device() -> None:
    """Fake tensors, which have no values, go through, forward and backward."""
    with FakeTensorMode():
        q, k, v = torch.randn(3, 2, 70, 3, 16, requires_grad=True)
        o, state = gated_delta_rule(q, k, v, torch.randn(2, 70, 3), torch.rand(2, 70, 3))
        o.sum().backward()
    assert o.shape == (2, 70, 3, 16)
    assert state.shape == (2, 3, 16, 16)


def test_wrong_arguments_are_named() -> None:
    """Shapes that do not fit, and a state that asks for a gradient."""
    q, k, v, g, beta = inputs(5)
    for wrong, name in (
        ((q, k[:, :4], v, g, beta), "k has the shape"),
        ((q, k, v[:, :, :2], g, beta), "v has the shape"),
        ((q, k, v, g[..., None], beta), "g has the shape"),
        ((q, k, v, g, beta[:1]), "beta has the shape"),
    ):
        with pytest.raises(ValueError, match=name):
            gated_delta_rule(*wrong)
    rule = partial(gated_delta_rule, q, k, v, g, beta)
    with pytest.raises(ValueError, match="initial_state has the shape"):
        rule(initial_state=torch.zeros(2, 3, 24, 16))
    with pytest.raises(ValueError, match="states carry none"):
        rule(initial_state=torch.zeros(2, 3, 16, 24, requires_grad=True))


@pytest.mark.parametrize("time", [1, 65])
def test_triton_on_any_length(time: int, on_triton: None) -> None:
    """With widths of no power of two, more values than a tile, from a state, and with small gates
    behind large ones, which a difference of sums would lose."""
    q, k, v, g, beta = inputs(time, 20, 70, strength=2.0)
    g[:, ::9] = -80.0
    x = tuple(tensor[:1, :, :1] for tensor in (q, k, v, g, beta))
    state = torch.randn(1, 1, 20, 70)
    options = {"initial_state": state, "scale": 0.7}
    assert_matches(
        output(gated_delta_rule, **options),
        output(gated_delta_rule_reference, **options),
        x,
        TOLERANCE,
    )
    last = gated_delta_rule(*x, **options)[1]
    want = gated_delta_rule_reference(*x, **options)[1]
    torch.testing.assert_close(last, want.float(), rtol=1e-5, atol=1e-5)


def test_triton_in_whole_chunks(on_triton: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, where errors show, with the chunks of bf16, and equal keys among others."""
    monkeypatch.setitem(gpu.CHUNKS, torch.float32, gpu.CHUNKS[torch.bfloat16])
    q, k, v, g, beta = (x[:1, :, :1] for x in inputs(70, 16, 16))
    k[:, 10:40] = k[:, :1]
    x = (q, k, v, g, beta)
    assert_matches(output(gated_delta_rule), output(gated_delta_rule_reference), x, TOLERANCE)


def test_triton_in_bf16(on_triton: None) -> None:
    """Within 2% of the float64 reference, outputs and gradients, relative to the largest entry."""
    q, k, v, g, beta = (x[:1, :, :1] for x in inputs(130, 32, 64))
    x = (*(tensor.bfloat16() for tensor in (q, k, v)), g, beta)
    assert_matches(output(gated_delta_rule), output(gated_delta_rule_reference), x, 2e-2)


def test_triton_passes_nan_on(on_triton: None) -> None:
    state = torch.randn(1, 1, 16, 16)
    run = lambda *x: gated_delta_rule(*x[:-1], initial_state=x[-1])[0]  # noqa: E731
    assert_passes_nan_on(run, (*(x[:1, :, :1] for x in inputs(5, 16, 16)), state))


def recorded(keys: int, dtype: torch.dtype) -> list[Launch]:
    """Launches of a forward and a backward pass."""
    with FakeTensorMode(), recording() as launches:
        q, k = (torch.empty(2, 512, 3, keys, dtype=dtype).requires_grad_() for _ in range(2))
        v = torch.empty(2, 512, 3, 2 * keys, dtype=dtype).requires_grad_()
        g, beta = (torch.empty(2, 512, 3).requires_grad_() for _ in range(2))
        o, _ = gated_delta_rule(q, k, v, g, beta)
        o.backward(torch.empty_like(o))
    return launches


def test_a_training_step_compiles_five_kernels() -> None:
    """For any batch and length; a walk of the backward needs neither outputs nor a last state."""
    names = [launch.name for launch in recorded(96, torch.bfloat16)]
    assert names == ["_solve", "_walk", "_solve", "_walk", "_walk_back", "gradients"]


def test_wider_keys_than_registers_hold_take_pytorch() -> None:
    """A tile of the state has all keys of a head: 256 of them in bf16, 128 in float32."""
    assert recorded(256, torch.bfloat16)
    assert not recorded(257, torch.bfloat16)
    assert recorded(128, torch.float32)
    assert not recorded(129, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [32, 96, 128, 256])  # mini; small and base; paper; large
def test_it_compiles_for_gpus(keys: int) -> None:
    """Within the shared memory of consumer cards, without a spill in a loop: training in bf16, and
    float32's forward pass."""
    launches = recorded(keys, torch.bfloat16) + recorded(keys, torch.float32)[:2]
    for usage in compile_for(launches, (80, 90, 100)):
        assert usage.hot == 0, usage
        assert usage.shared <= SHARED_MEMORY[90 if usage.capability >= 90 else 86], usage
