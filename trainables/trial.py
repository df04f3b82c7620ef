"""One trial: train, validate and score each epoch, checkpoint, record, report.

The same loop runs inside a Tune function (one CPU worker) and on Ray Train workers (one or more,
CPU or GPU); `World` is all that differs.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import models
from analysis.benchmarks import Suite, load_suite
from trainables.checkpoint import EpochReport, Outcome, Progress, TrialFolder
from trainables.corpus import Blocks, Corpus, block_order
from trainables.device import set_up_cpu
from trainables.objectives import NextTokenObjective
from trainables.optim import build_optimizer, learning_rate, set_learning_rate
from trainables.spec import TrialSpec
from trainables.tracking import Tracker, TrialRun

LOG_EVERY = 10
"""Optimizer steps between two reads of the loss (each read waits for the device)."""

WORST_BITS_PER_BYTE = 1e6
"""Reported for a diverged trial: finite, so that no search or scheduler drops it as NaN."""

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Workplace:
    """Where a trial runs and what it reads; nothing of it changes the result beyond rounding.

    Attributes:
        study: folder of the study.
        corpus: folder of the prepared corpus.
        benchmarks: folder of the zero-shot benchmarks, or None.
        benchmark_names: which of its folders to use; empty for the suite's own choice.
        tracker: where to record.
        micro_batch: blocks in one forward pass of one worker; None for the whole share.
        threads: CPU threads of one worker.
        checkpoint_minutes: longest time between two checkpoints.
    """

    study: Path
    corpus: Path
    benchmarks: Path | None
    benchmark_names: tuple[str, ...]
    tracker: Tracker
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
    """What a trial reads: the corpus in blocks, its tokenizer, the benchmarks."""

    corpus: Corpus
    train: Blocks
    dev: Blocks
    tokenizer: Any
    suite: Suite | None

    @classmethod
    def open(cls, spec: TrialSpec, place: Workplace) -> Data:
        """Open what the workplace names, and check that it is what the spec was made for."""
        corpus = Corpus.open(place.corpus)
        suite = None
        if place.benchmarks is not None:
            suite = load_suite(place.benchmarks, spec.protocol, names=place.benchmark_names or None)
        found = (corpus.hash, suite.hash if suite else "")
        if found != (spec.corpus_hash, spec.benchmarks_hash):
            raise ValueError(
                f"corpus and benchmarks changed since the trial was planned: {found} found, "
                f"{(spec.corpus_hash, spec.benchmarks_hash)} expected; start the sweep again"
            )
        return cls(
            corpus,
            Blocks(corpus.train, spec.context),
            Blocks(corpus.dev, spec.context),
            corpus.tokenizer(),
            suite,
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
        self.model = build_model(spec, data.tokenizer).to(world.device)
        self.optimizer = build_optimizer(self.model, spec)
        self.objective = world.wrap(NextTokenObjective(self.model))
        self.progress = Progress()
        share = spec.batch_size // world.size
        self.micro_batch = min(micro_batch or share, share)
        # A fixed multiple of ln V is worse than any model that learned the token frequencies.
        self.loss_limit = 2.0 * math.log(len(data.tokenizer))

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


def run_trial(
    spec: TrialSpec, place: Workplace, report: Report, world: World | None = None
) -> Outcome:
    """Bring a trial to its end, from wherever an earlier process left it.

    Every epoch is reported in order, those of earlier processes first, so that the caller sees the
    same series whether or not the trial was interrupted.

    Args:
        spec: what to train.
        place: where.
        report: called on every worker after each epoch, with flat finite numbers.
        world: the workers that share the trial; this process alone by default.
    """
    world = world or World()
    set_up_cpu(place.threads)
    folder = TrialFolder.of(place.study, spec)
    # A killed sweep's worker may live on for seconds: wait for it.
    lock = folder.lock() if world.rank == 0 else contextlib.nullcontext()
    with lock:
        world.barrier()  # the first worker holds the lock: now all of them see the same state
        if folder.outcome is None:
            _Run(spec, place, report, world, folder).to_the_end()
            world.barrier()
        else:
            if world.rank == 0:
                record_again(folder, place)
            for epoch in folder.outcome.history:
                report(epoch_metrics(epoch, folder.outcome.history))
        outcome = folder.outcome
        assert outcome is not None
        report(final_metrics(outcome))
        return outcome


class _Run:
    """The course of a trial from its newest checkpoint to its outcome."""

    def __init__(
        self, spec: TrialSpec, place: Workplace, report: Report, world: World, folder: TrialFolder
    ) -> None:
        self.spec, self.place, self.report, self.world = spec, place, report, world
        self.folder = folder
        self.trainer = Trainer(spec, Data.open(spec, place), world, place.micro_batch)
        self.is_first = world.rank == 0
        if self.is_first:
            folder.clean()
        self._resume()
        self.run: TrialRun | None = None
        if self.is_first:
            self.run = place.tracker.trial(spec, trial_facts(spec, self.trainer.data.corpus))
        self.saved_at = time.monotonic()

    @property
    def progress(self) -> Progress:
        return self.trainer.progress

    def to_the_end(self) -> None:
        for epoch in self.progress.history:
            if self.run:
                self.run.log_epoch(epoch)  # in case the kill came before it was recorded
            self.report(epoch_metrics(epoch, self.progress.history))
        kind, reason = "finished", ""
        try:
            while self.progress.step < self.trainer.total_steps:
                self._train_epoch()
                self._end_epoch()
        except Diverged as error:
            kind, reason = "diverged", str(error)
        if self.run:
            self._finish(kind, reason)

    def _resume(self) -> None:
        newest = self.folder.newest()
        if newest is not None:
            path, self.trainer.progress = newest
            self.folder.load_into(path, self.trainer.model, self.trainer.optimizer)

    def _train_epoch(self) -> None:
        """Train to the end of the current epoch."""
        trainer, progress = self.trainer, self.progress
        end = (trainer.epoch + 1) * trainer.steps_per_epoch
        pending: list[torch.Tensor] = []
        clock = time.monotonic()
        while progress.step < end:
            nats, norm = trainer.step()
            pending.append(nats)
            if progress.step % LOG_EVERY == 0 or progress.step in (1, end):
                clock = self._read_losses(pending, norm, clock)
                pending.clear()
                is_due = clock - self.saved_at > 60 * self.place.checkpoint_minutes
                if self.is_first and is_due and progress.step < end:  # at the end comes a report
                    self._save()

    def _read_losses(self, pending: list[torch.Tensor], norm: torch.Tensor, clock: float) -> float:
        """Record the losses of the last steps; returns the time.

        Raises:
            Diverged: the mean loss or the gradient's norm is not finite, or the loss exploded.
        """
        spec, progress = self.spec, self.progress
        (nats,) = self.world.sum(torch.stack(pending).double().sum().item())
        tokens = len(pending) * spec.batch_size * spec.context
        loss, grad_norm, now = nats / tokens, norm.item(), time.monotonic()
        if not (
            math.isfinite(loss) and math.isfinite(grad_norm) and loss < self.trainer.loss_limit
        ):
            raise Diverged(
                f"loss {loss:.3g} nats, gradient norm {grad_norm:.3g} at step {progress.step}"
            )
        progress.epoch_nats += nats
        progress.epoch_tokens += tokens
        progress.epoch_train_seconds += now - clock
        if self.run:
            lr = learning_rate(spec, progress.step - 1, self.trainer.total_steps)
            values = {
                "loss": loss,
                "lr": lr,
                "grad_norm": grad_norm,
                "tokens_per_second": tokens / (now - clock),
                "epoch": progress.step / self.trainer.steps_per_epoch,
            }
            self.run.log_step(progress.step, values)
        return now

    def _end_epoch(self) -> None:
        """Validate, score, checkpoint, record and report the epoch that just ended."""
        progress, started = self.progress, time.monotonic()
        val_loss, bits_per_byte = self.trainer.validate()
        if not val_loss < self.trainer.loss_limit:  # NaN as well
            raise Diverged(f"validation loss {val_loss:.3g} nats at step {progress.step}")
        scores = self.trainer.score()
        epoch = EpochReport(
            epoch=progress.step // self.trainer.steps_per_epoch,
            step=progress.step,
            tokens=progress.step * self.spec.batch_size * self.spec.context,
            train_loss=progress.epoch_nats / progress.epoch_tokens,
            val_loss=val_loss,
            bits_per_byte=bits_per_byte,
            seconds=progress.epoch_train_seconds + time.monotonic() - started,
            train_seconds=progress.epoch_train_seconds,
            scores=scores,
        )
        self.trainer.progress = Progress(progress.step, history=[*progress.history, epoch])
        if self.run:
            self._save()
            self.run.log_epoch(epoch)
        self.world.barrier()
        self.report(epoch_metrics(epoch, self.progress.history))

    def _save(self) -> None:
        trainer = self.trainer
        if self.run:
            self.run.flush()  # a resumed run never records the steps before its checkpoint
        self.folder.save(
            trainer.model, trainer.data.tokenizer, trainer.optimizer, self.spec, self.progress
        )
        self.saved_at = time.monotonic()

    def _finish(self, kind: str, reason: str) -> None:
        assert self.run is not None
        finish_trial(self.folder, self.run, kind, self.progress.history, reason)


def finish_trial(
    folder: TrialFolder, run: TrialRun, kind: str, history: list[EpochReport], reason: str = ""
) -> None:
    """Record a trial's end in MLflow and then in its folder, which makes it final."""
    best = Progress(history=history).best
    checkpoint = None if best is None else folder.checkpoint_at(best.step)
    outcome = Outcome(kind, tuple(history), None if checkpoint is None else checkpoint.name, reason)
    run.finish(outcome, checkpoint)
    folder.finish(outcome)


