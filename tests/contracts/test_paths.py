"""C++ and PyTorch are two ways to the same numbers: training may change between them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import models
from models.kernels import native, paths
from tests.architectures import FACTS
from trainables.objectives import NextTokenObjective

VOCAB, CONTEXT, BATCH = 256, 48, 8

pytestmark = [
    pytest.mark.parametrize("arch", models.architectures()),
    pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler"),
]


@pytest.fixture(
    params=[
        pytest.param(("0", "1"), id="torch-then-cpp", marks=pytest.mark.slow),
        pytest.param(("1", "0"), id="cpp-then-torch"),
    ]
)
def switch(request: pytest.FixtureRequest) -> tuple[str, str]:
    """BABYSWEEP_CPP before and after the change."""
    return request.param


def train(model: Any, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """Losses in nats a token; the batches depend on the step alone."""
    objective, losses = NextTokenObjective(model).train(), []
    for step in steps:
        ids = batch(step)
        loss = objective(ids[:, :-1], ids[:, 1:]) / ids[:, 1:].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def batch(step: int) -> Tensor:
    """Sequences with something to learn: each token decides the next but for some noise."""
    generator = torch.Generator().manual_seed(step)
    noise = torch.randint(0, 3, (BATCH, CONTEXT + 1), generator=generator)
    return (noise.cumsum(1) * 7) % VOCAB


def test_a_checkpoint_continues_on_the_other_path(
    arch: str, switch: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten steps on one path, saved, then five on the other: the losses of those who stayed, to
    1e-4."""
    config = models.build_config(arch, "mini", vocab_size=VOCAB, context=CONTEXT)
    torch.manual_seed(0)
    model = models.build_model(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before, after = switch
    monkeypatch.setenv("BABYSWEEP_CPP", before)
    first = train(model, optimizer, range(10))
    model.save_pretrained(tmp_path)
    moments = copy.deepcopy(optimizer.state_dict())  # loading one shares its tensors

    changed = models.load(tmp_path)
    changed_optimizer = torch.optim.AdamW(changed.parameters())
    changed_optimizer.load_state_dict(moments)
    stayed = train(model, optimizer, range(10, 15))
    monkeypatch.setenv("BABYSWEEP_CPP", after)
    moved = train(changed, changed_optimizer, range(10, 15))

    assert stayed[-1] < first[0] - 0.1, "nothing was learned, so nothing is compared"
    torch.testing.assert_close(torch.tensor(moved), torch.tensor(stayed), rtol=0, atol=1e-4)


def test_the_path_is_what_the_switch_says(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step runs every kernel of its architecture in C++, forward and backward, and none
    of them with BABYSWEEP_CPP=0."""
    config = models.build_config(arch, "mini", vocab_size=VOCAB, context=CONTEXT)
    model = models.build_model(config)
    optimizer = torch.optim.AdamW(model.parameters())
    calls: list[str] = []
    call = native.call

    def spy(kernel: str, function: str, *arguments: Any) -> None:
        calls.append(kernel)
        call(kernel, function, *arguments)

    monkeypatch.setattr(native, "call", spy)
    monkeypatch.setenv("BABYSWEEP_CPP", "0")
    paths.forget_taken()
    train(model, optimizer, range(1))
    assert calls == []
    noted = dict(each.split(" ", 1) for each in paths.taken_in_words().split(", "))
    assert noted.keys() >= FACTS[arch].cpp | {"linear_cross_entropy"}
    assert {*noted.values()} == {"torch"}
    monkeypatch.setenv("BABYSWEEP_CPP", "1")
    train(model, optimizer, range(1))
    assert set(calls) == FACTS[arch].cpp | {"linear_cross_entropy"}
    assert all(f"{kernel} cpp and torch" in paths.taken_in_words() for kernel in set(calls))
    assert all(calls.count(kernel) >= 2 for kernel in FACTS[arch].cpp)
