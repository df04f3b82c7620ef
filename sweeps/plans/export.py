"""Plan of an export: the model, where it goes, and what is known of how it was made."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

import models
from analysis.addresses import address_in
from analysis.benchmarks.suite import FinalScores
from analysis.flag_values import checked
from analysis.places import path_or_hub_id, resolved, writable_folder
from analysis.store import tracking_uri
from models import registry
from sweeps.arguments import ExportArgs
from sweeps.stored.model_names import resolve_model
from sweeps.stored.trials import resolve_storage
from trainables.corpus import Corpus
from trainables.files import read_if_sound
from trainables.progress import EpochReport, TrialOutcome, TrialProgress
from trainables.spec import TrialSpec


@dataclass(frozen=True)
class Origin:
    """What is known of a model; of one that no trial here has made, nothing.

    Attributes:
        spec: of its trial.
        report: what was measured at this checkpoint; None within an epoch.
        corpus: the text it was trained on, if its folder is there.
        final: scores of the best checkpoint after a sweep, if this is that one.
    """

    spec: TrialSpec | None = None
    report: EpochReport | None = None
    corpus: Corpus | None = None
    final: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportPlan:
    """An export, with all checked that can be before weights are read.

    Attributes:
        model: folder or hub id.
        arch: its architecture.
        target: the folder to write, which is new or empty.
    """

    args: ExportArgs
    model: str
    arch: str
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    target: Path
    origin: Origin


def plan_export(args: ExportArgs) -> ExportPlan:
    """Find the model, and see that it can be exported, and to there.

    Raises:
        ValueError: it cannot; the message says what to do.
    """
    args = checked(args)
    target = _target(args.folder)
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
    return ExportPlan(args, model, arch, config, tokenizer, target, find_origin(model, storage))


def _target(folder: Path) -> Path:
    target = resolved(folder, "DIR")
    if target.is_dir() and any(target.iterdir()):
        raise ValueError(f"DIR {target} is not empty: give a folder that is new or empty")
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
    if folder.parent.name == "checkpoints":
        trial = folder.parents[1]
        outcome = read_if_sound(trial / "outcome.json", TrialOutcome)
        if outcome is not None and outcome.checkpoint == folder.name:
            final = read_if_sound(trial / "final.json", FinalScores) or {}
        if storage is None and trial.parent.name == "trials":
            storage = trial.parents[2]
    corpus = None if storage is None else _corpus(storage / "corpora", spec.corpus_hash)
    return Origin(spec, reports[0] if reports else None, corpus, final)


def _corpus(folder: Path, corpus_hash: str) -> Corpus | None:
    """The prepared corpus of this hash, which its folder's name ends in."""
    for file in sorted(folder.glob("*/corpus.json")):
        with contextlib.suppress(ValueError, OSError):
            corpus = Corpus.open(file.parent)
            if corpus.hash == corpus_hash:
                return corpus
    return None