def record_again(folder: TrialFolder, place: Workplace) -> None:
    """Record an ended trial in MLflow if its run is not there: another store, or a deleted run."""
    outcome, spec = folder.outcome, folder.spec
    assert outcome is not None
    if place.tracker.has_outcome(spec):
        return
    run = place.tracker.trial(spec, trial_facts(spec, Corpus.open(place.corpus)))
    for epoch in outcome.history:
        run.log_epoch(epoch)
    finish_trial(folder, run, outcome.kind, list(outcome.history), outcome.reason)


def trial_facts(spec: TrialSpec, corpus: Corpus) -> dict[str, Any]:
    """What follows from a spec and its corpus, and is recorded beside it."""
    config = models.build_config(
        spec.arch, spec.size, vocab_size=corpus.vocab_size, context=spec.context
    )
    counts = models.num_params(config)
    num_blocks = len(Blocks(corpus.train, spec.context))
    return {
        "total_steps": steps_per_epoch(spec, num_blocks) * spec.epochs,
        "params": counts.total,
        "params_non_embedding": counts.non_embedding,
        "vocab_size": corpus.vocab_size,
        "train_tokens": corpus.train_tokens,
    }


def epoch_metrics(epoch: EpochReport, history: Any) -> dict[str, Any]:
    """What Ray is told of an epoch: flat finite numbers."""
    upto = [report for report in history if report.epoch <= epoch.epoch]
    return {
        "epoch": epoch.epoch,
        "bits_per_byte": epoch.bits_per_byte,
        "best_bits_per_byte": min(report.bits_per_byte for report in upto),
        "macro": -1.0 if epoch.macro is None else epoch.macro,
        "diverged": 0,
        "ended": 0,
    }


def final_metrics(outcome: Outcome) -> dict[str, Any]:
    """What Ray is told when a trial is over: the last epoch again, marked as the end."""
    if outcome.kind == "diverged":
        values = {"bits_per_byte": WORST_BITS_PER_BYTE, "best_bits_per_byte": WORST_BITS_PER_BYTE}
        epochs = len(outcome.history)
        return {"epoch": epochs + 1, **values, "macro": -1.0, "diverged": 1, "ended": 1}
    return {**epoch_metrics(outcome.history[-1], outcome.history), "ended": 1}


def _seed_of(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
