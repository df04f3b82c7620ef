"""HGRN2's layers: which implementation computes them, and that the kernels give the same model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import models
from models import hgrn2
from models.kernels import paths
from models.kernels.gpu.launch import recording
from tests.models.triton_interpreter import take_triton

CONTEXT = 80


def build() -> hgrn2.HGRN2ForCausalLM:
    torch.manual_seed(0)
    config = models.build_config("hgrn2", "mini", vocab_size=64, context=CONTEXT, pad_token_id=1)
    model = models.build_model(config)
    assert isinstance(model, hgrn2.HGRN2ForCausalLM)
    return model


def results(model: hgrn2.HGRN2ForCausalLM) -> Iterator[Tensor]:
    """Logits of a batch with padding, and the gradients of their square."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(64, (1, CONTEXT), generator=generator)
    mask = torch.ones_like(ids)
    mask[:, :3] = 0
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    yield logits.detach()
    parameters = list(model.parameters())
    yield from torch.autograd.grad(logits.square().mean(), parameters)


@pytest.mark.slow
def test_triton_gives_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole model, forward and backward, with every kernel in the interpreter."""
    model = build()
    monkeypatch.setenv(paths.VARIABLE, "torch")
    expected = list(results(model))
    take_triton(monkeypatch)
    for got, want in zip(results(model), expected, strict=True):
        scale = want.abs().max().item()
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5 * scale + 1e-9)


def test_a_gpu_gets_our_kernels_in_bf16() -> None:
    """Recorded on fake tensors: under autocast no layer leaves the Triton path, and no kernel is
    compiled twice for the same layer."""
    with FakeTensorMode(), recording() as launches:
        model = build()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=torch.zeros(2, CONTEXT, dtype=torch.long)).logits
        logits.float().sum().backward()
    recurrences = {launch for launch in launches if "gated_linear" in launch.module}
    assert len(recurrences) == 6
    assert {launch.arguments[1] for launch in recurrences} == {torch.bfloat16}


@pytest.mark.parametrize("layer", sorted(hgrn2._ANY_DEVICE, key=str), ids=lambda c: c.__name__)
def test_fla_is_taken_when_asked_for(
    layer: type[torch.nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`BABYSWEEP_KERNELS=library` hands tensors that are not on the CPU to fla's layers."""
    monkeypatch.setenv(paths.VARIABLE, "library")
    model, seen = build(), []
    monkeypatch.setattr(layer, "forward", lambda self, *_, **__: seen.append(type(self)))
    for module in model.modules():
        if type(module) is hgrn2._ANY_DEVICE[layer]:
            module(torch.zeros(1, 2, 128, device="meta"))
    assert set(seen) == {hgrn2._ANY_DEVICE[layer]}


def test_without_asking_fla_is_not_taken() -> None:
    assert not hgrn2.takes_fla(torch.zeros(1, device="meta"))
