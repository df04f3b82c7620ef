"""Schedules and weight decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.trainables.test_spec import SPEC
from trainables.optim import build_optimizer, learning_rate, set_learning_rate

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
