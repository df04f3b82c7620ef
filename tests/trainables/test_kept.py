"""Files of a bucket: brought and put as they are, whatever is killed or another machine's."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest

from analysis.addresses import SCRATCH, address_in, address_of, check_address, copy_of, shown
from sweeps.stored.model_names import _in_copy
from tests.trainables.conftest import runtime_in
from tests.trainables.test_trial import (
    Killed,
    assert_same,
    final_parameters,
    train,
    train_until_killed,
)
from trainables import bucket as bucket_module
from trainables import kept as kept_module
from trainables.bucket import check_reach, patiently
from trainables.checkpoint import TrialFolder, checkpoint_damage, look_at_all
from trainables.kept import (
    KeptFolder,
    is_there,
    remove_mark,
    set_mark,
    without_weights,
)
from trainables.trial import run_trial

MARKER = "checkpoints/*/trainer.json"


@pytest.fixture
def bucket(tmp_path):
    """A bucket's address."""
    return f"file://{tmp_path / 'bucket'}"


@pytest.fixture
def machine(tmp_path, monkeypatch, bucket):
    """Makes this process one of another machine; returns that machine's copy."""

    def become(name):
        monkeypatch.setenv(SCRATCH, str(tmp_path / name))
        return copy_of(bucket)

    return become


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (Path("s3://bucket/a/b"), "s3://bucket/a/b"),
        ("S3://bucket/a/", "s3://bucket/a"),
        (Path("file:///data/x"), "file:///data/x"),
        ("gs://bucket", "gs://bucket"),
        (Path("/data/s3:x"), None),
        (Path("runs"), None),
    ],
)
def test_an_address_is_told_from_a_path(value, address):
    assert address_in(value) == address


