"""The training of one trial on one worker: data, model, optimizer, step, validation, scores."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import models
from analysis.benchmarks import Source, Suite, load_suite
from trainables.checkpoint import Progress
from trainables.corpus import Blocks, Corpus, block_order
from trainables.finetune_spec import model_hash
from trainables.objectives import DistillationObjective, NextTokenObjective
from trainables.optim import build_optimizer, learning_rate, set_learning_rate
from trainables.spec import TrialSpec
from trainables.tracking import Tracker


@dataclass(frozen=True)
class Workplace:
    """Where a trial runs and what it reads; nothing of it changes the result beyond rounding.

    Attributes:
        study: folder of the study.
        corpus: folder of the prepared corpus.
        benchmarks: the zero-shot benchmarks scored after every epoch, or None.
        tracker: where to record.
        teachers: folders of the models to learn from.
        init: folder of the model whose weights the training starts from, or None.
        trunk_steps: steps after which a trial that still has its peak learning rate leaves a
            checkpoint for those that differ from it in the number of epochs only.
        milestones: numbers of words seen after which the benchmarks are scored, besides the epochs.
        micro_batch: blocks in one forward pass of one worker; None for the whole share.
        threads: CPU threads of one worker.
        checkpoint_minutes: longest time between two checkpoints.
    """

    study: Path
    corpus: Path
    benchmarks: Source | None
    tracker: Tracker
    teachers: tuple[Path, ...] = ()
    init: Path | None = None
    trunk_steps: tuple[int, ...] = ()
    milestones: tuple[int, ...] = ()
    micro_batch: int | None = None
    threads: int = 1
    checkpoint_minutes: float = 10.0


@dataclass(frozen=True)
class World:
    """The workers that share one trial."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the workers."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, averaging its gradients over the workers."""
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.size > 1:
            dist.barrier()


@dataclass(frozen=True)
class Data:
    """What a trial reads: the corpus in blocks, its tokenizer, the benchmarks, other models.

    Attributes:
        teachers: models to learn from.
        init: folder of the weights that the training starts from, or None.
    """

    corpus: Corpus
    train: Blocks
    dev: Blocks
    tokenizer: Any
    suite: Suite | None
    teachers: tuple[Any, ...] = ()
    init: Path | None = None

    @classmethod
    def open(cls, spec: TrialSpec, place: Workplace) -> Data:
        """Open what the workplace names, and check that it is what the spec was made for."""
        corpus = Corpus.open(place.corpus)
        suite = None
        if place.benchmarks is not None:
            suite = load_suite(place.benchmarks, spec.protocol)
        found = (corpus.hash, suite.hash if suite else "")
        if found != (spec.corpus_hash, spec.benchmarks_hash):
            raise ValueError(
                f"corpus and benchmarks changed since the trial was planned: {found} found, "
                f"{(spec.corpus_hash, spec.benchmarks_hash)} expected; start the sweep again"
            )
        _check_models(spec, place)
        return cls(
            corpus,
            Blocks(corpus.train, spec.context),
            Blocks(corpus.dev, spec.context),
            corpus.tokenizer(),
            suite,
            tuple(models.load(folder) for folder in place.teachers) if spec.teacher else (),
            place.init if spec.init else None,
        )


def _check_models(spec: TrialSpec, place: Workplace) -> None:
    """Check that the folders hold the models that the spec names."""
    inits = (place.init,) if place.init else ()
    for named, folders in ((spec.teacher, place.teachers), (spec.init, inits)):
        found = "+".join(model_hash(folder) for folder in folders)
        if named and named != found:
            raise ValueError(
                f"the models in {', '.join(map(str, folders)) or 'no folder'} changed since the "
                f"trial was planned: {found!r} found, {named!r} expected"
            )


def steps_per_epoch(spec: TrialSpec, num_blocks: int) -> int:
    """Optimizer steps in one epoch; blocks that do not fill a batch wait for another epoch.

    Raises:
        ValueError: the corpus is shorter than one batch.
    """
    steps = num_blocks // spec.batch_size
    if steps == 0:
        raise ValueError(
            f"corpus {spec.corpus!r} has {num_blocks} blocks of {spec.context} tokens, fewer than "
            f"one batch of {spec.batch_size}: use more text, or a smaller --batch-size or --context"
        )
    return steps


def build_model(spec: TrialSpec, tokenizer: Any) -> Any:
    """The untrained model of a spec, initialised from its seed."""
    config = models.build_config(
        spec.arch,
        spec.size,
        vocab_size=len(tokenizer),
        context=spec.context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(spec.seed)
    return models.build_model(config)


def _objective(spec: TrialSpec, model: Any, data: Data, world: World) -> nn.Module:
    if not spec.teacher:
        return NextTokenObjective(model)
    teachers = [teacher.to(world.device) for teacher in data.teachers]
    return DistillationObjective(model, teachers, spec.alpha, spec.temperature, spec.reverse_kl)


_order_of_epoch = functools.lru_cache(maxsize=1)(block_order)
"""The order of the current epoch: a permutation of all blocks is not drawn anew every step."""


class Diverged(Exception):
    """The loss became NaN, infinite, or far worse than knowing nothing."""


class Trainer:
    """Model, optimizer and position of one trial on one worker."""

    def __init__(self, spec: TrialSpec, data: Data, world: World, micro_batch: int | None) -> None:
        if spec.batch_size % world.size:
            raise ValueError(
                f"batch size {spec.batch_size} does not divide among {world.size} workers"
            )
        self.spec, self.data, self.world = spec, data, world
        self.steps_per_epoch = steps_per_epoch(spec, len(data.train))
        self.total_steps = self.steps_per_epoch * spec.epochs
        self.model = build_model(spec, data.tokenizer)
        if data.init is not None:
            self.model.load_state_dict(models.load(data.init).state_dict())
        self.model.to(world.device)
        self.optimizer = build_optimizer(self.model, spec)
        self.objective = world.wrap(_objective(spec, self.model, data, world))
        self.progress = Progress()
        share = spec.batch_size // world.size
        self.micro_batch = min(micro_batch or share, share)
        # A fixed multiple of ln V is worse than any model that learned the token frequencies.
        self.loss_limit = 2.0 * math.log(len(data.tokenizer))
        # T^2 times a divergence of at most ln V, where the student knows nothing yet.
        scale = (1 - spec.alpha) + spec.alpha * spec.temperature**2
        self.objective_limit = scale * self.loss_limit

    @property
    def epoch(self) -> int:
        """The epoch in which the next step falls, 0-based."""
        return self.progress.step // self.steps_per_epoch

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one optimizer step.

        Returns:
            This worker's summed loss in nats, and the gradient's global norm, on the device.
        """
        spec, world, step = self.spec, self.world, self.progress.step
        self.objective.train()
        # Dropout is a function of the position, so that a resumed run needs no generator state.
        torch.manual_seed(_seed_of(spec.seed, step, world.rank))
        set_learning_rate(self.optimizer, learning_rate(spec, step, self.total_steps))
        tokens = spec.batch_size * spec.context
        nats = torch.zeros((), device=world.device)
        micro_batches = list(self._micro_batches(step))
        for index, (inputs, targets) in enumerate(micro_batches):
            is_last = index == len(micro_batches) - 1
            with self._no_sync(is_last), self._autocast():
                loss = self.objective(inputs, targets)
                # DistributedDataParallel averages over workers; the loss is a sum over them.
                (loss * (world.size / tokens)).backward()
            nats += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), spec.grad_clip or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return nats, norm

    @torch.no_grad()  # in inference mode, buffers cached by a module could not be trained with
    def validate(self) -> tuple[float, float]:
        """Validation loss in nats a token, and bits per byte, in float32."""
        self.objective.eval()
        nats = torch.zeros((), dtype=torch.float64, device=self.world.device)
        tokens = 0
        objective = NextTokenObjective(self.model)
        mine = np.arange(self.world.rank, len(self.data.dev), self.world.size)
        for start in range(0, len(mine), self.micro_batch):
            inputs, targets = self.data.dev.batch(mine[start : start + self.micro_batch])
            tokens += int((targets >= 0).sum())
            device = self.world.device
            nats += objective(inputs.to(device), targets.to(device))
        total_nats, total_tokens = self.world.sum(nats.item(), tokens)
        bits_per_byte = total_nats / math.log(2) / self.data.corpus.dev_bytes
        return total_nats / total_tokens, bits_per_byte

    def score(self) -> dict[str, Any] | None:
        """Zero-shot scores in float32, on the first worker only."""
        if self.data.suite is None or self.world.rank != 0:
            return None
        return self.data.suite.evaluate(self.model, self.data.tokenizer).to_dict()

    def _micro_batches(self, step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        spec, world = self.spec, self.world
        order = _order_of_epoch(len(self.data.train), spec.seed, step // self.steps_per_epoch)
        first = (step % self.steps_per_epoch) * spec.batch_size
        mine = order[first : first + spec.batch_size][world.rank :: world.size]
        for start in range(0, len(mine), self.micro_batch):
            inputs, targets = self.data.train.batch(mine[start : start + self.micro_batch])
            yield inputs.to(world.device), targets.to(world.device)

    def _autocast(self) -> torch.autocast:
        enabled = self.spec.precision == "bf16"
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=enabled)

    def _no_sync(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        if isinstance(self.objective, DistributedDataParallel) and not is_last:
            return self.objective.no_sync()
        return contextlib.nullcontext()


def _seed_of(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
