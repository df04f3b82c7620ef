"""What is done on a GPU (trials, scoring, fine-tuning), and which Triton kernels it launches.

A pass through the model with fake tensors tells, on any machine. Triton compiles a kernel anew for
other constants and types, and for numbers that are multiples of 16, or are not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Protocol

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig, PreTrainedModel

import models
from analysis.benchmarks.glue import FinetuneSettings
from analysis.benchmarks.scoring import context_of
from models.kernels.gpu.launch import Launch, recording
from trainables.classifier import EVAL_BATCH, ClassificationObjective, Classifier
from trainables.dropout import add_dropout
from trainables.objectives import DistillationObjective, NextTokenObjective
from trainables.spec import TrialSpec
from trainables.trainer import MicroBatch

KERNEL_AXES = ("batch_size", "dropout")
"""Axes (`analysis.schema.axes`) on which the launches of a trial depend."""
_SHORT = 32
"""Tokens of a short text; a text of one fewer is no multiple of 16."""
_LONG = 512
"""Tokens of a long text where a model reads any number."""
_TEXTS = 16
"""Texts in a batch."""


class Work(Protocol):
    """Something that is done on a GPU."""

    @property
    def title(self) -> str:
        """What to call it."""

    @property
    def key(self) -> object:
        """All that its launches depend on, of equal `repr` where they are the same."""

    def take(self) -> None:
        """Launch whatever it launches."""


def launches_of(work: Work) -> list[Launch]:
    """Every different launch of some work, in their order."""
    with FakeTensorMode(), recording() as launches:
        work.take()
    return list(dict.fromkeys(launches))


@dataclass(frozen=True)
class TrialWork:
    """Training steps and validation of a trial.

    Attributes:
        spec: whatever its learning rate and seed.
        vocab_size: of the corpus's tokenizer.
        micro_batch: sequences in one forward pass; None or "auto" for the whole batch.
        teachers: folders of the models that a spec with a teacher learns from.
    """

    spec: TrialSpec
    vocab_size: int
    micro_batch: MicroBatch = None
    teachers: tuple[Path, ...] = ()

    @property
    def title(self) -> str:
        """Architecture and size."""
        return f"{self.spec.arch} {self.spec.size}"

    @property
    def key(self) -> object:
        """Shapes, precision, the teachers' configs."""
        spec = self.spec
        distilled = (spec.alpha, spec.temperature, spec.reverse_kl) if spec.teacher else ()
        teachers = self.teachers if spec.teacher else ()
        configs = [(folder / "config.json").read_text() for folder in teachers]
        shape = (spec.arch, spec.size, spec.context, spec.batch_size, spec.precision, *distilled)
        return shape, spec.dropout > 0, self.vocab_size, self.micro_batch, configs

    def take(self) -> None:
        """A step, and validation."""
        spec, share = self.spec, self.spec.batch_size
        if isinstance(self.micro_batch, int):
            share = min(self.micro_batch, share)
        config = models.build_config(
            spec.arch, spec.size, vocab_size=self.vocab_size, context=spec.context, pad_token_id=0
        )
        model = models.build_model(config)
        if spec.dropout:  # other launches: what a layer adds is seen before the next one reads it
            add_dropout(model, spec.dropout)
        _train(self._objective(model), spec.precision, _tokens(share, spec.context))
        # Validation is in float32; the benchmarks' sequences are of any length.
        for length in (spec.context, spec.context - 1):
            with torch.no_grad():
                NextTokenObjective(model.eval())(*_tokens(share, length))

    def _objective(self, model: PreTrainedModel) -> torch.nn.Module:
        spec = self.spec
        if not (spec.teacher and self.teachers):
            return NextTokenObjective(model)
        guides = [models.build_model(models.load_config(folder)) for folder in self.teachers]
        return DistillationObjective(model, guides, spec.alpha, spec.temperature, spec.reverse_kl)


@dataclass(frozen=True)
class ScoringWork:
    """Scoring of a model on zero-shot benchmarks, whose texts are of any length."""

    config: PreTrainedConfig
    precision: str

    @property
    def title(self) -> str:
        """The type of the model."""
        return f"scoring of {self.config.model_type}"

    @property
    def key(self) -> object:
        """The model's config, and the precision."""
        return "scoring", self.config.to_json_string(), self.precision

    def take(self) -> None:
        """Forward passes of the body; the head is a plain product."""
        body = _build(self.config).eval().base_model
        longest = context_of(self.config) or _LONG
        for precision in dict.fromkeys(("fp32", self.precision)):  # causality is seen in float32
            with torch.no_grad(), _autocast(precision):
                for shape in _shapes(_TEXTS, longest):
                    body(input_ids=_tokens(*shape)[0], use_cache=False)


@dataclass(frozen=True)
class FinetuningWork:
    """Fine-tuning of a model on a task, and its predictions.

    Attributes:
        settings: whatever the learning rate, seed and epochs.
        precision: of the training; predictions are in float32.
    """

    config: PreTrainedConfig
    settings: FinetuneSettings
    precision: str

    @property
    def title(self) -> str:
        """The type of the model."""
        return f"fine-tuning of {self.config.model_type}"

    @property
    def key(self) -> object:
        """The model's config, the largest batch, and the precision."""
        largest = self.settings.batch_size, self.settings.max_length
        return "fine-tuning", self.config.to_json_string(), largest, self.precision

    def take(self) -> None:
        """Steps and predictions; the head is PyTorch's own."""
        settings = self.settings
        model = Classifier(_build(self.config), 2, settings)
        objective = ClassificationObjective(model)
        longest = min(settings.max_length, context_of(self.config) or settings.max_length)
        for number, length in _shapes(settings.batch_size, longest):
            _train(objective, self.precision, _texts(number, length))
        with torch.no_grad():
            for number, length in _shapes(EVAL_BATCH, longest):
                model.eval()(*_texts(number, length)[:2])


def _build(config: PreTrainedConfig) -> PreTrainedModel:
    """A model in float32, as it is scored and fine-tuned whatever its checkpoint's type."""
    config = copy.deepcopy(config)
    config.dtype = torch.float32
    return models.build_model(config)


def _shapes(number: int, longest: int) -> Iterable[tuple[int, int]]:
    """Numbers of texts and of their tokens: whole batches and the rest, long texts and short."""
    lengths = {length for length in (longest, longest - 1, _SHORT, _SHORT - 1) if length > 1}
    return product((number, max(1, number - 1)), sorted(min(each, longest) for each in lengths))


def _train(objective: torch.nn.Module, precision: str, batch: Sequence[torch.Tensor]) -> None:
    """Forward and backward of a training step, under autocast as a trial has it."""
    objective.train()
    with _autocast(precision):
        loss = objective(*batch)
    loss.backward()


def _autocast(precision: str) -> torch.autocast:
    """Autocast of the CPU, where the fake tensors are; it stands for the GPU's."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def _tokens(size: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(size, length, dtype=torch.int64)
    return ids, ids.clone()


def _texts(number: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, lengths and labels."""
    zeros = torch.zeros(number, dtype=torch.int64)
    return _tokens(number, length)[0], zeros + length, zeros
