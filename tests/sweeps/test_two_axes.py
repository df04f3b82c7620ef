"""A sweep over two axes from the command to the report, killed in the middle."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from analysis import report
from tests.processes import wait_for
from tests.sweeps.conftest import SweepCommand
from tests.sweeps.soak import everything

FLAGS = ("--weight-decays", "0.1", "0.4", "--epochs", "2", "--max-concurrent", "1")


def table(output: str) -> list[str]:
    """The rows of the printed table of points."""
    return [line for line in output.splitlines() if line.startswith("│ lstm")]


@pytest.mark.slow
def test_a_killed_sweep_over_two_axes_ends_the_same(tiny_text: Path, tmp_path: Path) -> None:
    """kill -9 while its second trial trains, the command again: table, outcomes, points in MLflow
    and parameters are those of an uninterrupted sweep, and the report holds the heat map."""
    whole, killed = (SweepCommand(tiny_text, tmp_path / name) for name in ("whole", "killed"))
    rows = table(whole.run(*FLAGS))
    assert len(rows) == 4
    assert sum("best" in row for row in rows) == 1
    process = killed.start(*FLAGS)
    for _ in range(2):
        wait_for(process, "epoch 1/2")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(killed.storage.glob("study/trials/*/outcome.json"))) < 4
    assert table(killed.run(*FLAGS)) == rows
    found = everything(killed)
    assert len(found) == 4
    assert found == everything(whole)
    (parent,) = killed.runs("sweep")
    assert {"best/lr", "best/weight_decay"} <= parent.data.metrics.keys()
    folder = tmp_path / "report"
    assert report.main(["--storage", str(killed.storage), "--output", str(folder)]) == 0
    assert list(folder.rglob("plane_weight_decay_lstm.svg"))
    assert "by learning rate and weight decay" in (folder / "report.html").read_text()
