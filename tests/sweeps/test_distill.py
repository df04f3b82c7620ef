"""The distillation command: its controls, its gain, its defaults, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig

import models
from analysis.command_line import parse
from analysis.schema.axes import AXES
from sweeps.arguments import DistillArgs
from sweeps.distill import run_distillation
from sweeps.plans import distill as distill_plan
from sweeps.plans.distill import Teacher, _like, plan_distillation
from tests.earlier_version import forget_digests
from tests.processes import exit_status, wait_for
from tests.sweeps.conftest import ROOT, environment
from tests.trainables.test_spec import SPEC
from trainables.checkpoint import TrialFolder


@pytest.fixture(scope="module")
def teacher(whole_sweep):
    """The best checkpoint of the sweep, as a folder."""
    folders = [
        TrialFolder(path.parent) for path in whole_sweep.storage.glob("study/trials/*/spec.json")
    ]
    return min(folders, key=lambda folder: folder.outcome.score)


def words(storage, teacher, *extra: str) -> list[str]:
    return ["--teacher", str(teacher), "--storage", str(storage), "--study", "study", *extra]


def plan(whole_sweep, teacher, *extra: str):
    args = parse(DistillArgs, words(whole_sweep.storage, teacher, *extra), None)
    return plan_distillation(args, lambda text: None)


def test_the_student_is_trained_like_its_teacher(whole_sweep, teacher):
    """Size, corpus, context, batch, epochs and learning rate come from the teacher; the control is
    the teacher's own trial, which is not trained again."""
    found = plan(whole_sweep, teacher.best_checkpoint, "--seeds", "0", "1")
    control, student = found.bases["control"], found.bases["alpha=0.5 T=1"]
    assert student.control == control
    assert control.setting == teacher.spec.setting
    assert [point.lr for point in found.plans["control"].points] == [teacher.spec.lr]
    assert found.plans["control"].remaining() == 1  # seed 1
    assert found.plans["alpha=0.5 T=1"].remaining() == 2


def as_trained(**changes):
    """What a student gets of a teacher with this training and no flags but these words."""
    teacher = Teacher("made up", Path(), SPEC.replace(lr=1e-3, **changes))

    def student(*flags: str, arch: str = SPEC.arch):
        args = parse(DistillArgs, ["--teacher", "made-up", *flags], None)
        return _like(teacher, SPEC.replace(arch=arch, lr=1.0), args)

    return student


def test_the_student_has_all_that_sweeps_vary_of_its_teacher():
    """Every axis but the rate, without a list of them here; a flag wins."""
    values = {"weight_decay": 0.4, "dropout": 0.1, "optimizer": "muon"}
    values |= {"warmup": 0.2, "schedule": "cosine", "batch_size": 8}
    assert {"lr", *values} == set(AXES)
    student = as_trained(**values)
    assert student() == SPEC.replace(lr=1.0, **values)
    assert student("--warmup", "0.1").warmup == SPEC.warmup
    assert student("--weight-decays", "0.1", "1", "--lrs", "1").dropout == 0.1
    assert student(arch="mamba") == SPEC.replace(arch="mamba", lr=1.0)


def test_a_branched_teacher_gives_its_schedule():
    """With its decay and its steps of warm-up: its own trial is the control."""
    branch = {"schedule": "wsd", "decay": 0.3, "warmup_steps": 7}
    student = as_trained(**branch)
    assert student() == SPEC.replace(lr=1.0, **branch)
    assert (
        student("--schedule", "linear").canonical == SPEC.replace(lr=1.0, warmup_steps=7).canonical
    )
    for flags in (["--warmup", "0.1"], ["--warmups", "0.1", "0.2"]):
        assert student(*flags).warmup_steps == 0


def test_a_student_is_swept_over_any_axis(whole_sweep, teacher):
    """As a grid with the rates, the control too, which has the teacher's trial already."""
    folder = teacher.best_checkpoint
    found = plan(whole_sweep, folder, "--weight-decays", "0.1", "0.4", "--dropouts", "0.1")
    assert found.axes == ("lr", "weight_decay")
    points = {(p.lr, p.weight_decay, p.dropout) for p in found.plans["alpha=0.5 T=1"].points}
    assert points == {(teacher.spec.lr, decay, 0.1) for decay in (0.1, 0.4)}
    plain = plan(whole_sweep, folder, "--weight-decays", "0.1", "0.4")
    assert plain.plans["control"].remaining() == 1


def test_every_alpha_and_temperature_is_a_part(whole_sweep, teacher):
    """And --no-control leaves the control out."""
    flags = ("--alphas", "0.3", "1", "--temperatures", "1", "2", "--no-control", "--reverse-kl")
    found = plan(whole_sweep, teacher.best_checkpoint, *flags)
    assert {(spec.alpha, spec.temperature) for spec in found.bases.values()} == {
        (0.3, 1),
        (0.3, 2),
        (1, 1),
        (1, 2),
    }
    assert all(spec.reverse_kl for spec in found.bases.values())


