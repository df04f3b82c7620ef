"""Plan of an export: the models, where they go, and what is known of how they were made."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

import models
from analysis.addresses import address_in
from analysis.benchmarks.suite import FinalScores
from analysis.errors import named
from analysis.flag_values import checked
from analysis.places import path_or_hub_id, resolved, writable_folder
from analysis.schema.milestone import MilestoneReport
from analysis.store import open_store, tracking_uri
from models import registry
from sweeps.arguments import ExportArgs
from sweeps.stored.hub import MAIN, check_push
from sweeps.stored.model_names import resolve_model
from sweeps.stored.trials import resolve_storage
from trainables.checkpoint import TrialFolder, bring_model, look_at_all
from trainables.corpus import Corpus
from trainables.files import read_if_sound
from trainables.milestones import revision_of, words_of_revision
from trainables.progress import EpochReport, TrialOutcome, TrialProgress
from trainables.spec import TrialSpec

CONFIG, CARD = "config.json", "README.md"


@dataclass(frozen=True)
class Origin:
    """What is known of a model; of one that no trial here has made, nothing.

    Attributes:
        spec: of its trial.
        report: what was measured at this checkpoint; None within an epoch.
        corpus: the text it was trained on, if its folder is there.
        final: scores of the best checkpoint after a sweep, if this is that one.
        words: that a model kept on the way had seen; None for another checkpoint.
        milestone: what was measured of that.
    """

    spec: TrialSpec | None = None
    report: EpochReport | None = None
    corpus: Corpus | None = None
    final: dict[str, Any] = field(default_factory=dict)
    words: int | None = None
    milestone: MilestoneReport | None = None


@dataclass(frozen=True)
class ExportPlan:
    """An export, with all checked that can be before weights are read.

    Attributes:
        model: folder or hub id.
        arch: its architecture.
        target: the folder to write, which is new or empty, or holds an export to push.
        revision: of the hub that it is pushed to.
        milestones: plans of the models that its training kept, by revision, each in a folder of
            the target.
    """

    args: ExportArgs
    model: str
    arch: str
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    target: Path
    origin: Origin
    revision: str = MAIN
    milestones: Mapping[str, ExportPlan] = field(default_factory=dict)

    @property
    def all(self) -> dict[str, ExportPlan]:
        """Of every model, by revision."""
        return {MAIN: self, **self.milestones}

    @property
    def is_written(self) -> bool:
        """Whether an export is there already."""
        return is_export(self.target)


def plan_export(args: ExportArgs) -> ExportPlan:
    """Find the model, and see that it can be exported, and to there.

    Raises:
        ValueError: it cannot; the message says what to do.
    """
    args = checked(args)
    target = _target(args.folder, is_pushed=args.push is not None)
    if args.private and args.push is None:
        raise ValueError("--private is of a repository on the hub: add --push OWNER/NAME")
    storage, uri = None, ""
    is_stored = args.model.startswith("models:/") or address_in(args.model) is not None
    if is_stored or args.storage is not None:
        storage = resolve_storage(args.storage, create=is_stored)
        uri = tracking_uri(storage)
    with path_or_hub_id("MODEL", args.model):
        model = resolve_model(args.model, uri, storage or Path())
        config, arch = _open_config(model)
        tokenizer = _opened(model, models.load_tokenizer)
    writable_folder(target.parent, "DIR")
    plan = ExportPlan(args, model, arch, config, tokenizer, target, find_origin(model, storage))
    plan = _with_milestones(plan, storage) if args.milestones else plan
    if args.push is not None:
        with named("--push"):
            check_push(args.push, private=args.private)
    return plan


def _with_milestones(plan: ExportPlan, storage: Path | None) -> ExportPlan:
    """The plan with those of the models that the training kept on the way.

    Raises:
        ValueError: it kept none, or is not known.
    """
    spec = plan.origin.spec
    trials = [] if spec is None else _trials_of(plan.model, spec, storage)
    if not trials:
        raise ValueError(
            f"--milestones are of a training, and that of {plan.model} is not here: give a folder "
            "STUDY/trials/.../checkpoints/step-..., or the --storage of its study"
        )
    kept = max((trial.models for trial in trials), key=len)
    if not kept:
        raise ValueError(
            f"--milestones: the training {trials[0].path} kept no models on the way: sweep with "
            "--milestones to have them"
        )
    milestones = {}
    for words, folder in kept.items():
        bring_model(folder)
        milestones[revision_of(words)] = dataclasses.replace(
            plan,
            model=str(folder),
            target=plan.target / revision_of(words),
            revision=revision_of(words),
            origin=find_origin(str(folder), storage),
        )
    return dataclasses.replace(plan, milestones=milestones)


def _trials_of(model: str, spec: TrialSpec, storage: Path | None) -> list[TrialFolder]:
    """The trial that made a model: the one whose folder it is in, or those of this hash, which
    are the same training, in the studies of the storage."""
    folder = Path(model)
    if folder.parent.name == "checkpoints":
        trial = TrialFolder(folder.parents[1])
        trial.look()
        return [trial]
    if storage is None:
        return []
    client = open_store(tracking_uri(storage))
    studies = {each.experiment_id: each.name for each in client.search_experiments()}
    runs = client.search_runs([*studies], f"tags.`babysweep.spec_hash` = '{spec.hash}'")
    found = []
    for study in sorted({studies[run.info.experiment_id] for run in runs}):
        trials = storage / study / "trials"
        look_at_all(trials)
        found += [TrialFolder(trials / spec.hash)] if (trials / spec.hash).is_dir() else []
    return found


def is_export(folder: Path) -> bool:
    """Whether a folder holds an export: a model with its card, which no checkpoint has."""
    return all((folder / name).is_file() for name in (CONFIG, CARD))


def _target(folder: Path, *, is_pushed: bool) -> Path:
    target = resolved(folder, "DIR")
    if target.is_dir() and any(target.iterdir()):
        if is_pushed and is_export(target):
            return target
        or_export = ", or holds an export" if is_pushed else ""
        raise ValueError(
            f"DIR {target} is not empty: give a folder that is new or empty{or_export}"
        )
    if target.exists() and not target.is_dir():
        raise ValueError(f"DIR {target} is a file: give a folder that is new or empty")
    return target


def _open_config(model: str) -> tuple[PreTrainedConfig, str]:
    """The model's config and the name of its architecture.

    Raises:
        ValueError: it cannot be opened, or is none of this project's architectures.
    """
    config = _opened(model, models.load_config)
    by_type = {registry.get(name).model_type: name for name in models.architectures()}
    if config.model_type not in by_type:
        raise ValueError(
            f"{model} is a model of transformers itself (model_type {config.model_type}), which "
            f"opens without an export: those that are exported are {', '.join(by_type.values())}"
        )
    return config, by_type[config.model_type]


def _opened(model: str, load: Any) -> Any:
    try:
        return load(model)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"cannot open the model {model}: {reason} (a folder with config.json and a tokenizer, "
            "models:/NAME@ALIAS, or an id on the hub)"
        ) from error


def find_origin(model: str, storage: Path | None) -> Origin:
    """What the files beside a model's weights, and its trial's, tell of it; damaged ones nothing.

    Args:
        model: folder or hub id.
        storage: the storage folder, by default that of the checkpoint.
    """
    folder = Path(model)
    spec = read_if_sound(folder / "spec.json", TrialSpec)
    if spec is None:
        return Origin()
    progress = read_if_sound(folder / "trainer.json", TrialProgress)
    history = [] if progress is None else progress.history
    reports = [each for each in history if progress is not None and each.step == progress.step]
    final: dict[str, Any] = {}
    words = milestone = None
    if folder.parent.name == "checkpoints":
        trial = folder.parents[1]
        if (words := words_of_revision(folder.name)) is not None:
            milestone = TrialFolder(trial).milestones.get(words)
        outcome = read_if_sound(trial / "outcome.json", TrialOutcome)
        if outcome is not None and outcome.checkpoint == folder.name:
            final = read_if_sound(trial / "final.json", FinalScores) or {}
        if storage is None and trial.parent.name == "trials":
            storage = trial.parents[2]
    corpus = None if storage is None else _corpus(storage / "corpora", spec.corpus_hash)
    return Origin(spec, reports[0] if reports else None, corpus, final, words, milestone)


def _corpus(folder: Path, corpus_hash: str) -> Corpus | None:
    """The prepared corpus of this hash, which its folder's name ends in."""
    for file in sorted(folder.glob("*/corpus.json")):
        with contextlib.suppress(ValueError, OSError):
            corpus = Corpus.open(file.parent)
            if corpus.hash == corpus_hash:
                return corpus
    return None
