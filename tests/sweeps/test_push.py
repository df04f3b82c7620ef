"""`python sweeps/export.py --push`: what a hub holds then, and who may not put it there."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from mlflow import MlflowClient

import models
from analysis.schema.milestone import MilestoneReport
from sweeps import export
from tests.empty_store import empty_store
from tests.made_study import base_spec, made_scores
from tests.sweeps.exported_models import CONFIGS, write_checkpoint
from tests.sweeps.local_hub import Hub, local_hub
from trainables.checkpoint import TrialFolder
from trainables.files import write_json

REPO = "owner/small-lstm"
OPENING = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
for revision in sys.argv[2:]:
    asked = {"revision": revision, "trust_remote_code": True}
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], **asked)
    assert len(AutoTokenizer.from_pretrained(sys.argv[1], **asked)) == 262
    with torch.no_grad():
        print(float(model(torch.arange(2, 40)[None]).logits.abs().mean()))
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """One that the libraries take for the hub, with a token that may write."""
    with local_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        yield hub


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The best model of a training that kept two on its way."""
    spec = base_spec("lstm")
    place = tmp_path / "storage" / "study" / "trials" / spec.hash / "checkpoints"
    for seed, name in enumerate(("step-00000007", "chck_2K", "chck_1M")):
        write_checkpoint(CONFIGS["lstm"]["plain"], place / name, seed=seed)
        write_json(place / name / "spec.json", spec.to_dict())
    TrialFolder(place.parent).keep_milestone(2000, MilestoneReport(2.0, 1.2345, made_scores()))
    return place / "step-00000007"


def push(*words: object) -> int:
    return export.main([*map(str, words), "--push", REPO])


def mean_logit(folder: Path) -> float:
    with torch.no_grad():
        logits = models.load(folder).eval()(torch.arange(2, 40)[None]).logits
    return float(logits.abs().mean())


def test_models_are_pushed_and_open_from_there(
    hub: Hub, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best as main, those of milestones as revisions, each with its files, card and code; in
    another interpreter, which has only transformers, they compute what was trained."""
    target = tmp_path / "small"
    assert push(checkpoint, target, "--milestones") == 0
    said = capsys.readouterr()
    assert f"Pushed      {hub.address}/{REPO}\n" in said.out
    assert "Milestones are revisions: chck_2K, chck_1M\n" in said.out
    assert f"from_pretrained('{REPO}', revision='chck_1M', trust_remote_code=True)" in said.out
    assert "hf_writer" not in said.out + said.err
    kept = {"main": checkpoint} | {
        name: checkpoint.with_name(name) for name in ("chck_2K", "chck_1M")
    }
    files = {each.name for each in target.iterdir() if each.is_file()}
    assert {"README.md", "model.safetensors", "modeling_babysweep_lstm.py"} < files
    assert set(hub.repos[REPO]) == set(kept)
    for revision, there in hub.repos[REPO].items():
        folder = target if revision == "main" else target / revision
        assert there == {name: (folder / name).read_bytes() for name in files}
    card = hub.repos[REPO]["chck_2K"]["README.md"].decode()
    assert "1.2345 bits/byte of the validation text" in card
    assert "zero-shot: macro 100.0" in card
    assert f'AutoTokenizer.from_pretrained("{REPO}", revision="chck_2K", trust' in card
    assert "as it was after 2,000 words of its training, not at the end" in card
    assert not hub.private
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.address}
    opened = subprocess.run(
        [sys.executable, "-I", "-c", OPENING, REPO, *kept],
        cwd=tmp_path,
        env={**environment, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert opened.returncode == 0, opened.stderr[-3000:]
    found = [float(line) for line in opened.stdout.splitlines()]
    assert found == pytest.approx([mean_logit(each) for each in kept.values()], rel=1e-5)
    assert len({round(each, 4) for each in found}) == len(kept)


def test_what_is_there_does_not_travel_again(
    hub: Hub,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A push that is repeated commits nothing; of a card that a person has changed, the card, and
    their licence; no other file that lies there."""
    target = tmp_path / "small"
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [caplog.handler])
    assert push(checkpoint, target) == 0
    assert push(checkpoint, target) == 0
    assert len(hub.commits) == 1
    said = capsys.readouterr()
    assert "The export that lay there holds the same weights" in said.out
    assert said.err == ""
    assert not caplog.records  # nor a remark of the library's, whose handler writes past pytest
    (target / "README.md").write_text("# Mine\n")
    (target / "LICENSE").write_text("MIT")
    (target / ".env").write_text("secret")
    assert push(checkpoint, target) == 0
    assert hub.commits[1:] == [(REPO, "main", ["LICENSE", "README.md"])]


