"""Fine-tuning several tasks through Ray: results for all of them, whatever becomes of some."""

from __future__ import annotations

import io
import json
import re
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
from sweeps.finetuning import TaskResult, Watcher, finetune_tasks
from tests.sweeps.conftest import ROOT, environment
from tests.tiny_text import write_tiny_text
from trainables.corpus.tokenizer import train_tokenizer
from trainables.finetune_spec import FinetuneSpec

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


# In a process of its own: Ray reads its token while it is imported.
_SCRIPT = """
import sys
from pathlib import Path
from sweeps.environment import secure_local_cluster
secure_local_cluster("local")
from rich.console import Console
from sweeps.finetuning import finetune_tasks
from sweeps.tuning import ray_cluster
model, folder, storage, *names = sys.argv[1:]
options = {"storage": Path(storage), "cpus": 1, "gpus": 0, "seed": 0}
with ray_cluster("local", dashboard=False):
    finetune_tasks(model, Path(folder), names, "2024", console=Console(width=160), **options)
"""


def run_with_ray(model: Path, tasks: Path, storage: Path, *names: str) -> str:
    """What was printed."""
    words = [sys.executable, "-c", _SCRIPT, str(model), str(tasks), str(storage), *names]
    done = subprocess.run(
        words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(model: Path, tasks: Path, storage: Path, *names: str) -> tuple[list[TaskResult], str]:
    """The results, and what was printed, where nothing is left to run."""
    output = io.StringIO()
    options: dict[str, Any] = {"storage": storage, "cpus": 1, "gpus": 0, "seed": 0}
    console = Console(file=output, width=160)
    results = finetune_tasks(model, tasks, names, "2024", console=console, **options)
    return results, output.getvalue()


def test_one_failing_task_does_not_lose_the_others(
    model: Path, tasks: Path, tmp_path: Path
) -> None:
    """Of four tasks one is scored, one lacks a file, one has a bad row, one fails while it runs:
    the table says so of each, the results of those that are not to be run again do, too."""
    output = run_with_ray(model, tasks.parent, tmp_path, "wsc", "sst2", "rte", "cola")
    assert "wsc failed: 1 training examples are too few" in output
    rows = dict(re.findall(r"│ (\w+) +│ \w+ +│(.*)│\n", output))
    assert list(rows) == ["wsc", "sst2", "rte", "cola"]
    assert "too few to hold some" in rows["wsc"]
    assert "sst2.train.jsonl, line 3" in rows["sst2"]
    assert "missing: rte.train.jsonl" in rows["rte"]
    assert "cola: epoch 1/10: loss" in output
    assert not list(tmp_path.glob("tune-*/"))

    (sst2, rte, cola), output = run(model, tasks, tmp_path, "sst2", "rte", "cola")
    assert not ray.is_initialized()
    assert "epoch 1/10" not in output
    assert "sst2.train.jsonl, line 3: field 'label'" in sst2.error
    assert rte.missing == (tasks / "rte.train.jsonl",)
    outcome = cola.outcome
    assert outcome is not None
    assert (outcome.seed, outcome.baseline, len(outcome.predictions)) == (0, 0.0, 8)
    assert f"{outcome.score:.1f} ± {outcome.error:.1f}" in rows["cola"]


def test_a_dying_process_is_reported(tmp_path: Path) -> None:
    """A line says that a task is started again, and where its error is; epochs that the new process
    reports once more are not printed twice; the last error is kept for the results."""
    output = io.StringIO()
    watcher = Watcher(tmp_path, Console(file=output, width=400))
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
    assert (tmp_path / spec.hash / "error.txt").read_text() == error.read_text()


def test_a_folder_without_tasks_is_refused(model: Path, tmp_path: Path) -> None:
    """Nothing to fine-tune on is an error that names the files looked for."""
    with pytest.raises(ValueError, match=r"no GLUE files in .*<task>\.train\.jsonl"):
        run(model, tmp_path, tmp_path / "storage", "rte")


def test_an_unknown_task_is_refused(model: Path, tasks: Path, tmp_path: Path) -> None:
    """A wrong name is an error before anything is run."""
    with pytest.raises(ValueError, match="unknown GLUE task 'snli'"):
        run(model, tasks, tmp_path, "cola", "snli")
