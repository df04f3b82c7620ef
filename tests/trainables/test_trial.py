"""The trial loop: deterministic, resumable anywhere, honest about divergence."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import models
from models.kernels import native
from tests.architectures import slow_but
from tests.earlier_version import forget_digests
from tests.trainables.conftest import runtime_in
from trainables.checkpoint import TrialFolder, check_checkpoint
from trainables.files import DamagedFileError
from trainables.trainer import Trainer, TrialData, World
from trainables.trial import StopAsked, run_trial


class Killed(BaseException):
    """Stands for a process that dies: nothing handles it."""


def train(spec, runtime, **changes):
    """Run a trial; returns its outcome, its reports and its final parameters."""
    reports = []
    outcome = run_trial(spec, runtime, reports.append, **changes)
    return outcome, reports, final_parameters(spec, runtime)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tiny_corpus, tiny_benchmark):
    """What `train` returns of a spec, which is trained once."""

    @functools.cache
    def trained(spec):
        folder = tmp_path_factory.mktemp("uninterrupted")
        return train(spec, runtime_in(folder, tiny_corpus, tiny_benchmark, spec))

    return trained


def final_parameters(spec, runtime):
    path, _progress = TrialFolder.of(runtime.study, spec).newest()
    return load_file(path / "model.safetensors")


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def kill_at(monkeypatch, step):
    """Let the trainer die before it takes this step."""
    original = Trainer.step

    def dying(self):
        if self.progress.step == step:
            raise Killed
        return original(self)

    monkeypatch.setattr(Trainer, "step", dying)


def train_until_killed(spec, runtime, step, monkeypatch):
    """A trial that dies before it takes this step; later trials in the test take all of theirs."""
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            run_trial(spec, runtime, lambda metrics: None)


def count_steps(monkeypatch):
    """The steps that trainers take from now on, in order."""
    original, steps = Trainer.step, []

    def counted(self):
        steps.append(self.progress.step)
        return original(self)

    monkeypatch.setattr(Trainer, "step", counted)
    return steps


@pytest.mark.parametrize("arch", slow_but("lstm"))
def test_same_spec_gives_bitwise_equal_parameters(arch, tiny_spec, make_runtime, uninterrupted):
    """Two runs of one spec end with the same bits, for every architecture."""
    spec = tiny_spec.replace(arch=arch, epochs=1)
    _, first_reports, first = uninterrupted(spec)
    _, second_reports, second = train(spec, make_runtime(spec))
    assert_same(first, second)
    assert first_reports == second_reports


@pytest.mark.parametrize(
    "changes",
    [
        *(
            pytest.param({"arch": arch}, marks=[] if arch == "lstm" else [pytest.mark.slow])
            for arch in models.architectures()
        ),
        # Its products are in bf16: a minute where the processor has none.
        pytest.param({"optimizer": "muon", "dropout": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_resumed_in_the_middle_of_an_epoch_is_bitwise_uninterrupted(
    changes, tiny_spec, make_runtime, uninterrupted, monkeypatch
):
    """A trial killed in its second epoch ends with the bits of one that was not."""
    spec = tiny_spec.replace(**changes)
    _, _, whole = uninterrupted(spec)
    runtime = make_runtime(spec, "killed", checkpoint_minutes=0.0)
    steps = Trainer(spec, TrialData.open(spec, runtime), World(), None).steps_per_epoch
    train_until_killed(spec, runtime, steps + 15, monkeypatch)
    path, progress = TrialFolder.of(runtime.study, spec).newest()
    assert steps < progress.step < steps + 15
    moments = {key.partition("/")[0] for key in load_file(path / "optimizer.safetensors")}
    of_muon = {"momentum_buffer"} if spec.optimizer == "muon" else set()
    assert moments == {"exp_avg", "exp_avg_sq", "step"} | of_muon
    first_steps = count_steps(monkeypatch)
    outcome, reports, resumed = train(spec, runtime)
    assert first_steps[0] == progress.step
    assert_same(whole, resumed)
    assert outcome.kind == "finished"
    assert [report["epoch"] for report in reports] == [1, 2, 2]


@pytest.mark.parametrize("asked", [3, -2], ids=["within an epoch", "in its last steps"])
def test_a_trial_that_is_asked_to_stop_trains_no_step_twice(
    asked, tiny_spec, make_runtime, uninterrupted, monkeypatch
):
    """It writes a checkpoint at the next tenth step, or with the epoch, and goes on from there:
    to the bits and the losses of one that was not asked."""
    _, reports, whole = uninterrupted(tiny_spec)
    runtime = make_runtime(tiny_spec)
    runtime = dataclasses.replace(runtime, stop=runtime.study.parent / "stop")
    steps = Trainer(tiny_spec, TrialData.open(tiny_spec, runtime), World(), None).steps_per_epoch
    original = Trainer.step

    def asking(self):
        if self.progress.step == asked % steps:
            runtime.stop.touch()
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", asking)
        first = count_steps(patch)
        with pytest.raises(StopAsked):
            run_trial(tiny_spec, runtime, lambda metrics: None)
    assert len(first) == (10 if asked > 0 else steps)
    runtime.stop.unlink()
    second = count_steps(monkeypatch)
    outcome, reports_of_rest, resumed = train(tiny_spec, runtime)
    assert first + second == list(range(2 * steps))
    assert_same(whole, resumed)
    assert outcome.kind == "finished"
    assert reports_of_rest == reports


def test_a_trial_may_be_ended_while_it_reports(tiny_spec, make_runtime):
    """Then all that it trained is on the disk: a sweep that ends need not wait for it."""
    runtime, steps = make_runtime(tiny_spec.replace(epochs=1)), []
    folder = TrialFolder.of(runtime.study, tiny_spec.replace(epochs=1))
    with folder.lock():
        assert not folder.may_be_ended

    def report(metrics):
        assert folder.may_be_ended
        steps.append(folder.newest()[1].step)

    outcome = run_trial(tiny_spec.replace(epochs=1), runtime, report)
    assert steps == [outcome.history[-1].step] * 2
    assert folder.may_be_ended
    with folder.lock():
        assert not folder.may_be_ended


def cut(file):
    """Cut a file short, as a full disk or a lost network does."""
    os.truncate(file, file.stat().st_size // 2)


def flip(file):
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param("model.safetensors", cut, marks=pytest.mark.slow),
        ("model.safetensors", flip),
        pytest.param("model.safetensors", Path.unlink, marks=pytest.mark.slow),
        pytest.param("optimizer.safetensors", flip, marks=pytest.mark.slow),
        ("trainer.json", cut),
        ("digests.json", cut),
    ],
)
def test_a_damaged_checkpoint_is_set_aside(
    name, damage, tiny_spec, make_runtime, uninterrupted, monkeypatch
):
    """And its trial ends with the bits of one that was never touched: nothing goes on from what is
    not as it was written."""
    spec = tiny_spec.replace(epochs=1)
    _, _, whole = uninterrupted(spec)
    runtime = make_runtime(spec, "damaged", checkpoint_minutes=0.0)
    train_until_killed(spec, runtime, 25, monkeypatch)
    folder = TrialFolder.of(runtime.study, spec)
    path, _ = folder.newest()
    damage(path / name)
    outcome, _, resumed = train(spec, runtime)
    assert outcome.kind == "finished"
    assert_same(whole, resumed)
    (aside,) = path.parent.glob("damaged-*")
    assert path.name in aside.name
    assert_mended(folder, runtime, path)


def assert_mended(folder, runtime, path):
    """It is said of a checkpoint, in the trial's folder and in MLflow, that it was set aside."""
    assert f"the checkpoint {path} is damaged (" in folder.mended
    name = folder.path.name
    runs = [r for r in runtime.tracker.trial_runs() if r.data.tags["babysweep.spec_hash"] == name]
    (run,) = runs
    assert run.data.tags["babysweep.mended"] == folder.mended