def test_several_teachers_and_the_teachers_weights(whole_sweep, teacher):
    """An ensemble is named by all of its hashes; --student-init teacher starts control and student
    from the same weights."""
    folder = str(teacher.best_checkpoint)
    flags = ("--teacher", folder, folder, "--student-init", "teacher")
    found = plan(whole_sweep, folder, *flags)
    student = found.bases["alpha=0.5 T=1"]
    one, other = student.teacher.split("+")
    assert one == other == student.init == found.bases["control"].init
    assert found.init == teacher.best_checkpoint


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--alphas", "1.5"], "--alphas must be from 0 to 1, not 1.5"),
        (["--alphas", "0"], "0 is the control, which is trained anyway"),
        (["--temperatures", "0"], "--temperatures must be from 1e-06 to"),
        (["--teacher", "models:/hgrn2@teacher"], "no model models:/hgrn2@teacher .*promote.py"),
        (["--teacher", "no/such/folder"], "no model at no/such/folder"),
        (["--arch", "mamba"], "the teacher's learning rate is that of lstm: give --lrs"),
        (["--arch", "mamba", "lstm"], "a student has one architecture, not mamba, lstm"),
        (["--arch", "mamba", "--lrs", "1e-3", "--student-init", "teacher"], "the teacher's arch"),
        (["--context", "128"], "reads 64 tokens, fewer than the --context of 128"),
        pytest.param(
            ["--corpus", "mini"],
            "has another tokenizer than the corpus mini",
            marks=pytest.mark.slow,  # it makes that corpus
        ),
        (["--seeds", "-1"], "--seeds must be from 0"),
    ],
)
def test_bad_arguments_are_explained(whole_sweep, teacher, flags, message, capsys, tmp_path):
    """The error names the value and what to do, without a traceback; status 2."""
    folder = teacher.best_checkpoint
    if "--context" in flags:  # a model with a limit
        folder = with_limit(folder, tmp_path / "limited")
    all_words = [*words(whole_sweep.storage, folder), "--dry-run", *flags]
    assert exit_status(lambda: run_distillation(parse(DistillArgs, all_words, None))) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def with_limit(folder, target):
    shutil.copytree(folder, target, dirs_exist_ok=True)
    forget_digests(target)  # it is to be another model
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 64}))
    return target


def seeing_all(folder, target, dtype):
    """A bidirectional model with the tokenizer of another one, as which its folder says it was
    trained."""
    shutil.copytree(folder, target)
    forget_digests(target)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 64}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    # Untrained, its attention would hardly move a thing by the usual weights.
    sizes |= {"initializer_range": 0.5}
    config = BertConfig(vocab_size=models.load_config(folder).vocab_size, **sizes)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(target)
    return target


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", ["alone", "second", "in the registry"])
def test_a_teacher_that_sees_later_tokens_is_refused(
    whole_sweep, teacher, place, dtype, capsys, tmp_path, monkeypatch
):
    """It would tell the student the token that it is to predict. However it is named, and before
    anything is trained."""
    folder = seeing_all(teacher.best_checkpoint, tmp_path / "bert", dtype)
    names = [folder] if place == "alone" else [teacher.best_checkpoint, folder]
    if place == "in the registry":
        version = SimpleNamespace(name="bert", version=1)
        monkeypatch.setattr(distill_plan, "find_version", lambda name, uri: version)
        monkeypatch.setattr(distill_plan, "copy_version", lambda *given: folder)
        names = ["models:/bert@teacher"]
    teachers = ["--teacher", *map(str, names)]
    flags = words(whole_sweep.storage, names[0], *teachers, "--dry-run")
    assert run_distillation(parse(DistillArgs, flags, None)) == 2
    error = " ".join(capsys.readouterr().err.split())
    called = "models:/bert/1" if place == "in the registry" else folder
    assert f"the teacher {called}: the model (BertLMHeadModel) sees later tokens" in error


def start(storage, teacher, *extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "sweeps/distill.py", *words(storage, teacher, *extra)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )


@pytest.mark.slow
def test_a_killed_distillation_goes_on_and_prints_the_gain(whole_sweep, teacher, tmp_path):
    """kill -9 after an epoch, the command again: every trial once, students learned from the
    teacher, and the paired gain over the control is printed and recorded."""
    storage = tmp_path / "storage"
    shutil.copytree(whole_sweep.storage, storage)
    folder = storage / teacher.best_checkpoint.relative_to(whole_sweep.storage)
    process = start(storage, folder, "--seeds", "0", "1", "--alphas", "0.9")
    wait_for(process, r"alpha=0.9 T=1: epoch 1/3")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with start(storage, folder, "--seeds", "0", "1", "--alphas", "0.9") as again:
        output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert re.search(r"alpha=0.9 T=1: the teacher (gains|loses) 0\.\d+ bits/byte", output)
    assert "paired over 2 seeds" in output
    specs = [TrialFolder(path.parent) for path in storage.glob("study/trials/*/spec.json")]
    students = [trial for trial in specs if trial.spec.teacher]
    assert sorted(trial.spec.seed for trial in students) == [0, 1]
    assert len(specs) == 2 + 2 + 1  # the sweep's two rates, two students, the control of seed 1
    control = next(t for t in specs if t.spec == students[0].spec.control)
    mine, plain = (models.load(t.best_checkpoint).state_dict() for t in (students[0], control))
    assert any(not torch.equal(mine[name], plain[name]) for name in plain)
