"""One trial from its newest checkpoint to its end: epochs, checkpoints, records, reports.

The same loop runs inside a Tune function (one CPU worker) and on Ray Train workers (one or more,
CPU or GPU); `World` is all that differs.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import models
from analysis.benchmarks.suite import Scores
from analysis.store import call_with_retries, explained
from models.kernels import paths
from trainables.checkpoint import TrialFolder, checkpoint_damage
from trainables.corpus import Blocks, Corpus
from trainables.corpus.tokenizer import tokenizer_hash
from trainables.device import set_up_device
from trainables.files import tell
from trainables.kept import is_there
from trainables.memory import memory_of
from trainables.milestones import milestone_report, milestone_step, revision_of
from trainables.optim import learning_rate, steps_at_peak
from trainables.progress import EpochReport, TrialOutcome, TrialProgress, best_epoch
from trainables.provenance import kernels, provenance
from trainables.spec import TrialSpec
from trainables.step import Diverged
from trainables.tracking import TrialRun
from trainables.trainer import RuntimeConfig, Trainer, TrialData, World, steps_per_epoch

LOG_EVERY = 10
"""Optimizer steps between two reads of the loss (each read waits for the device)."""

WORST_BITS_PER_BYTE = 1e6
"""Reported for a diverged trial: finite, so that no search or scheduler drops it as NaN."""

_LONGEST_TAG = 4000
"""Characters of a tag that every MLflow store takes."""

Report = Callable[[dict[str, Any]], None]


class StopAsked(Exception):
    """The sweep is ending: the trial has written a checkpoint, from which it will go on."""


def run_trial(
    spec: TrialSpec, runtime: RuntimeConfig, report: Report, world: World | None = None
) -> TrialOutcome:
    """Bring a trial to its end, from wherever an earlier process left it.

    Every epoch is reported in order, those of earlier processes first, so that the caller sees the
    same series whether or not the trial was interrupted.

    Args:
        spec: what to train.
        runtime: the folders to read and write, and the share of the machine to use.
        report: called on every worker after each epoch, with flat finite numbers.
        world: the workers that share the trial; this process alone by default.

    Raises:
        StopAsked: by the first worker, once `runtime.stop` is there.
    """
    world = world or World()
    set_up_device(runtime.threads, world.device, gpus=runtime.gpus)
    folder = TrialFolder.of(runtime.study, spec)

    def report_at_rest(metrics: dict[str, Any]) -> None:
        # A sweep that is ending takes no reports any more: the trial waits in this one.
        with folder.at_rest() if world.rank == 0 else contextlib.nullcontext():
            report(metrics)

    # A killed sweep's worker may live on for seconds: wait for it.
    at_work = folder.at_work() if world.rank == 0 else contextlib.nullcontext()
    with at_work:
        if world.rank == 0 and folder.outcome is None:
            folder.set_aside_damaged()
        world.barrier()  # the first worker holds the lock: now all of them see the same state
        if world.rank != 0:
            folder.bring()
        ended = folder.outcome if world.least(folder.outcome is not None) else None
        if ended is None:
            _TrialTraining(spec, runtime, report_at_rest, world, folder).to_the_end()
            world.barrier()
            if world.rank != 0:
                folder.look()
        else:
            if world.rank == 0:
                record_again(folder, runtime)
            for epoch in ended.history:
                report_at_rest(epoch_metrics(epoch, ended.history))
        outcome = folder.outcome
        assert outcome is not None
        report_at_rest(final_metrics(outcome))
        return outcome


class _TrialTraining:
    """The training of one trial on one worker, from its newest checkpoint to its outcome."""

    def __init__(
        self,
        spec: TrialSpec,
        runtime: RuntimeConfig,
        report: Report,
        world: World,
        folder: TrialFolder,
    ) -> None:
        self.spec, self.runtime, self.report, self.world = spec, runtime, report, world
        self.folder = folder
        paths.forget_taken()  # by an earlier trial of this process
        self.trainer = Trainer(
            spec,
            TrialData.open(spec, runtime),
            world,
            runtime.micro_batch,
            recompute=runtime.recompute,
            memory=memory_of(world.device, runtime.gpus),
        )
        self.is_first = world.rank == 0
        if self.is_first:
            folder.clean()
        self._resume()
        self.record: TrialRun | None = None
        if self.is_first:
            facts = trial_facts(spec, self.trainer.data.corpus)
            facts |= {"began_step": folder.began, **provenance(world.device, runtime.threads)}
            with explained(runtime.tracker.uri):
                self.record = runtime.tracker.trial(spec, facts, folder.path)
            self._record_mended(self.record.run_id)
        self.milestone_steps = {
            words: milestone_step(spec, self.trainer.data.corpus, words, self.trainer.total_steps)
            for words in sorted(runtime.milestones)
        }
        self.saved_at = time.monotonic()
        if self.is_first:
            self._tell_of_missed_milestones()

    @property
    def progress(self) -> TrialProgress:
        """The trial's position and measurements."""
        return self.trainer.progress

    def to_the_end(self) -> None:
        """Report the epochs of earlier processes, train the others, and record the outcome."""
        if self.record:  # in case the kill came before they were recorded
            for words, report in self.folder.milestones.items():
                self.record.log_milestone(words, report)
        for epoch in self.progress.history:
            if self.record:
                self.record.log_epoch(epoch)  # in case the kill came before it was recorded
            self.report(epoch_metrics(epoch, self.progress.history))
        kind, reason = "finished", ""
        try:
            while self.progress.step < self.trainer.total_steps:
                self._train_epoch()
                self._end_epoch()
                if self._is_to_stop:
                    raise StopAsked
        except Diverged as error:
            kind, reason = "diverged", str(error)
            if self.is_first:
                try:
                    self._keep_models()  # those of an epoch's end were to come after its losses
                except OSError as failure:  # no reason to lose the outcome
                    tell(f"{self.folder.path}: the model of a milestone is not kept: {failure}")
        if self.record:
            self._finish(kind, reason)

    def _resume(self) -> None:
        newest = self._agreed(self.folder)
        if newest is None and self._shared_steps:
            newest = self._leave_from_trunk()
        if newest is not None:
            path, self.trainer.progress = newest
            self.folder.load_into(path, self.trainer.model, self.trainer.optimizer)

    def _agreed(
        self, folder: TrialFolder, up_to: int | None = None
    ) -> tuple[Path, TrialProgress] | None:
        """The newest checkpoint that all workers see: an earlier worker of one machine may have
        been killed before it put its last one into the bucket."""
        mine = folder.newest(up_to)
        step = self.world.least(0 if mine is None else mine[1].step)
        return folder.newest(step)

    def _leave_from_trunk(self) -> tuple[Path, TrialProgress] | None:
        """The newest checkpoint of the steps shared with other lengths; noted where that is."""
        trunk = TrialFolder.trunk(self.runtime.study, self.spec)
        if self.is_first:
            with trunk.lock():
                trunk.bring()
                for sentence in trunk.set_aside_damaged():
                    self.folder.note(sentence)
        self.world.barrier()  # now all workers see the same checkpoints
        if not self.is_first:
            trunk.bring()
        newest = self._agreed(trunk, self._shared_steps)
        if self.is_first:
            best = None if newest is None else newest[1].best
            if best is not None:  # no later epoch may be better
                self.folder.adopt(trunk.checkpoint_at(best.step))
            self.folder.begin_at(0 if newest is None else newest[1].step)
        return newest

    def _record_mended(self, run_id: str) -> None:
        if text := self.folder.mended[-_LONGEST_TAG:]:
            client = self.runtime.tracker.client
            call_with_retries(lambda: client.set_tag(run_id, "babysweep.mended", text))

    def _tell_of_missed_milestones(self) -> None:
        kept, began = self.folder.models, self.folder.began
        missed = [
            revision_of(words)
            for words, step in self.milestone_steps.items()
            if began < step <= self.progress.step and words not in kept
        ]
        if missed:
            tell(
                f"the trial {self.folder.path} was trained beyond {', '.join(missed)} before these "
                "milestones were asked for: train it in a --study of its own to have them"
            )

    def _train_epoch(self) -> None:
        """Train to the end of the current epoch."""
        trainer, progress = self.trainer, self.progress
        end = (trainer.epoch + 1) * trainer.steps_per_epoch
        pending: list[torch.Tensor] = []
        clock = time.monotonic()
        while progress.step < end:
            nats, norm = trainer.step()
            pending.append(nats)
            if progress.step < end:  # at the end the epoch's figures are the milestone's, too
                clock += self._reach_milestones()
            if progress.step % LOG_EVERY == 0 or progress.step in (1, end):
                clock = self._read_losses(pending, norm, clock)
                pending.clear()
                if self.is_first and progress.step < end:  # at the end comes a report
                    if progress.step in self.runtime.trunk_steps:
                        self._leave_trunk()  # first: a resumed trial does not pass here again
                    self._save_if_due(clock)

    def _save_if_due(self, now: float) -> None:
        is_to_stop = self._is_to_stop
        if is_to_stop or now - self.saved_at > 60 * self.runtime.checkpoint_minutes:
            self._save()
        if is_to_stop:
            raise StopAsked

    @property
    def _is_to_stop(self) -> bool:
        """Whether the first worker, which writes the checkpoints, sees that the sweep is ending."""
        stop = self.runtime.stop
        if not self.is_first or stop is None:
            return False
        return is_there(stop)

    def _read_losses(self, pending: list[torch.Tensor], norm: torch.Tensor, clock: float) -> float:
        """Record the losses of the last steps; returns the time.

        Raises:
            Diverged: the mean loss or the gradient's norm is not finite, or the loss exploded.
        """
        spec, progress = self.spec, self.progress
        # One read of the device for both.
        mine, grad_norm = torch.stack([torch.stack(pending).double().sum(), norm.double()]).tolist()
        (nats,) = self.world.sum(mine)
        tokens = len(pending) * spec.batch_size * spec.context
        loss, now = nats / tokens, time.monotonic()
        if not (
            math.isfinite(loss) and math.isfinite(grad_norm) and loss < self.trainer.objective_limit
        ):
            raise Diverged(
                f"loss {loss:.3g} nats, gradient norm {grad_norm:.3g} at step {progress.step}"
            )
        progress.epoch_nats += nats
        progress.epoch_tokens += tokens
        progress.epoch_train_seconds += now - clock
        if self.record:
            lr = learning_rate(spec, progress.step - 1, self.trainer.total_steps)
            values = {
                "loss": loss,
                "lr": lr,
                "grad_norm": grad_norm,
                "tokens_per_second": tokens / (now - clock),
                "epoch": progress.step / self.trainer.steps_per_epoch,
            }
            self.record.log_step(progress.step, values)
            if (how := self.trainer.step_in_words) is not None:
                self.record.log_fact("step", how)
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
        self.trainer.progress = TrialProgress(progress.step, history=[*progress.history, epoch])
        if self.record:
            self._record_kernels()
            self._keep_models()  # first: a trial resumed from the checkpoint does not pass here
            self._keep_figures(val_loss, bits_per_byte, scores)
            self._save()
            self.record.log_epoch(epoch)
        self.world.barrier()
        self.report(epoch_metrics(epoch, self.progress.history))

    @property
    def _reached(self) -> list[int]:
        """The milestones, in words, that were reached with the last step."""
        return [words for words, step in self.milestone_steps.items() if step == self.progress.step]

    def _reach_milestones(self) -> float:
        """Keep the model and measure it if so many words were seen just now; returns the seconds
        that it took."""
        if not self._reached:
            return 0.0
        started, is_new = time.monotonic(), True
        if self.is_first:
            self._keep_models()
            is_new = any(words not in self.folder.milestones for words in self._reached)
        if self.world.least(is_new):  # all workers validate, or none
            val_loss, bits_per_byte = self.trainer.validate()
            # Else there are no figures. Whether the trial diverged is for its own losses to say:
            # milestones change nothing.
            if val_loss < self.trainer.loss_limit and self.is_first:
                self._keep_figures(val_loss, bits_per_byte, self.trainer.score())
        return time.monotonic() - started

    def _keep_models(self) -> None:
        """Keep the model for each milestone that was reached just now, unless it is kept, or is of
        numbers no more."""
        trainer = self.trainer
        if not all(bool(each.isfinite().all()) for each in trainer.model.parameters()):
            return
        for words in self._reached:
            self.folder.keep_model(
                words, trainer.model, trainer.data.tokenizer, self.spec, self.progress
            )

    def _keep_figures(self, val_loss: float, bits_per_byte: float, scores: Scores | None) -> None:
        """Keep and record figures for each milestone that was reached just now and has none."""
        assert self.record is not None
        for words in self._reached:
            if words not in self.folder.milestones:
                suite = self.trainer.data.suite
                report = milestone_report(val_loss, bits_per_byte, suite, scores)
                self.folder.keep_milestone(words, report)
                self.record.log_milestone(words, report)

    def _save(self) -> None:
        trainer = self.trainer
        if self.record:
            self.record.flush()  # a resumed run never records the steps before its checkpoint
        self.folder.save(
            trainer.model, trainer.data.tokenizer, trainer.optimizer, self.spec, self.progress
        )
        self.saved_at = time.monotonic()

    def _leave_trunk(self) -> None:
        """Leave a checkpoint for longer and shorter trials that take the same steps so far."""
        trainer, step = self.trainer, self.progress.step
        if step > self._shared_steps:
            return
        folder = TrialFolder.trunk(self.runtime.study, self.spec)
        best = self.progress.best
        if best is not None:  # also beside an earlier trial's checkpoint, in case that was lost
            folder.adopt(self.folder.checkpoint_at(best.step))
        if not folder.checkpoint_at(step).exists():
            folder.save(
                trainer.model,
                trainer.data.tokenizer,
                trainer.optimizer,
                self.spec,
                self.progress,
                prune=False,
            )

    @property
    def _shared_steps(self) -> int:
        return steps_at_peak(self.spec, self.trainer.total_steps)

    def _record_kernels(self) -> None:
        """Record which paths kernels took: after an epoch those of training, validation, scores."""
        assert self.record is not None
        if words := kernels():
            self.record.log_fact("kernels", words)

    def _finish(self, kind: str, reason: str) -> None:
        assert self.record is not None
        self._record_kernels()  # of one that diverged before the end of an epoch
        finish_trial(self.folder, self.record, kind, self.progress.history, reason)


