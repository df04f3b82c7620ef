"""The tool that measures a teacher's cost, on a tiny shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.speed.distill_speed import Result
from tests.speed.measurements import Ratio
from tests.speed.processes import ROOT


@pytest.mark.slow
def test_measures_a_tiny_shape(tmp_path: Path) -> None:
    """A right loss is timed against the same student alone; the time is more than without."""
    output = tmp_path / "speed.json"
    command = [sys.executable, "-m", "tests.speed.distill_speed", "--archs", "lstm", "--rounds"]
    command += ["2", "--size", "mini", "--vocab", "64", "--batch", "2", "--context", "32"]
    command += ["--precision", "fp32", "--threads", "1", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    (row,) = json.loads(output.read_text())
    assert row["problem"] == ""
    assert row["error"] < 1e-5
    assert row["time"]["median"] > 0
    assert ("MISS" in done.stdout) == (done.returncode == 1)


def test_targets_are_bounds_on_time_and_memory() -> None:
    """A row passes only if it was timed and both are within their bounds."""
    fine = Ratio(1.4, 1.3, 1.5)
    assert Result("lstm", time=fine, memory=1.2).passes
    assert not Result("lstm", time=fine, memory=1.4).passes
    assert not Result("lstm", time=Ratio(1.6, 1.5, 1.7), memory=1.2).passes
    assert not Result("lstm", "it died").passes
