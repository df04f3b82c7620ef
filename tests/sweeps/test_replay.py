"""The commands that a report prints, typed one after another, make the same study elsewhere."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from ray.tune.search import Searcher

from analysis import runs
from analysis.reporting.sections.common import ReportContext
from analysis.reporting.sections.reproduction import reproduction
from analysis.study import Study
from analysis.wording import quoted
from sweeps.engine.tuning import Slots
from sweeps.running import trials
from tests.analysis.benchmark_files import write_blimp
from tests.empty_store import empty_store
from tests.processes import ROOT, environment
from tests.shell import words_of
from tests.tiny_text import write_tiny_text
from trainables import trial
from trainables.spec import TrialSpec
from trainables.trainer import Trainer
from trainables.trial import run_trial

FINDINGS = {"lr_sweep": "show_results", "epoch_study": "show_epochs", "distill": "show_gains"}
TINY = ("--vocab-size", "280", "--context", "64", "--batch-size", "4", "--study", "my study")


def train_here(runtime: Any, resources: Any, scheduler: Any, callbacks: Any, slots: Slots) -> None:
    """In place of Ray Tune: one trial after the other, in this process."""
    for number in range(100):
        config = slots.search.suggest(str(number))
        if config == Searcher.FINISHED:
            return
        results: list[dict[str, Any]] = []
        run_trial(TrialSpec.from_dict(config["spec"]), runtime, results.append)
        slots.search.on_trial_complete(str(number), results[-1])


def step(trainer: Trainer) -> tuple[torch.Tensor, torch.Tensor]:
    """In place of an optimizer step: none."""
    trainer.progress.step += 1
    return torch.tensor(1.0), torch.tensor(1.0)


def validate(trainer: Trainer) -> tuple[float, float]:
    """In place of a validation: better towards a learning rate of 1e-2, and with a teacher."""
    spec, epoch = trainer.spec, trainer.progress.step // trainer.steps_per_epoch
    loss = 2 + abs(math.log10(spec.lr) + 2) + 0.01 * spec.seed - 0.1 * epoch - 0.1 * spec.alpha
    return loss, loss / 2


@pytest.fixture
def _untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands train nothing, in this process, and show nothing of it; what they choose, keep and
    record is as it is."""
    monkeypatch.setattr(os, "environ", {**os.environ})  # what commands set ends with the test
    for name in ("MLFLOW_TRACKING_URI", "BABYSWEEP_STORAGE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(trials, "ray_cluster", lambda *_, **__: contextlib.nullcontext({"CPU": 1}))
    monkeypatch.setattr(
        trials, "start_building", lambda *_: SimpleNamespace(wait=lambda console: None)
    )
    monkeypatch.setattr(trials, "run_tune", train_here)
    for module, name in FINDINGS.items():
        monkeypatch.setattr(f"sweeps.findings.{module}.{name}", lambda *_: None)
    monkeypatch.setattr(trials, "describe_study", lambda *_: None)
    monkeypatch.setattr(trial, "provenance", lambda *_: {})
    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(Trainer, "validate", validate)


def run(script: str, *words: str) -> None:
    """A command in this process."""
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    assert module.main([*words]) == 0


def found_in(storage: Path, study: str = "my study") -> tuple[pd.DataFrame, dict[str, str]]:
    """What a study found, whatever store it is in: figures by trial, and the promoted trials."""
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    client = MlflowClient(uri)
    columns = ["outcome", "epochs", "best_epoch", "bits_per_byte", "macro", "has_final"]
    frame = runs.trials(client, study).set_index("spec_hash")[columns].sort_index()
    scored = [
        client.get_run(run_id).data.metrics.get("eval/blimp", math.nan)
        for run_id in runs.trials(client, study).set_index("spec_hash").sort_index()["run_id"]
    ]
    promoted = {
        f"{model.name}@{alias}": client.get_model_version(model.name, version).tags[
            "babysweep.spec_hash"
        ]
        for model in client.search_registered_models()
        for alias, version in model.aliases.items()
    }
    return frame.assign(scored=scored), promoted


def printed(storage: Path, study: str = "my study") -> tuple[str, ...]:
    """The commands in a study's report."""
    opened = Study.open(f"sqlite:///{storage / 'mlflow.db'}", study, "")
    return reproduction(ReportContext(opened, "val_loss", storage)).section.commands


def make_study(folder: Path) -> Path:
    """A study of commands that depend on those before them; returns its storage."""
    storage, text = folder / "old 'storage' $x", folder / "my texts"
    text.mkdir()
    write_tiny_text(text)
    blimp = write_blimp(folder / "data" / "blimp_fast").parent
    empty_store(storage)
    here = ("--storage", str(storage))
    common = ("--corpus", str(text), "--benchmarks", str(blimp), *TINY, *here)
    sweep = ("--arch", "lstm", "--lrs", "1e-3", "3e-3", "--no-extend", "--epochs", "1", *common)
    run("sweeps/lr_sweep.py", *sweep)
    run("sweeps/promote.py", "--arch", "lstm", *here)
    run("sweeps/epoch_study.py", "--arch", "lstm", "--horizons", "2", *common)
    (file,) = (storage / "my study" / "commands").glob("lr-sweep-*.yaml")
    run("sweeps/lr_sweep.py", "--config", str(file), "--lrs", "1e-3", "1e-2")
    run("sweeps/lr_sweep.py", *sweep)
    distilled = ("--teacher", "models:/lstm@teacher", *TINY[-2:], *here)
    run("sweeps/distill.py", *distilled, "--benchmarks", str(blimp))
    first = runs.trials(f"sqlite:///{storage / 'mlflow.db'}", "my study").iloc[0]
    (model,) = storage.glob(f"my study/trials/{first['spec_hash']}/checkpoints/*")
    scored = ("--benchmarks", str(blimp), "--run-id", first["run_id"], "--device", "cpu")
    run("sweeps/evaluate.py", "--model", str(model), *scored, *here)
    return storage


def typed_in(folder: Path, lines: Iterable[str]) -> None:
    """Lines typed into one shell, from top to bottom, in a folder with the project's packages."""
    for package in ("sweeps", "analysis", "trainables", "models", "pyproject.toml"):
        if not (folder / package).exists():
            (folder / package).symlink_to(ROOT / package)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", "\n".join(lines)],
        cwd=folder,
        env=environment() | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout


def tables(storage: Path) -> dict[str, str]:
    """The tables of a study's report, but for times and what names runs of one store."""
    folder = storage / "my study" / "report" / "tables"
    found = {file.name: pd.read_csv(file) for file in folder.glob("*.csv")}
    found.pop("cost.csv", None)
    kept = {
        name: table[[column for column in table if not str(column).endswith(" run")]]
        for name, table in found.items()
    }
    return {name: table.to_csv() for name, table in kept.items()}


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_a_shell_makes_a_trained_study_again(tmp_path: Path, tiny_text: Path) -> None:
    """A whole study by one command, and what was done after it, trained and reported by Ray and
    all: the same trials, figures, teacher and tables."""
    blimp = write_blimp(tmp_path / "my data" / "blimp_fast").parent
    common = quoted("--corpus", str(tiny_text), "--benchmarks", str(blimp), *TINY)
    lines = [
        'export BABYSWEEP_STORAGE="$PWD/old"',
        "python sweeps/paper.py --arch lstm --teacher-arch lstm --epochs 1 --lrs 1e-3 3e-3 "
        f"--seeds 0 --final-tasks blimp {common}",
        f"python sweeps/lr_sweep.py --arch lstm --epochs 1 --lrs 1e-2 --no-extend {common}",
        "python sweeps/promote.py --arch lstm --alias better",
        "python analysis/report.py",
    ]
    typed_in(tmp_path, lines)
    before, written = found_in(tmp_path / "old"), tables(tmp_path / "old")
    printed_lines = printed(tmp_path / "old")
    shutil.rmtree(tmp_path / "old")
    typed_in(tmp_path, printed_lines)
    after = found_in(tmp_path / "again")
    pd.testing.assert_frame_equal(before[0], after[0])
    assert before[1] == after[1]
    assert tables(tmp_path / "again") == written
    assert printed(tmp_path / "again") == printed_lines


def replay(lines: tuple[str, ...], folder: Path, type_in: Callable[[list[str]], None]) -> Path:
    """Type a report's lines in a folder, one after another; returns the storage that they name."""
    first, *commands = lines
    storage = folder / "again"
    assert first == 'export BABYSWEEP_STORAGE="$PWD/again"; unset MLFLOW_TRACKING_URI'
    for line in commands:
        type_in(words_of(line, BABYSWEEP_STORAGE=str(storage)))
    return storage


@pytest.mark.usefixtures("_untrained")
def test_the_printed_commands_make_the_study_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From top to bottom in an empty storage, without anything of the old one: the same trials
    and figures, the same teacher, whatever was better later, and the same commands."""
    storage = make_study(tmp_path)
    before, lines = found_in(storage), printed(storage)
    assert len(before[0]) == 5
    shutil.rmtree(storage)
    empty_store(tmp_path / "again")
    monkeypatch.setenv("BABYSWEEP_STORAGE", str(tmp_path / "again"))
    again = replay(lines[:-1], tmp_path, lambda words: run(*words[1:]))
    after = found_in(again)
    pd.testing.assert_frame_equal(before[0], after[0])
    assert before[1] == after[1]
    assert printed(again) == lines
