"""Layers as one function in Triton against the same layers piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from triton_interpreter import take_triton

import models
from models.kernels import mamba_layer, mlstm_layer
from models.kernels.gpu.launch import recording
from models.mamba import AnyDeviceMixer
from models.xlstm import MatrixLayer
from tests.gpu import kernel_agreement
from tests.gpu.kernel_cases import CASES

TIME = 5
TILES = 70  # steps of more than one tile


@dataclass(frozen=True)
class Whole:
    """An architecture's layer.

    Attributes:
        name: of the function and of its module.
        kind: class of the layer.
        output: the layer's output for (B, T, dim), without a state.
        weights: sizes of tensors that `takes` is asked about beside the input (1, 3, 32).
        compared: parameters of its case that both autocasts must give the same gradients of.
        sizes: of the model, where the interpreter would take long for those of mini.
    """

    arch: str
    name: str
    module: ModuleType
    kind: type[nn.Module]
    output: Callable[[Any, Tensor], Tensor]
    weights: tuple[tuple[int, ...], ...]
    compared: tuple[str, ...]
    sizes: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def layer(self) -> Any:
        """That of the mini preset; biases and gates that are zero at first should matter, too."""
        config = models.build_config(self.arch, "mini", vocab_size=64, context=TILES)
        config.update(self.sizes)
        torch.manual_seed(0)
        found = next(x for x in models.build_model(config).modules() if isinstance(x, self.kind))
        with torch.no_grad():
            for parameter in found.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return found


BLOCKS = ((4, 4, 4),) * 3
WHOLE = [
    Whole(
        arch="xlstm",
        name="mlstm_layer",
        module=mlstm_layer,
        kind=MatrixLayer,
        output=lambda layer, x: layer(x, None, None, False)[0],
        weights=((16, 4), *BLOCKS),
        compared=("gate", "gate_bias", "conv", "q_blocks", "v_blocks", "norm", "skip"),
    ),
    Whole(
        arch="mamba",
        name="mamba_layer",
        module=mamba_layer,
        kind=AnyDeviceMixer,
        output=lambda layer, x: layer(x),
        weights=((16, 4), (16, 8)),
        compared=("conv", "x_weight", "step_weight", "step_bias", "a", "skip"),
        sizes={"hidden_size": 24, "intermediate_size": 48, "time_step_rank": 2},
    ),
]
every_layer = pytest.mark.parametrize("whole", WHOLE, ids=str)
newest_layer = pytest.mark.parametrize(
    "whole", [pytest.param(WHOLE[0], marks=pytest.mark.slow), WHOLE[1]], ids=str
)


def results(whole: Whole, layer: Any, x: Tensor, dy: Tensor, kind: torch.dtype) -> dict[str, Any]:
    """The output, and the gradients of the input and of all parameters."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
        y = whole.output(layer, x)
    y.backward(dy.to(y.dtype))
    grads = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **grads}


@pytest.mark.parametrize("time", [TIME, pytest.param(TILES, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
@every_layer
def test_it_is_the_layer_piece_by_piece(
    whole: Whole, kind: torch.dtype, time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the parts are PyTorch's; in bf16 as near to that as the parts in Triton are."""
    layer = whole.layer()
    x = torch.randn(2, time, layer_width(layer))
    dy = torch.randn(x.shape)
    exact = results(whole, layer, x, dy, torch.float32)
    take_triton(monkeypatch)
    taken: list[Tensor] = []
    function = getattr(whole.module, whole.name)

    def noted(up: Tensor, *rest: Any, **options: Any) -> Tensor:
        taken.append(up)
        y: Tensor = function(up, *rest, **options)
        return y

    monkeypatch.setattr(whole.module, whole.name, noted)
    got = results(whole, layer, x, dy, kind)
    assert len(taken) == 1
    monkeypatch.setattr(whole.module, "takes", lambda *_: False)
    pieces = results(whole, layer, x, dy, kind)
    assert len(taken) == 1
    for name, value in got.items():
        want = exact[name].norm()
        off, off_in_pieces = ((v - exact[name]).norm() / want for v in (value, pieces[name]))
        assert off < (1e-5 if kind == torch.float32 else 1.25 * off_in_pieces + 1e-3), name


def layer_width(layer: nn.Module) -> int:
    """The width of what the layer reads: that of its first projection."""
    return next(part.in_features for part in layer.modules() if isinstance(part, nn.Linear))


@newest_layer
def test_recomputed_activations_change_nothing(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch gives what is saved, and computed again, to a backward once."""
    take_triton(monkeypatch)
    layer = whole.layer()
    x = torch.randn(1, TIME, layer_width(layer), requires_grad=True)

    def run(x: Tensor) -> Tensor:
        return whole.output(layer, x)

    again = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False)
    (want,), (got,) = (torch.autograd.grad(y.sum(), x) for y in (run(x), again))
    assert torch.equal(got, want)


@pytest.mark.slow
@every_layer
def test_backward_under_autocast_is_the_backward_behind_it(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward decides on the type: a float32 layer has the gradients of one."""
    take_triton(monkeypatch)
    case = next(case for case in CASES if str(case).startswith(f"{whole.name} T=7 "))
    found = []
    for enabled in (False, True):
        inputs = kernel_agreement.prepare(case, "cpu", torch.float32)
        y = case.run(**inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            gradients = torch.autograd.grad(y.sum(), list(inputs.values()))
        found.append(dict(zip(inputs, gradients, strict=True)))
    for name in whole.compared:
        assert torch.equal(found[0][name], found[1][name]), name


def test_a_state_is_for_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a state to keep an mLSTM layer runs piece by piece, to the same output."""
    take_triton(monkeypatch)
    layer = WHOLE[0].layer()
    x = torch.randn(1, 5, layer_width(layer))
    with torch.no_grad():
        at_once, none = layer(x, None, None, False)
        pieces, state = layer(x, None, None, True)
    assert none is None
    assert state is not None
    torch.testing.assert_close(at_once, pieces, rtol=1e-5, atol=1e-5)


def test_padding_is_for_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mamba layer that hides steps runs piece by piece: the others' outputs stay."""
    take_triton(monkeypatch)
    layer = WHOLE[1].layer()
    x = torch.randn(2, 5, layer_width(layer))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with torch.no_grad():
        at_once, pieces = layer(x), layer(x, attention_mask=mask)
    shown = mask.bool()
    torch.testing.assert_close(at_once[shown], pieces[shown], rtol=1e-5, atol=1e-5)


@every_layer
def test_only_the_working_type_is_taken(whole: Whole) -> None:
    """Where autocast would cast, the pieces do."""
    with FakeTensorMode(), recording():
        weights = [torch.empty(size) for size in whole.weights]
        takes, up = whole.module.takes, torch.empty(1, 3, 32)
        assert takes(up, *weights)
        assert not takes(up.bfloat16(), *weights)
        with torch.autocast("cpu", torch.bfloat16):
            assert takes(up.bfloat16(), *weights)
            assert not takes(up, *weights)
