"""The sLSTM cell against its equations, step by step in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import LENGTHS, assert_matches, assert_passes_nan_on
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.kernels import native
from models.kernels.gpu.launch import Launch, recording
from models.kernels.slstm import _backward_native, _forward_native, slstm, slstm_reference
from tests.models.compilation import SHARED_MEMORY, compile_for

PADDING = torch.tensor([-1e30, 0.0, 0.0, 0.0])[:, None, None]  # (gate, 1, 1): an absent first step


def inputs(
    time: int, *, batch: int = 2, heads: int = 3, dim: int = 32, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """x, with the input and forget gates `scale` times as wide, and the recurrent weights."""
    torch.manual_seed(time)
    x = torch.randn(batch, time, 4, heads, dim)
    x[:, :, :2] *= scale
    return x, torch.randn(heads, 4 * dim, dim) / dim


def output(x: Tensor, recurrent: Tensor) -> Tensor:
    return slstm(x, recurrent)[0]


def reference_output(x: Tensor, recurrent: Tensor) -> Tensor:
    return slstm_reference(x, recurrent)[0]


def biased(x: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
    return slstm(x, recurrent, bias=bias)[0]


def reference_biased(x: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
    return slstm_reference(x + bias, recurrent)[0]


def test_triton_is_the_recurrence(on_triton: None) -> None:
    """Weights held or read block by block, two tiles of rows, columns that are not there; from a
    state and with its end."""
    for batch, dim in ((17, 16), (2, 40)):
        x, recurrent = inputs(3, batch=batch, heads=1, dim=dim)
        _, state = slstm_reference(x, recurrent)
        state = tuple(part.float() for part in state)
        assert_matches(
            lambda *x, s=state: slstm(*x, initial_state=s)[0],
            lambda *x, s=state: slstm_reference(*x, initial_state=s)[0],
            (x, recurrent),
            1e-6,
        )
        last = slstm(x, recurrent, initial_state=state)[1]
        expected = slstm_reference(x, recurrent, initial_state=state)[1]
        for part, want in zip(last, expected, strict=True):
            torch.testing.assert_close(part.double(), want, rtol=1e-5, atol=1e-5)


def test_triton_at_the_limits(on_triton: None) -> None:
    """Absent and shut steps, gates without bound, and a NaN that stays in its row and column."""
    x, recurrent = inputs(6, heads=1, dim=16)
    padded = torch.cat([PADDING.expand(2, 2, 4, 1, 16), x], 1)
    h, state = slstm(padded, recurrent)
    torch.testing.assert_close(h[:, 2:], output(x, recurrent), rtol=0, atol=1e-6)
    assert (h[:, :2] == 0).all()
    shut = torch.cat([padded, x[:, :1]], 1)
    shut[:, -1, 0], shut[:, -1, 1] = -1e30, 1e30
    for part, want in zip(slstm(shut, recurrent)[1][1:], state[1:], strict=True):
        assert torch.equal(part, want)
    for gate, value in ((0, torch.inf), (1, -torch.inf), (2, torch.inf), (3, torch.nan)):
        wild = x.clone()
        wild[0, 3, gate, 0, 5] = value
        want = reference_output(wild, recurrent)
        torch.testing.assert_close(
            output(wild, recurrent).double(), want, rtol=0, atol=1e-5, equal_nan=True
        )


@pytest.mark.parametrize("dim", [16, 40])
def test_triton_in_bf16(on_triton: None, dim: int) -> None:
    """h, its products and what the backward reads are rounded, as often as there are steps; the
    weights' gradient is float32 again, and the gates may be a view."""
    x, recurrent = inputs(6, heads=2, dim=dim)
    bias = torch.randn(4, 2, dim)
    raw = torch.cat([x, x], -1).bfloat16()
    leaves = [raw.requires_grad_(), recurrent.requires_grad_(), bias.requires_grad_()]
    h = biased(leaves[0][..., :dim], leaves[1], leaves[2])
    expected = reference_biased(leaves[0][..., :dim].double(), recurrent.double(), bias.double())
    assert h.dtype == torch.bfloat16
    weight = torch.randn(h.shape).bfloat16()
    grads = torch.autograd.grad(h, leaves, weight)
    expected_grads = torch.autograd.grad(expected, leaves, weight.double())
    for got, want in zip((h, *grads), (expected, *expected_grads), strict=True):
        error = (got.double() - want).abs().max() / want.abs().max()
        assert error < 0.01
    assert grads[1].dtype == grads[2].dtype == torch.float32


def launches(dim: int, kind: torch.dtype, *, state: bool = False) -> list[Launch]:
    """What the forward and backward at four heads of `dim` launch."""
    with FakeTensorMode(), recording() as recorded:
        x = torch.empty(16, 512, 4, 4, dim, dtype=kind, requires_grad=True)
        recurrent = torch.empty(4, 4 * dim, dim, requires_grad=True)
        start = tuple(torch.empty(4, 16, 4, dim)) if state else None
        bias = torch.empty(4, 4, dim, requires_grad=True)
        slstm(x, recurrent, bias=bias, initial_state=start)[0].sum().backward()
    return recorded