def finish_trial(
    folder: TrialFolder, run: TrialRun, kind: str, history: list[EpochReport], reason: str = ""
) -> None:
    """Record a trial's end in MLflow and then in its folder, which makes it final."""
    best = best_epoch(history)
    outcome = folder.outcome_of(kind, history, reason)
    run.finish(outcome, None if best is None else folder.checkpoint_at(best.step))
    folder.finish(outcome)


def record_again(folder: TrialFolder, runtime: RuntimeConfig) -> None:
    """Record an ended trial in MLflow if its run is not there: another store, or a deleted run.

    Without a model if its best checkpoint is lost: what it measured is not.
    """
    outcome, spec = folder.outcome, folder.spec
    assert outcome is not None
    if runtime.tracker.has_outcome(spec):
        return
    facts = {**trial_facts(spec, Corpus.open(runtime.corpus)), "began_step": folder.began}
    with explained(runtime.tracker.uri):
        run = runtime.tracker.trial(spec, facts, folder.path)
    for epoch in outcome.history:
        run.log_epoch(epoch)
    for words, report in folder.milestones.items():
        run.log_milestone(words, report)
    checkpoint = None if outcome.checkpoint is None else folder.best_checkpoint
    if checkpoint is not None and (problem := checkpoint_damage(checkpoint)):
        tell(f"the trial {folder.path} is recorded without its model, {checkpoint.name}: {problem}")
        checkpoint = None
    run.finish(outcome, checkpoint)


