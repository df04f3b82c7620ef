"""Fine-tuning several tasks through Ray: results for all of them, whatever becomes of some."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from rich.console import Console

import models
from analysis.benchmarks import glue
from sweeps.engine.scoring import finetuning
from sweeps.engine.scoring.finetuning import (
    FinetuningDisplay,
    FinetuningJob,
    check_tasks,
    finetune_tasks,
    task_trial,
)
from sweeps.engine.scoring.tasks import TaskResult
from sweeps.findings.evaluate import figures, means_with_glue
from sweeps.findings.glue import glue_figures, glue_results, show_tasks, write_glue_submission
from tests.finetune_outcome import OF_RTE
from tests.sweeps.conftest import ROOT, environment
from tests.tiny_text import write_tiny_text
from trainables import finetune
from trainables.corpus.tokenizer import train_tokenizer
from trainables.finetune_spec import FinetuneSpec
from trainables.launches import FinetuningWork

GOOD, BAD = "the old cat sleeps", "old sleeps the cat"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new mini LSTM with a tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    write_tiny_text(folder)
    train_tokenizer((folder / "talk.train").read_text().splitlines(), 270).save_pretrained(folder)
    torch.manual_seed(0)
    config = models.build_config("lstm", "mini", vocab_size=270, context=32)
    models.build_model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cola is sound, sst2 has a bad row, rte lacks a file, wsc has too few examples to split."""
    folder = tmp_path_factory.mktemp("data") / "glue"
    folder.mkdir()
    pair = [{"sentence": GOOD, "label": 1}, {"sentence": BAD, "label": 0}]
    coreference = {"span1_text": "cat", "span2_text": "it", "text": GOOD, "label": 0}
    files = {
        "cola.train": pair * 20,
        "cola.valid": pair * 4,
        "sst2.train": [*pair, {"sentence": GOOD, "label": "good"}],
        "sst2.valid": pair,
        "rte.valid": [{"sentence1": GOOD, "sentence2": BAD, "label": 0}],
        "wsc.train": [coreference],
        "wsc.valid": [coreference],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


CHANGES = {"seed": 0, "lr": 1e-4}
# In a process of its own: Ray reads its token while it is imported.
_SCRIPT = """
import json
import sys
from pathlib import Path
from sweeps.engine.environment import secure_local_cluster
secure_local_cluster("local")
from rich.console import Console
from sweeps.findings.glue import show_tasks
from sweeps.engine.scoring.finetuning import finetune_tasks
from sweeps.engine.tuning import ray_cluster
model, folder, storage, changes, *names = sys.argv[1:]
console = Console(width=160)
options = {"storage": Path(storage), "cpus": 1, "gpus": 0, "changes": json.loads(changes)}
with ray_cluster("local", dashboard=False):
    results = finetune_tasks(model, Path(folder), names, "2024", console=console, **options)
show_tasks(results, "split", console)
"""


def start(
    model: Path, tasks: Path, storage: Path, changes: dict[str, Any], *names: str
) -> subprocess.Popen[str]:
    """Fine-tune in a process of its own; its lines come as they are printed."""
    words = [str(model), str(tasks), str(storage), json.dumps(changes), *names]
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, *words],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )


def run(model: Path, tasks: Path, storage: Path, *names: str) -> tuple[list[TaskResult], str]:
    """The results, and what was printed, where nothing is left to run."""
    output = io.StringIO()
    options: dict[str, Any] = {"storage": storage, "cpus": 1, "gpus": 0, "changes": CHANGES}
    console = Console(file=output, width=160)
    results = finetune_tasks(model, tasks, names, "2024", console=console, **options)
    show_tasks(results, "split", console)
    return results, output.getvalue()