@pytest.mark.parametrize(
    ("step", "began"),
    [
        (32, 20),
        pytest.param(50, 20, marks=pytest.mark.slow),
        pytest.param(20, 50, marks=pytest.mark.slow),
    ],
)
def test_a_damaged_trunk_is_not_left_from(step, began, tiny_spec, make_runtime, monkeypatch):
    """A branch leaves from an earlier checkpoint of it, or begins itself, with the same bits."""
    losses = {32: 1.0, 64: 2.0, 96: 3.0}
    monkeypatch.setattr(Trainer, "validate", lambda self: (losses[self.progress.step],) * 2)
    long = tiny_spec.replace(schedule="wsd", warmup_steps=5, decay=0.2, epochs=3)
    short = long.replace(epochs=2)
    _, _, whole = train(short, make_runtime(short, "alone"))
    runtime = make_runtime(long, "shared", trunk_steps=(20, 50))
    train(long, runtime)
    damaged = TrialFolder.trunk(runtime.study, short).checkpoint_at(step)
    flip(damaged / "model.safetensors")
    runtime = make_runtime(short, "shared")
    outcome, _, parameters = train(short, runtime)
    folder = TrialFolder.of(runtime.study, short)
    assert (outcome.kind, outcome.checkpoint) == ("finished", "step-00000032")
    assert folder.began == began
    assert_same(parameters, whole)
    assert_mended(folder, runtime, damaged)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: cut(path / "model.safetensors"),
        pytest.param(shutil.rmtree, marks=pytest.mark.slow),
    ],
)
def test_without_its_damaged_best_checkpoint_a_trial_begins_again(
    damage, tiny_spec, make_runtime, monkeypatch
):
    """No later epoch is better: a trial that went on could not end."""
    losses = {32: 1.0, 64: 2.0}
    monkeypatch.setattr(Trainer, "validate", lambda self: (losses[self.progress.step],) * 2)
    whole, _, _ = train(tiny_spec, make_runtime(tiny_spec, "whole"))
    runtime = make_runtime(tiny_spec, "damaged", checkpoint_minutes=0.0)
    train_until_killed(tiny_spec, runtime, 45, monkeypatch)
    folder = TrialFolder.of(runtime.study, tiny_spec)
    newest, _ = folder.newest()
    assert newest.name > "step-00000032"
    damage(folder.checkpoint_at(32))
    assert folder.newest() is None or folder.checkpoint_at(32).exists()
    first_steps = count_steps(monkeypatch)
    outcome, _, _ = train(tiny_spec, runtime)
    assert first_steps[0] == 0
    assert (outcome.kind, outcome.checkpoint) == ("finished", "step-00000032")
    kept = load_file(folder.best_checkpoint / "model.safetensors")
    expected = TrialFolder.of(runtime.study.with_name("whole"), tiny_spec).best_checkpoint
    assert whole.checkpoint == outcome.checkpoint
    assert_same(kept, load_file(expected / "model.safetensors"))
    assert any(newest.name in path.name for path in newest.parent.glob("damaged-*"))


