"""Fine-tune a language model on one classification task, and score it once.

    <storage>/<spec hash>/spec.json
    <storage>/<spec hash>/epoch-003/    model.safetensors, optimizer.safetensors, progress.json
    <storage>/<spec hash>/outcome.json  once it is over; then the epochs' folders are gone

An epoch's folder is there whole or not at all: a kill at any moment costs at most one epoch, and
what continues ends as if it had never been interrupted (bitwise so on the same CPU thread count).
Weights are not kept, an outcome holds the predictions.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from transformers import PreTrainedModel

import models
from analysis.benchmarks import glue
from analysis.benchmarks.causality import check_causal
from analysis.benchmarks.glue import Settings, TaskData
from analysis.benchmarks.scoring import context_of, unknown_token
from trainables.classifier import Classifier, Encoded, batches, encode, predict, split
from trainables.device import set_up_device
from trainables.digests import damage, write_digests
from trainables.files import (
    read_json,
    remove_partial,
    set_aside,
    tell,
    whole_folder,
    write_json,
)
from trainables.finetune_spec import (
    EpochScore,
    FinetuneOutcome,
    FinetuneSpec,
    model_hash,
    read_outcome,
)
from trainables.optim import set_learning_rate

_SELECTION_FRACTION, _SELECTION_MOST = 0.1, 2000
_MODEL, _OPTIMIZER, _PROGRESS = "model.safetensors", "optimizer.safetensors", "progress.json"


@dataclass(frozen=True)
class _Progress:
    """What progress.json holds: the epochs so far, and whether its folder has digests."""

    history: tuple[EpochScore, ...]
    has_digests: bool = False


def finetune(
    spec: FinetuneSpec,
    model: Path,
    data: TaskData,
    storage: Path,
    *,
    device: torch.device | None = None,
    threads: int = 1,
    report: Callable[[EpochScore], None] | None = None,
) -> FinetuneOutcome:
    """Bring a fine-tuning to its end, from wherever an earlier process left it.

    Args:
        spec: what to do.
        model: folder of the language model and its tokenizer.
        data: the task's examples.
        storage: folder of all fine-tunings.
        device: where to compute; the CPU by default.
        threads: CPU threads.
        report: called after each epoch, those of earlier processes first.

    Raises:
        ValueError: model or data are not those of the spec, or there are too few examples.
    """
    set_up_device(threads, device or torch.device("cpu"))
    folder = storage / spec.hash
    folder.mkdir(parents=True, exist_ok=True)
    report = report or (lambda epoch: None)
    with FileLock(folder / ".lock"):  # a killed command's worker may live on for seconds
        outcome = read_outcome(storage, spec)
        if outcome is not None:
            _remove_epochs(folder)  # if the kill came before
            for epoch in outcome.history:
                report(epoch)
            return outcome
        found = (model_hash(model), data.task.name, data.hash)
        if found != (spec.model_hash, spec.task, spec.data_hash):
            raise ValueError(
                f"model or data changed since the fine-tuning was planned: {found} found, "
                f"{(spec.model_hash, spec.task, spec.data_hash)} expected; start it again"
            )
        write_json(folder / "spec.json", spec.to_dict())
        finetuning = _Finetuning(spec, model, data, folder, device or torch.device("cpu"))
        return finetuning.to_the_end(report)


def remove_leftovers(storage: Path, spec: FinetuneSpec) -> None:
    """Remove the epochs of a finished fine-tuning that was killed before it did so."""
    folder = storage / spec.hash
    if any(folder.glob("epoch-*")):
        with FileLock(folder / ".lock"):
            _remove_epochs(folder)


class _Diverged(Exception):
    """A loss or a logit is not finite."""


class _Finetuning:
    """The course of a fine-tuning from its newest epoch to its outcome."""

    def __init__(
        self, spec: FinetuneSpec, model: Path, data: TaskData, folder: Path, device: torch.device
    ) -> None:
        self.spec, self.data, self.folder, self.device = spec, data, folder, device
        settings = spec.settings
        tokenizer = models.load_tokenizer(model)
        language_model = models.load(model)
        context = context_of(language_model.config)
        self.max_length = min(settings.max_length, context or settings.max_length)
        names = [file.stem for file in data.task.files(folder)]
        train = encode(tokenizer, data.train, self.max_length, names[0])
        self.reported = encode(tokenizer, data.valid, self.max_length, names[1])
        self.truncated = train.truncated + self.reported.truncated
        _check_model(language_model, (train, self.reported))
        self.train, self.selection = train, self.reported
        if spec.selection == "split":
            most = min(int(len(train) * _SELECTION_FRACTION), _SELECTION_MOST)
            parts = split(train.labels, most, settings.seed)
            self.train, self.selection = (train.part(which) for which in parts)
        torch.manual_seed(settings.seed)
        self.model = Classifier(language_model, len(data.task.labels), settings).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), weight_decay=settings.weight_decay, fused=True
        )
        self.steps_per_epoch = math.ceil(len(self.train) / settings.batch_size)
        self.history: list[EpochScore] = []

    def to_the_end(self, report: Callable[[EpochScore], None]) -> FinetuneOutcome:
        """Train, choose the epoch, score it, and leave nothing but the outcome."""
        settings = self.spec.settings
        self._resume()
        for epoch in self.history:
            report(epoch)
        predictions, reason = None, ""
        try:
            while len(self.history) < settings.epochs and not out_of_patience(
                [epoch.score for epoch in self.history], settings.patience, settings.min_delta
            ):
                self._train_epoch()
                report(self.history[-1])
            load_model(self.model, self._epoch_folder(self._best.epoch) / _MODEL)
            predictions = self._predict(self.reported)
        except _Diverged as error:
            reason = str(error)
        outcome = self._outcome(predictions, reason)
        write_json(self.folder / "outcome.json", dataclasses.asdict(outcome))
        _remove_epochs(self.folder)
        return outcome

    @property
    def _best(self) -> EpochScore:
        return max(self.history, key=lambda epoch: epoch.score)  # the earliest of equals

    def _train_epoch(self) -> None:
        settings, done = self.spec.settings, len(self.history)
        self.model.train()
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        total_steps = self.steps_per_epoch * settings.epochs
        order = batches(self.train, settings.batch_size, settings.seed, done)
        for step, which in enumerate(order, start=done * self.steps_per_epoch):
            # Dropout is a function of the position, so that going on needs no generator's state.
            torch.manual_seed(_seed_of(settings.seed, step))
            set_learning_rate(self.optimizer, learning_rate(settings, step, total_steps))
            nats += self._step(which) * len(which)
        loss = nats.item() / len(self.train)
        if not math.isfinite(loss):
            raise _Diverged(f"training loss {loss} in epoch {done + 1}")
        predictions = self._predict(self.selection)
        score = glue.score(self.data.task, self.selection.labels, predictions)
        self.history.append(EpochScore(done + 1, loss, score))
        self._save()

    def _step(self, which: np.ndarray) -> torch.Tensor:
        """One optimizer step; returns the batch's mean loss in nats."""
        ids, lengths, labels = self.train.batch(which, self.device)
        is_bf16 = self.spec.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16):
            logits = self.model(ids, lengths)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        if self.spec.settings.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.settings.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _predict(self, examples: Encoded) -> list[int]:
        predictions = predict(self.model, examples, self.device)
        if predictions is None:
            raise _Diverged("a logit is not finite")
        return predictions

    def _outcome(self, predictions: list[int] | None, reason: str) -> FinetuneOutcome:
        task, settings, score, error = self.data.task, self.spec.settings, None, None
        if predictions is not None:
            score = glue.score(task, self.reported.labels, predictions)
            error = glue.standard_error(task, self.reported.labels, predictions)
        return FinetuneOutcome(
            kind="diverged" if predictions is None else "finished",
            task=task.name,
            metric=task.metric,
            protocol=self.spec.protocol,
            seed=settings.seed,
            selection=self.spec.selection,
            score=score,
            error=error,
            baseline=glue.baseline(self.data),
            epoch=None if predictions is None else self._best.epoch,
            history=tuple(self.history),
            predictions=tuple(predictions or ()),
            num_train=len(self.train),
            num_selection=len(self.selection),
            num_reported=len(self.reported),
            max_length=self.max_length,
            truncated=self.truncated,
            reason=reason,
            precision=self.spec.precision,
        )

    def _epoch_folder(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:03d}"

    def _save(self) -> None:
        """Keep this epoch, the best one, and no other."""
        epoch = len(self.history)
        with whole_folder(self._epoch_folder(epoch)) as partial:
            save_model(self.model, str(partial / _MODEL))
            save_file(_optimizer_tensors(self.optimizer), partial / _OPTIMIZER)
            history = [dataclasses.asdict(each) for each in self.history]
            write_json(partial / _PROGRESS, {"history": history})
            write_digests(partial, marked=_PROGRESS)
        for number in range(1, epoch):
            if number != self._best.epoch:
                shutil.rmtree(self._epoch_folder(number), ignore_errors=True)
            else:  # only the newest is continued from
                (self._epoch_folder(number) / _OPTIMIZER).unlink(missing_ok=True)

    def _resume(self) -> None:
        remove_partial(self.folder)
        for path in sorted(self.folder.glob("epoch-*"), reverse=True):
            if problem := damage(path, holds=_MODEL, may_lack=_OPTIMIZER, marked=_PROGRESS):
                aside = set_aside(path)
                tell(f"{path} is damaged ({problem}): it is now called {aside.name}")
            elif (path / _OPTIMIZER).exists():
                self.history = list(read_json(path / _PROGRESS, _Progress).history)
                load_model(self.model, path / _MODEL)
                _load_optimizer(self.optimizer, load_file(path / _OPTIMIZER))
                return


