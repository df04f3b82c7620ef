"""The folder of a trial."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from safetensors.torch import save_file

from sweeps.stored.trials import study_trials
from tests.trainables.test_spec import SPEC
from trainables import checkpoint
from trainables.checkpoint import TrialFolder
from trainables.digests import write_digests
from trainables.files import DamagedFileError, tell, write_json
from trainables.progress import EpochReport, TrialOutcome, TrialProgress


def test_an_outcome_is_seen_when_it_comes_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever looked before it was there, and by whoever wrote it; so is the spec."""
    folder = TrialFolder.of(tmp_path, SPEC)
    assert folder.outcome is None
    epoch = EpochReport(1, 5, 100, 2.0, 1.9, 1.5, 3.0, 2.0, {"macro": 50.0, "benchmarks": {}})
    outcome = TrialOutcome("finished", (epoch,), "step-00000005")
    TrialFolder(folder.path).finish(outcome)
    assert folder.outcome == outcome
    worse = TrialOutcome("diverged", (), None, "loss nan")
    folder.finish(worse)
    assert folder.outcome == worse
    assert folder.spec == SPEC
    monkeypatch.setattr(checkpoint, "read_json", lambda *args, **options: pytest.fail("read again"))
    assert (folder.outcome, folder.spec) == (worse, SPEC)


def test_a_damaged_spec_is_written_again_by_who_knows_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder's name is the hash: a spec of another trial is none of this folder."""
    folder = TrialFolder.of(tmp_path, SPEC)
    file = folder.path / "spec.json"
    for content in ("", "[]", "{}", json.dumps(SPEC.replace(seed=7).to_dict())):
        file.write_text(content)
        tell.cache_clear()
        with pytest.raises(
            DamagedFileError, match=r"spec\.json is damaged .* run the command again"
        ):
            _ = TrialFolder(folder.path).spec
        assert TrialFolder.of(tmp_path, SPEC).spec == SPEC
        assert str(file) in caplog.messages[-1]
    assert study_trials(tmp_path)[0].spec == SPEC


def test_a_damaged_trial_is_left_out_of_its_study(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be none of those that a command works on; the command is told."""
    TrialFolder.of(tmp_path, SPEC)
    other = TrialFolder.of(tmp_path, SPEC.replace(seed=7))
    (other.path / "spec.json").write_text("")
    assert [trial.spec for trial in study_trials(tmp_path)] == [SPEC]
    assert str(other.path) in caplog.messages[-1]


def test_a_missing_spec_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its ended trial is named; a checkpoint's spec takes its place; an empty folder is no trial,
    but about to be one."""
    folder = TrialFolder.of(tmp_path, SPEC)
    (folder.path / "spec.json").unlink()
    assert study_trials(tmp_path) == []
    assert not caplog.messages
    folder.finish(TrialOutcome("diverged", (), None, "loss nan"))
    assert study_trials(tmp_path) == []
    assert f"{folder.path / 'spec.json'} is damaged (it is missing)" in caplog.messages[-1]
    folder.checkpoint_at(5).mkdir()
    write_json(folder.checkpoint_at(5) / "spec.json", SPEC.to_dict())
    assert [trial.spec for trial in study_trials(tmp_path)] == [SPEC]
    assert "it is written again, as a checkpoint has it" in caplog.messages[-1]
    assert TrialFolder(folder.path).spec == SPEC


def test_a_spec_that_is_written_again_is_never_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill before it is written leaves the damaged one, for the next command to mend."""
    folder = TrialFolder.of(tmp_path, SPEC)
    file = folder.path / "spec.json"
    file.write_text("[]")

    def die(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            TrialFolder.of(tmp_path, SPEC)
    assert file.read_text() == "[]"
    assert TrialFolder.of(tmp_path, SPEC).spec == SPEC
    assert {kept.read_text() for kept in folder.path.glob("damaged-spec.json-*")} == {"[]"}


@pytest.mark.parametrize("content", ["", "[]", "5", '{"kind": "finished"}'])
def test_a_damaged_outcome_is_set_aside_or_rebuilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    """Rebuilt where the last checkpoint has all epochs; else the trial goes on from it."""
    folder = TrialFolder.of(tmp_path, SPEC)
    reports = [
        EpochReport(n, 5 * n, 100 * n, 2.0, 2.0 - n / 10, 1.5, 3.0, 2.0)
        for n in range(1, SPEC.epochs + 1)
    ]
    outcome = folder.outcome_of("finished", reports)
    for history, expected in ((reports[:-1], None), (reports, outcome)):
        checkpoint = folder.checkpoint_at(history[-1].step if history else 1)
        checkpoint.mkdir()
        save_file({"x": torch.zeros(1)}, checkpoint / "model.safetensors")
        save_file({"x": torch.zeros(1)}, checkpoint / "optimizer.safetensors")
        progress = TrialProgress(checkpoint_step(checkpoint), history=list(history))
        write_json(checkpoint / "trainer.json", progress.to_dict())
        (folder.path / "outcome.json").write_text(content)
        tell.cache_clear()
        assert TrialFolder(folder.path).outcome == expected
        assert str(folder.path / "outcome.json") in caplog.messages[-1]
    kept = list(folder.path.glob("damaged-outcome.json-*"))
    assert [file.read_text() for file in kept] == [content] * 2


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.json", "digests.json"])
@pytest.mark.parametrize("error", [errno.EMFILE, errno.ESTALE, errno.EACCES, None])
def test_what_cannot_be_read_now_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: int | None
) -> None:
    """Nothing is set aside for it: the error names the file."""
    folder = TrialFolder.of(tmp_path, SPEC)
    path = folder.checkpoint_at(5)
    path.mkdir()
    save_file({"x": torch.zeros(1)}, path / "model.safetensors")
    write_json(path / "trainer.json", TrialProgress(5).to_dict())
    write_digests(path, marked="trainer.json")
    original = Path.open

    def refuse(self: Path, *args: Any, **options: Any) -> IO[Any]:
        if self.name == name:
            raise MemoryError if error is None else OSError(error, os.strerror(error))
        return original(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match=re.escape(str(path / name))):
        folder.set_aside_damaged()
    monkeypatch.undo()
    assert folder.set_aside_damaged() == []


def checkpoint_step(checkpoint: Path) -> int:
    """Of its name."""
    return int(checkpoint.name.rpartition("-")[2])


@pytest.mark.parametrize("content", ["", "[]", "5", '{"step": [], "1000": 5}'])
@pytest.mark.parametrize("name", ["began", "final", "milestones"])
def test_what_a_trial_can_do_without_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str
) -> None:
    """As if it had not been there, with a line on it."""
    folder = TrialFolder.of(tmp_path, SPEC)
    file = folder.path / f"{name}.json"
    file.write_text(content)
    found = (folder.began, folder.final_scores, folder.milestones)
    assert found == (0, {}, {})
    assert str(file) in caplog.messages[-1]
    assert not file.exists()
    assert [kept.read_text() for kept in folder.path.glob(f"damaged-{name}.json-*")] == [content]
