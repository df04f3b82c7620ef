"""The folder of a trial."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from safetensors.torch import save_file

from sweeps.stored.trials import study_trials
from tests.made_study import made_scores
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
    epoch = EpochReport(1, 5, 100, 2.0, 1.9, 1.5, 3.0, 2.0, made_scores())
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


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ({"scores": {**made_scores(), "macro": "x"}}, "history[0].scores.macro is a text"),
        ({"scores": {**made_scores(), "benchmarks": []}}, "history[0].scores.benchmarks is a list"),
        ({"scores": {"benchmarks": {}}}, "history[0].scores.macro is missing"),
        ({"scores": {**made_scores(), "other": 1}}, "history[0].scores.other is no field"),
        ({"bits_per_byte": math.nan}, "history[0].bits_per_byte is nan"),
        ({"train_loss": math.inf}, "history[0].train_loss is inf"),
        ({"train_loss": 10**400}, "history[0].train_loss is a whole number of more than 64 bits"),
        ({"tokens": 10**400}, "history[0].tokens is a whole number of more than 64 bits"),
        ({"val_loss": -5.0}, "history[0]: val_loss must be from 0"),
        ({"epoch": 0}, "history[0]: epoch must be from 1"),
        ({"step": -1}, "history[0]: step must be from 0"),
    ],
)
def test_a_wrong_figure_is_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: dict[str, Any], place: str
) -> None:
    """In an outcome, which is set aside, and in a checkpoint, from which nothing goes on."""
    folder = TrialFolder.of(tmp_path, SPEC)
    epoch = EpochReport(1, 5, 100, 2.0, 1.9, 1.5, 3.0, 2.0, made_scores())
    wrong = {**dataclasses.asdict(epoch), **damage}
    outcome = dataclasses.asdict(TrialOutcome("finished", (epoch,), "step-00000005"))
    write_json(folder.path / "outcome.json", {**outcome, "history": [wrong]})
    path = made_checkpoint(folder, TrialProgress(5, history=[epoch]))
    trainer = json.loads((path / "trainer.json").read_text())
    write_json(path / "trainer.json", {**trainer, "history": [wrong]})
    (path / "digests.json").unlink()
    write_digests(path, marked="trainer.json")
    assert folder.newest() is None
    assert folder.outcome is None
    assert place in caplog.text
    (sentence,) = folder.set_aside_damaged()
    assert place in sentence


def made_checkpoint(folder: TrialFolder, progress: TrialProgress) -> Path:
    """A checkpoint with files of a tensor each."""
    path = folder.checkpoint_at(progress.step)
    path.mkdir()
    for name in ("model.safetensors", "optimizer.safetensors"):
        save_file({"x": torch.zeros(1)}, path / name)
    write_json(path / "trainer.json", progress.to_dict())
    write_digests(path, marked="trainer.json")
    return path


def test_an_outcome_is_damaged_where_its_checkpoint_lacks_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The trial goes on from the checkpoint before, and no error is raised."""
    folder = TrialFolder.of(tmp_path, SPEC)
    earlier = made_checkpoint(folder, TrialProgress(5))
    newest = made_checkpoint(folder, TrialProgress(10))
    (newest / "trainer.json").unlink()
    (folder.path / "outcome.json").write_text("")
    assert folder.outcome is None
    assert "its trial goes on from its newest checkpoint" in caplog.messages[-1]
    assert folder.newest() == (earlier, TrialProgress(5))
    (sentence,) = folder.set_aside_damaged()
    assert str(newest) in sentence


FILES = ["model.safetensors", "optimizer.safetensors", "trainer.json", "digests.json"]


@pytest.mark.parametrize("has_digests", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_link_in_a_circle_is_damage(tmp_path: Path, name: str, has_digests: bool) -> None:
    """It says what is on the disk: the checkpoint is set aside, and no error is raised."""
    folder = TrialFolder.of(tmp_path, SPEC)
    path = made_checkpoint(folder, TrialProgress(5))
    if not has_digests:  # of an earlier version
        (path / "digests.json").unlink()
        write_json(path / "trainer.json", TrialProgress(5).to_dict())
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(name)
    (sentence,) = folder.set_aside_damaged()
    assert str(path) in sentence
    assert folder.newest() is None


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_digests_of_files_that_cannot_be_are_damage(tmp_path: Path, name: str) -> None:
    """Names that no file can have; no error is raised."""
    folder = TrialFolder.of(tmp_path, SPEC)
    path = made_checkpoint(folder, TrialProgress(5))
    digests = json.loads((path / "digests.json").read_text())
    write_json(path / "digests.json", {**digests, name: ""})
    (sentence,) = folder.set_aside_damaged()
    assert str(path) in sentence


def test_a_note_is_kept_whatever_is_in_its_place(tmp_path: Path) -> None:
    """A folder there is set aside: it must not stop the trial."""
    folder = TrialFolder.of(tmp_path, SPEC)
    (folder.path / "mended.txt").mkdir()
    assert folder.mended == ""
    made_checkpoint(folder, TrialProgress(5)).joinpath("trainer.json").unlink()
    (sentence,) = folder.set_aside_damaged()
    assert folder.mended == sentence


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


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "5", '{"step": [], "1000": 5}', '{"step": -1}'),
        *('{"1000": {"macro": 5}}', '{"zero_shot": {"macro": "x", "benchmarks": {}}}'),
        *('{"glue": {"rte": {"score": "x"}}}', '{"glue": {"rte": {"score": 5}}}'),
    ],
)
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
