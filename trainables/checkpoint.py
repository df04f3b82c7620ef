"""Checkpoints of a trial: safetensors and JSON, whole or not at all, never changed in place.

    <trial>/spec.json
    <trial>/checkpoints/step-00000500/   model.safetensors, config.json, the tokenizer, spec.json,
                                         trainer.json, optimizer.safetensors, digests.json
    <trial>/checkpoints/chck_1M/         the model after so many words, without its optimizer
    <trial>/began.json                   of a trial that may go on from another's first steps
    <trial>/milestones.json              validation loss and zero-shot scores after so many words
    <trial>/unsent-<run>.jsonl           what MLflow has not taken yet, while it does not answer
    <trial>/outcome.json                 once the trial is over
    <trial>/final.json                   what was scored on its best checkpoint after the sweep
    <trial>/.at-rest                     while the trial waits for its sweep, with all on the disk
    <trial>/mended.txt                   a line on each checkpoint that was found damaged

Of a study that is kept in a bucket (`trainables.kept`) the folder is this machine's copy: brought
by whoever works on the trial, and put back with each checkpoint and each of the files above.

A checkpoint folder opens with `AutoModelForCausalLM.from_pretrained` after `import models`. A kill
at any moment leaves complete checkpoints and at most one folder with a temporary name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.addresses import copy_around
from analysis.benchmarks.suite import FinalScores, Scores
from analysis.schema.milestone import MilestoneReport
from analysis.schema.ranges import MOST, check, within
from trainables.bucket import without_patience
from trainables.corpus.tokenizer import save_tokenizer
from trainables.digests import damage, has_digests, write_digests
from trainables.files import (
    NOT_THERE,
    DamagedFileError,
    read_json,
    read_or_set_aside,
    remove_partial,
    set_aside,
    tell,
    whole_folder,
    write_json,
    write_json_again,
    writing,
)
from trainables.kept import Listing, bring_folder, everything, kept, without_weights
from trainables.milestones import revision_of, words_of_revision
from trainables.optim import load_optimizer, optimizer_tensors
from trainables.progress import EpochReport, TrialOutcome, TrialProgress, best_epoch
from trainables.spec import TrialSpec

_OPTIMIZER = "optimizer.safetensors"
_TRAINER = "trainer.json"
_MODEL = "model.safetensors"
_SPEC = "spec.json"
_OUTCOME, _COPY = "outcome.json", "outcome-copy.json"
_FINAL = "final.json"
_BEGAN = "began.json"
_MILESTONES = "milestones.json"
_MENDED = "mended.txt"
_AT_REST = ".at-rest"
_AT_WORK = ".at-work"
"""In a bucket, where no lock is seen: while a process works on the trial and is not at rest."""
_SPEC_REMEDY = (
    "run the command again that trained this trial, which writes it again, or move the folder away"
)


@dataclass(frozen=True)
class _BranchPoint:
    """The content of began.json: with how many steps of another trial this one begins."""

    step: int = within(0, MOST)

    def __post_init__(self) -> None:
        check(self)


class TrialFolder:
    """The folder of one trial: its spec, its checkpoints, its outcome."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._outcome: TrialOutcome | None = None
        self._owner = ""
        self._kept = kept(path, marker=f"checkpoints/*/{_TRAINER}")

    @classmethod
    def of(cls, study: Path, spec: TrialSpec) -> TrialFolder:
        """The folder of `spec` in the study folder, created with its spec.json if new."""
        folder = cls(study / "trials" / spec.hash)
        folder._checkpoints.mkdir(parents=True, exist_ok=True)
        file = folder.path / _SPEC
        try:
            if not file.exists():
                write_json(file, spec.to_dict())
            folder._read_spec()
        except DamagedFileError as damaged:
            folder._write_spec_again(spec, damaged, "it is written again")
        return folder

    @classmethod
    def trunk(cls, study: Path, spec: TrialSpec) -> TrialFolder:
        """The folder of checkpoints for all specs that differ from `spec` in their epochs only."""
        folder = cls(study / "trunks" / spec.replace(epochs=1).hash)
        folder._checkpoints.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def lock(self, timeout: float = -1) -> FileLock:
        """The lock of whoever works on the trial; it ends with the process that holds it."""
        return FileLock(self.path / ".lock", timeout=timeout)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Hold the trial's lock, waiting for it, and bring what others kept of the trial."""
        with self.lock():
            if self._kept is None:
                yield
                return
            self._mark_as_mine()
            try:
                self._kept.remove_unmarked()
                self._kept.bring(without_weights)
                if self.outcome is None:
                    self.bring()
                self._put()  # what an earlier process of this machine came not to put
                yield
                self._kept.release()
            finally:
                with without_patience():
                    if self._kept.read_mark(_AT_WORK) == self._owner:
                        self._kept.remove_mark(_AT_WORK)
                self._owner = ""

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Tell others that all that was trained is kept, while the block lasts."""
        mark = self.path / _AT_REST
        mark.touch()
        if self._kept is not None:
            self._check_is_mine()
            self._kept.remove_mark(_AT_WORK)
        try:
            yield
            if self._kept is not None:
                self._check_is_mine()
                self._kept.mark(_AT_WORK, self._owner)
        finally:
            mark.unlink(missing_ok=True)

    def bring(self) -> None:
        """Bring all files from the bucket that the study is kept in, if it is.

        Raises:
            OSError: the bucket does not answer.
        """
        if self._kept is not None:
            self._kept.bring(_of_training)
            self._outcome = None

    def look(self, listing: Listing | None = None) -> None:
        """Bring the small files, unless a process of this machine is at work on the trial: what it
        has here is newer.

        Args:
            listing: the bucket's objects in the folder, if they are known.

        Raises:
            OSError: the bucket does not answer.
        """
        if self._kept is not None:
            with contextlib.suppress(Timeout), self.lock(timeout=0):
                self._kept.bring(without_weights, listing)
                self._outcome = None

    def _put(self) -> None:
        if self._kept is not None:
            self._check_is_mine()
            self._kept.put()

    def _mark_as_mine(self) -> None:
        assert self._kept is not None
        self._owner = secrets.token_hex(8)
        self._kept.mark(_AT_WORK, self._owner)

    def _check_is_mine(self) -> None:
        """Let a process whose machine was given up put nothing beside the one that goes on.

        Raises:
            OSError: another process works on the trial.
        """
        assert self._kept is not None
        if self._owner and self._kept.read_mark(_AT_WORK) not in (self._owner, None):
            raise OSError(f"another process took over the trial {self.path}")

    def _write(self, name: str, values: object) -> None:
        write_json(self.path / name, values)
        self._put()

    @property
    def may_be_ended(self) -> bool:
        """Whether nothing is lost if its process ends now: it has none, or that is at rest."""
        if self._kept is not None:
            with without_patience():
                return not self._kept.has_now(_AT_WORK)
            return False
        if (self.path / _AT_REST).exists():
            return True
        try:
            with self.lock(timeout=0):
                return True
        except Timeout:
            return False

    @property
    def has_begun(self) -> bool:
        """Whether anything was trained in it; else it may be about to be made, or a kill came."""
        return (self.path / _OUTCOME).exists() or any(self._checkpoints.glob("step-*"))

    @functools.cached_property
    def spec(self) -> TrialSpec:
        """The spec this folder was made for; a lost spec.json is rebuilt from a checkpoint's.

        Raises:
            DamagedFileError: it is damaged or missing, and no checkpoint has it.
        """
        try:
            return self._read_spec()
        except DamagedFileError as damaged:
            for file in self._checkpoints.glob(f"step-*/{_SPEC}"):
                with contextlib.suppress(DamagedFileError, FileNotFoundError):
                    spec = read_json(file, TrialSpec)
                    if spec.hash == self.path.name:
                        how = "it is written again, as a checkpoint has it"
                        self._write_spec_again(spec, damaged, how)
                        return spec
            raise

    def _read_spec(self) -> TrialSpec:
        file = self.path / _SPEC
        try:
            spec = read_json(file, TrialSpec, remedy=_SPEC_REMEDY)
        except FileNotFoundError as error:
            raise DamagedFileError(file, "it is missing", _SPEC_REMEDY) from error
        if spec.hash != self.path.name:
            raise DamagedFileError(file, f"it is the spec of the trial {spec.hash}", _SPEC_REMEDY)
        return spec

    def _write_spec_again(self, spec: TrialSpec, damaged: DamagedFileError, how: str) -> None:
        write_json_again(self.path / _SPEC, spec.to_dict())
        tell(f"{self.path / _SPEC} is damaged ({damaged.problem}): {how}")

    @property
    def outcome(self) -> TrialOutcome | None:
        """The trial's end, or None while it has not ended.

        A damaged outcome.json is rebuilt from the last checkpoint of a trial that was trained to
        its end; else it is set aside, and the trial goes on from where it was.
        """
        path = self.path / _OUTCOME
        if self._outcome is None and path.exists():  # read once: it is final
            try:
                self._outcome = read_json(path, TrialOutcome)
            except DamagedFileError as damaged:
                self._outcome = self._outcome_again(damaged)
        return self._outcome

    def _outcome_again(self, damaged: DamagedFileError) -> TrialOutcome | None:
        path = self.path / _OUTCOME
        aside = set_aside(path)
        text = f"{path} is damaged ({damaged.problem}): it is now called {aside.name}, and"
        with contextlib.suppress(DamagedFileError, *NOT_THERE):
            copy = read_json(self.path / _COPY, TrialOutcome)
            self.finish(copy)
            tell(f"{text} written again from its copy")
            return copy
        newest = self.newest()
        history = newest[1].history if newest is not None and not self._fault(newest[0]) else []
        if not history or history[-1].epoch != self.spec.epochs:
            tell(f"{text} its trial goes on from its newest checkpoint when its sweep runs again")
            return None
        outcome = self.outcome_of("finished", history)
        self.finish(outcome)
        tell(f"{text} written again from the trial's last checkpoint")
        return outcome

    def outcome_of(
        self, kind: str, history: Sequence[EpochReport], reason: str = ""
    ) -> TrialOutcome:
        """The outcome of a trial that measured this, with the best epoch's checkpoint."""
        best = best_epoch(history)
        checkpoint = None if best is None else self.checkpoint_at(best.step).name
        return TrialOutcome(kind, tuple(history), checkpoint, reason)

    def finish(self, outcome: TrialOutcome) -> None:
        """Record that the trial is over."""
        self._write(_OUTCOME, dataclasses.asdict(outcome))
        self._outcome = None

    @property
    def best_checkpoint(self) -> Path:
        """Folder of the best epoch's checkpoint of a trial that ended.

        Raises:
            ValueError: it has not ended, or diverged before its first epoch was over.
        """
        outcome = self.outcome
        if outcome is None or outcome.checkpoint is None:
            raise ValueError(f"the trial {self.path} has no finished epoch")
        path = self._checkpoints / outcome.checkpoint
        bring_model(path)
        return path

    @property
    def final_scores(self) -> FinalScores:
        """Scores taken once on the best checkpoint, by kind ("zero_shot", "glue")."""
        return read_or_set_aside(
            self.path / _FINAL,
            FinalScores,
            {},
            then="the best checkpoint is scored again when the sweep runs again",
        )

    def keep_final_scores(self, kind: str, scores: dict[str, Any]) -> None:
        """Keep scores of the best checkpoint beside those of other kinds."""
        self._write(_FINAL, {**self.final_scores, kind: scores})

    @property
    def began(self) -> int:
        """Optimizer steps of other trials, the trunk, that this one goes on from."""
        return read_or_set_aside(
            self.path / _BEGAN,
            _BranchPoint,
            _BranchPoint(0),
            then="the trial's cost counts its first steps, though another trial took them",
        ).step

    def begin_at(self, step: int) -> None:
        """Note with how many steps of another trial this one begins, when it does so first."""
        if not (self.path / _BEGAN).exists():
            self._write(_BEGAN, {"step": step})

    @property
    def milestones(self) -> dict[int, MilestoneReport]:
        """What was measured on the way, by number of words seen, ascending."""
        kept = read_or_set_aside(
            self.path / _MILESTONES,
            dict[int, MilestoneReport | Scores],  # of an older version the scores alone
            {},
            then="the figures in it are only in MLflow now",
        )
        return {
            words: found if isinstance(found, MilestoneReport) else MilestoneReport(scores=found)
            for words, found in sorted(kept.items())
        }

    def keep_milestone(self, words: int, report: MilestoneReport) -> None:
        """Keep what was measured after so many words beside the earlier ones."""
        kept = {**self.milestones, words: report}
        self._write(_MILESTONES, {at: dataclasses.asdict(each) for at, each in kept.items()})

    @property
    def models(self) -> dict[int, Path]:
        """Folders of the models kept after so many words, ascending."""
        found = [(words_of_revision(path.name), path) for path in self._checkpoints.glob("chck_*")]
        return dict(sorted((words, path) for words, path in found if words is not None))

    def keep_model(
        self,
        words: int,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        spec: TrialSpec,
        progress: TrialProgress,
    ) -> None:
        """Keep the model of this moment, after so many words, unless that is there."""
        target = self.model_after(words)
        if not self._holds(target / _TRAINER):
            with whole_folder(target, replace=True) as partial, writing(target):
                _write_model(partial, model, tokenizer, spec, progress)
                write_digests(partial, marked=_TRAINER)
            self._put()

    def model_after(self, words: int) -> Path:
        """Folder of the model kept after so many words."""
        return self._checkpoints / revision_of(words)

    def checkpoint_at(self, step: int) -> Path:
        """Folder of the checkpoint taken after `step` optimizer steps."""
        return self._checkpoints / f"step-{step:08d}"

    def has_checkpoint(self, step: int) -> bool:
        """Whether there is a checkpoint of so many steps, here or in the bucket."""
        if not self._holds(self.checkpoint_at(step) / _TRAINER):
            with without_patience():
                self.look()
        return self._holds(self.checkpoint_at(step) / _TRAINER)

    def newest(self, up_to: int | None = None) -> tuple[Path, TrialProgress] | None:
        """The newest checkpoint that can be continued from, with its progress.

        That of its best epoch must be there, too: no later epoch may be better.

        Args:
            up_to: most steps that it may have taken.
        """
        last = None if up_to is None else self.checkpoint_at(up_to)
        for path in sorted(self._checkpoints.glob("step-*"), reverse=True):
            if self._holds(path / _OPTIMIZER) and (last is None or path <= last):
                try:
                    progress = read_json(path / _TRAINER, TrialProgress)
                except (DamagedFileError, *NOT_THERE):  # to be set aside when the trial goes on
                    continue
                if progress.best is None or self.checkpoint_at(progress.best.step).is_dir():
                    return path, progress
        return None

    def save(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        optimizer: torch.optim.Optimizer,
        spec: TrialSpec,
        progress: TrialProgress,
        *,
        prune: bool = True,
    ) -> Path:
        """Write a checkpoint of this moment; with `prune` keep it, the best one, and no other."""
        target = self.checkpoint_at(progress.step)
        # In place of one of the same moment, if there is one.
        with whole_folder(target, replace=True) as partial, writing(target):
            _write_model(partial, model, tokenizer, spec, progress)
            save_file(optimizer_tensors(model, optimizer), partial / _OPTIMIZER)
            write_digests(partial, marked=_TRAINER)
        if prune:
            self._prune(keep=target, best=progress.best)
        self._put()
        return target

    def adopt(self, path: Path) -> None:
        """Copy a checkpoint of another folder, without what only continuing it takes."""
        target = self._checkpoints / path.name
        if not target.exists():
            without = shutil.ignore_patterns(_OPTIMIZER)
            with whole_folder(target) as partial:
                shutil.copytree(path, partial, ignore=without, dirs_exist_ok=True)
            self._put()

    def load_into(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None
    ) -> None:
        """Load a checkpoint's parameters, and the optimizer's moments when one is given."""
        model.load_state_dict(load_file(path / _MODEL))
        if optimizer is not None:
            load_optimizer(model, optimizer, load_file(path / _OPTIMIZER))

    def set_aside_damaged(self) -> list[str]:
        """Rename checkpoints whose files are not as they were written, and those whose best epoch's
        is lost, so that nothing goes on from them. Call it only under the trial's lock.

        Returns:
            A sentence on each.

        Raises:
            OSError: a file is there and cannot be read now.
        """
        sentences = []
        for path in sorted(self._checkpoints.glob("step-*")):  # the best before those that need it
            if fault := self._fault_in_both(path):
                aside = set_aside(path)
                sentences.append(
                    f"the checkpoint {path} {fault}: it is now called {aside.name}, "
                    "and its trial goes on from an earlier one, or begins again"
                )
                self.note(sentences[-1])
        return sentences

    @property
    def mended(self) -> str:
        """A line on each checkpoint that was set aside."""
        file = self.path / _MENDED
        return file.read_text("utf-8", "replace").strip() if file.is_file() else ""

    def note(self, sentence: str) -> None:
        """Keep a line on what was mended: no one sees what a worker says."""
        file = self.path / _MENDED
        if os.path.lexists(file) and not file.is_file():  # it must not stop what it tells of
            set_aside(file)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{sentence}\n")
        self._put()

    def _holds(self, file: Path) -> bool:
        """Whether a file is here, or in the bucket."""
        return file.exists() or (self._kept is not None and self._kept.has(file))

    def _fault_in_both(self, path: Path) -> str:
        """`_fault`, if the bucket has no better: a disk may have spoiled this machine's files."""
        fault = self._fault(path)
        if fault and self._kept is not None:
            for each in (path, self._best_of(path)):
                self._kept.bring_anew(f"checkpoints/{each.name}")
            fault = self._fault(path)
        return fault

    def _best_of(self, path: Path) -> Path:
        """The checkpoint of the best epoch that a checkpoint knows; itself if none can be known."""
        try:
            best = read_json(path / _TRAINER, TrialProgress).best
        except (DamagedFileError, *NOT_THERE):
            return path
        return path if best is None else self.checkpoint_at(best.step)

    def _fault(self, path: Path) -> str:
        """Reason why nothing can go on from a checkpoint as it is, or "" if it can."""
        if problem := checkpoint_damage(path):
            return f"is damaged ({problem})"
        best = read_json(path / _TRAINER, TrialProgress).best
        if best is None or not (path / _OPTIMIZER).exists():  # of a best one, nothing goes on
            return ""
        of_best = self.checkpoint_at(best.step)
        if of_best != path and (problem := checkpoint_damage(of_best)):
            return f"lacks that of its best epoch ({of_best.name}: {problem})"
        return ""

    def keep_best_only(self) -> None:
        """Remove the checkpoints of a trial that ended, but for its best epoch's parameters; of a
        trial that goes on nothing. Call it only under the trial's lock.

        Of its outcome, which its last checkpoint tells too, a copy takes that one's place.

        Raises:
            OSError: the bucket does not answer.
        """
        if self.outcome is None:
            return
        if not (self.path / _COPY).exists():
            self._write(_COPY, dataclasses.asdict(self.outcome))
        best = f"checkpoints/{self.outcome.checkpoint}/"

        def unwanted(name: str) -> bool:
            is_of_best = name.startswith(best) and not name.endswith(_OPTIMIZER)
            return name.startswith("checkpoints/step-") and not is_of_best

        if self._kept is not None:
            self._kept.remove(unwanted)
            return
        for path in self._checkpoints.glob("step-*"):
            if path.name != self.outcome.checkpoint:
                shutil.rmtree(path)
        if self.outcome.checkpoint:
            (self._checkpoints / self.outcome.checkpoint / _OPTIMIZER).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of it. Call it only under its lock.

        Raises:
            OSError: the bucket does not answer.
        """
        if self._kept is not None:
            self._kept.remove(everything)
        shutil.rmtree(self.path)

    def clean(self) -> None:
        """Remove what a killed process left. Call it only under the trial's lock."""
        remove_partial(self._checkpoints)
        (self.path / _AT_REST).unlink(missing_ok=True)

    def _prune(self, keep: Path, best: EpochReport | None) -> None:
        best_path = None if best is None else self.checkpoint_at(best.step)
        for path in self._checkpoints.glob("step-*"):
            if path not in (keep, best_path):
                shutil.rmtree(path)
            elif path != keep:  # only the newest is continued from
                (path / _OPTIMIZER).unlink(missing_ok=True)


