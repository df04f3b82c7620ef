"""`python sweeps/export.py`: what it writes opens where this project is not, and is the same."""

from __future__ import annotations

import ast
import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from transformers import GPT2Config

import models
from models import registry
from models.standalone import checking
from models.standalone.joining import PLAIN, auto_map, joined
from sweeps import export
from tests.empty_store import empty_store
from tests.made_study import base_spec, made_scores
from tests.sweeps.exported_models import CONFIGS, check_exports, write_checkpoint
from tests.tiny_text import write_tiny_text
from trainables.corpus import prepare_corpus
from trainables.files import write_json
from trainables.progress import EpochReport, TrialOutcome, TrialProgress

MANY = [
    pytest.param(arch, marks=[] if arch in ("xlstm", "gated_deltanet") else [pytest.mark.slow])
    for arch in CONFIGS
]


def test_all_architectures_are_exported() -> None:
    assert set(CONFIGS) == set(models.architectures())
    for arch, variants in CONFIGS.items():
        for config in variants.values():
            assert registry.of_config(config).name == arch
        assert checking.plain_class(arch).__module__.startswith(
            "models.standalone." if arch in PLAIN else "transformers."
        )


@pytest.mark.parametrize("arch", MANY)
def test_an_export_opens_without_the_project(arch: str, tmp_path: Path) -> None:
    check_exports(arch, tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "storage" / "study" / "trials" / "abc" / "checkpoints" / "step-00000007"
    write_checkpoint(CONFIGS["lstm"]["plain"], folder)
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command says of an export that it does not make, in a line."""
    assert export.main([*map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("arch", PLAIN)
def test_the_joined_file_needs_pytorch_and_transformers_only(arch: str) -> None:
    """No name is given twice, and none is of a package that people may lack."""
    tree = ast.parse(joined(arch))
    taken = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    taken |= {
        each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names
    }
    libraries = {name.partition(".")[0] for name in taken} - set(sys.stdlib_module_names)
    assert libraries == {"torch", "transformers"}
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert len(names) == len(set(names))
    for opened in auto_map(arch).values():
        module, name = opened.split(".")
        assert module == f"modeling_babysweep_{arch}"
        assert name in names


def test_what_cannot_be_exported_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is written, with the reason."""
    file = tmp_path / "file"
    file.touch()
    stranger = tmp_path / "stranger"
    GPT2Config(n_embd=8, n_layer=1, n_head=1).save_pretrained(stranger)
    empty = tmp_path / "empty"
    empty.mkdir()
    new = tmp_path / "new"
    assert "is not empty: give a folder that is new" in refused(capsys, checkpoint, checkpoint)
    assert f"DIR {file} is a file" in refused(capsys, checkpoint, file)
    assert "is a file)" in refused(capsys, checkpoint, file / "inside")
    assert f"no model at {tmp_path / 'none'}" in refused(capsys, tmp_path / "none", new)
    assert "it has no config.json" in refused(capsys, empty, new)
    assert "model_type gpt2" in refused(capsys, stranger, new)
    storage = tmp_path / "storage"
    empty_store(storage)
    said = refused(capsys, "models:/none@teacher", new, "--storage", storage)
    assert "no model models:/none@teacher" in said
    (checkpoint / "tokenizer.json").unlink()
    assert "tokenizer" in refused(capsys, checkpoint, new)
    assert not new.exists()


def test_a_model_that_computes_something_else_is_not_written(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(checking, "LARGEST", -1.0)
    target = tmp_path / "there" / "exported"
    said = refused(capsys, checkpoint, target)
    assert "the exported model does not compute what the lstm does" in said
    assert [*target.parent.iterdir()] == []


def test_the_card_says_what_is_known(checkpoint: Path, tmp_path: Path) -> None:
    """Of corpus, recipe, results and teacher; of a model of unknown origin, nothing of them."""
    target = tmp_path / "my lstm"
    target.mkdir()  # an empty folder may be there
    assert export.main([str(checkpoint), str(target)]) == 0
    card = (target / "README.md").read_text()
    assert '"my lstm", trust_remote_code=True' in card
    assert not {"## Data", "## Recipe", "## Results"} & set(card.splitlines())
    number = models.num_params(models.load_config(checkpoint))
    assert f"{number.total:,} parameters, {number.non_embedding:,} of them besides" in card

    spec = base_spec("lstm").replace(teacher="feed", alpha=0.5)
    spec = spec.replace(teacher="feed+beef", teacher_name=f"models:/lstm/1+{tmp_path}")
    report = EpochReport(2, 7, 100, 2.0, 1.9, 1.2345, 3.0, 2.0, made_scores())
    later = EpochReport(3, 9, 100, 2.0, 1.95, 1.2999, 3.0, 2.0)
    write_json(checkpoint / "spec.json", spec.to_dict())
    write_json(checkpoint / "trainer.json", TrialProgress(step=7, history=[report]).to_dict())
    trial = checkpoint.parents[1]
    outcome = TrialOutcome("finished", (report, later), checkpoint.name)
    write_json(trial / "outcome.json", dataclasses.asdict(outcome))
    write_json(trial / "final.json", {"zero_shot": made_scores()})
    text = tmp_path / "texts"
    text.mkdir()
    write_tiny_text(text)
    corpus = prepare_corpus(str(text), cache=tmp_path / "storage" / "corpora", vocab_size=270)
    write_json(checkpoint / "spec.json", spec.replace(corpus_hash=corpus.hash).to_dict())
    assert export.main([str(checkpoint), str(tmp_path / "known")]) == 0
    card = (tmp_path / "known" / "README.md").read_text()
    for words in (
        f"hash {corpus.hash[:16]}): {corpus.train_words:,} words to train on",
        "3 epochs planned, seed 0",
        "adamw, peak learning rate 1e-2, schedule linear, warm-up 0.05 of all steps",
        "epoch 2: 1.2345 bits/byte",
        "zero-shot at this epoch: macro 100.0",
        "zero-shot after the sweep: macro 100.0",
        "distilled from models:/lstm/1 (hash feed) and a model (hash beef): KL with weight 0.5",
    ):
        assert words in card
    assert str(tmp_path) not in card
    print(card)


def test_a_registered_model(checkpoint: Path, tmp_path: Path) -> None:
    """By its alias; the export opens here, too, as the project's own model."""
    client = MlflowClient(empty_store(tmp_path / "storage"))
    client.create_registered_model("best")
    version = client.create_model_version("best", str(checkpoint))
    client.set_registered_model_alias("best", "teacher", version.version)
    words = ["models:/best@teacher", str(tmp_path / "out"), "--storage", str(tmp_path / "storage")]
    assert export.main(words) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["auto_map"]
    first, second = (models.load(each).state_dict() for each in (checkpoint, tmp_path / "out"))
    assert all(torch.equal(first[name], second[name]) for name in first | second)
    assert export.main([str(tmp_path / "out"), str(tmp_path / "again")]) == 0
