"""The mLSTM cell against its recurrence in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from kernel_checks import LENGTHS, assert_matches, assert_passes_nan_on
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels.gpu import mlstm_library
from models.kernels.gpu.launch import Launch, recording
from models.kernels.mlstm import State, mlstm, mlstm_reference
from tests.models.compilation import SHARED_MEMORY, compile_for


def inputs(time: int, scale: float = 1.0, key: int = 8, value: int = 8) -> tuple[Tensor, ...]:
    """q, k, v and gates of `scale` for 2 sequences and 3 heads."""
    torch.manual_seed(time)
    q, k = torch.randn(2, 2, time, 3, key)
    igate, fgate = scale * torch.randn(2, 2, time, 3)
    return q, k, torch.randn(2, time, 3, value), igate, fgate + 2


def state_behind(time: int, key: int = 8, value: int = 8) -> State:
    return mlstm_reference(*inputs(time, 1.0, key, value))[1]


def hidden(*tensors: Tensor, state: State | None = None) -> Tensor:
    return mlstm(*tensors, initial_state=state)[0]


def hidden_reference(*tensors: Tensor, state: State | None = None) -> Tensor:
    return mlstm_reference(*tensors, initial_state=state)[0]


def assert_states_match(got: State, want: State, tolerance: float = 5e-6) -> None:
    """Equal relative to the largest entry, after both are brought to the same log scale."""
    scale = (want[2] - got[2].double()).exp()
    for x, y in ((got[0], want[0] * scale[..., None, None]), (got[1], want[1] * scale[..., None])):
        assert (x.double() - y).abs().max() < tolerance * y.abs().max()
    torch.testing.assert_close(got[2].double(), want[2], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_it_is_exactly_the_recurrence(time: int, scale: float, with_state: bool) -> None:
    """In float64 the chunks equal the recurrent form of the paper, for gates up to +-100."""
    state = state_behind(7) if with_state else None
    assert_matches(
        partial(hidden, state=state),
        partial(hidden_reference, state=state),
        tuple(x.double() for x in inputs(time, scale)),
        1e-11,
    )


@pytest.mark.parametrize("time", [1, 7, 65])
def test_triton_is_the_recurrence(on_triton: None, time: int) -> None:
    """One chunk, and a state in front of it; the last rows of the tiles are empty."""
    kernel = partial(hidden, state=one_head(*state_behind(7)))
    reference = partial(hidden_reference, state=one_head(*state_behind(7)))
    assert_matches(kernel, reference, one_head(*inputs(time, 0.3), at=2), 2e-5)


def one_head(*tensors: Tensor, at: int = 1) -> tuple[Tensor, ...]:
    """The first sequence and head alone, since Triton's interpreter is slow."""
    return tuple(x[:1].narrow(at, 0, 1) for x in tensors)


@pytest.mark.parametrize("time", [130, 600])
@pytest.mark.slow
def test_triton_with_wide_heads(on_triton: None, time: int) -> None:
    """Several tiles of keys and values, and several chunks."""
    state = one_head(*state_behind(7, 70, 130))
    assert_matches(
        partial(hidden, state=state),
        partial(hidden_reference, state=state),
        one_head(*inputs(time, 0.3, 70, 130), at=2),
        2e-5,
    )


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize(("key", "value"), [(16, 16), (20, 12), (8, 80)])
def test_it_is_the_recurrence(path: str, time: int, key: int, value: int, with_state: bool) -> None:
    """In float32, for key and value dims that vectors divide or not; the gates are moderate, since
    wide ones cost any formula in float32 some digits."""
    state = state_behind(7, key, value) if with_state else None
    assert_matches(
        partial(hidden, state=state),
        partial(hidden_reference, state=state),
        inputs(time, 0.3, key, value),
        2e-5,
    )


@pytest.mark.parametrize("time", [1, 3, 63, 65, 130])
def test_it_continues_from_a_state(path: str, time: int) -> None:
    """Two pieces, the second with the state behind the first, equal the whole."""
    tensors = inputs(150)
    want, last = mlstm_reference(*tensors)
    first, state = mlstm(*(x[:, :time] for x in tensors))
    second, end = mlstm(*(x[:, time:] for x in tensors), initial_state=state)
    error = (torch.cat([first, second], 1).double() - want).abs().max() / want.abs().max()
    assert error < 2e-6
    assert_states_match(end, last)
    assert end is not None
    assert not any(x.requires_grad for x in end)
    with pytest.raises(ValueError, match="initial_state"):
        mlstm(*tensors, initial_state=(state[0].requires_grad_(), *state[1:]))


@pytest.mark.parametrize("padding", [1, 5, 64, 70])
def test_closed_first_steps_do_not_count(path: str, padding: int) -> None:
    """Steps whose input gate is -1e30 and whose forget gate is open leave later outputs, all
    gradients and the state as if they were absent."""
    tensors = [x.requires_grad_() for x in inputs(80)]
    padded = [
        torch.cat([torch.randn(2, padding, *x.shape[2:]), x], 1).detach().requires_grad_()
        for x in tensors
    ]
    with torch.no_grad():
        padded[3][:, :padding], padded[4][:, :padding] = -1e30, 1e4
    h, state = mlstm(*tensors)
    h_padded, state_padded = mlstm(*padded)
    weight = torch.randn_like(h)
    (h * weight).sum().backward()
    (h_padded[:, padding:] * weight).sum().backward()
    assert h_padded.isfinite().all()
    torch.testing.assert_close(h_padded[:, padding:], h, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state_padded, state, rtol=1e-5, atol=1e-5)
    for x, y in zip(padded, tensors, strict=True):
        assert x.grad is not None
        assert (x.grad[:, :padding] == 0).all()
        torch.testing.assert_close(x.grad[:, padding:], y.grad, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("heads", [1, 9])
def test_bf16_inputs_are_only_rounded(path: str, heads: int) -> None:
    """From vectors in bf16 the computation is that in float32; gradients are rounded at the end."""
    if path == "triton":
        pytest.skip("multiplies in bf16")
    rounded = [torch.cat([x[:, :, :1]] * heads, 2).bfloat16() for x in inputs(70, 1.0, 8, 48)]
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        tensors = [x.to(dtype, copy=True).requires_grad_() for x in rounded]
        h = hidden(*tensors)
        h.backward(torch.ones_like(h))
        results.append((h, *(x.grad for x in tensors)))
    (h, *gradients), (want, *wanted) = results
    assert h.dtype == torch.float32
    torch.testing.assert_close(h, want, rtol=1e-5, atol=1e-5)
    for got, x in zip(gradients, wanted, strict=True):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), x, rtol=1e-2, atol=1e-3)


