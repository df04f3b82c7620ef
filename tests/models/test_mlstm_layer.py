"""The mLSTM layer as one function in Triton against the same layer piece by piece."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from triton_interpreter import take_triton

import models
from models.kernels import mlstm_layer
from models.kernels.gpu.launch import recording
from models.xlstm import MatrixLayer
from tests.gpu import kernel_agreement
from tests.gpu.kernel_cases import CASES

TIME = 7
TILES = 70  # steps of more than one tile


def layer() -> Any:
    """That of the mini preset; biases and gates that are zero at first should matter, too."""
    config = models.build_config("xlstm", "mini", vocab_size=64, context=TILES)
    torch.manual_seed(0)
    model = models.build_model(config)
    found = next(module for module in model.modules() if isinstance(module, MatrixLayer))
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return found


def results(module: nn.Module, x: Tensor, dy: Tensor, kind: torch.dtype) -> dict[str, Tensor]:
    """The output, and the gradients of the input and of all parameters."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
        y, _ = module(x, None, None, False)
    y.backward(dy.to(y.dtype))
    grads = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, **grads}  # type: ignore[dict-item]


@pytest.mark.parametrize("time", [TIME, pytest.param(TILES, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_it_is_the_layer_piece_by_piece(
    kind: torch.dtype, time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the parts are PyTorch's; in bf16 as near to that as the parts in Triton are."""
    module = layer()
    x = torch.randn(2, time, module.config.embedding_dim)
    dy = torch.randn(x.shape)
    exact = results(module, x, dy, torch.float32)
    take_triton(monkeypatch)
    taken: list[Tensor] = []
    whole = mlstm_layer.mlstm_layer

    def noted(up: Tensor, *rest: Any, **options: Any) -> Tensor:
        taken.append(up)
        return whole(up, *rest, **options)

    monkeypatch.setattr(mlstm_layer, "mlstm_layer", noted)
    got = results(module, x, dy, kind)
    assert len(taken) == 1
    monkeypatch.setattr(mlstm_layer, "takes", lambda *_: False)
    pieces = results(module, x, dy, kind)
    assert len(taken) == 1
    for name, value in got.items():
        want = exact[name].norm()
        off, off_in_pieces = ((v - exact[name]).norm() / want for v in (value, pieces[name]))
        assert off < (1e-5 if kind == torch.float32 else 1.25 * off_in_pieces + 1e-3), name


def test_recomputed_activations_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch gives what is saved, and computed again, to a backward once."""
    take_triton(monkeypatch)
    module = layer()
    x = torch.randn(1, 9, module.config.embedding_dim, requires_grad=True)

    def run(x: Tensor) -> Tensor:
        y: Tensor = module(x, None, None, False)[0]
        return y

    again = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False)
    (want,), (got,) = (torch.autograd.grad(y.sum(), x) for y in (run(x), again))
    assert torch.equal(got, want)


def test_backward_under_autocast_is_the_backward_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward decides on the type: a float32 layer has the gradients of one."""
    take_triton(monkeypatch)
    case = next(case for case in CASES if str(case).startswith("mlstm_layer T=7 "))
    found = []
    for enabled in (False, True):
        inputs = kernel_agreement.prepare(case, "cpu", torch.float32)
        y = case.run(**inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            gradients = torch.autograd.grad(y.sum(), list(inputs.values()))
        found.append(dict(zip(inputs, gradients, strict=True)))
    for name in ("gate", "gate_bias", "conv", "q_blocks", "v_blocks", "norm", "skip"):
        assert torch.equal(found[0][name], found[1][name]), name


def test_a_state_is_for_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a state to keep the layer runs piece by piece, to the same output."""
    take_triton(monkeypatch)
    module = layer()
    x = torch.randn(1, 5, module.config.embedding_dim)
    with torch.no_grad():
        whole, none = module(x, None, None, False)
        pieces, state = module(x, None, None, True)
    assert none is None
    assert state is not None
    torch.testing.assert_close(whole, pieces, rtol=1e-5, atol=1e-5)


def test_only_the_working_type_is_taken() -> None:
    """Where autocast would cast, the pieces do."""
    with FakeTensorMode(), recording():
        weights = torch.empty(16, 4), *torch.empty(3, 4, 4, 4)
        up = torch.empty(1, 3, 32)
        assert mlstm_layer.takes(up, *weights)
        assert not mlstm_layer.takes(up.bfloat16(), *weights)
        with torch.autocast("cpu", torch.bfloat16):
            assert mlstm_layer.takes(up.bfloat16(), *weights)
            assert not mlstm_layer.takes(up, *weights)