@pytest.mark.slow
def test_one_failing_task_does_not_lose_the_others(
    model: Path, tasks: Path, tmp_path: Path
) -> None:
    """Of four tasks one is scored, one lacks a file, one has a bad row, one fails while it runs:
    the table says so of each, the results of those that are not to be run again do, too."""
    names = ("wsc", "sst2", "rte", "cola")
    with start(model, tasks.parent, tmp_path, CHANGES, *names) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "wsc failed: 1 training examples are too few" in output
    rows = dict(re.findall(r"│ (\w+) +│ \w+ +│(.*)│\n", output))
    assert list(rows) == ["wsc", "sst2", "rte", "cola"]
    assert "too few to hold some" in rows["wsc"]
    assert "sst2.train.jsonl, line 3" in rows["sst2"]
    assert "missing: rte.train.jsonl" in rows["rte"]
    assert "cola: epoch 1/10: loss" in output
    assert {path.name for path in tmp_path.iterdir()} == {"glue"}
    assert not list((tmp_path / "glue").glob("tune-*/"))

    (spec_file,) = (
        file for file in tmp_path.glob("glue/*/spec.json") if "cola" in file.read_text()
    )
    leftover = spec_file.parent / "epoch-001"
    leftover.mkdir()
    (sst2, rte, cola), output = run(model, tasks, tmp_path, "sst2", "rte", "cola")
    assert not ray.is_initialized()
    assert not leftover.exists()
    assert "epoch 1/10" not in output
    assert "sst2.train.jsonl, line 3: field 'label'" in sst2.error
    assert rte.missing == (tasks / "rte.train.jsonl",)
    outcome = cola.outcome
    assert outcome is not None
    assert (outcome.seed, outcome.baseline, len(outcome.predictions)) == (0, 0.0, 8)
    assert (outcome.precision, json.loads(spec_file.read_text())["settings"]["lr"]) == (
        "fp32",
        1e-4,
    )
    assert f"{outcome.score:.1f} ± {outcome.error:.1f}" in rows["cola"]


@pytest.mark.slow
def test_ctrl_c_is_no_success(model: Path, tasks: Path, tmp_path: Path) -> None:
    """SIGINT while a task runs ends in KeyboardInterrupt, not in a table of what is there."""
    endless = {"epochs": 100_000, "patience": None}
    with start(model, tasks, tmp_path, endless, "cola") as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert any("cola: epoch 1/100000" in line for line in lines)
        process.send_signal(signal.SIGINT)
        rest = "".join(lines)
    assert process.returncode != 0
    assert rest.rstrip().endswith("KeyboardInterrupt")
    assert "constant answer" not in rest


def test_a_dying_process_is_reported(tmp_path: Path) -> None:
    """A line says that a task is started again, and where its error is; epochs that the new process
    reports once more are not printed twice; the last error is kept for the results."""
    output = io.StringIO()
    watcher = FinetuningDisplay(tmp_path, Console(file=output, width=400))
    settings = glue.settings("2024", "rte")
    spec = FinetuneSpec("model", "rte", "data", "2024", settings)
    error = tmp_path / "error"
    error.write_text("Traceback\nWorkerCrashed: out of memory")
    trial = SimpleNamespace(config={"spec": spec.to_dict()}, error_file=str(error))
    epochs = [{"epoch": epoch, "loss": 0.5, "score": 60.0} for epoch in (1, 2)]
    watcher.on_trial_result(0, [], trial, epochs[0])
    watcher.on_trial_recover(0, [], trial)
    for epoch in epochs:
        watcher.on_trial_result(0, [], trial, epoch)
    watcher.on_trial_error(0, [], trial)
    lines = [line.split("  ", 1)[1] for line in output.getvalue().splitlines()]
    where = f"(all of it: {tmp_path / spec.hash / 'error.txt'})"
    assert lines == [
        "rte: epoch 1/10: loss 0.500, accuracy 60.0 on the selection split",
        f"rte will be started again: WorkerCrashed: out of memory {where}",
        "rte: epoch 2/10: loss 0.500, accuracy 60.0 on the selection split",
        f"rte failed for good: WorkerCrashed: out of memory {where}",
    ]
    assert watcher.errors == {"rte": "WorkerCrashed: out of memory"}
    assert (tmp_path / spec.hash / "error.txt").read_text().strip() == error.read_text()
    error.write_text("\n")
    watcher.on_trial_error(0, [], trial)
    assert watcher.errors == {"rte": "no error was recorded"}


