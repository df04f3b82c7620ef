"""Gated linear attention, with given and with HGRN2's gates, against its recurrence in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from kernel_checks import LENGTHS, assert_matches, assert_passes_nan_on, log_gates
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels.gated_linear_attention import (
    gated_linear_attention,
    gated_linear_attention_reference,
    hgrn2_attention,
    hgrn2_attention_reference,
)
from models.kernels.gpu.launch import Launch, recording
from tests.models.compilation import SHARED_MEMORY, compile_for

# The products of many gates cost the chunked form a few digits.
TOLERANCE = {"torch": 5e-6, "cpp": 3e-6, "triton": 3e-6}

# Key and value dim: two that the C++ path takes, one of them in blocks of unequal width, and two
# that it leaves to PyTorch.
SHAPES = [(16, 48), (80, 16), (16, 8), (5, 3)]


def inputs(
    time: int, keys: int = 16, values: int = 48, kind: str = "wide", batch: int = 2
) -> tuple[Tensor, ...]:
    """q, k, v and g, for three heads."""
    torch.manual_seed(time)
    q, k = torch.randn(2, batch, time, 3, keys)
    v = torch.randn(batch, time, 3, values)
    return q, k, v, log_gates(kind, (batch, time, 3, keys))


def bounded_inputs(
    time: int, keys: int = 16, values: int = 48, scale: float = 3.0
) -> tuple[Tensor, ...]:
    """q, f, v and the lower bound, for three heads. The bound's gradient is the gate's divided by
    the gate: the lower the bound, the fewer its digits."""
    q, f, v, _ = inputs(time, keys, values)
    return q, scale * f, v, 0.3 + 0.6 * torch.rand(3 * keys)


def output(attention: Callable[..., tuple[Tensor, Tensor]], **options: Any) -> Any:
    return lambda *x: attention(*x, **options)[0]


@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("kind", ["open", "wide", "closed", "rare", "reset"])
def test_it_is_the_recurrence(path: str, time: int, kind: str) -> None:
    """Equal to the step-by-step recurrence for any length and any gates."""
    assert_matches(
        output(gated_linear_attention),
        output(gated_linear_attention_reference),
        inputs(time, kind=kind),
        TOLERANCE[path],
    )


@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_gates_of_hgrn2(path: str, time: int, scale: float) -> None:
    """From preactivations, also saturated ones, equal to fla's formula in float64."""
    assert_matches(
        output(hgrn2_attention),
        output(hgrn2_attention_reference),
        bounded_inputs(time, scale=scale),
        3 * TOLERANCE[path],
    )


@pytest.mark.parametrize(("keys", "values"), SHAPES)
@pytest.mark.parametrize("batch", [1, 5])
def test_any_shape(path: str, keys: int, values: int, batch: int) -> None:
    """Key and value dim may differ and be anything; few and many sequences give the same."""
    x = inputs(37, keys, values, batch=batch)
    assert_matches(
        output(gated_linear_attention),
        output(gated_linear_attention_reference),
        x,
        TOLERANCE["torch"],
    )


