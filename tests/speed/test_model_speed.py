"""The speed tool itself, on a tiny shape: what it measures, refuses and reports."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.speed import targets
from tests.speed.measurements import Ratio, StepResult, disagreement
from tests.speed.processes import ROOT, Row


@pytest.mark.slow
def test_measures_a_tiny_shape(tmp_path: Path) -> None:
    """One run of all parts writes the rows asked for, with sound numbers, in every format."""
    output, markdown, picture = (tmp_path / f"speed.{end}" for end in ("json", "md", "svg"))
    command = [sys.executable, "-m", "tests.speed.model_speed", "--size", "mini", "--threads", "1"]
    command += ["--vocab", "64", "--batch", "2", "--context", "32", "--rounds", "1"]
    command += ["--turn-seconds", "0.01", "--archs", "lstm", "--paths", "torch"]
    command += ["--precisions", "fp32", "--lengths", "16", "32", "--length-rounds", "1"]
    command += ["--peak-width", "64", "--output", str(output), "--markdown", str(markdown)]
    done = subprocess.run(
        [*command, "--picture", str(picture)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(output.read_text())
    assert [row["row"]["path"] for row in results["steps"]] == ["yardstick", "torch"]
    for row in results["steps"]:
        assert row["problem"] == ""
        assert math.isclose(row["tokens_per_second"] * row["seconds"], 64)
        assert 0 < row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
        assert 0 < row["memory_added"] < row["memory"]
    assert results["steps"][1]["gradient_error"] < 1e-5
    (length,), (together,) = results["length"], results["trials"]
    assert set(length["microseconds"]) == {"16", "32"}
    assert together["together"] > 0
    assert results["verdicts"] == []  # the targets are those of another shape
    assert markdown.read_text().count("| lstm | ") == 3
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize("errors", [(1e-6, 1e-3), (1e-3, 1e-6), (math.nan, 0.0), (0.0, math.nan)])
def test_a_row_that_disagrees_is_wrong(errors: tuple[float, float]) -> None:
    """A loss or a gradient that is off, or not a number, is told; what is within is not."""
    row = Row("lstm", "cpp", "fp32")
    assert disagreement(row, *errors).startswith("wrong")
    assert disagreement(row, 1e-6, 1e-6) == ""


def test_targets_judge_what_was_measured() -> None:
    """A ratio beyond its bound misses, one within passes, and a row without times misses."""
    base = {"memory_ratio": 1.4, "seconds": 1.0}
    results = [
        StepResult(Row("lstm", "torch", "bf16"), ratio=Ratio(0.9, 0.8, 1.1), **base),
        StepResult(Row("xlstm", "torch", "bf16"), ratio=Ratio(3.6, 3.5, 3.7), **base),
        StepResult(Row("xlstm", "library", "plain"), ratio=Ratio(300.0, 1.0, 1.0), **base),
        StepResult(Row("hgrn2", "torch", "bf16"), "wrong: the loss is off"),
    ]
    verdicts = targets.of_steps(results) + targets.of_libraries(results)
    passes = {verdict.target: verdict.passes for verdict in verdicts}
    assert passes == {
        "lstm, without a compiler: time / yardstick": True,
        "xlstm, without a compiler: time / yardstick": False,
        "hgrn2, without a compiler: time / yardstick": False,
        "lstm, without a compiler: memory / yardstick": True,
        "xlstm, without a compiler: memory / yardstick": True,
        "hgrn2, without a compiler: memory / yardstick": False,
        "xlstm, without a compiler: library's time / ours": True,
    }