def test_it_launches_a_kernel_in_each_direction() -> None:
    assert [x.name for x in launches(32, torch.bfloat16)] == ["_forward", "_backward"]


def sizes_and_kinds() -> list[object]:
    """Head dims of the presets. In float32 the forward of the two widest is known to spill up to 96
    bytes a thread, which it should not."""
    spilling = pytest.mark.xfail(strict=True, raises=AssertionError, reason="registers spill")
    kinds = (torch.bfloat16, torch.float32)
    return [
        pytest.param(dim, kind, marks=spilling if kind == torch.float32 and dim > 96 else ())
        for dim in (32, 96, 192, 256)
        for kind in kinds
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "kind"), sizes_and_kinds())
def test_it_compiles_at_every_size(dim: int, kind: torch.dtype) -> None:
    """On three generations of GPUs without spills, in bf16 within the shared memory of consumer
    cards."""
    recorded = launches(dim, kind) + launches(dim, kind, state=True)
    small = kind == torch.bfloat16
    usages = compile_for(recorded, (80, 90, 100))
    for usage in usages:
        if usage.shared > SHARED_MEMORY[86 if small else 80]:
            pytest.fail(f"too much shared memory: {usage}")  # no xfail covers this
    assert not [usage for usage in usages if usage.spilled]


@pytest.mark.parametrize("time", LENGTHS)
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_it_is_the_recurrence(path: str, time: int, scale: float) -> None:
    """Equal to the equations for gates up to about +-100, whose sums keep fewer decimals."""
    # Triton's interpreter takes long for a step, and its kernel knows no chunks.
    shape = {"heads": 1, "dim": 16} if path == "triton" and time > 8 else {}
    tolerance = 2e-5 if scale == 30 else 3e-6
    assert_matches(output, reference_output, inputs(time, scale=scale, **shape), tolerance)


@pytest.mark.parametrize("batch", [1, 4, 5, 19])
@pytest.mark.parametrize("dim", [8, 48, 64, 96])
def test_any_batch_and_width(path: str, batch: int, dim: int) -> None:
    """Batches that do not fill the blocks of rows, and widths that the C++ path does not take."""
    tensors = inputs(9, batch=batch, heads=2, dim=dim)
    assert_matches(biased, reference_biased, (*tensors, torch.randn(4, 2, dim)), 3e-6)


@pytest.mark.parametrize("split", [1, 8, 20, 39])
def test_it_continues_from_a_state(path: str, split: int) -> None:
    """The second piece, started from the first one's state, equals the whole; its gradients
    are those of the reference from that state."""
    x, recurrent = inputs(40)
    whole, last = slstm(x, recurrent)
    first, state = slstm(x[:, :split], recurrent)
    second, end = slstm(x[:, split:], recurrent, initial_state=state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(end, last, rtol=1e-5, atol=1e-5)
    assert_matches(
        lambda *x: slstm(*x, initial_state=state)[0],
        lambda *x: slstm_reference(*x, initial_state=state)[0],
        (x[:, split:], recurrent),
        3e-6,
    )


def test_the_state_is_that_of_the_reference(path: str) -> None:
    """h, c, n and m behind a sequence, detached."""
    x, recurrent = inputs(21)
    state, expected = slstm(x, recurrent.requires_grad_())[1], slstm_reference(x, recurrent)[1]
    for part, want in zip(state, expected, strict=True):
        assert not part.requires_grad
        torch.testing.assert_close(part.double(), want, rtol=1e-5, atol=1e-5)


def test_a_state_of_zeros_is_an_empty_memory(path: str) -> None:
    """Also when all input gates are so low that a stabiliser of 0 would make n underflow."""
    x, recurrent = inputs(10)
    x[:, :, 0] -= 200
    zeros = (torch.zeros(2, 3, 32),) * 4
    assert torch.equal(slstm(x, recurrent, initial_state=zeros)[0], slstm(x, recurrent)[0])


def test_a_state_that_wants_a_gradient_is_refused(path: str) -> None:
    state = tuple(torch.ones(2, 3, 32, requires_grad=True) for _ in range(4))
    with pytest.raises(ValueError, match="initial_state"):
        slstm(*inputs(3), initial_state=state)


@pytest.mark.parametrize("padding", [1, 7, 40])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_padding_on_the_left_is_as_if_absent(path: str, padding: int, scale: float) -> None:
    """First steps without an input change no later output, state or gradient, and none is NaN."""
    x, recurrent = inputs(25, scale=scale)
    padded = torch.cat([PADDING.expand(2, padding, 4, 3, 32), x], 1)
    weight = torch.randn(2, 25, 3, 32)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, padded, recurrent, recurrent)]
    alone, state = slstm(leaves[0], leaves[2])
    behind, state_behind = slstm(leaves[1], leaves[3])
    assert (behind[:, :padding] == 0).all()
    (alone * weight).sum().backward()
    (behind[:, padding:] * weight).sum().backward()
    dx, dpadded, drecurrent, drecurrent_padded = (leaf.grad for leaf in leaves)
    assert dpadded is not None
    assert dpadded.isfinite().all()
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(behind[:, padding:], alone, **close)
    torch.testing.assert_close(state_behind, state, **close)
    torch.testing.assert_close(dpadded[:, padding:], dx, **close)
    torch.testing.assert_close(drecurrent_padded, drecurrent, **close)