def trial_facts(spec: TrialSpec, corpus: Corpus) -> dict[str, Any]:
    """Facts that follow from a spec and its corpus, and are recorded beside it."""
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
        "train_words": corpus.train_words,
        "tokenizer_hash": tokenizer_hash(corpus.directory),
        "flops_per_token": 3 * models.flops_per_token(config, spec.context),  # backward: twice
    }


def epoch_metrics(epoch: EpochReport, history: Sequence[EpochReport]) -> dict[str, Any]:
    """Metrics that Ray is told of an epoch: flat finite numbers."""
    upto = [report for report in history if report.epoch <= epoch.epoch]
    return {
        "epoch": epoch.epoch,
        "bits_per_byte": epoch.bits_per_byte,
        "best_bits_per_byte": min(report.bits_per_byte for report in upto),
        "macro": -1.0 if epoch.macro is None else epoch.macro,
        "diverged": 0,
        "ended": 0,
    }


def final_metrics(outcome: TrialOutcome) -> dict[str, Any]:
    """Metrics that Ray is told when a trial is over: the last epoch again, marked as the end."""
    if outcome.kind == "diverged":
        values = {"bits_per_byte": WORST_BITS_PER_BYTE, "best_bits_per_byte": WORST_BITS_PER_BYTE}
        epochs = len(outcome.history)
        return {"epoch": epochs + 1, **values, "macro": -1.0, "diverged": 1, "ended": 1}
    return {**epoch_metrics(outcome.history[-1], outcome.history), "ended": 1}
