"""The training of one trial on one worker: data, model, optimizer, step, validation, scores."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import models
from analysis.benchmarks import BenchmarkSource, Suite, load_suite
from analysis.benchmarks.suite import Scores
from trainables import memory as gpu_memory
from trainables.batches import Batches, to_device
from trainables.checkpoint import bring_model
from trainables.corpus import Blocks, Corpus, bring_corpus
from trainables.dropout import add_dropout
from trainables.finetune_spec import model_hash
from trainables.kept import bring_folder
from trainables.objectives import DistillationObjective, NextTokenObjective
from trainables.optim import (
    build_optimizer,
    bytes_to_come,
    has_rate_in_memory,
    learning_rate,
    set_learning_rate,
)
from trainables.progress import TrialProgress
from trainables.spec import TrialSpec
from trainables.step import (
    CudaRecorder,
    RecordedStep,
    Recorder,
    Result,
    Step,
    has_dropout,
    why_no_graph,
)
from trainables.tracking import Tracker

MicroBatch = int | Literal["auto"] | None
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RuntimeConfig:
    """Paths and machine settings of a trial; none of them changes the result beyond rounding.

    Attributes:
        study: folder of the study.
        corpus: folder of the prepared corpus.
        benchmarks: the zero-shot benchmarks scored after every epoch, or None.
        tracker: where to record.
        teachers: folders of the models to learn from.
        init: folder of the model whose weights the training starts from, or None.
        trunk_steps: steps after which a trial that still has its peak learning rate leaves a
            checkpoint for those that differ from it in the number of epochs only.
        milestones: numbers of words seen after which the model is kept, validated and scored,
            besides the epochs.
        micro_batch: blocks in one forward pass of one worker; None for the whole share, "auto" for
            as many as fit the GPU.
        recompute: whether to compute activations twice rather than keep them. With `micro_batch`
            "auto" that is done anyway where not even one block would fit otherwise.
        gpus: share of a GPU that one worker may use.
        threads: CPU threads of one worker.
        checkpoint_minutes: longest time between two checkpoints.
        stop: a file that is there once trials are to write a checkpoint and end, or None.
    """

    study: Path
    corpus: Path
    benchmarks: BenchmarkSource | None
    tracker: Tracker
    teachers: tuple[Path, ...] = ()
    init: Path | None = None
    trunk_steps: tuple[int, ...] = ()
    milestones: tuple[int, ...] = ()
    micro_batch: MicroBatch = None
    recompute: bool = False
    gpus: float = 1.0
    threads: int = 1
    checkpoint_minutes: float = 10.0
    stop: Path | None = None

    def bring(self) -> None:
        """Bring what the trial reads to this machine, where it is kept in a bucket.

        Raises:
            OSError: the bucket does not answer.
        """
        bring_corpus(self.corpus)
        if self.benchmarks is not None:
            bring_folder(Path(self.benchmarks.path))
        for folder in (*self.teachers, *filter(None, [self.init])):
            bring_model(folder)


@dataclass(frozen=True)
class World:
    """The workers that share one trial."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, *values: float) -> list[float]:
        """Sum each value over the workers."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def least(self, value: int) -> int:
        """The smallest value of all workers."""
        if self.size == 1:
            return value
        total = torch.tensor(value, device=self.device)
        dist.all_reduce(total, dist.ReduceOp.MIN)
        return int(total)

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
class TrialData:
    """The data of a trial: the corpus in blocks, its tokenizer, the benchmarks, other models.

    Attributes:
        teachers: models to learn from.
        init: folder of the weights that the training starts from, or None.
    """

    corpus: Corpus
    train: Blocks
    dev: Blocks
    tokenizer: PreTrainedTokenizerBase
    suite: Suite | None
    teachers: tuple[PreTrainedModel, ...] = ()
    init: Path | None = None

    @classmethod
    def open(cls, spec: TrialSpec, runtime: RuntimeConfig) -> TrialData:
        """Open what the runtime config names, and check that it is what the spec was made for."""
        runtime.bring()
        corpus = Corpus.open(runtime.corpus)
        suite = None
        if runtime.benchmarks is not None:
            suite = load_suite(runtime.benchmarks, spec.protocol)
        found = (corpus.hash, suite.hash if suite else "")
        if found != (spec.corpus_hash, spec.benchmarks_hash):
            raise ValueError(
                f"corpus and benchmarks changed since the trial was planned: {found} found, "
                f"{(spec.corpus_hash, spec.benchmarks_hash)} expected; start the sweep again"
            )
        _check_models(spec, runtime)
        return cls(
            corpus,
            Blocks(corpus.train, spec.context),
            Blocks(corpus.dev, spec.context),
            corpus.tokenizer(),
            suite,
            tuple(models.load(folder) for folder in runtime.teachers) if spec.teacher else (),
            runtime.init if spec.init else None,
        )


def _check_models(spec: TrialSpec, runtime: RuntimeConfig) -> None:
    """Check that the folders hold the models that the spec names."""
    inits = (runtime.init,) if runtime.init else ()
    for named, folders in ((spec.teacher, runtime.teachers), (spec.init, inits)):
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


def build_model(spec: TrialSpec, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
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


def _objective(spec: TrialSpec, model: PreTrainedModel, data: TrialData, world: World) -> nn.Module:
    if not spec.teacher:
        return NextTokenObjective(model)
    for teacher in data.teachers:
        _move(teacher, world.device)
    return DistillationObjective(
        model, data.teachers, spec.alpha, spec.temperature, spec.reverse_kl
    )


def _move(model: nn.Module, device: torch.device) -> None:
    """Move a model; the types of transformers' own `to` are broken."""
    model.to(device)


