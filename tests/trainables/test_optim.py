"""Schedules and weight decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models
from analysis.schema.fields import CHOICES
from tests.trainables.test_spec import SPEC
from trainables.optim import (
    build_optimizer,
    bytes_to_come,
    has_rate_in_memory,
    learning_rate,
    set_learning_rate,
)

STEPS = 1000


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
def test_schedule_warms_up_peaks_and_ends_near_zero(schedule):
    """Every schedule rises linearly to the peak, never exceeds it, and ends near zero."""
    spec = SPEC.replace(schedule=schedule, warmup=0.1, lr=2.0)
    rates = [learning_rate(spec, step, STEPS) for step in range(STEPS)]
    assert rates[0] == pytest.approx(2.0 / 100)
    assert rates[99] == pytest.approx(2.0)
    assert max(rates) == pytest.approx(2.0)
    assert 0 < rates[-1] < 0.02
    assert all(later <= earlier for earlier, later in zip(rates[99:], rates[100:], strict=False))


def test_wsd_is_flat_until_its_decay():
    """Warm-up-stable-decay keeps the peak until the last fifth."""
    spec = SPEC.replace(schedule="wsd", warmup=0.0, decay=0.2, lr=1.0)
    rates = [learning_rate(spec, step, STEPS) for step in range(STEPS)]
    assert set(rates[:801]) == {1.0}
    assert rates[900] == pytest.approx(0.5)


def test_cosine_is_halfway_in_the_middle():
    """The cosine passes half the peak in the middle of what follows the warm-up."""
    spec = SPEC.replace(schedule="cosine", warmup=0.0, lr=1.0)
    assert learning_rate(spec, 500, STEPS) == pytest.approx(0.5)


def test_weight_decay_on_matrices_only():
    """Biases, gains and marked parameters have no decay; every parameter is optimized once."""
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4, bias=False))
    model[2].weight._no_weight_decay = True
    optimizer = build_optimizer(model, SPEC.replace(weight_decay=0.3))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(list(model.parameters()))
    assert decay[id(model[0].weight)] == 0.3
    others = [model[0].bias, model[1].weight, model[1].bias, model[2].weight]
    assert all(decay[id(parameter)] == 0.0 for parameter in others)


def test_a_recordable_optimizer_reads_its_rate_from_memory():
    """Setting the rate changes the tensors in place; the state has the names of any other's."""
    model = nn.Linear(4, 4)
    states = []
    for recordable in (True, False):
        optimizer = build_optimizer(model, SPEC, recordable=recordable)
        places = [group["lr"] for group in optimizer.param_groups]
        set_learning_rate(optimizer, 0.25)
        for group, place in zip(optimizer.param_groups, places, strict=True):
            assert group["lr"] == 0.25
            assert (group["lr"] is place) == isinstance(place, torch.Tensor) == recordable
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        states.append({name: v.dtype for name, v in optimizer.state[model.weight].items()})
    assert states[0] == states[1]


def test_muon_has_hidden_matrices_and_adamw_the_rest():
    """In every architecture: linear and LSTM weights to the one; embeddings, head, convolutions,
    block-diagonal weights, vectors and tables of constants to the other; each exactly once."""
    for arch in models.architectures():
        model = models.build_model(models.build_config(arch, "mini", vocab_size=64, context=16))
        optimizer = build_optimizer(model, SPEC.replace(optimizer="muon"))
        by_muon = {
            id(parameter): "momentum" in group
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        assert by_muon.keys() == {id(parameter) for parameter in model.parameters()}
        names = {name for name, p in model.named_parameters() if by_muon[id(p)]}
        assert names
        for name, parameter in model.named_parameters():
            outer = "embed" in name or name.startswith("lm_head")
            table = name.endswith(("A_log", "lower_bounds"))
            is_matrix = parameter.ndim == 2 and not outer and not table
            assert (name in names) == is_matrix, name


@pytest.mark.parametrize("lr", [1e-2, 1e-3])
def test_muon_moves_matrices_as_far_as_adamw(lr):
    """One step changes a matrix by 0.2 of the learning rate in root mean square, as AdamW's do by
    and large, and has no learning rate of its own; gradients go to None."""
    model = nn.Linear(64, 32)
    spec = SPEC.replace(optimizer="muon", weight_decay=0.0, lr=1.0)
    optimizer = build_optimizer(model, spec)
    set_learning_rate(optimizer, lr)
    before = model.weight.detach().clone(), model.bias.detach().clone()
    inputs = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    (model(inputs) ** 3).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    assert model.weight.grad is None
    assert model.bias.grad is None
    change = (model.weight.detach() - before[0]) / lr
    assert change.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)
    singular = torch.linalg.svdvals(change)
    assert singular.max() / singular.min() < 3  # one size in all directions
    torch.testing.assert_close((model.bias.detach() - before[1]).abs(), torch.full((32,), lr))


def test_muon_decays_matrices():
    """A matrix without a gradient of any size still shrinks by learning rate times decay."""
    model = nn.Linear(4, 4, bias=False)
    optimizer = build_optimizer(model, SPEC.replace(optimizer="muon", weight_decay=0.5, lr=0.1))
    before = model.weight.detach().clone()
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before * 0.95)


def test_muon_cannot_be_recorded_with_a_rate_and_says_so():
    """Its rate is a Python number, which a recorded step would keep for ever."""
    model = nn.Linear(4, 4)
    assert has_rate_in_memory(build_optimizer(model, SPEC, recordable=True))
    muon = build_optimizer(model, SPEC.replace(optimizer="muon"), recordable=True)
    assert not has_rate_in_memory(muon)


@pytest.mark.parametrize("name", CHOICES["optimizer"])
def test_the_memory_of_an_optimizer_is_known_before_its_first_step(name):
    """It is that of the moments found behind the step, with Muon's products besides; nothing is to
    come any more then."""
    model = models.build_model(models.build_config("lstm", "mini", vocab_size=64, context=16))
    optimizer = build_optimizer(model, SPEC.replace(optimizer=name))
    expected = bytes_to_come(optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = [v for state in optimizer.state.values() for v in state.values() if v.ndim]
    by_muon = [p.numel() for p in model.parameters() if "momentum_buffer" in optimizer.state[p]]
    assert bool(by_muon) == (name == "muon")
    products = 12 * max(by_muon, default=0)  # each element: 4 bytes, and 2 in four places
    assert expected == sum(each.nbytes for each in moments) + products
    assert bytes_to_come(optimizer) == 0


def test_muon_needs_a_matrix_and_a_torch_that_has_it(monkeypatch):
    spec = SPEC.replace(optimizer="muon")
    with pytest.raises(ValueError, match="muon finds no hidden matrix in LayerNorm"):
        build_optimizer(nn.LayerNorm(4), spec)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"muon needs torch 2\.9 or later"):
        build_optimizer(nn.Linear(4, 4), spec)
