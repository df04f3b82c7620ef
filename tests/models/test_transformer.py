"""The transformer's own ways: on Triton as in PyTorch, and without asking the device anything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import models
from models.kernels.gpu.launch import recording
from tests.models.triton_interpreter import take_triton
from trainables.objectives import NextTokenObjective

VOCAB, TIME, BATCH = 300, 7, 2


def build(kv_heads: int = 2) -> Any:
    config = models.build_config("transformer", "mini", vocab_size=VOCAB, context=TIME)
    config.num_key_value_heads, config.num_hidden_layers = kv_heads, 2
    torch.manual_seed(0)
    return models.build_model(config).train()


def differentiated(model: Any, ids: Tensor, bf16: bool = False) -> dict[str, Tensor]:
    """The loss and all gradients of a training step."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = NextTokenObjective(model)(ids[:, :-1], ids[:, 1:])
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad for name, p in model.named_parameters()}}


@pytest.mark.parametrize("bf16", [False, True])
def test_triton_trains_as_pytorch_does(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    """Loss and gradients of a whole step, with key heads that are shared."""
    model, ids = build(), torch.randint(0, VOCAB, (BATCH, TIME + 1))
    monkeypatch.setenv("BABYSWEEP_CPP", "0")
    exact, want = differentiated(model, ids), differentiated(model, ids, bf16)
    take_triton(monkeypatch)
    got = differentiated(model, ids, bf16)
    for name, value in want.items():
        error = (got[name] - exact[name]).norm() / exact[name].norm()
        if bf16:  # as far from what is exact as PyTorch, or within a small part of bf16's accuracy
            rounding = (value - exact[name]).norm() / exact[name].norm()
            assert error < max(1.2 * rounding, 1e-3), name
        else:
            assert error < 1e-5, name


def test_a_step_asks_the_device_nothing() -> None:
    """Fake tensors have no values to be read: who reads one, for a mask or a loss, fails. So the
    whole step can be captured in a CUDA graph. And all of its kernels are on record."""
    with FakeTensorMode(), recording() as launches:
        ids = torch.zeros(BATCH, TIME, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16):
            NextTokenObjective(build())(ids, ids).backward()
    names = {launch.module.rpartition(".")[2] for launch in launches}
    assert names == {"rms_norm", "rotary", "swiglu", "cross_entropy"}


def test_blocks_leave_their_sums_to_the_next_norm() -> None:
    """Unless someone looks at them, or they are computed twice; with the same result."""
    model, ids = build().eval(), torch.randint(0, VOCAB, (BATCH, TIME))
    plain = model(ids, use_cache=False).logits
    seen = []
    hook = model.model.layers[0].register_forward_hook(lambda *args: seen.append(args[-1]))
    assert torch.equal(model(ids, use_cache=False).logits, plain)
    hook.remove()
    assert isinstance(seen[0], Tensor)
    shown = model(ids, use_cache=False, output_hidden_states=True)
    assert torch.equal(shown.logits, plain)
    assert torch.equal(shown.hidden_states[1], seen[0])


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model, ids = build(), torch.randint(0, VOCAB, (BATCH, TIME))
    want = {name: value.clone() for name, value in differentiated(model, ids).items()}
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for name, value in differentiated(model, ids).items():
        torch.testing.assert_close(value, want[name])
