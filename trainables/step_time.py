"""Seconds of a trial's step, measured as the trial would take it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import models
from trainables.corpus import Blocks, Corpus
from trainables.device import pick_device, set_up_device
from trainables.memory import memory_of
from trainables.spec import TrialSpec
from trainables.step import WARM_UP
from trainables.trainer import MicroBatch, Trainer, TrialData, World

_CPU_STEPS = 3
_GPU_ROUND = 10  # steps between two reads of the device, as in a trial
_GPU_SECONDS = 1.0


@dataclass(frozen=True)
class StepSetting:
    """A trial's step on one worker, as any process can take it.

    Attributes:
        spec: with that worker's share of the batch.
        corpus, teachers, micro_batch, gpus, threads: see `RuntimeConfig`.
    """

    spec: TrialSpec
    corpus: Path
    teachers: tuple[Path, ...] = ()
    micro_batch: MicroBatch = None
    gpus: float = 0.0
    threads: int = 1

    def trainer(self) -> Trainer:
        """What takes it, with this process set up for it.

        Raises:
            OutOfMemory: not even one sequence fits the GPU.
        """
        spec, corpus, device = self.spec, Corpus.open(self.corpus), pick_device(self.gpus)
        set_up_device(self.threads, device, gpus=self.gpus)
        data = TrialData(
            corpus,
            Blocks(corpus.train, spec.context),
            Blocks(corpus.dev, spec.context),
            corpus.tokenizer(),
            None,
            tuple(models.load(folder) for folder in self.teachers) if spec.teacher else (),
        )
        memory = memory_of(device, self.gpus)
        return Trainer(spec, data, World(device=device), self.micro_batch, memory=memory)


def step_seconds(trainer: Trainer) -> float:
    """Seconds of an optimizer step after the first ones, which build kernels and capture the graph.

    Trains the model, for which there is no other use then.
    """
    warm_up(trainer)
    return measured(trainer)


def warm_up(trainer: Trainer) -> None:
    """Take the first steps, which are slower."""
    _take(trainer, 1 if trainer.world.device.type == "cpu" else WARM_UP + 2)


def take_round(trainer: Trainer) -> None:
    """Take as many steps as are measured at once."""
    _take(trainer, 1 if trainer.world.device.type == "cpu" else _GPU_ROUND)


def measured(trainer: Trainer) -> float:
    """Seconds of a step after the first ones."""
    if trainer.world.device.type == "cpu":
        return statistics.median(_timed(trainer, 1) for _ in range(_CPU_STEPS))
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