def _write_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    spec: TrialSpec,
    progress: TrialProgress,
) -> None:
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    write_json(folder / _SPEC, spec.to_dict())
    write_json(folder / _TRAINER, progress.to_dict())


def _of_training(name: str) -> bool:
    """Whether a file is read by who goes on with a trial: of models on the way the small ones."""
    return without_weights(name) or not name.startswith("checkpoints/chck_")


def look_at_all(trials: Path) -> None:
    """Bring the small files of all trials of a study that a bucket keeps, if one does; not of those
    that a process of this machine is at work on, whose files here are newer.

    Raises:
        OSError: the bucket does not answer.
    """
    if (folder := kept(trials)) is None:
        return
    for name, listed in folder.listed_below().items():
        trial = trials / name
        trial.mkdir(parents=True, exist_ok=True)
        TrialFolder(trial).look(listed)


def bring_model(folder: Path) -> None:
    """Bring a model's folder, a checkpoint or a registered version's copy, from the bucket that
    it is kept in, if it is.

    Raises:
        OSError: the bucket does not answer.
    """
    if folder.parent.name == "checkpoints":
        trial, inside = folder.parents[1], f"checkpoints/{folder.name}/"
        if (of_trial := kept(trial, marker=f"checkpoints/*/{_TRAINER}")) is not None:
            of_trial.bring(lambda name: name.startswith(inside))
        return
    copy = copy_around(folder)
    if copy is not None:  # of a registered version, the model lies somewhere in its folder
        bring_folder(copy.joinpath(*folder.relative_to(copy).parts[:2]))


def check_checkpoint(folder: Path) -> None:
    """Check that a model's files are as they were written, where that is known.

    Raises:
        DamagedFileError: they are not.
    """
    if has_digests(folder, marked=_TRAINER) and (problem := _files_damage(folder)):
        remedy = "restore it from the artifact `model` of its MLflow run, or take another model"
        if words_of_revision(folder.name) is not None:  # that is the best epoch's
            remedy = "train it again, in a --study of its own, or take another model"
        raise DamagedFileError(folder, problem, remedy)


def checkpoint_damage(checkpoint: Path) -> str:
    """The problem with a checkpoint's files, or "" if there is none.

    Raises:
        OSError: a file is there and cannot be read now, which is no damage.
    """
    if not checkpoint.is_dir():
        return "it is not there"
    if problem := _files_damage(checkpoint):
        return problem
    try:
        read_json(checkpoint / _TRAINER, TrialProgress)
    except (DamagedFileError, *NOT_THERE) as error:
        return str(error)
    return ""


def _files_damage(folder: Path) -> str:
    return damage(folder, holds=_MODEL, may_lack=_OPTIMIZER, marked=_TRAINER)