class Trainer:
    """Model, optimizer and position of one trial on one worker.

    Args:
        micro_batch, recompute: see `RuntimeConfig`.
        memory: of the worker's GPU; None on the CPU, where micro-batches are not chosen by it.
        recorder: records the step; by default CUDA's, where the step is to be recorded.
    """

    def __init__(
        self,
        spec: TrialSpec,
        data: TrialData,
        world: World,
        micro_batch: MicroBatch,
        *,
        recompute: bool = False,
        memory: gpu_memory.Memory | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        if spec.batch_size % world.size:
            raise ValueError(
                f"batch size {spec.batch_size} does not divide among {world.size} workers"
            )
        self.spec, self.data, self.world, self.memory = spec, data, world, memory
        self.steps_per_epoch = steps_per_epoch(spec, len(data.train))
        self.total_steps = self.steps_per_epoch * spec.epochs
        self.model = build_model(spec, data.tokenizer)
        if data.init is not None:
            self.model.load_state_dict(models.load(data.init).state_dict())
        if spec.dropout:
            add_dropout(self.model, spec.dropout)
        _move(self.model, world.device)
        self.optimizer = build_optimizer(self.model, spec)
        self._own_objective = _objective(spec, self.model, data, world)
        self.objective = world.wrap(self._own_objective)
        self.progress = TrialProgress()
        self.recompute = recompute
        if recompute:
            gpu_memory.recompute_activations(self.model)
        self.batches = Batches(
            data.train, spec.seed, spec.batch_size, world.rank, world.size, world.device
        )
        self.share = spec.batch_size // world.size
        self.micro_batch = self._choose_micro_batch(micro_batch)
        self._step, self._why_no_graph = self._build_step(recorder)
        # A fixed multiple of ln V is worse than any model that learned the token frequencies.
        self.loss_limit = 2.0 * math.log(len(data.tokenizer))
        # T^2 times a divergence of at most ln V, where the student knows nothing yet.
        scale = (1 - spec.alpha) + spec.alpha * spec.temperature**2
        self.objective_limit = scale * self.loss_limit

    @property
    def epoch(self) -> int:
        """The epoch in which the next step falls, 0-based."""
        return self.progress.step // self.steps_per_epoch

    def step(self) -> Result:
        """Take one optimizer step, without waiting for the device.

        Returns:
            This worker's summed loss in nats, and the gradient's global norm, on the device.

        Raises:
            OutOfMemory: the micro-batch does not fit the GPU.
            MemoryTaken: it would, if others had left the trial its share.
        """
        spec, step = self.spec, self.progress.step
        batch = self.batches.take(step)
        # Dropout is a function of the position, so that a resumed run needs no generator state.
        torch.manual_seed(_seed_of(spec.seed, step, self.world.rank))
        set_learning_rate(self.optimizer, learning_rate(spec, step, self.total_steps))
        try:
            result = self._step(batch)
        except torch.OutOfMemoryError:
            result = None
        if result is None:  # outside of the handler, whose traceback holds tensors
            raise self._too_large()
        self.progress.step += 1
        if self.progress.step < self.total_steps:
            self.batches.send_ahead(self.progress.step)
        return result

    def validate(self) -> tuple[float, float]:
        """Validation loss in nats a token, and bits per byte, in float32."""
        nats = torch.zeros((), dtype=torch.float64, device=self.world.device)
        tokens = 0
        mine = np.arange(self.world.rank, len(self.data.dev), self.world.size)
        for start in range(0, len(mine), self.micro_batch):
            batch = self.data.dev.batch(mine[start : start + self.micro_batch])
            tokens += int((batch[1] >= 0).sum())
            nats += self._nats(*to_device(batch, self.world.device))
        total_nats, total_tokens = self.world.sum(nats.item(), tokens)
        bits_per_byte = total_nats / math.log(2) / self.data.corpus.dev_bytes
        return total_nats / total_tokens, bits_per_byte

    @torch.no_grad()  # in inference mode, buffers cached by a module could not be trained with
    def _nats(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Summed loss in nats, in float32 and without dropout."""
        self.objective.eval()
        nats: torch.Tensor = NextTokenObjective(self.model)(inputs, targets)
        return nats

    def score(self) -> Scores | None:
        """Zero-shot scores in float32, on the first worker only."""
        if self.data.suite is None or self.world.rank != 0:
            return None
        return self.data.suite.evaluate(self.model, self.data.tokenizer).to_dict()

    @property
    def step_in_words(self) -> str | None:
        """A sentence on how steps are taken, to record with a run; None while that is not known."""
        failure = self._why_no_graph
        if isinstance(self._step, RecordedStep):
            if not self._step.is_settled:
                return None
            failure = self._step.failure
        how = f"without a CUDA graph ({failure})" if failure else "as a CUDA graph"
        kept = "computed twice" if self.recompute else "kept"
        return f"{how}; {self.micro_batch} of {self.share} sequences at once; activations {kept}"

    def _build_step(self, recorder: Recorder | None) -> tuple[Step | RecordedStep, str]:
        """The step, and why it is not to be recorded."""
        step, world = self._step_of(self.objective, self.micro_batch), self.world
        if recorder is None:
            reason = why_no_graph(world.device, world.size)
            if self.recompute and has_dropout(self.model):  # reads the generator's state
                reason = reason or "dropout in activations that are computed twice"
            if not has_rate_in_memory(self.optimizer):
                reason = reason or "the optimizer's learning rate is a Python number"
            if reason:
                return step, reason
            recorder = CudaRecorder(self.optimizer)
        return RecordedStep(step, recorder, log.warning), ""

    def _step_of(self, objective: nn.Module, micro_batch: int) -> Step:
        spec = self.spec
        return Step(
            objective,
            self.model.parameters(),
            self.optimizer,
            # DistributedDataParallel averages over workers; the loss is a sum over them.
            scale=self.world.size / (spec.batch_size * spec.context),
            micro_batch=micro_batch,
            grad_clip=spec.grad_clip,
            bf16=spec.precision == "bf16",
        )

    def _choose_micro_batch(self, wanted: MicroBatch) -> int:
        """The micro-batch as a number; may decide to compute activations twice."""
        if isinstance(wanted, int):
            return min(wanted, self.share)
        if wanted is None or self.memory is None:
            return self.share
        fitting = self.world.least(self._largest(self.share, self.memory))
        if not fitting and not self.recompute:
            self.recompute = True
            gpu_memory.recompute_activations(self.model)
            fitting = self.world.least(self._largest(self.share, self.memory))
        self.memory.tidy()
        if not fitting:
            raise gpu_memory.too_large(1, 0, self.memory)
        return fitting

    def _largest(self, most: int, memory: gpu_memory.Memory) -> int:
        return gpu_memory.largest_that_fits(
            most, lambda size: self._need(size, memory), memory.room
        )

    def _need(self, size: int, memory: gpu_memory.Memory) -> int | None:
        """Bytes that a trial with this micro-batch takes; None if they are more than there are.

        Training is measured without the optimizer, so that nothing changes; what that will take is
        added.
        """
        # The gradients of one micro-batch lie beside the activations of the next.
        which = np.arange(min(2 * size, self.share)) % len(self.data.train)
        batch = to_device(self.data.train.batch(which), self.world.device)
        step = self._step_of(self._own_objective, size)
        need = memory.peak(lambda: step.accumulate(batch))
        self.optimizer.zero_grad(set_to_none=True)
        if need is None:
            return None
        need += bytes_to_come(self.optimizer)
        if 2 * need > memory.room:  # else there is room for validation in any case
            memory.tidy()
            held = memory.held()
            validation = memory.peak(lambda: self._nats(batch[0][:size], batch[1][:size]))
            # A graph keeps its memory to itself.
            need = None if validation is None else need + validation - held
        return need

    def _too_large(self) -> gpu_memory.OutOfMemory | gpu_memory.MemoryTaken:
        """The error of a step that ran out of memory; the trainer is of no use any more."""
        memory = self.memory or gpu_memory.CudaMemory(1.0)
        if lost := memory.lost:  # what would fit now is no answer
            return gpu_memory.taken(lost, memory)
        size, self._step = self.micro_batch, self._step_of(self.objective, self.micro_batch)
        self.optimizer.zero_grad(set_to_none=True)
        return gpu_memory.too_large(
            size, self._largest(size - 1, memory) if size > 1 else 0, memory
        )


def _seed_of(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
