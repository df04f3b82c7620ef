"""The commands as functions of Python: what they take, refuse, and leave to be read back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.arguments import CompareArgs, ReportArgs
from analysis.command_line import parse
from analysis.comparison import run_comparison
from analysis.flag_values import checked
from analysis.reporting.writing import run_report
from sweeps import lr_sweep
from sweeps.arguments import (
    DistillArgs,
    EpochStudyArgs,
    EvaluateArgs,
    LrSweepArgs,
    PaperArgs,
    PromoteArgs,
)
from sweeps.distill import run_distillation
from sweeps.epoch_study import run_epoch_study
from sweeps.evaluate import run_evaluation
from sweeps.lr_sweep import run_lr_sweep
from sweeps.paper import run_paper
from sweeps.promote import run_promotion
from tests.processes import ROOT, environment

TINY = {"vocab_size": 280, "context": 64, "batch_size": 4, "epochs": 1, "study": "mine"}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command's own token and address of Ray end with the test."""
    monkeypatch.setattr(os, "environ", {**os.environ})


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": ("lsm",)}, ["--arch", "lsm"]),
        ({"lrs": (-1.0,)}, ["--lrs", "-1"]),
        ({"dropouts": (0.0, 1.0)}, ["--dropouts", "0", "1"]),
        ({"seeds": (0.5,)}, ["--seeds", "0.5"]),
        ({"epochs": 0}, ["--epochs", "0"]),
        ({"search": "opt"}, ["--search", "opt"]),
        ({"search": "optuna"}, ["--search", "optuna"]),
        ({"study": "../x"}, ["--study", "../x"]),
        ({"micro_batch": "much"}, ["--micro-batch", "much"]),
    ],
)
def test_a_wrong_value_is_refused_as_on_the_command_line(
    changes: dict[str, Any],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same error and the same status 2."""
    args = {"arch": ("lstm",), "storage": tmp_path, **changes}
    assert run_lr_sweep(LrSweepArgs(**args)) == 2
    said = error_of(capsys)
    assert said.startswith("error: ")
    with pytest.raises(SystemExit) as ended:
        sys.exit(lr_sweep.main(["--arch", "lstm", f"--storage={tmp_path}", *words]))
    assert ended.value.code == 2
    assert said == error_of(capsys)


@pytest.mark.parametrize(
    ("run", "args", "message"),
    [
        (run_lr_sweep, LrSweepArgs(arch="lstm"), '--arch: must be a list in brackets, not "lstm"'),
        (run_lr_sweep, LrSweepArgs(arch=("lstm",), dry_run=1), "--dry-run: must be true or false"),
        (run_lr_sweep, LrSweepArgs(arch=("lstm",), lr_range=(1,)), "--lr-range: takes 2 values"),
        (run_epoch_study, EpochStudyArgs(horizons=(True,)), "--horizons: must be INT"),
        (run_distillation, DistillArgs(teacher="x"), "--teacher: must be a list in brackets"),
        (run_paper, PaperArgs(designs=("x",)), "--designs: 'x' is none of trajectory, "),
        (run_promotion, PromoteArgs(arch=("lstm",)), "--arch: must be {transformer,"),
        (run_evaluation, EvaluateArgs(model="x", cpus="all"), "--cpus: 'all' is no whole number"),
        (run_report, ReportArgs(study=3), "--study: must be TEXT, not 3"),
        (run_comparison, CompareArgs(first="a", second=2), "--second: must be TEXT, not 2"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_value_that_only_python_can_write_is_refused(
    run: Callable[[Any], int],
    args: Any,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By every command, with the name of the flag and status 2."""
    assert run(args) == 2
    assert message in error_of(capsys)


def test_values_are_those_of_the_command_line() -> None:
    """Lists, arrays, ranges, whole numbers and paths' texts mean what the words of flags do."""
    args = LrSweepArgs(
        arch=["lstm"],
        lrs=np.array([1e-3, 1e-2]),
        weight_decays=[0, 1],
        seeds=range(2),
        dropout=0,
        epochs=np.int64(3),
        storage="runs",
        corpus=Path("texts"),
    )
    words = "--arch lstm --lrs 1e-3 1e-2 --weight-decays 0 1 --seeds 0 1 --dropout 0 --epochs 3"
    typed = parse(LrSweepArgs, [*words.split(), "--storage=runs", "--corpus=texts"], None)
    assert repr(checked(args)) == repr(typed)  # 0 == 0.0, but their texts differ
    assert checked(typed) == typed


def test_a_dry_run_runs_nothing(
    tiny_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Called with the arguments alone it prints the steps, and leaves no trial and no store."""
    args = LrSweepArgs(
        arch=["lstm"],
        corpus=tiny_text,
        lrs=np.array([1e-3, 1e-2]),
        storage=tmp_path,
        dry_run=True,
        **TINY,
    )
    assert run_lr_sweep(args) == 0
    assert "Nothing was run." in capsys.readouterr().out
    assert not [*tmp_path.rglob("trials"), *tmp_path.rglob("mlflow.db")]


@pytest.mark.slow
def test_what_the_readme_does_in_python(tiny_text: Path, tmp_path: Path) -> None:
    """Its program as it stands, but for the arguments and where Ray was imported before: the sweep
    runs, and what is read back is what the trials' folders hold."""
    readme = (ROOT / "README.md").read_text().partition("## From Python")[2]
    code = readme.partition("```python\n")[2].partition("```")[0]
    tiny = TINY | {"arch": ("lstm",), "lrs": (1e-3, 1e-2), "corpus": str(tiny_text)}
    code, count = re.subn(r"LrSweepArgs\(.*\)", f"LrSweepArgs(extend=False, **{tiny!r})", code)
    assert count == 1
    assert "sqlite:///runs/" in code
    done = subprocess.run(
        [sys.executable, "-c", f"import ray\n{code.replace('///runs/', f'///{tmp_path}/')}"],
        cwd=ROOT,
        env=environment() | {"BABYSWEEP_STORAGE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {}
    for file in tmp_path.glob("mine/trials/*/outcome.json"):
        spec = json.loads((file.parent / "spec.json").read_text())
        history = json.loads(file.read_text())["history"]
        outcomes[spec["lr"]] = min(epoch["bits_per_byte"] for epoch in history)
    assert sorted(outcomes) == [1e-3, 1e-2]
    best = min(outcomes, key=lambda lr: outcomes[lr])
    *_, rows, found = done.stdout.splitlines()
    assert rows == "2"
    lr, bits, checkpoint = found.split()
    assert (float(lr), float(bits)) == (best, outcomes[best])
    assert (Path(checkpoint) / "model.safetensors").is_file()


@pytest.mark.parametrize("value", [1234512345, ["S3CRET"], "S3CRET\x01", {"S3CRET": 1}])
def test_no_error_shows_a_password(value: Any) -> None:
    """The flag is named, the value is not."""
    with pytest.raises(ValueError, match="--ewok-password: must be a text in quotes") as refusal:
        checked(LrSweepArgs(arch=("lstm",), ewok_password=value))
    assert not re.search("S3CRET|12345", str(refusal.value))
