"""A step's time is measured as a trial takes it, past its first ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trainables import step_time
from trainables.step import WARM_UP


class Clock:
    """A trainer whose first steps, up to the capture, take a minute, and every other 20 ms."""

    def __init__(self, device, total_steps=7):
        self.world = SimpleNamespace(device=torch.device(device))
        self.progress = SimpleNamespace(step=0)
        self.total_steps = total_steps
        self.now, self.taken = 0.0, 0

    def step(self):
        assert self.progress.step < self.total_steps
        self.now += 60.0 if self.taken <= self.slow else 0.02
        self.taken += 1
        self.progress.step += 1
        return torch.zeros(()), torch.zeros(())

    @property
    def slow(self):
        return 0 if self.world.device.type == "cpu" else WARM_UP


@pytest.mark.parametrize(("device", "steps"), [("cpu", 4), ("cuda", WARM_UP + 2 + 50)])
def test_only_later_steps_count(device, steps, monkeypatch):
    """On a CPU three after the first; on a GPU, after the capture, at least a second of them."""
    trainer = Clock(device)
    monkeypatch.setattr(step_time.time, "perf_counter", lambda: trainer.now)
    assert step_time.step_seconds(trainer) == pytest.approx(0.02)
    assert abs(trainer.taken - steps) <= 10