@pytest.mark.parametrize(
    "name", ["s3://b/x?region=eu-west-1&scheme=http", "file:///a b=c/ü", "s3://b"]
)
def test_a_path_in_a_copy_tells_its_address(machine, name):
    machine("one")
    assert address_of(copy_of(name) / "study" / "trials") == name
    assert shown(copy_of(name)) == name
    assert address_of(Path("/data/runs")) is None


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3://key:secret@bucket/x", "AWS_ACCESS_KEY_ID"),
        ("s3://bucket/x?secret_key=abc", "credentials"),
        ("ftp://host/x", "s3://, gs://, file://"),
        ("s3://", "s3://bucket/folder"),
        ("s3://bucket/../x", "s3://bucket/folder"),
        (f"s3://bucket/{'x' * 300}", "at most"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(address, told):
    with pytest.raises(ValueError, match="--storage") as caught:
        check_address(address, "--storage")
    assert told in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_a_copy_that_others_can_write_to_is_refused(machine, tmp_path, bucket):
    machine("one")
    (tmp_path / "one").chmod(0o777)
    with pytest.raises(ValueError, match=SCRATCH):
        copy_of(bucket)


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def texts(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def test_another_machine_gets_what_was_put_and_loses_what_was_removed(machine):
    one = machine("one") / "study"
    write(one, a="1", b__c="2", b__d="3")
    KeptFolder(one).put()
    two = machine("two") / "study"
    folder = KeptFolder(two)
    folder.bring()
    assert texts(two) == texts(one)

    write(two, a="changed", e="4")
    (two / "b" / "c").unlink()
    (two / "b" / "d").unlink()
    (two / "b").rmdir()
    folder.put()
    one = machine("one") / "study"
    KeptFolder(one).bring()
    assert texts(one) == {"a": "changed", "e": "4"}
    assert not (one / "b").exists()


def test_locks_and_half_written_files_stay_where_they_are(machine, tmp_path):
    one = machine("one") / "study"
    write(one, a="1")
    for name in (".lock", ".at-rest", ".partial-b-1"):
        (one / name).write_text("x")
    (one / ".partial-step").mkdir()
    (one / ".partial-step" / "model").write_text("x")
    KeptFolder(one).put()
    assert texts(tmp_path / "bucket") == {"study/a": "1"}


def test_what_was_changed_here_and_not_put_is_not_overwritten(machine):
    one = machine("one") / "study"
    write(one, a="1")
    KeptFolder(one).put()
    write(one, a="22", b="new")
    KeptFolder(one).bring()
    assert texts(one) == {"a": "22", "b": "new"}


def test_files_that_others_tidied_away_stay_in_the_bucket(machine, tmp_path):
    one = machine("one") / "study"
    write(one, a="1", b="2")
    KeptFolder(one).put()
    (one / "a").unlink()
    write(one, b="3")
    folder = KeptFolder(one)
    folder.put()
    assert texts(tmp_path / "bucket") == {"study/a": "1", "study/b": "3"}
    folder.bring()
    assert texts(one) == {"a": "1", "b": "3"}


def test_a_kill_while_weights_are_released_loses_none(machine, tmp_path, monkeypatch):
    one = machine("one") / "trial"
    write(one, **{"model.safetensors": "w"})
    folder = KeptFolder(one)
    folder.put()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            folder.release()
    KeptFolder(one).put()
    assert texts(tmp_path / "bucket") == {"trial/model.safetensors": "w"}


def test_a_machine_removes_only_objects_that_it_had(machine, tmp_path):
    one = machine("one") / "study"
    write(one, a="1")
    KeptFolder(one).put()
    two = machine("two") / "study"
    write(two, b="2")
    KeptFolder(two).put()  # never saw a
    assert texts(tmp_path / "bucket") == {"study/a": "1", "study/b": "2"}


def test_of_weights_only_the_name_is_brought_to_who_looks(machine, tmp_path):
    one = machine("one") / "trial"
    write(
        one,
        **{
            "checkpoints__step-1__model.safetensors": "w",
            "checkpoints__step-1__trainer.json": "{}",
        },
    )
    KeptFolder(one, MARKER).put()
    two = machine("two") / "trial"
    looked = KeptFolder(two, MARKER)
    looked.bring(without_weights)
    assert list(texts(two)) == ["checkpoints/step-1/trainer.json"]
    assert looked.has(two / "checkpoints/step-1/model.safetensors")
    looked.put()  # and so nothing is taken away
    assert "trial/checkpoints/step-1/model.safetensors" in texts(tmp_path / "bucket")


def test_a_part_without_its_marker_is_not_there(machine, tmp_path):
    """A kill while a checkpoint was put: the next one does not see it, and puts it anew."""
    half = {"checkpoints__step-2__model.safetensors": "w"}
    write(tmp_path / "bucket" / "trial", **half, spec="s")
    one = machine("one") / "trial"
    KeptFolder(one, MARKER).bring()
    assert texts(one) == {"spec": "s"}
    write(one, **half, **{"checkpoints__step-2__trainer.json": "{}"})
    KeptFolder(one, MARKER).put()
    two = machine("two") / "trial"
    KeptFolder(two, MARKER).bring()
    assert texts(two) == texts(one)


def test_the_marker_is_put_last_and_removed_first(machine, monkeypatch):
    order = []
    for name in ("_put_one", "_remove_one"):
        original = getattr(KeptFolder, name)

        def noted(self, path, original=original, name=name):
            order.append((name, path))
            original(self, path)

        monkeypatch.setattr(KeptFolder, name, noted)
    one = machine("one") / "trial"
    write(
        one, **{"checkpoints__s__trainer.json": "{}", "checkpoints__s__a": "", "outcome.json": "{}"}
    )
    folder = KeptFolder(one, MARKER)
    folder.put()
    parts = ["checkpoints/s/a", "checkpoints/s/trainer.json"]
    assert [name for _, name in order] == [*parts, "outcome.json"]
    for path in ("a", "trainer.json"):
        (one / "checkpoints" / "s" / path).unlink()
    order.clear()
    folder.put()
    assert order == [("_remove_one", name) for name in reversed(parts)]


def test_a_marker_of_the_folder_itself_comes_last_too(machine, monkeypatch):
    """A corpus that was brought in part is brought again, and not taken for whole."""
    one = machine("one") / "corpora" / "x"
    write(one, **{"corpus.json": "{}", "a.json": "{}", "train.bin": "1"})
    KeptFolder(one, "corpus.json").put()
    two = machine("two") / "corpora" / "x"
    folder = KeptFolder(two, "corpus.json")
    original = KeptFolder._bring_one

    def dying(self, name):
        if name == "train.bin":
            raise Killed
        original(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(KeptFolder, "_bring_one", dying)
        with pytest.raises(Killed):
            folder.bring_once()
    assert not (two / "corpus.json").exists()
    folder.bring_once()
    assert texts(two) == texts(one)
    write(two, a="of this machine")
    folder.bring_once()
    assert texts(two)["a"] == "of this machine"


def test_what_this_machine_put_since_a_listing_is_not_taken_away(machine):
    one = machine("one") / "study" / "trials"
    write(one, x__a="1")
    KeptFolder(one / "x").put()
    listing = KeptFolder(one).listed_below()["x"]
    write(one, x__b="2")
    KeptFolder(one / "x").put()
    KeptFolder(one / "x").bring(listing=listing)
    assert texts(one) == {"x/a": "1", "x/b": "2"}


def test_what_another_machine_put_meanwhile_is_brought(machine):
    one = machine("one") / "study"
    write(one, a="1")
    first = KeptFolder(one)
    first.put()
    two = machine("two") / "study"
    other = KeptFolder(two)
    other.bring()
    write(two, a="longer")
    other.put()
    write(one, b="2")
    first.put()  # lists a of the other machine, which it has not got
    first.bring()
    assert texts(one) == {"a": "longer", "b": "2"}


def test_files_spoiled_on_one_machine_are_brought_again(
    machine, tiny_corpus, tiny_benchmark, tiny_spec, monkeypatch
):
    runtime = runtime_in(machine("one"), tiny_corpus, tiny_benchmark, tiny_spec)
    train_until_killed(tiny_spec, runtime, 33, monkeypatch)
    folder = TrialFolder.of(runtime.study, tiny_spec)
    path, _ = folder.newest()
    model = path / "model.safetensors"
    good = model.read_bytes()
    times = model.stat()
    model.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    os.utime(model, ns=(times.st_atime_ns, times.st_mtime_ns))  # a disk does not tell
    assert folder.set_aside_damaged() == []
    assert model.read_bytes() == good


def test_an_outcome_that_was_not_put_is_put_by_the_next_process(
    machine, tmp_path, tiny_corpus, tiny_benchmark, tiny_spec, monkeypatch
):
    runtime = runtime_in(machine("one"), tiny_corpus, tiny_benchmark, tiny_spec)
    with monkeypatch.context() as patch:
        original = KeptFolder.put

        def dying(self):
            if (self.folder / "outcome.json").exists():
                raise Killed
            original(self)

        patch.setattr(KeptFolder, "put", dying)
        with pytest.raises(Killed):
            run_trial(tiny_spec, runtime, lambda metrics: None)
    assert not [*(tmp_path / "bucket").rglob("outcome.json")]
    run_trial(tiny_spec, runtime, lambda metrics: None)
    assert [*(tmp_path / "bucket").rglob("outcome.json")]


def test_a_process_whose_trial_another_one_took_over_puts_nothing(
    machine, tmp_path, tiny_corpus, tiny_benchmark, tiny_spec
):
    runtime = runtime_in(machine("one"), tiny_corpus, tiny_benchmark, tiny_spec)
    folder = TrialFolder.of(runtime.study, tiny_spec)
    with folder.at_work():
        other = runtime_in(machine("two"), tiny_corpus, tiny_benchmark, tiny_spec)
        with TrialFolder.of(other.study, tiny_spec).at_work():
            with pytest.raises(OSError, match="another process took over"):
                folder.begin_at(3)
            with pytest.raises(OSError, match="another process took over"), folder.at_rest():
                pass


def test_an_address_in_the_bucket_names_a_model(machine, tmp_path):
    one = machine("one")
    write(one / "study" / "trials" / "x", **{"checkpoints__step-1__config.json": "{}"})
    write(one / "study" / "trials" / "x", **{"checkpoints__step-1__trainer.json": "{}"})
    KeptFolder(one / "study" / "trials" / "x", MARKER).put()
    two = machine("two")
    found = _in_copy(f"file://{tmp_path}/bucket/study/trials/x/checkpoints/step-1", two)
    assert (found / "config.json").exists()
    with pytest.raises(ValueError, match="--storage"):
        _in_copy("s3://other/study", two)


def test_an_object_of_another_size_than_its_file_is_an_error(machine, tmp_path, monkeypatch):
    def short(source, target):
        target.write(source.read()[:-1])

    one = machine("one") / "study"
    write(one, a="1234")
    with monkeypatch.context() as patch:
        patch.setattr(kept_module, "_copy", short)
        with pytest.raises(OSError, match="has 3 bytes, not 4"):
            KeptFolder(one).put()
    KeptFolder(one).put()  # it is put again, since nobody remembers it as put
    assert texts(tmp_path / "bucket") == {"study/a": "1234"}


def test_released_weights_are_brought_again(machine, tmp_path):
    one = machine("one") / "trial"
    write(one, **{"model.safetensors": "w", "spec.json": "{}"})
    folder = KeptFolder(one)
    folder.put()
    folder.release()
    assert list(texts(one)) == ["spec.json"]
    folder.put()
    assert "trial/model.safetensors" in texts(tmp_path / "bucket")
    folder.bring()
    assert texts(one)["model.safetensors"] == "w"


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_of_an_ended_trial_only_the_best_parameters_are_kept(
    place, machine, tmp_path, tiny_corpus, tiny_benchmark, tiny_spec, monkeypatch
):
    """If asked for: in the folder, or in the bucket, by a machine that has none of the files. A
    trial that goes on keeps all, and all that is scored later finds the model."""
    storage = machine("one") if place == "bucket" else tmp_path / "bucket"
    runtime = runtime_in(storage, tiny_corpus, tiny_benchmark, tiny_spec)
    train_until_killed(tiny_spec, runtime, 33, monkeypatch)
    if place == "bucket":
        runtime = runtime_in(machine("two"), tiny_corpus, tiny_benchmark, tiny_spec)
    trial = TrialFolder.of(runtime.study, tiny_spec)
    kept = tmp_path / "bucket" / "study" / "trials" / tiny_spec.hash / "checkpoints"
    before = sorted(kept.rglob("*"))
    trial.keep_best_only()
    assert sorted(kept.rglob("*")) == before
    outcome = run_trial(tiny_spec, runtime, lambda metrics: None)
    assert [*kept.rglob("optimizer.safetensors")]

    study = runtime.study if place == "folder" else machine("three") / runtime.study.name
    look_at_all(study / "trials")
    trial = TrialFolder(study / "trials" / tiny_spec.hash)
    for _ in range(2):
        trial.keep_best_only()
        assert [path.name for path in kept.glob("step-*") if any(path.iterdir())] == [
            outcome.checkpoint
        ]
        assert not [*kept.rglob("optimizer.safetensors")]
    assert checkpoint_damage(trial.best_checkpoint) == ""
    assert TrialFolder(trial.path).outcome == outcome
    (trial.path / "outcome.json").write_text("{")
    assert TrialFolder(trial.path).outcome == outcome, "its copy takes its place"


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_trunk_is_removed_by_any_machine(place, machine, tmp_path, tiny_spec):
    storage = machine("one") if place == "bucket" else tmp_path / "bucket"
    trunk = TrialFolder.trunk(storage / "study", tiny_spec)
    write(trunk.path, **{"checkpoints__step-1__model.safetensors": "w"})
    write(trunk.path, **{"checkpoints__step-1__trainer.json": "{}"})
    if place == "bucket":
        KeptFolder(trunk.path).put()
        trunk = TrialFolder.trunk(machine("two") / "study", tiny_spec)
    assert len(texts(tmp_path / "bucket")) == 2
    with trunk.lock():
        trunk.remove()
    assert not texts(tmp_path / "bucket")
    assert not trunk.path.exists()


def test_marks_are_seen_by_other_machines(machine, monkeypatch):
    monkeypatch.setattr(kept_module, "LOOK_SECONDS", 0.0)
    mark = machine("one") / "study" / "locks" / "x.stop"
    assert not is_there(mark)
    set_mark(mark)
    other = machine("two") / "study" / "locks" / "x.stop"
    assert is_there(other)
    remove_mark(other)
    remove_mark(other)
    assert not is_there(mark)


def test_marks_in_a_folder_are_files(tmp_path):
    mark = tmp_path / "x.stop"
    assert not is_there(mark)
    set_mark(mark)
    assert is_there(mark)
    assert mark.exists()
    remove_mark(mark)
    assert not mark.exists()


def test_a_bucket_that_does_not_answer_is_waited_for(monkeypatch):
    monkeypatch.setattr(bucket_module.time, "sleep", lambda seconds: None)
    answers = iter([OSError("curl: connection refused")] * 5)

    def call():
        for error in answers:
            raise error
        return "there"

    assert patiently("s3://bucket", call) == "there"


@pytest.mark.parametrize(
    "error", [OSError("AWS Error ACCESS_DENIED during PutObject"), OSError(errno.ENOSPC, "full")]
)
def test_a_bucket_that_refuses_is_not_waited_for(error):
    def call():
        raise error

    with pytest.raises(OSError, match="ACCESS_DENIED|full"):
        patiently("s3://bucket", call)


def test_a_bucket_out_of_reach_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--storage file://.* cannot be written to"):
        check_reach(f"file://{tmp_path / 'file' / 'x'}", "--storage", write=True)


def test_a_trial_goes_on_on_another_machine_to_the_bit(
    machine, tmp_path, tiny_corpus, tiny_benchmark, tiny_spec, monkeypatch
):
    """Killed on one machine after its first epoch, ended on another, and looked at from a third."""
    plain = runtime_in(tmp_path / "plain", tiny_corpus, tiny_benchmark, tiny_spec)
    outcome, _, parameters = train(tiny_spec, plain)
    steps = outcome.history[0].step

    runtime = runtime_in(machine("one"), tiny_corpus, tiny_benchmark, tiny_spec)
    train_until_killed(tiny_spec, runtime, steps + 1, monkeypatch)

    here = runtime_in(machine("two"), tiny_corpus, tiny_benchmark, tiny_spec)
    folder = TrialFolder.of(here.study, tiny_spec)
    folder.look()
    assert folder.newest()[1].step == steps
    resumed = run_trial(tiny_spec, here, lambda metrics: None)
    for found, expected in zip(resumed.history, outcome.history, strict=True):
        assert (found.val_loss, found.scores) == (expected.val_loss, expected.scores)
    assert not list(folder.path.rglob("*.safetensors")), "what the bucket has fills no disk"

    study = machine("three") / here.study.name
    look_at_all(study / "trials")
    (path,) = (study / "trials").iterdir()
    looked = TrialFolder(path)
    assert looked.outcome == resumed
    looked.bring()
    assert_same(final_parameters(tiny_spec, dataclasses.replace(here, study=study)), parameters)