def test_a_trial_whose_best_checkpoint_is_damaged_is_recorded_without_it(
    tiny_spec, make_runtime, caplog
):
    """In a store that has no run of it: what it measured is not lost."""
    spec = tiny_spec.replace(epochs=1)
    runtime = make_runtime(spec)
    outcome, _, _ = train(spec, runtime)
    folder = TrialFolder.of(runtime.study, spec)
    for damage in (lambda path: cut(path / "model.safetensors"), shutil.rmtree):
        (run,) = runtime.tracker.trial_runs()
        runtime.tracker.client.delete_run(run.info.run_id)
        damage(folder.best_checkpoint)
        assert run_trial(spec, runtime, lambda metrics: None) == outcome
        (run,) = runtime.tracker.trial_runs()
        assert run.data.tags["babysweep.outcome"] == "finished"
        assert not runtime.tracker.client.list_artifacts(run.info.run_id, "model")
        assert f"{folder.path} is recorded without its model" in caplog.text


def test_a_checkpoint_of_an_earlier_version_has_no_digests(tiny_spec, make_runtime, monkeypatch):
    """It is gone on from as before, if it can be opened; a cut one is named."""
    runtime = make_runtime(tiny_spec, checkpoint_minutes=0.0)
    train_until_killed(tiny_spec, runtime, 25, monkeypatch)
    folder = TrialFolder.of(runtime.study, tiny_spec)
    path, _ = folder.newest()
    forget_digests(path)
    assert folder.set_aside_damaged() == []
    cut(path / "model.safetensors")
    (sentence,) = folder.set_aside_damaged()
    assert sentence.startswith(f"the checkpoint {path} is damaged (")
    assert folder.newest() is None


def test_a_checkpoint_that_lost_its_digests_is_damaged(tiny_spec, make_runtime, monkeypatch):
    """It is none of an earlier version: whatever else it lost would be trained on in silence."""
    runtime = make_runtime(tiny_spec, checkpoint_minutes=0.0)
    train_until_killed(tiny_spec, runtime, 25, monkeypatch)
    folder = TrialFolder.of(runtime.study, tiny_spec)
    path, progress = folder.newest()
    assert progress.has_digests
    (path / "digests.json").write_text("{}")
    with pytest.raises(DamagedFileError, match=r"digests\.json lacks model\.safetensors"):
        check_checkpoint(path)
    (path / "digests.json").unlink()
    with pytest.raises(DamagedFileError, match=r"damaged \(digests\.json is missing\)"):
        check_checkpoint(path)
    (sentence,) = folder.set_aside_damaged()
    assert sentence.startswith(f"the checkpoint {path} is damaged (digests.json is missing)")


