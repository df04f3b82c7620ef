"""A small text, and the sweep command as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.made_once import made_once
from tests.processes import ROOT, environment
from tests.sweeps.ray_nodes import RayNodes
from tests.tiny_text import write_tiny_text

LONGEST_RUN = 900
"""Seconds after which a command counts as hanging, also on a busy machine."""


@dataclass(frozen=True)
class SweepCommand:
    """`python sweeps/lr_sweep.py` on a tiny corpus, two learning rates of a mini LSTM."""

    text: Path
    storage: Path

    def line(self, *extra: str, python: str = sys.executable) -> list[str]:
        """The command's words; later flags win over earlier ones."""
        words = [python, "sweeps/lr_sweep.py", "--arch", "lstm", "--corpus", str(self.text)]
        words += ["--vocab-size", "280", "--context", "64", "--batch-size", "4", "--epochs", "3"]
        words += ["--lrs", "1e-3", "3e-3", "--no-extend", "--study", "study"]
        return [*words, "--storage", str(self.storage), *extra]

    def start(self, *extra: str, **variables: str) -> subprocess.Popen[str]:
        """Start it, with these environment variables; its lines come on stdout as printed."""
        return subprocess.Popen(
            self.line(*extra),
            cwd=ROOT,
            env=environment() | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )

    def run(self, *extra: str, status: int = 0, **variables: str) -> str:
        """Run it to its end, which must have this exit status; returns what it printed."""
        with self.start(*extra, **variables) as process:
            output, _ = process.communicate(timeout=LONGEST_RUN)
        assert process.returncode == status, output
        return output

    @property
    def client(self) -> MlflowClient:
        """A client of its MLflow store."""
        return MlflowClient(f"sqlite:///{self.storage / 'mlflow.db'}")

    def runs(self, kind: str = "trial") -> list:
        """Its MLflow runs of this kind."""
        experiment = self.client.get_experiment_by_name("study")
        return self.client.search_runs(
            [experiment.experiment_id], f"tags.`babysweep.kind` = '{kind}'"
        )

    def results(self) -> dict[str, tuple]:
        """By trial: its outcome and its figures, which an interruption must not change."""
        return {
            run.data.tags["babysweep.spec_hash"]: (
                run.data.tags["babysweep.outcome"],
                *(tuple(p.value for p in self.history(run, name)) for name in FIGURES),
            )
            for run in self.runs()
        }

    def checkpoint_times(self) -> dict[str, float]:
        """When the parameters of each checkpoint were written."""
        files = self.storage.glob("study/trials/*/checkpoints/*/model.safetensors")
        return {str(path): path.stat().st_mtime for path in files}

    def history(self, run, name: str) -> list:
        """The points of a metric, in order of the step."""
        points = self.client.get_metric_history(run.info.run_id, name)
        return sorted(points, key=lambda point: point.step)


FIGURES = ("val/loss", "val/bits_per_byte", "train/loss", "train/grad_norm", "best/epoch")


@pytest.fixture(scope="session")
def tiny_text(shared: Path) -> Path:
    """A folder with about 4,000 words."""
    return made_once(shared / "text", write_tiny_text)


@pytest.fixture
def sweep(tiny_text: Path, tmp_path: Path) -> SweepCommand:
    """A sweep with a storage of its own."""
    return SweepCommand(tiny_text, tmp_path / "storage")


@pytest.fixture(scope="session")
def whole_sweep(tiny_text: Path, shared: Path) -> SweepCommand:
    """A sweep that ran to its end without interruption. Tests read it, or change a copy."""

    def run(folder: Path) -> None:
        (folder / "output.txt").write_text(SweepCommand(tiny_text, folder).run())

    return SweepCommand(tiny_text, made_once(shared / "whole", run))


@pytest.fixture
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """A Ray head node on loopback with ports and a folder of its own; ends with the test."""
    nodes = RayNodes(tmp_path_factory.mktemp("r"))  # short: sockets lie in it
    yield nodes
    nodes.end()