def test_threads_do_not_change_results(path: str) -> None:
    """One thread and three give the same bits: every sum has one order."""
    results = []
    threads = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        tensors = [x.requires_grad_() for x in inputs(130, 1.0, 16, 48)]
        h, state = mlstm(*tensors)
        h.square().sum().backward()
        assert state is not None
        results.append([h, *state, *(x.grad for x in tensors)])
    torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def test_it_compiles(path: str) -> None:
    """`torch.compile` sees through to operators with fake versions (checked with its eager
    backend), backward included."""
    if path == "triton":
        pytest.skip("launched by Python code that Dynamo does not trace")
    torch.compiler.reset()  # no graph of the other path is taken for this one's
    eager = [x.requires_grad_() for x in inputs(70)]
    traced = [x.detach().clone().requires_grad_() for x in eager]
    h, want = torch.compile(hidden, backend="aot_eager", fullgraph=True)(*traced), hidden(*eager)
    torch.testing.assert_close(h, want)
    h.sum().backward()
    want.sum().backward()
    for x, y in zip(traced, eager, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


def test_nan_in_nan_out(path: str) -> None:
    assert_passes_nan_on(hidden, inputs(20))


def test_triton_passes_nan_on(on_triton: None) -> None:
    assert_passes_nan_on(hidden, one_head(*inputs(5), at=2))


@pytest.mark.parametrize(
    ("time", "width"),
    [(66, 40), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((300, 40), (700, 130)))],
)
def test_bf16_in_triton(on_triton: None, time: int, width: int) -> None:
    """From vectors and gates in bf16: errors of h and of all gradients, relative to their norms,
    are those of rounding a few times."""
    state = one_head(*state_behind(7, width, width))
    tensors = one_head(*inputs(time, 0.5, width, width), at=2)
    leaves = [x.bfloat16().requires_grad_() for x in tensors]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    h, want = hidden(*leaves, state=state), hidden_reference(*exact, state=state)
    dh = torch.randn_like(h)
    got = (h, *torch.autograd.grad(h, leaves, dh))
    wanted = (want, *torch.autograd.grad(want, exact, dh.double()))
    for one, other in zip(got, wanted, strict=True):
        assert (one.double() - other).norm() < 2**-7 * other.norm()


@pytest.mark.parametrize("shut", [-1e4, -1e30, -torch.inf])
def test_a_shut_forget_gate_is_a_new_beginning(path: str, shut: float) -> None:
    """Behind a step that forgets everything, outputs are those of a text that begins there, and
    gradients stay finite."""
    q, k, v, igate, fgate = inputs(80)
    fgate[:, 30] = shut
    leaves = [x.requires_grad_() for x in (q, k, v, igate, fgate)]
    whole = hidden(*leaves)
    fresh = hidden(*(x.detach()[:, 30:] for x in leaves))
    torch.testing.assert_close(whole[:, 30:].detach(), fresh, rtol=1e-5, atol=1e-5)
    whole.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves)


def test_the_library_takes_whole_chunks() -> None:
    """Lengths of mlstm_kernels; others take our own path."""
    taken = [t for t in range(1, 300) if mlstm_library.takes(*[torch.empty(1, t, 1, 8)] * 3)]
    assert taken == [16, 32, 64, 128, 256]


def launches(dim: int, time: int, kind: torch.dtype, with_state: bool = False) -> list[Launch]:
    """What the cell launches for four heads of this width, forward and backward."""
    with FakeTensorMode(), recording() as recorded:
        vectors = [torch.empty(2, time, 4, dim, dtype=kind, requires_grad=True) for _ in range(3)]
        gates = torch.empty(2, time, 8, dtype=kind, requires_grad=True).chunk(2, -1)
        state = torch.empty(2, 4, dim, dim), torch.empty(2, 4, dim), torch.empty(2, 4)
        given = state if with_state else None
        h, _ = mlstm(*vectors, *gates, initial_state=given, return_state=with_state)
        h.sum().backward()
    return recorded


# Width of a head and context of the presets.
PRESETS = {"mini": (64, 64), "small": (208, 256), "base": (408, 512), "paper": (512, 512)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", PRESETS)
def test_it_compiles_at_every_size(size: str, kind: torch.dtype) -> None:
    """On three generations of GPUs; with states, too, as in texts longer than a chunk."""
    dim, context = PRESETS[size]
    recorded = [*launches(dim, context, kind), *launches(dim, 4 * context, kind, with_state=True)]
    # A kernel spills when no register of the 255 is left: not where most of the time goes.
    for usage in compile_for(recorded, (80, 90, 100)):
        assert usage.hot == 0 or usage.registers < 255, usage
        assert usage.shared <= SHARED_MEMORY[86], usage