def test_rerun_of_a_finished_trial_trains_nothing(tiny_spec, make_runtime, monkeypatch):
    """A second run reports the same epochs and takes no step."""
    runtime = make_runtime(tiny_spec)
    outcome, reports, _ = train(tiny_spec, runtime)
    kill_at(monkeypatch, 0)
    again, reports_again, _ = train(tiny_spec, runtime)
    assert (again, reports_again) == (outcome, reports)


def test_mlflow_holds_one_run_without_doubled_points(tiny_spec, make_runtime, monkeypatch):
    """After a kill and a resume there is one run, and one point at each step."""
    runtime = make_runtime(tiny_spec)
    train_until_killed(tiny_spec, runtime, 50, monkeypatch)
    outcome, _, _ = train(tiny_spec, runtime)
    (run,) = runtime.tracker.trial_runs()
    assert run.info.status == "FINISHED"
    assert run.data.tags["babysweep.outcome"] == "finished"
    assert run.data.tags["mlflow.parentRunId"] in runtime.tracker.parents.values()
    assert run.data.params["lr"] == "0.003"
    loss = "cpp" if native.available("linear_cross_entropy") else "torch"
    assert run.data.params["kernels"] == (
        f"BABYSWEEP_KERNELS=auto: linear_cross_entropy {loss}, lstm torch"
    )
    assert run.data.params["step"] == (
        "without a CUDA graph (on the CPU); 4 of 4 sequences at once; activations kept"
    )
    assert run.data.metrics["best/bits_per_byte"] == min(
        report.bits_per_byte for report in outcome.history
    )
    for name in ("train/loss", "val/bits_per_byte", "zero_shot/macro", "best/epoch"):
        steps = [p.step for p in runtime.tracker.client.get_metric_history(run.info.run_id, name)]
        assert len(steps) == len(set(steps)) > 0, name
    names = {f.path for f in runtime.tracker.client.list_artifacts(run.info.run_id, "model")}
    assert {"model/model.safetensors", "model/spec.json", "model/tokenizer.json"} <= names


@pytest.mark.parametrize("epochs", [1, 2])
def test_killed_while_validating_loses_no_epoch(
    tiny_spec, make_runtime, uninterrupted, monkeypatch, epochs
):
    """A kill between an epoch's last step and its report leaves that epoch to be reported."""
    spec = tiny_spec.replace(epochs=epochs)
    whole, _, _ = uninterrupted(spec)
    runtime = make_runtime(spec, "killed", checkpoint_minutes=0.0)

    def dying(self):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", dying)
        with pytest.raises(Killed):
            run_trial(spec, runtime, lambda metrics: None)
    outcome, _, _ = train(spec, runtime)
    assert losses_of(outcome) == losses_of(whole)


def losses_of(outcome):
    """What an interruption must not change."""
    return [(r.epoch, r.step, r.val_loss, r.train_loss) for r in outcome.history]


def test_no_point_is_lost_between_checkpoint_and_flush(tiny_spec, make_runtime, monkeypatch):
    """Points before a mid-epoch checkpoint are recorded even if the process dies right after."""
    monkeypatch.setattr("trainables.tracking.FLUSH_SECONDS", 1e9)
    runtime = make_runtime(tiny_spec, checkpoint_minutes=0.0)
    train_until_killed(tiny_spec, runtime, 50, monkeypatch)
    train(tiny_spec, runtime)
    (run,) = runtime.tracker.trial_runs()
    points = runtime.tracker.client.get_metric_history(run.info.run_id, "train/loss")
    steps = sorted(point.step for point in points)
    assert steps == [1, 10, 20, 30, 32, 40, 50, 60, 64]


def test_ended_trial_is_recorded_again_in_an_empty_store(tiny_spec, make_runtime, monkeypatch):
    """A finished trial whose run was deleted is recorded from its folder, without training."""
    runtime = make_runtime(tiny_spec)
    outcome, _, _ = train(tiny_spec, runtime)
    (run,) = runtime.tracker.trial_runs()
    runtime.tracker.client.delete_run(run.info.run_id)
    kill_at(monkeypatch, 0)
    train(tiny_spec, runtime)
    (again,) = runtime.tracker.trial_runs()
    assert again.data.tags["babysweep.outcome"] == outcome.kind
    assert again.data.metrics["best/epoch"] == run.data.metrics.get("best/epoch", 2.0)
    assert again.data.params["total_steps"] == run.data.params["total_steps"]


