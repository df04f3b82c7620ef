"""Seconds of a trial's step, measured as the trial would take it."""

from __future__ import annotations

import statistics
import time

import torch

from trainables.step import WARM_UP
from trainables.trainer import Trainer

_CPU_STEPS = 3
_GPU_ROUND = 10  # steps between two reads of the device, as in a trial
_GPU_SECONDS = 1.0


def step_seconds(trainer: Trainer) -> float:
    """Seconds of an optimizer step after the first ones, which build kernels and capture the graph.

    Trains the model, for which there is no other use then.
    """
    if trainer.world.device.type == "cpu":
        _take(trainer, 1)
        return statistics.median(_timed(trainer, 1) for _ in range(_CPU_STEPS))
    _take(trainer, WARM_UP + 2)
    seconds = [_timed(trainer, _GPU_ROUND)]
    while sum(seconds) < _GPU_SECONDS:
        seconds.append(_timed(trainer, _GPU_ROUND))
    return statistics.median(seconds) / _GPU_ROUND


def _timed(trainer: Trainer, steps: int) -> float:
    started = time.perf_counter()
    _take(trainer, steps)
    return time.perf_counter() - started


def _take(trainer: Trainer, steps: int) -> None:
    """Take steps and wait until they are done."""
    result: torch.Tensor | None = None
    for _ in range(steps):
        trainer.progress.step %= trainer.total_steps
        result, _norm = trainer.step()
    if result is not None:
        result.item()