@pytest.mark.parametrize("state", [False, True])
def test_from_a_state(path: str, state: bool) -> None:
    """Output, all gradients and the last state from an initial state, or without one."""
    initial = torch.randn(2, 3, 16, 48) if state else None
    for kernel, reference, x in (
        (gated_linear_attention, gated_linear_attention_reference, inputs(70)),
        (hgrn2_attention, hgrn2_attention_reference, bounded_inputs(70)),
        (hgrn2_attention, hgrn2_attention_reference, bounded_inputs(70, scale=100.0)[:3]),
    ):
        fast, slow = (partial(f, initial_state=initial) for f in (kernel, reference))
        assert_matches(output(fast), output(slow), x, 3 * TOLERANCE[path])
        last = fast(*x)[1]
        assert not last.requires_grad
        torch.testing.assert_close(last, slow(*x)[1].float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("split", [1, 37, 99])
def test_it_continues_from_a_state(path: str, split: int) -> None:
    """Two pieces, the second started from the first one's state, equal the whole."""
    x = inputs(100)
    whole, last = gated_linear_attention(*x)
    first, state = gated_linear_attention(*(tensor[:, :split] for tensor in x))
    second, end = gated_linear_attention(*(t[:, split:] for t in x), initial_state=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(end, last, rtol=1e-5, atol=2e-5)


def test_an_infinite_preactivation_keeps_the_state(path: str) -> None:
    """f = inf, what padding gets, neither adds to the state nor lets it decay."""
    q, f, v, bound = bounded_inputs(40)
    _, before = hgrn2_attention(q[:, :20], f[:, :20], v[:, :20], bound)
    f[:, 20:] = torch.inf
    _, after = hgrn2_attention(q, f, v, bound)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_bf16_is_rounded_once(path: str) -> None:
    """bf16 inputs give bf16 outputs and gradients, computed in float32."""
    x = [t.bfloat16() for t in bounded_inputs(40)[:3]]
    low = [t.clone().requires_grad_() for t in x]
    high = [t.float().requires_grad_() for t in x]
    for result in (low, high):
        o, state = hgrn2_attention(*result)
        assert state.dtype == torch.float32
        o.float().sum().backward()
    for got, want in zip(low, high, strict=True):
        assert got.grad is not None
        assert got.grad.dtype == torch.bfloat16
        torch.testing.assert_close(got.grad, want.grad, check_dtype=False, rtol=2**-8, atol=1e-2)


def test_results_do_not_depend_on_threads(path: str) -> None:
    """Bitwise: threads share the work, not the sums."""
    if path == "torch":
        pytest.skip("torch's matrix products")
    x = [t.requires_grad_() for t in inputs(70, 64, 64, batch=1)]
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            o, _ = gated_linear_attention(*x)
            results.append((o, *torch.autograd.grad(o.square().sum(), x)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("time", [1, 7, 64, 65, 130])
def test_triton_on_any_length(time: int, on_triton: None) -> None:
    """With each kind of gates in features of their own, and a head that is no power of two."""
    q, k, v, _ = (x[:, :, :1] for x in inputs(time, 20, 9, batch=1))
    kinds = ("open", "wide", "closed", "rare")
    g = torch.cat([log_gates(kind, (1, time, 1, 5)) for kind in kinds], -1)
    state = torch.randn(1, 1, 20, 9)
    kernel, reference = (
        partial(f, initial_state=state)
        for f in (gated_linear_attention, gated_linear_attention_reference)
    )
    assert_matches(output(kernel), output(reference), (q, k, v, g), TOLERANCE["triton"])
    last, want = kernel(q, k, v, g)[1], reference(q, k, v, g)[1]
    torch.testing.assert_close(last, want.float(), rtol=1e-5, atol=1e-5)


def test_triton_on_wide_values(on_triton: None) -> None:
    """More than a tile of the backward, and no whole number of them."""
    x = tuple(t[:1, :, :1] for t in inputs(66, 20, 100))
    assert_matches(
        output(gated_linear_attention),
        output(gated_linear_attention_reference),
        x,
        TOLERANCE["triton"],
    )


@pytest.mark.parametrize("bound", [0.0, 0.3, 0.99])
def test_triton_on_gates_of_hgrn2(bound: float, on_triton: None) -> None:
    """For bounds from none to nearly one, and gates from open to closed."""
    q, f, v = (x[:1, :, :1] for x in bounded_inputs(70, 16, 16, scale=20.0)[:3])
    x = (q, f, v, torch.full((16,), bound))
    if not bound:
        x = x[:3]  # the gradient of a bound of 0 is divided by gates near 0
    assert_matches(
        output(hgrn2_attention), output(hgrn2_attention_reference), x, 3 * TOLERANCE["triton"]
    )


def test_triton_in_bf16(on_triton: None) -> None:
    """Within 2% of the float64 reference, outputs and gradients, relative to the largest entry."""
    q, f, v, bound = bounded_inputs(130, 32, 32)
    x = (*(t[:1, :, :1].bfloat16() for t in (q, f, v)), bound[:32])
    assert_matches(output(hgrn2_attention), output(hgrn2_attention_reference), x, 2e-2)


def test_triton_passes_nan_on(on_triton: None) -> None:
    x = tuple(t[:1, :, :1] for t in inputs(5, 16, 16))
    assert_passes_nan_on(output(gated_linear_attention), x)
    q, f, v, bound = bounded_inputs(5, 16, 16)
    x = (*(t[:1, :, :1] for t in (q, f, v)), bound[:16])
    assert_passes_nan_on(output(hgrn2_attention), x)


def recorded(head: int, dtype: torch.dtype, given: bool = False) -> list[Launch]:
    """Launches of a forward and a backward pass, with logarithms of gates or from HGRN2's."""
    with FakeTensorMode(), recording() as launches:
        q, f, v = (torch.empty(2, 512, 3, head, dtype=dtype).requires_grad_() for _ in range(3))
        if given:
            o, _ = gated_linear_attention(q, f, v, torch.empty(q.shape).requires_grad_())
        else:
            o, _ = hgrn2_attention(q, f, v, torch.empty(3 * head).requires_grad_())
        o.backward(torch.empty_like(o))
    return launches


def test_a_training_step_compiles_six_kernels() -> None:
    """For any batch and length; the states of the backward need no last one."""
    launches = recorded(128, torch.bfloat16)
    names = [launch.name for launch in launches]
    assert names == ["_walk", "_outputs", "_walk", "_walk", "_outputs", "gradients"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("head", [32, 128])  # mini; small, base and paper
def test_it_compiles_for_gpus(head: int, dtype: torch.dtype) -> None:
    """Within shared memory, in bf16 that of consumer cards; no registers spilled in bf16's loops.
    Between them the backward pass spills some hundred bytes."""
    for usage in compile_for(recorded(head, dtype), (80, 90, 100)):
        assert usage.shared <= SHARED_MEMORY[usage.capability], usage
        if dtype == torch.bfloat16:
            assert usage.hot == 0, usage
            assert usage.shared <= SHARED_MEMORY[86], usage


@pytest.mark.slow
@pytest.mark.parametrize(("head", "dtype"), [(256, torch.bfloat16), (128, torch.float32)])
def test_given_gates_compile(head: int, dtype: torch.dtype) -> None:
    for usage in compile_for(recorded(head, dtype, given=True), (80, 90)):
        assert usage.shared <= SHARED_MEMORY[usage.capability], usage


def test_a_state_cannot_ask_for_a_gradient() -> None:
    state = torch.zeros(2, 3, 16, 48, requires_grad=True)
    with pytest.raises(ValueError, match="initial_state"):
        gated_linear_attention(*inputs(5), initial_state=state)


def test_nan_in_nan_out(path: str) -> None:
    assert_passes_nan_on(output(gated_linear_attention), inputs(20))
    assert_passes_nan_on(output(hgrn2_attention), bounded_inputs(20))