def test_diverged_trial_is_a_result(tiny_spec, make_runtime):
    """A learning rate that explodes ends the trial as diverged, with finite reports."""
    spec = tiny_spec.replace(lr=1e6, warmup=0.0)
    reports = []
    runtime = make_runtime(spec)
    outcome = run_trial(spec, runtime, reports.append)
    assert outcome.kind == "diverged"
    assert "at step" in outcome.reason
    assert reports[-1]["diverged"] == 1
    assert all(math.isfinite(value) for value in reports[-1].values())
    (run,) = runtime.tracker.trial_runs()
    assert (run.info.status, run.data.tags["babysweep.outcome"]) == ("FINISHED", "diverged")


@pytest.mark.parametrize("arch", slow_but("transformer", "lstm"))
def test_checkpoint_opens_with_transformers(arch, tiny_spec, make_runtime):
    """The best checkpoint is a model and a tokenizer that the Auto classes open."""
    spec = tiny_spec.replace(arch=arch, epochs=1)
    runtime = make_runtime(spec)
    outcome, _, parameters = train(spec, runtime)
    folder = runtime.study / "trials" / spec.hash / "checkpoints" / outcome.checkpoint
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    written = json.loads((folder / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"  # known to version 4, too
    assert_same(dict(model.state_dict()), parameters)
    logits = model(**tokenizer("the cat sees", return_tensors="pt")).logits
    assert logits.shape[-1] == len(tokenizer)


def test_best_and_last_checkpoints_are_kept(tiny_spec, make_runtime, monkeypatch):
    """Of many epochs the lowest validation loss and the last remain, one of them resumable."""
    losses = iter([3.0, 1.0, 2.0, 2.5])
    monkeypatch.setattr(Trainer, "validate", lambda self: ((loss := next(losses)), loss))
    spec = tiny_spec.replace(epochs=4)
    runtime = make_runtime(spec)
    outcome = run_trial(spec, runtime, lambda metrics: None)
    folder = runtime.study / "trials" / spec.hash / "checkpoints"
    names = sorted(path.name for path in folder.glob("step-*"))
    assert outcome.checkpoint == names[0]
    assert len(names) == 2
    assert not (folder / names[0] / "optimizer.safetensors").exists()
    assert (folder / names[1] / "optimizer.safetensors").exists()


@pytest.mark.parametrize("arch", models.architectures())
def test_micro_batches_give_the_gradient_of_the_whole_batch(arch, tiny_spec, make_runtime):
    """Accumulating over micro-batches changes the step by rounding only."""
    spec = tiny_spec.replace(arch=arch)
    data = TrialData.open(spec, make_runtime(spec))
    losses = []
    for micro_batch in (None, 1, 3):
        trainer = Trainer(spec, data, World(), micro_batch)
        trainer.model.eval()  # dropout masks depend on the shape of a micro-batch
        trainer.objective.train = lambda mode=True, module=trainer.objective: module
        losses.append([trainer.step()[0].item() for _ in range(4)])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=2e-5)


def test_validation_counts_every_byte(tiny_spec, make_runtime):
    """Bits per byte and loss a token are the same nats over bytes and over tokens."""
    data = TrialData.open(tiny_spec, make_runtime(tiny_spec))
    trainer = Trainer(tiny_spec, data, World(), None)
    loss, bits_per_byte = trainer.validate()
    tokens = sum(
        int((data.dev.batch(torch.arange(i, i + 1).numpy())[1] >= 0).sum())
        for i in range(len(data.dev))
    )
    assert bits_per_byte == pytest.approx(loss * tokens / math.log(2) / data.corpus.dev_bytes)
    assert loss == pytest.approx(math.log(len(data.tokenizer)), rel=0.05)


def test_changed_corpus_is_refused(tiny_spec, make_runtime):
    """A trial planned for another text does not start."""
    spec = tiny_spec.replace(corpus_hash="0" * 16)
    with pytest.raises(ValueError, match="changed since the trial was planned"):
        run_trial(spec, make_runtime(spec), lambda metrics: None)


def test_corpus_shorter_than_a_batch_is_refused(tiny_spec, make_runtime):
    """The error says how much there is and what to change."""
    spec = tiny_spec.replace(batch_size=10_000)
    with pytest.raises(ValueError, match=r"fewer than one batch of 10000.*--batch-size"):
        run_trial(spec, make_runtime(spec), lambda metrics: None)
