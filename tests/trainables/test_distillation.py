"""Trials that learn from a teacher, start from a model, or share their first steps with others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_trial import assert_same, count_steps, train, train_until_killed

import models
from tests.trainables.conftest import runtime_in, spec_of
from trainables.checkpoint import TrialFolder
from trainables.finetune_spec import model_hash
from trainables.optim import learning_rate, steps_at_peak
from trainables.step import has_dropout
from trainables.trainer import Trainer, TrialData, World


@pytest.fixture(scope="module")
def trained(tiny_corpus, tiny_benchmark, tmp_path_factory):
    """Folder of a trained mini LSTM. Tests read it."""
    spec = spec_of(tiny_corpus, tiny_benchmark).replace(epochs=1)
    runtime = runtime_in(tmp_path_factory.mktemp("teacher"), tiny_corpus, tiny_benchmark, spec)
    train(spec, runtime)
    return TrialFolder.of(runtime.study, spec).best_checkpoint


@pytest.fixture
def teacher(trained, tmp_path):
    """A copy of it, which a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "teacher"))


@pytest.fixture
def student(tiny_spec, teacher):
    """A spec that learns from it."""
    return tiny_spec.replace(
        epochs=1, teacher=model_hash(teacher), alpha=0.5, temperature=2.0, seed=1
    )


def test_without_alpha_it_is_the_plain_trial(student, tiny_spec):
    """The control is a spec that a sweep may have trained already, under the same hash."""
    assert student.control == tiny_spec.replace(epochs=1, seed=1)
    assert student.control.hash != student.hash
    assert student.replace(teacher_name="models:/lstm@teacher").hash == student.hash


def test_alpha_and_teacher_go_together(student):
    """A teacher without weight, or a weight without teacher, is an error; so is a bad number."""
    for changes in ({"alpha": 0.0}, {"teacher": ""}):
        with pytest.raises(ValueError, match="alpha and a teacher go together"):
            student.replace(**changes)
    with pytest.raises(ValueError, match="alpha must be from 0 to 1, not 1.5"):
        student.replace(alpha=1.5)
    with pytest.raises(ValueError, match="temperature must be from 1e-06 to"):
        student.replace(temperature=0)


def test_dropout_is_the_students_alone(student, teacher, make_runtime):
    """The teacher's probabilities are those of all of it."""
    spec = student.replace(dropout=0.3)
    trainer = Trainer(
        spec, TrialData.open(spec, make_runtime(spec, teachers=(teacher,))), World(), None
    )
    trainer.step()
    assert has_dropout(trainer.model)
    (guide,) = trainer.data.teachers
    assert not has_dropout(guide)
    assert not guide.training


def test_a_distilled_trial_resumes_bitwise(student, teacher, make_runtime, monkeypatch):
    """Killed in the middle and run again it ends with the bits of an uninterrupted one, and with
    others than without a teacher."""
    outcome, _, whole = train(student, make_runtime(student, "whole", teachers=(teacher,)))
    assert outcome.kind == "finished"
    runtime = make_runtime(student, "cut", teachers=(teacher,), checkpoint_minutes=0.0)
    train_until_killed(student, runtime, 15, monkeypatch)
    steps = count_steps(monkeypatch)
    _, _, resumed = train(student, runtime)
    assert steps[0] > 0
    assert_same(resumed, whole)
    _, _, plain = train(student.control, make_runtime(student.control, "plain"))
    assert any(not torch.equal(plain[name], whole[name]) for name in plain)


def test_another_model_than_the_planned_one_is_refused(student, teacher, make_runtime):
    """The teacher's weights are part of what a trial is: others would make another result."""
    wrong = student.replace(teacher="0" * 16)
    with pytest.raises(ValueError, match=r"changed since the trial was planned: .* '0000"):
        train(wrong, make_runtime(wrong, "wrong", teachers=(teacher,)))
    with pytest.raises(ValueError, match="the models in no folder changed"):
        train(student, make_runtime(student, "none"))


def test_training_may_start_from_a_model(tiny_spec, teacher, make_runtime):
    """With init the first weights are those of the model, not random ones."""
    spec = tiny_spec.replace(init=model_hash(teacher))
    data = TrialData.open(spec, make_runtime(spec, init=teacher))
    trainer = Trainer(spec, data, World(), None)
    assert_same(dict(trainer.model.state_dict()), load_file(teacher / "model.safetensors"))
    fresh = Trainer(tiny_spec, TrialData.open(tiny_spec, make_runtime(tiny_spec)), World(), None)
    assert trainer.validate()[0] < fresh.validate()[0] - 0.5
    assert isinstance(models.load(teacher), type(trainer.model))


def test_hot_teachers_do_not_look_like_divergence(student, teacher, make_runtime):
    """T^2 makes the loss large at first; the limit of a diverged trial grows with it."""
    hot = student.replace(temperature=8.0, alpha=1.0)
    outcome, _, _ = train(hot, make_runtime(hot, "hot", teachers=(teacher,)))
    assert outcome.kind == "finished"


def test_lengths_share_their_steps_until_the_decay(tiny_spec):
    """With an absolute warm-up, warm-up-stable-decay runs of all lengths begin alike."""
    spec = tiny_spec.replace(schedule="wsd", warmup_steps=5, decay=0.2)
    short, long = 40, 100
    shared = steps_at_peak(spec, short)
    assert shared == 32
    rates = [
        [learning_rate(spec, step, total) for step in range(shared)] for total in (short, long)
    ]
    assert rates[0] == rates[1]
    assert learning_rate(spec, shared + 1, short) < learning_rate(spec, shared + 1, long)
    assert steps_at_peak(spec.replace(warmup_steps=0), short) == 0
    assert steps_at_peak(spec.replace(schedule="linear"), short) == 0


def test_a_branch_ends_where_the_whole_run_would(tiny_spec, make_runtime, monkeypatch):
    """A short run that goes on from a long one's checkpoint ends with the bits, and the reports, of
    one that was trained from the start."""
    long = tiny_spec.replace(schedule="wsd", warmup_steps=5, decay=0.3, epochs=3)
    short = long.replace(epochs=2)
    alone, _, whole = train(short, make_runtime(short, "alone"))
    runtime = make_runtime(long, "shared", trunk_steps=(20, 30, 10_000))
    train(long, runtime)
    steps = count_steps(monkeypatch)
    outcome, _, branched = train(short, make_runtime(short, "shared"))
    total = len(steps) + 30
    assert steps == list(range(30, total))
    assert_same(branched, whole)
    assert [e.val_loss for e in outcome.history] == [e.val_loss for e in alone.history]
    assert [e.step for e in outcome.history] == [e.step for e in alone.history]
