"""The speed tool of scoring, on a tiny model: what it measures, refuses and reports."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agreement import tools
from tests.speed import eval_speed
from tests.speed.measurements import Ratio
from tests.speed.processes import ROOT
from tests.speed.scoring_report import verdicts
from tests.speed.scoring_speed import ScoringResult, Texts, Turns, lm_eval, ours, result


@pytest.mark.agreement
def test_compares_with_lm_eval(tmp_path: Path) -> None:
    """Twenty sentences are scored alike, and every row says how fast and with how much memory."""
    if tools.missing():
        pytest.skip(tools.missing())
    output, markdown = tmp_path / "speed.json", tmp_path / "speed.md"
    command = [sys.executable, "-m", "tests.speed.eval_speed", "--size", "mini", "--threads", "1"]
    command += ["--archs", "transformer", "lstm", "--batch-sizes", "1", "8", "--precision", "bf16"]
    command += ["--items", "10", "--train-steps", "2", "--context", "64", "--rounds", "2"]
    command += ["--peak-width", "64", "--output", str(output), "--markdown", str(markdown)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(output.read_text())
    rows = results["rows"]
    assert [(row["arch"], row["tool"], row["setting"]) for row in rows] == [
        ("transformer", "ours", "fp32"),
        ("transformer", "ours", "bf16"),
        ("transformer", "lm-eval", "batch 1"),
        ("transformer", "lm-eval", "batch 8"),
        ("lstm", "ours", "fp32"),
        ("lstm", "ours", "bf16"),
    ]
    for row in rows:
        assert row["problem"] == ""
        assert math.isclose(row["texts_per_second"] * row["seconds"], 20)
        assert 0 < row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
        assert 0 <= row["memory_added"] < row["memory"]
    assert all(0 < row["error"] < 1e-3 for row in rows if row["tool"] == "lm-eval")
    assert all(row["error"] > 1e-3 for row in rows if row["setting"] == "bf16")
    assert results["verdicts"] == []  # the targets are those of another size
    assert markdown.read_text().count("| lm-eval | ") == 2


def test_says_that_the_tools_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without lm-eval nothing is measured, and the output says how to get it."""
    monkeypatch.setenv(tools.VARIABLE, "/nowhere/python")
    assert eval_speed.main(["--size", "mini", "--archs", "transformer"]) == 1
    assert "make agreement" in capsys.readouterr().out


TEXTS = Texts([("", "a b"), ("", "b a"), ("", "a a"), ("", "b b")], counts=[2, 2])
REFERENCE = Turns([2.0, 4.0], [-3.0, -4.0, -5.0, -6.0], (1.0, 0.5))
WAY = lm_eval(Path("python"), "transformer", Path("checkpoint"), 64)


def test_a_ratio_is_of_one_round() -> None:
    """Times are compared within a round, decisions by item, work by the second."""
    turns = Turns([6.0, 6.0], [-3.0, -4.0, -5.0001, -6.0], (2.0, 0.25))
    row = result(WAY, TEXTS, turns, REFERENCE, tokens=12, least_seconds=1.5)
    assert row.ratio == Ratio(2.25, 1.5, 3.0)
    assert (row.texts_per_second, row.tokens_per_second, row.peak_share) == (4 / 6, 2.0, 0.25)
    assert (row.memory, row.memory_added, row.changed) == (2.0, 0.25, 0.0)


@pytest.mark.parametrize("wrong", [-5.002, math.nan])
def test_no_ratio_without_agreement(wrong: float) -> None:
    """One log-probability off by more than 1e-3 nats, or not a number, and the row has no time."""
    turns = Turns([6.0, 6.0], [-3.0, -4.0, wrong, -6.0], (2.0, 0.25))
    row = result(WAY, TEXTS, turns, REFERENCE, tokens=12, least_seconds=1.5)
    assert row.problem.startswith("wrong")
    assert row.ratio is None
    assert math.isnan(row.seconds)


def test_bf16_is_told_by_its_decisions() -> None:
    """Under autocast scores may move; the share of items whose decision changes is reported."""
    way = ours(Path("python"), "lstm", Path("checkpoint"), "bf16")
    turns = Turns([1.0, 1.0], [-3.1, -3.05, -5.0, -6.0], (1.0, 0.5))
    reference = Turns([1.0, 1.0], [-3.0, -3.05, -5.0, -6.0], (1.0, 0.5))
    row = result(way, TEXTS, turns, reference, tokens=12, least_seconds=0.5)
    assert (row.problem, row.changed) == ("", 0.5)
    assert row.error == pytest.approx(0.1)


def test_targets_judge_what_was_measured() -> None:
    """Against lm-eval's fastest row and its batch of one; what was not measured misses."""

    def row(tool: str, setting: str, ratio: float, memory: float) -> ScoringResult:
        times = Ratio(ratio, ratio, ratio)
        figures = {"seconds": ratio, "ratio": times, "memory": memory, "memory_added": memory / 2}
        return ScoringResult("transformer", tool, setting, **figures)

    mine, one = row("ours", "fp32", 1.0, 2.0), row("lm-eval", "batch 1", 5.0, 1.0)
    rows = [mine, one, row("lm-eval", "batch 64", 1.1, 3.0), row("lm-eval", "batch 256", 2.0, 4.0)]
    assert [verdict.passes for verdict in verdicts(rows)] == [True, False, True, True]
    assert [verdict.passes for verdict in verdicts([mine, one])] == [True, True, False, False]
    assert not any(verdict.passes for verdict in verdicts([mine]))
