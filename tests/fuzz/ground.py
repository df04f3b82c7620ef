"""What the fuzzed commands work on: a text, benchmarks, and a study of two trained trials."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore
from mlflow.tracking._model_registry.registry import ModelRegistryStoreRegistry
from mlflow.tracking._tracking_service.registry import TrackingStoreRegistry

from analysis import compare, report
from analysis.arguments import CompareArgs, ReportArgs
from analysis.benchmarks.glue import TASKS
from analysis.benchmarks.kinds import ALL_KINDS
from models.sizes.__main__ import main as sizes
from sweeps import distill, epoch_study, evaluate, lr_sweep, paper, promote
from sweeps.arguments import (
    DistillArgs,
    EpochStudyArgs,
    EvaluateArgs,
    LrSweepArgs,
    PaperArgs,
    PromoteArgs,
)
from sweeps.plans.lr_sweep import plan_sweep
from tests.contracts.benchmark_folders import write_folder
from tests.tiny_text import write_tiny_text
from trainables.checkpoint import TrialFolder
from trainables.tracking import Tracker
from trainables.trainer import RuntimeConfig
from trainables.trial import run_trial

LRS = (1e-3, 3e-3)
MLFLOW_NAMES = ("lstm lr=1e-3 seed=0", "lstm lr=3e-3 seed=0")


@dataclass(frozen=True)
class Command:
    """A command, the dataclass of its flags, and words with which it succeeds."""

    main: Callable[[list[str]], int | None]
    flags: type | None
    words: Callable[[Ground], list[str]]


@dataclass(frozen=True)
class Ground:
    """Folders and files, made by `prepare` and given back by `restore`.

    `storage` holds the study "study", whose two trials on `text` have ended.
    """

    root: Path

    @property
    def storage(self) -> Path:
        return self.root / "storage"

    @property
    def text(self) -> Path:
        return self.root / "text"

    @property
    def benchmarks(self) -> Path:
        return self.root / "benchmarks"

    @property
    def study(self) -> Path:
        return self.storage / "study"

    def trials(self) -> list[TrialFolder]:
        """The trials, the better one first."""
        folders = [TrialFolder(path) for path in (self.study / "trials").iterdir()]
        return sorted(folders, key=lambda folder: folder.outcome.score)

    def corpus(self) -> Path:
        (folder,) = (path for path in (self.storage / "corpora").iterdir() if path.is_dir())
        return folder

    def restore(self) -> None:
        """Undo all changes of folders and files."""
        for kind in (TrackingStore, RegistryStore):  # connections to files that are gone
            for engine in kind._engine_map.values():
                engine.dispose()
            kind._engine_map.clear()
        TrackingStoreRegistry._get_store_with_resolved_uri.cache_clear()
        ModelRegistryStoreRegistry._get_store_with_resolved_uri.cache_clear()
        for name in ("storage", "text", "benchmarks"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            shutil.copytree(self.root / "kept" / name, self.root / name)

    @classmethod
    def prepare(cls, root: Path) -> Ground:
        """Train the two trials; it takes some seconds."""
        ground = cls(root)
        ground.text.mkdir()
        write_tiny_text(ground.text)
        ground.benchmarks.mkdir()
        for kind in ALL_KINDS:
            write_folder(kind, ground.benchmarks)
        _write_glue(ground.benchmarks / "glue")
        _train(ground)
        for name in ("storage", "text", "benchmarks"):
            shutil.copytree(root / name, root / "kept" / name)
        return ground


def _write_glue(folder: Path) -> None:
    folder.mkdir()
    row = {"premise": "a zebra runs", "hypothesis": "a zebra", "sentence1": "a", "sentence2": "b"}
    for file in TASKS["rte"].files(folder):
        file.write_text("".join(json.dumps({**row, "label": n % 2}) + "\n" for n in range(8)))


def _train(ground: Ground) -> None:
    plan = plan_sweep(LrSweepArgs(**_settings(ground), lrs=LRS, extend=False), lambda text: None)
    (base,) = plan.bases.values()
    artifacts = ground.storage / "artifacts" / "study"
    tracker = Tracker.open(plan.tracking_uri, artifacts, "study", [base])
    runtime = RuntimeConfig(plan.folder, plan.corpus.directory, plan.benchmarks, tracker)
    for lr in LRS:
        run_trial(base.replace(lr=lr), runtime, lambda metrics: None)
    tracker.close("FINISHED")
    words = ["--arch", "lstm", "--study", "study", "--storage", str(ground.storage)]
    assert promote.main(words) == 0


def _settings(ground: Ground) -> dict:
    names = {"corpus": str(ground.text), "storage": ground.storage, "study": "study"}
    sizes = {"vocab_size": 280, "context": 64, "batch_size": 4, "epochs": 1}
    scored = {"benchmarks": str(ground.benchmarks), "tasks": ("blimp",)}
    return {"arch": ("lstm",), **names, **sizes, **scored}


def _training(ground: Ground) -> list[str]:
    words = ["--corpus", str(ground.text), "--vocab-size", "280", "--context", "64"]
    words += ["--benchmarks", str(ground.benchmarks), "--tasks", "blimp"]
    words += ["--batch-size", "4", "--study", "study", "--storage", str(ground.storage)]
    return words


def _stored(ground: Ground) -> list[str]:
    return ["--study", "study", "--storage", str(ground.storage)]


COMMANDS = {
    "lr_sweep": Command(
        lr_sweep.main,
        LrSweepArgs,
        lambda ground: [
            *("--arch", "lstm", "--epochs", "1", "--lrs", *map(str, LRS), "--no-extend"),
            *_training(ground),
        ],
    ),
    "epoch_study": Command(
        epoch_study.main,
        EpochStudyArgs,
        lambda ground: ["--arch", "lstm", "--horizons", "1", "2", *_training(ground)],
    ),
    "distill": Command(
        distill.main,
        DistillArgs,
        lambda ground: [
            *("--teacher", str(ground.trials()[0].best_checkpoint), "--epochs", "1"),
            *_training(ground),
        ],
    ),
    "promote": Command(
        promote.main, PromoteArgs, lambda ground: ["--arch", "lstm", *_stored(ground)]
    ),
    "paper": Command(
        paper.main,
        PaperArgs,
        lambda ground: [
            *("--arch", "lstm", "--teacher-arch", "lstm", "--epochs", "1"),
            *_training(ground),
        ],
    ),
    "evaluate": Command(
        evaluate.main,
        EvaluateArgs,
        lambda ground: [
            *("--model", str(ground.trials()[0].best_checkpoint), "--tasks", "blimp"),
            *("--benchmarks", str(ground.benchmarks), "--long-texts", "truncate"),
            *("--storage", str(ground.storage), "--device", "cpu"),
        ],
    ),
    "report": Command(report.main, ReportArgs, _stored),
    "compare": Command(compare.main, CompareArgs, lambda ground: [*MLFLOW_NAMES, *_stored(ground)]),
    "sizes": Command(sizes, None, lambda ground: []),
}