def test_a_task_keeps_to_its_share_of_the_gpu(
    model: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is told what Ray gave the task."""

    class Reached(Exception):
        pass

    def set_up(threads: int, device: torch.device, *, gpus: float) -> None:
        raise Reached(threads, device, gpus)

    monkeypatch.setattr(finetune, "set_up_device", set_up)
    spec = FinetuneSpec("", "cola", "", "2024", glue.settings("2024", "cola"))
    job = FinetuningJob(model, tasks, tmp_path, 2, 0.25)
    with pytest.raises(Reached) as reached:
        task_trial({"spec": spec.to_dict()}, job)
    assert reached.value.args == (2, torch.device("cuda"), 0.25)


def test_kernels_of_tasks_are_built_before_them(
    model: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for all that are not finished, on the nodes of GPUs, and told as those of trials are."""
    done = []

    def start(works: list[FinetuningWork], gpus: float, users: str) -> Any:
        done.append(([work.settings.batch_size for work in works], gpus, users))
        return SimpleNamespace(wait=done.append)

    class Reached(Exception):
        pass

    def tuner(*_: object, **__: object) -> None:
        raise Reached

    monkeypatch.setattr(finetuning, "start_building", start)
    monkeypatch.setattr(finetuning.tune, "Tuner", tuner)
    console, options = Console(file=io.StringIO()), {"storage": tmp_path, "cpus": 1}
    with pytest.raises(Reached):
        finetune_tasks(model, tasks, ["cola"], "2024", gpus=0.25, console=console, **options)
    batch = glue.settings("2024", "cola").batch_size
    assert done == [([batch], 0.25, "tasks"), console]


def test_errors_of_tasks_are_kept_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the terminal, in the file and in the results; bytes that are no text are no trouble."""
    monkeypatch.setenv("HF_TOKEN", "open sesame")
    output = io.StringIO()
    watcher = FinetuningDisplay(tmp_path, Console(file=output, width=400))
    spec = FinetuneSpec("model", "rte", "data", "2024", glue.settings("2024", "rte"))
    error = tmp_path / "error"
    error.write_bytes(b"\xff http://bob:hunter2@host with open sesame")
    trial = SimpleNamespace(config={"spec": spec.to_dict()}, error_file=str(error))
    watcher.on_trial_error(0, [], trial)
    kept = (tmp_path / spec.hash / "error.txt").read_text()
    assert kept.strip() == watcher.errors["rte"] == "\ufffd http://host with ***"
    watcher.on_trial_result(0, [], trial, {"refused": "http://bob:hunter2@host"})
    assert watcher.errors["rte"] == "http://host"
    assert "hunter2" not in output.getvalue()
    assert "sesame" not in output.getvalue()


def test_a_folder_without_tasks_is_refused(model: Path, tmp_path: Path) -> None:
    """Nothing to fine-tune on is an error that names the files looked for."""
    with pytest.raises(ValueError, match=r"no files of glue in .*<task>\.train\.jsonl"):
        run(model, tmp_path, tmp_path / "storage", "rte")


def test_an_unknown_task_is_refused(model: Path, tasks: Path, tmp_path: Path) -> None:
    """A wrong name is an error before anything is run."""
    with pytest.raises(ValueError, match="unknown task 'snli' to fine-tune on"):
        run(model, tasks, tmp_path, "cola", "snli")


def test_tasks_are_checked_without_a_model(tasks: Path) -> None:
    """A bad row is found where it stands; a task that lacks a file is none of the errors."""
    check_tasks(tasks, ["cola", "rte", "wsc"])
    with pytest.raises(ValueError, match=r"sst2\.train\.jsonl, line 3: field 'label'"):
        check_tasks(tasks, ["cola", "sst2"])


def test_submission_has_the_challenges_layout(tmp_path: Path) -> None:
    """finetune/<task>/predictions.json numbers the label indices under the task's name; a task
    that failed or diverged has no file."""
    finished = dataclasses.replace(OF_RTE, protocol="2025", seed=42, score=100.0, error=0.0)
    diverged = dataclasses.replace(finished, kind="diverged", score=None, predictions=())
    results = [
        TaskResult("rte", finished),
        TaskResult("wsc", diverged),
        TaskResult("qqp", error="x"),
    ]
    file = tmp_path / "finetune" / "rte" / "predictions.json"
    assert write_glue_submission(results, tmp_path) == [file]
    assert json.loads(file.read_text()) == {
        "rte": {"predictions": [{"id": "rte_0", "pred": 1}, {"id": "rte_1", "pred": 0}]}
    }
    assert [path.name for path in (tmp_path / "finetune").iterdir()] == ["rte"]


def test_groups_of_tasks_are_averaged_by_themselves(tmp_path: Path) -> None:
    """GLUE, and each language: in the table, in scores.json and among MLflow's figures; a
    submission has GLUE's alone."""
    scores = {"rte": 60.0, "wsc": 50.0, "arc_nl": 30.0, "sib200_nl": 70.0, "sib200_zh": 40.0}
    results = [
        TaskResult(name, dataclasses.replace(OF_RTE, task=name, score=score))
        for name, score in scores.items()
    ]
    output = io.StringIO()
    console = Console(file=output, width=160)
    show_tasks([*results, TaskResult("mnli_nl", error="x")], "split", console)
    mean = r"│ mean of (\w+) +│ +│ +([0-9.]+) │ +50.0 │ +│ +│ (.*?) +│"
    rows = re.findall(mean, output.getvalue())
    assert rows == [("glue", "55.0", ""), ("multilingual_nl", "50.0", "2 of 3 tasks")]
    show_tasks(results[:2], "split", console)
    assert re.search(r"│ mean +│ +│ +55.0 │", output.getvalue())
    stored = {"glue": glue_results(results), "protocol": "2025"}
    means = {"glue": 55.0, "multilingual_nl": 50.0, "multilingual_zh": 40.0}
    assert means_with_glue(stored) == means
    assert figures({**stored, "means": means}) == {**glue_figures(results), **means}
    assert glue_figures(results[1:3]) == {"glue/wsc": 50.0, "multilingual_nl/arc_nl": 30.0}
    write_glue_submission(results, tmp_path)
    assert {path.name for path in (tmp_path / "finetune").iterdir()} == {"rte", "wsc"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_command_continues(model: Path, mini_benchmarks: Path, tmp_path: Path) -> None:
    """`evaluate.py` on GLUE, killed with all its processes behind the first epoch, ends after
    another start with the scores of one that was left alone."""
    benchmarks = mini_benchmarks

    def command(name: str) -> subprocess.Popen[str]:
        words = ["sweeps/evaluate.py", "--model", str(model), "--benchmarks", str(benchmarks)]
        words += ["--tasks", "rte", "cola", "--device", "cpu", "--cpus", "1"]
        words += ["--storage", str(tmp_path / name), "--output", str(tmp_path / name / "out")]
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    def scores(name: str) -> Any:
        with command(name) as process:
            output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        return json.loads((tmp_path / name / "out" / "scores.json").read_text())["glue"]

    with command("killed") as process:
        assert process.stdout is not None
        assert any(": epoch 1/10: loss" in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGKILL)
    assert not list((tmp_path / "killed" / "glue").glob("*/outcome.json"))
    assert list((tmp_path / "killed" / "glue").glob("*/epoch-*"))
    continued, whole = scores("killed"), scores("whole")
    assert set(whole) == {"rte", "cola"}
    assert continued == whole
