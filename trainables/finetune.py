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

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load_file, load_model, save_file, save_model

import models
from analysis.benchmarks import classification
from analysis.benchmarks.classification import TaskData
from analysis.benchmarks.glue import FinetuneSettings
from analysis.benchmarks.scoring import context_of
from trainables.classifier import (
    ClassificationObjective,
    Classifier,
    EncodedExamples,
    batches,
    check_model,
    encode,
    predict,
    split,
)
from trainables.device import set_up_device
from trainables.digests import damage, write_digests
from trainables.files import (
    NOT_THERE,
    DamagedFileError,
    read_json,
    remove_partial,
    set_aside,
    tell,
    whole_folder,
    write_json,
)
from trainables.finetune_spec import (
    OUTCOME,
    EpochScore,
    FinetuneOutcome,
    FinetuneSpec,
    model_hash,
    read_outcome,
)
from trainables.kept import kept, put_folder
from trainables.optim import (
    adamw,
    load_optimizer,
    optimizer_tensors,
    scheduled_rate,
    set_learning_rate,
)
from trainables.step import Diverged, Step

_SELECTION_FRACTION, _SELECTION_MOST = 0.1, 2000
_MODEL, _OPTIMIZER, _PROGRESS = "model.safetensors", "optimizer.safetensors", "progress.json"


@dataclass(frozen=True)
class _Progress:
    """The content of progress.json: the epochs so far, and whether its folder has digests."""

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
    gpus: float = 1.0,
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
        gpus: share of a GPU that it may use.
        report: called after each epoch, those of earlier processes first.

    Raises:
        ValueError: model or data are not those of the spec, or there are too few examples.
    """
    set_up_device(threads, device, gpus=gpus)
    folder = storage / spec.hash
    folder.mkdir(parents=True, exist_ok=True)
    report = report or (lambda epoch: None)
    with FileLock(folder / ".lock"):  # a killed command's worker may live on for seconds
        outcome = read_outcome(storage, spec)
        if outcome is not None:
            _remove_epochs(folder)  # if the kill came before
            put_folder(folder)
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
            put_folder(folder)


class _Finetuning:
    """The course of a fine-tuning from its newest epoch to its outcome."""

    def __init__(
        self, spec: FinetuneSpec, model: Path, data: TaskData, folder: Path, device: torch.device
    ) -> None:
        self.spec, self.data, self.folder, self.device = spec, data, folder, device
        self._kept = kept(folder, marker=f"epoch-*/{_PROGRESS}")
        settings = spec.settings
        tokenizer = models.load_tokenizer(model)
        language_model = models.load(model)
        context = context_of(language_model.config)
        self.max_length = min(settings.max_length, context or settings.max_length)
        names = [file.stem for file in data.task.files(folder)]
        train = encode(tokenizer, data.train, self.max_length, names[0])
        self.reported = encode(tokenizer, data.valid, self.max_length, names[1])
        self.truncated = train.truncated + self.reported.truncated
        check_model(language_model, (train, self.reported))
        self.train, self.selection = train, self.reported
        if spec.selection == "split":
            most = min(int(len(train) * _SELECTION_FRACTION), _SELECTION_MOST)
            parts = split(train.labels, most, settings.seed)
            self.train, self.selection = (train.part(which) for which in parts)
        torch.manual_seed(settings.seed)
        self.model = Classifier(language_model, len(data.task.labels), settings).to(device)
        parameters = list(self.model.parameters())
        self.optimizer = adamw(
            [{"params": parameters, "weight_decay": settings.weight_decay}], settings.lr
        )
        self.step = Step(
            ClassificationObjective(self.model),
            parameters,
            self.optimizer,
            scale=1.0,
            micro_batch=settings.batch_size,
            grad_clip=settings.grad_clip or 0.0,
            bf16=spec.precision == "bf16",
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
        except Diverged as error:
            reason = str(error)
        outcome = self._outcome(predictions, reason)
        write_json(self.folder / OUTCOME, dataclasses.asdict(outcome))
        self._put()  # before the epochs are gone
        _remove_epochs(self.folder)
        self._put()
        return outcome

    @property
    def _best(self) -> EpochScore:
        return max(self.history, key=lambda epoch: epoch.score)  # the earliest of equals

    def _train_epoch(self) -> None:
        settings, done = self.spec.settings, len(self.history)
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        total_steps = self.steps_per_epoch * settings.epochs
        order = batches(self.train, settings.batch_size, settings.seed, done)
        for step, which in enumerate(order, start=done * self.steps_per_epoch):
            # Dropout is a function of the position, so that going on needs no generator's state.
            torch.manual_seed(_seed_of(settings.seed, step))
            set_learning_rate(self.optimizer, learning_rate(settings, step, total_steps))
            mean, _ = self.step(self.train.batch(which, self.device))
            nats += mean * len(which)
        loss = nats.item() / len(self.train)
        if not math.isfinite(loss):
            raise Diverged(f"training loss {loss} in epoch {done + 1}")
        predictions = self._predict(self.selection)
        score = classification.score(self.data.task, self.selection.labels, predictions)
        self.history.append(EpochScore(done + 1, loss, score))
        self._save()

    def _predict(self, examples: EncodedExamples) -> list[int]:
        predictions = predict(self.model, examples, self.device)
        if predictions is None:
            raise Diverged("a logit is not finite")
        return predictions

    def _outcome(self, predictions: list[int] | None, reason: str) -> FinetuneOutcome:
        task, settings, score, error = self.data.task, self.spec.settings, None, None
        if predictions is not None:
            score = classification.score(task, self.reported.labels, predictions)
            error = classification.standard_error(task, self.reported.labels, predictions)
        return FinetuneOutcome(
            kind="diverged" if predictions is None else "finished",
            task=task.name,
            metric=task.metric,
            protocol=self.spec.protocol,
            seed=settings.seed,
            selection=self.spec.selection,
            score=score,
            error=error,
            baseline=classification.baseline(self.data),
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

    def _put(self) -> None:
        if self._kept is not None:
            self._kept.put()

    def _epoch_folder(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:03d}"

    def _save(self) -> None:
        """Keep this epoch, the best one, and no other."""
        epoch = len(self.history)
        # A best epoch's folder may be left where those after it were damaged.
        with whole_folder(self._epoch_folder(epoch), replace=True) as partial:
            save_model(self.model, str(partial / _MODEL))
            save_file(optimizer_tensors(self.model, self.optimizer), partial / _OPTIMIZER)
            history = [dataclasses.asdict(each) for each in self.history]
            write_json(partial / _PROGRESS, {"history": history})
            write_digests(partial, marked=_PROGRESS)
        for number in range(1, epoch):
            if number != self._best.epoch:
                shutil.rmtree(self._epoch_folder(number), ignore_errors=True)
            else:  # only the newest is continued from
                (self._epoch_folder(number) / _OPTIMIZER).unlink(missing_ok=True)
        self._put()

    def _resume(self) -> None:
        remove_partial(self.folder)
        if self._kept is not None:
            self._kept.bring()
        for path in sorted(self.folder.glob("epoch-*"), reverse=True):
            history, problem = _history_of(path)
            if problem:
                aside = set_aside(path)
                tell(f"{path} is damaged ({problem}): it is now called {aside.name}")
            elif (path / _OPTIMIZER).exists():
                self.history = history
                load_model(self.model, path / _MODEL)
                tensors = _by_name(load_file(path / _OPTIMIZER), self.model)
                load_optimizer(self.model, self.optimizer, tensors)
                return


def learning_rate(settings: FinetuneSettings, step: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (0-based) out of `total_steps`.

    At step `total_steps` it would reach `final_lr` times the peak.
    """
    return scheduled_rate(
        settings.lr,
        settings.schedule,
        step,
        total_steps,
        warmup_steps=math.ceil(settings.warmup * total_steps),
        final=settings.final_lr,
    )