def test_a_push_that_was_refused_goes_on(
    hub: Hub, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The export is kept, the error says so, and the same command pushes it."""
    target = tmp_path / "small"
    hub.refusals = [0, 403]
    assert push(checkpoint, target, "--milestones") == 2
    assert set(hub.repos[REPO]) == {"main", "chck_2K"}
    assert hub.repos[REPO]["chck_2K"] == {}  # not what is in main
    said = capsys.readouterr().err
    assert f"{REPO} cannot be written at {hub.address}: " in said
    assert f"The export lies in {target}: the same command pushes it again" in said
    assert "hf_writer" not in said
    assert (target / "chck_1M" / "config.json").is_file()
    assert push(checkpoint, target, "--milestones") == 0
    assert len(hub.commits) == 3


@pytest.mark.parametrize(
    ("token", "role", "said"),
    [
        (None, None, "no token of the Hugging Face hub is known here: log in with `hf auth login`"),
        ("hf_reader", "read", 'the token "the test\'s", which may only read: make one that may'),
        ("hf_nobody", None, "The token from HF_TOKEN environment variable is invalid"),
    ],
    ids=["no token", "may only read", "unknown"],
)
def test_who_may_not_write_hears_it_first(
    hub: Hub,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str | None,
    role: str | None,
    said: str,
) -> None:
    """Before weights are read, and without the token in what is said."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    if role is not None:
        hub.tokens["hf_reader"] = role
    assert push(checkpoint, tmp_path / "small") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --push: {REPO} cannot be written")
    assert said in error
    assert error.count("\n") == 1
    assert "hf_" not in error
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    "name", ["lstm", "a/b/c", "/lstm", "owner/", "own er/lstm", "a/--b", "https://hub/a/b"]
)
def test_a_name_that_cannot_be_is_refused(
    hub: Hub, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert export.main([str(checkpoint), str(tmp_path / "small"), "--push", name]) == 2
    assert f"error: --push: {name!r} is no OWNER/NAME of a" in capsys.readouterr().err


def test_a_hub_that_is_away_is_named(
    hub: Hub,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert push(checkpoint, tmp_path / "small") == 2
    assert f"{REPO} cannot be written at {address}: " in capsys.readouterr().err


def test_what_lies_there_and_is_another_model_stays(
    hub: Hub, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another model's export is not pushed; nor one that lacks its milestones."""
    target = tmp_path / "small"
    assert export.main([str(checkpoint.with_name("chck_1M")), str(target)]) == 0
    assert push(checkpoint, target) == 2
    assert f"{target} holds another model than {checkpoint}" in capsys.readouterr().err
    assert push(checkpoint.with_name("chck_1M"), target, "--milestones") == 2
    assert f"{target / 'chck_2K'} holds no export" in capsys.readouterr().err
    assert push(checkpoint, checkpoint) == 2  # a checkpoint, with its optimizer
    assert "is not empty: give a folder that is new or empty, or holds" in capsys.readouterr().err
    assert hub.repos == {}


def test_a_card_opens_the_model_where_it_was_pushed(
    hub: Hub, checkpoint: Path, tmp_path: Path
) -> None:
    """Also of an export that was written before, and of one that goes to two places."""
    target = tmp_path / "small"
    card = target / "README.md"
    assert export.main([str(checkpoint), str(target)]) == 0
    assert 'model = AutoModelForCausalLM.from_pretrained("small", trust' in card.read_text()
    mine = 'baseline = AutoModelForCausalLM.from_pretrained("gpt2"), where this folder is\n'
    card.write_text(card.read_text() + mine)
    for place in (REPO, "lab/lstm"):
        assert export.main([str(checkpoint), str(target), "--push", place]) == 0
        pushed = hub.repos[place]["main"]["README.md"].decode()
        for name in ("model = AutoModelForCausalLM", "tokenizer = AutoTokenizer"):
            assert f'{name}.from_pretrained("{place}", trust_remote_code=True)\n' in pushed
        assert "`safetensors`:\n" in pushed
        assert pushed.endswith(mine)


def test_who_may_see_it(
    hub: Hub, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --private its owner; what is public is not written to as if it were private."""
    assert push(checkpoint, tmp_path / "small", "--private") == 0
    assert hub.private == {REPO}
    hub.private.clear()
    assert push(checkpoint, tmp_path / "small", "--private") == 2
    assert f"{REPO} is public already: make it private on its page" in capsys.readouterr().err
    hub.repos["stranger/lstm"] = {"main": {}}
    assert export.main([str(checkpoint), str(tmp_path / "new"), "--push", "stranger/lstm"]) == 2
    assert capsys.readouterr().err == (
        "error: --push: stranger/lstm cannot be written by owner, who may write to repositories of "
        "owner, lab\n"
    )
    assert not (tmp_path / "new").exists()


def test_a_registered_model_has_the_milestones_of_its_training(
    hub: Hub, checkpoint: Path, tmp_path: Path
) -> None:
    """Found by its trial's run in MLflow, in the study that kept the most of them."""
    storage = tmp_path / "storage"
    client = MlflowClient(empty_store(storage))
    trial = checkpoint.parents[1]
    fewer = storage / "an earlier study" / "trials" / trial.name / "checkpoints" / "chck_1M"
    shutil.copytree(checkpoint.with_name("chck_1M"), fewer)
    for study in ("an earlier study", "study"):
        experiment = client.create_experiment(study)
        client.create_run(experiment, tags={"babysweep.spec_hash": trial.name})
    client.create_registered_model("best")
    version = client.create_model_version("best", str(checkpoint))
    client.set_registered_model_alias("best", "teacher", version.version)
    words = ("--milestones", "--storage", storage)
    assert push("models:/best@teacher", tmp_path / "small", *words) == 0
    assert set(hub.repos[REPO]) == {"main", "chck_2K", "chck_1M"}


def test_milestones_are_of_a_training_that_kept_them(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders of the export where nothing is pushed; without a training, or models, an error."""
    target = tmp_path / "small"
    assert export.main([str(checkpoint), str(target), "--milestones"]) == 0
    said = capsys.readouterr().out
    assert "The 3 exported models' logits are the models'" in said
    assert "Milestones are folders in it: chck_2K, chck_1M\n" in said
    assert '"small/chck_1M"' in (target / "chck_1M" / "README.md").read_text()
    assert mean_logit(target / "chck_1M") == mean_logit(checkpoint.with_name("chck_1M"))
    assert export.main([str(target), str(tmp_path / "again"), "--milestones"]) == 2
    assert f"that of {target} is not here" in capsys.readouterr().err
    other = tmp_path / "storage" / "study" / "trials" / "other" / "checkpoints" / "step-00000001"
    write_checkpoint(CONFIGS["lstm"]["plain"], other)
    write_json(other / "spec.json", base_spec("lstm").to_dict())
    assert export.main([str(other), str(tmp_path / "again"), "--milestones"]) == 2
    assert "kept no models on the way: sweep with --milestones" in capsys.readouterr().err
    assert export.main([str(other), str(tmp_path / "again"), "--private"]) == 2
    assert "--private is of a repository on the hub" in capsys.readouterr().err