def test_shut_steps_keep_the_memory(path: str) -> None:
    """Steps without an input that forget nothing leave c, n and m bitwise as they were."""
    x, recurrent = inputs(25)
    x[:, 20:, 0], x[:, 20:, 1] = -1e30, 1e30
    behind, before = slstm(x, recurrent)[1], slstm(x[:, :20], recurrent)[1]
    for after, want in zip(behind[1:], before[1:], strict=True):
        assert torch.equal(after, want)


@pytest.mark.parametrize("gate", range(4))
@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_infinite_gates(path: str, gate: int, value: float) -> None:
    """They give what the equations give: a limit, or NaN for an input gate without bound."""
    x, recurrent = inputs(12)
    x[0, 6, gate] = value
    torch.testing.assert_close(
        output(x, recurrent).double(),
        reference_output(x, recurrent),
        rtol=0,
        atol=1e-5,
        equal_nan=True,
    )


def one_step(**gates: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """h, c and m of single steps, each from the memory c = 0, n = 1, m = 0."""
    size = max(gate.numel() for gate in gates.values() if isinstance(gate, Tensor))
    x = torch.stack([torch.as_tensor(gates[name]).expand(size) for name in "ifzo"])
    zeros = torch.zeros(size // 32, 1, 32)
    state = (zeros, zeros, torch.ones_like(zeros), zeros)
    x = x.view(4, -1, 1, 32).transpose(0, 1)[:, None]
    h, (_, c, _, m) = slstm(x, torch.zeros(1, 128, 32), initial_state=state)
    return h.flatten(), c.flatten(), m.flatten()


def test_the_gates_are_accurate(path: str) -> None:
    """exp, tanh, sigmoid and log sigmoid to 5e-7 relative wherever the result is a normal float,
    small results included."""
    inf = torch.inf
    count = 32 * (200 if path == "triton" else 2000)  # the interpreter is slow
    wide, tiny = torch.linspace(-80, 80, count), torch.logspace(-30, 1, count)
    found = {
        torch.exp: (-tiny, one_step(i=-tiny, f=inf, z=inf, o=inf)[1]),
        torch.tanh: (tiny, one_step(i=1.0, f=-inf, z=tiny, o=inf)[1]),
        torch.sigmoid: (wide, one_step(i=1.0, f=-inf, z=inf, o=wide)[0]),
        F.logsigmoid: (wide, one_step(i=-1e30, f=wide, z=0.0, o=0.0)[2]),
    }
    for function, (inputs, outputs) in found.items():
        want = function(inputs.double())
        error = ((outputs.double() - want) / want).abs().max()
        assert error < 5e-7, f"{function.__name__}: {error:.1e}"


def test_threads_change_nothing(path: str) -> None:
    """Outputs and gradients are bitwise the same for any number of threads."""
    if path != "cpp":
        pytest.skip("PyTorch's own products promise no such thing, a GPU has none of them")
    x, recurrent = inputs(30, batch=11, heads=2)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            leaves = x.clone().requires_grad_(), recurrent.clone().requires_grad_()
            h = output(*leaves)
            h.square().sum().backward()
            results.append([h, *(leaf.grad for leaf in leaves)])
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def test_the_operators_fit_torch_compile(path: str) -> None:
    """What they say of their results' shapes, and of their inputs, holds."""
    if path != "cpp":
        pytest.skip("PyTorch and Triton need no operators")
    assert native.available("slstm")
    x, recurrent = inputs(11, batch=9)
    state = torch.zeros(4, 9, 3, 32)
    h, _, gates, marks = _forward_native(x, recurrent, state)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(_forward_native, (x, recurrent, state), test_utils=checks)
    arguments = (h, recurrent, state, h, gates, marks)
    torch.library.opcheck(_backward_native, arguments, test_utils=checks)


def test_nan_in_nan_out(path: str) -> None:
    assert_passes_nan_on(output, inputs(20))


@pytest.mark.parametrize("gate", range(4))
@pytest.mark.parametrize("step", [0, 11])
def test_nan_in_any_gate_stays(path: str, gate: int, step: int) -> None:
    """From its step on, in its own row, head and column."""
    x, recurrent = inputs(20)
    x[1, step, gate, 2, 5] = torch.nan
    h = output(x, recurrent)
    assert h[1, step:, 2, 5].isnan().all()
    assert h[0].isfinite().all()