def out_of_patience(scores: Sequence[float], patience: int | None, min_delta: float) -> bool:
    """Whether the last `patience` scores all gained no more than `min_delta` on the best before.

    The rule of transformers' EarlyStoppingCallback: a smaller gain raises the mark to beat, too.
    """
    waited, best = 0, -math.inf
    for score in scores:
        waited = 0 if score > best + min_delta else waited + 1
        best = max(best, score)
    return patience is not None and waited >= patience


def _history_of(folder: Path) -> tuple[list[EpochScore], str]:
    """The epochs up to that of a folder, and the problem with its files, "" if there is none."""
    if problem := damage(folder, holds=_MODEL, may_lack=_OPTIMIZER, marked=_PROGRESS):
        return [], problem
    try:
        return list(read_json(folder / _PROGRESS, _Progress).history), ""
    except (DamagedFileError, *NOT_THERE) as error:
        return [], str(error)


def _seed_of(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _by_name(tensors: dict[str, torch.Tensor], model: Classifier) -> dict[str, torch.Tensor]:
    """An optimizer's state by "moment/name of the parameter".

    Earlier versions kept it by "index of the parameter/moment".
    """
    names = [name for name, _ in model.named_parameters()]
    found = {}
    for key, value in tensors.items():
        first, _, second = key.partition("/")
        found[f"{second}/{names[int(first)]}" if first.isdigit() else key] = value
    return found


def _remove_epochs(folder: Path) -> None:
    for path in folder.glob("epoch-*"):
        shutil.rmtree(path)