def _check_model(model: PreTrainedModel, parts: Sequence[Encoded]) -> None:
    """Check that the model knows every token, and reads from left to right: its state of the last
    token is what is classified, and padding that follows is not hidden from it.

    Raises:
        ValueError: it does not.
    """
    ids = [each for part in parts for each in part.ids]
    table: Any = model.get_input_embeddings().weight
    vocab_size = len(table)
    largest = max(int(each.max()) for each in ids)
    if largest >= vocab_size:
        raise ValueError(unknown_token(largest, vocab_size))
    longest = max(ids, key=len)
    if len(longest) > 1:
        model.eval()
        with torch.no_grad():
            check_causal(model, longest.tolist(), vocab_size)


def learning_rate(settings: Settings, step: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (0-based) out of `total_steps`.

    It rises linearly to the peak, and from there to `final_lr` times the peak, which it would reach
    at step `total_steps`.
    """
    warmup_steps = math.ceil(settings.warmup * total_steps)
    if step < warmup_steps:
        return settings.lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if settings.schedule == "linear":
        remaining = 1.0 - progress
    else:
        remaining = 0.5 * (1.0 + math.cos(math.pi * progress))
    return settings.lr * (settings.final_lr + (1.0 - settings.final_lr) * remaining)


def out_of_patience(scores: Sequence[float], patience: int | None, min_delta: float) -> bool:
    """Whether the last `patience` scores all gained no more than `min_delta` on the best before.

    The rule of transformers' EarlyStoppingCallback: a smaller gain raises the mark to beat, too.
    """
    waited, best = 0, -math.inf
    for score in scores:
        waited = 0 if score > best + min_delta else waited + 1
        best = max(best, score)
    return patience is not None and waited >= patience


def _seed_of(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state, by "index of the parameter/name"."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}/{name}": value.contiguous()
        for index, values in state.items()
        for name, value in values.items()
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _remove_epochs(folder: Path) -> None:
    for path in folder.glob("epoch-*"):
        shutil.rmtree(path)
