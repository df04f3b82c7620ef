"""The folder of a trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainables.test_spec import SPEC
from trainables import checkpoint
from trainables.checkpoint import EpochReport, Outcome, TrialFolder


def test_an_outcome_is_seen_when_it_comes_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever looked before it was there, and by whoever wrote it; so is the spec."""
    folder = TrialFolder.of(tmp_path, SPEC)
    assert folder.outcome is None
    epoch = EpochReport(1, 5, 100, 2.0, 1.9, 1.5, 3.0, 2.0, {"macro": 50.0})
    outcome = Outcome("finished", (epoch,), "step-00000005")
    TrialFolder(folder.path).finish(outcome)
    assert folder.outcome == outcome
    worse = Outcome("diverged", (), None, "loss nan")
    folder.finish(worse)
    assert folder.outcome == worse
    assert folder.spec == SPEC
    monkeypatch.setattr(checkpoint, "read_json", lambda path: pytest.fail("read again"))
    assert (folder.outcome, folder.spec) == (worse, SPEC)
