"""BEAR's answers are those that its authors' library, lm-pub-quiz, finds.

The library scores a whole statement given BOS, which it adds by hand to a tokenizer that brings
none, and puts no space in front; it sums over tokens and capitalises the statement's first letter.
Our tokenizers encode a text's first word as if a space stood before it, so that for them this is
the protocol of 2024, which writes that space. That of 2025 leaves the first token unscored. With a
tokenizer that brings BOS and no space, it is the protocol of 2025 that asks what the library asks.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import models
from analysis.benchmarks import Benchmark, Encoder, token_log_probs
from analysis.benchmarks.bear import read_bear, read_relations
from tests.agreement.conftest import Train
from tests.agreement.public_tools import PUB_QUIZ
from tests.agreement.remote import Remote
from tests.agreement.training import Checkpoint

TOLERANCE = 1e-3
"""Nats of a whole statement. Answers closer to the best one than this count as the best, too."""

ODD = {
    "colour": (["the [X] is [Y].", "[Y] is the colour of the [X]."], ["red", "dark blue", "grün"]),
    "home": (["[X] lives in [Y]."], ["a small house", "the garden", "Åland", "New-York"]),
    "owner": (["[Y] is the one who owns the [X].", "the [X] is [Y]'s."], ["éva", "o'Neill", "Tom"]),
    "number": (["there are [Y] pieces of [X] here"], ["two", "2", "twenty-two", "2,000"]),
    "twice": (["[X] and [X] make [Y]: a [Y]!"], ["a pair", "nothing", "more than that", "it"]),
}
"""Relations whose statements try what can go wrong in filling and capitalising a template."""
SUBJECTS = ["old dog", "cat", "teacher", "Élise", "ice cream (cold)", "l'ami", "x", "the two birds"]

REAL = ["P105", "P30", "P412", "P403", "P177", "P272"]
"""Relations of up to 60 answers; the first template of the last begins with the answer."""


def write_relations(folder: Path) -> None:
    """`ODD`, each asked of all `SUBJECTS`, in BEAR's layout."""
    folder.mkdir()
    about = {}
    for name, (templates, answers) in ODD.items():
        ids = [f"{name}-{number}" for number in range(len(answers))]
        about[name] = {
            "templates": templates,
            "answer_space_labels": answers,
            "answer_space_ids": ids,
        }
        rows = [
            {
                "sub_id": f"subject-{index}",
                "sub_label": subject,
                "obj_id": ids[index % len(ids)],
                "obj_label": answers[index % len(ids)],
                "answer_idx": index % len(ids),
            }
            for index, subject in enumerate(SUBJECTS)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "metadata_relations.json").write_text(json.dumps(about))


def check_agreement(
    tools: Path,
    checkpoint: Checkpoint,
    folder: Path,
    relations: list[str],
    template: int | None = None,
    protocol: str = "2024",
) -> int:
    """The library's scores of all answers are ours, and it chooses the same ones.

    Returns how many different answers it chose to all questions.
    """
    benchmark = Benchmark("bear", read_bear(folder, all_templates=template is None))
    with Remote(tools, PUB_QUIZ, checkpoint=str(checkpoint.path)) as library:
        found = library.call("scores", folder=str(folder), relations=relations, template=template)
    alike, chosen = [], set()
    for name in relations:
        indices = [index for index, item in enumerate(benchmark.items) if item.task == name]
        ours, choices = score(benchmark.part(indices), checkpoint, protocol)
        theirs = np.array(in_our_order(found[name], len(indices), template, folder, name))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE, err_msg=name)
        close = theirs.max(axis=1, keepdims=True) - theirs < TOLERANCE
        assert close[np.arange(len(choices)), choices].all(), name
        alike += list(choices == theirs.argmax(axis=1))
        chosen |= {(name, choice) for choice in choices}
    print(f"{len(alike)} questions, {np.mean(alike):.2%} answered alike")
    return len(chosen)


def score(
    benchmark: Benchmark, checkpoint: Checkpoint, protocol: str
) -> tuple[np.ndarray, np.ndarray]:
    """Our scores, (questions, answers), and the index of the answer that the grading chooses."""
    spans = benchmark.spans(Encoder(checkpoint.tokenizer, protocol))
    log_probs = token_log_probs(models.load(checkpoint.path), spans)
    scores = np.array([values.sum(dtype=np.float64) for values in log_probs])
    choices = [outcome.choice for outcome in benchmark.grade(log_probs)]
    return scores.reshape(len(benchmark), -1), np.array(choices)


def in_our_order(
    rows: list[list[float]], count: int, template: int | None, folder: Path, relation: str
) -> list[list[float]]:
    """Of all wordings the library asks one question after the other, we one wording."""
    assert len(rows) == count
    if template is not None:
        return rows
    about = json.loads((folder / "metadata_relations.json").read_text())
    wordings = len(about[relation]["templates"])
    return [row for wording in range(wordings) for row in rows[wording::wordings]]


@pytest.mark.agreement
@pytest.mark.parametrize("arch", models.architectures())
def test_built_in_relations(arch: str, trained: Train, built_in: Path, tools: Path) -> None:
    """In every wording each answer to each question is scored, and the best chosen, as there."""
    folder = built_in / "bear_mini"
    relations = [relation.name for relation in read_relations(folder)]
    assert len(relations) >= 5
    chosen = check_agreement(tools, trained(arch), folder, relations)
    assert chosen > len(relations)  # one answer to all questions would tell little


@pytest.mark.agreement
@pytest.mark.parametrize("arch", ["transformer", "xlstm"])
def test_odd_relations(arch: str, trained: Train, tools: Path, tmp_path: Path) -> None:
    """Accents, brackets, an answer in front, a subject twice: the statements are the library's."""
    write_relations(tmp_path / "bear")
    check_agreement(tools, trained(arch), tmp_path / "bear", list(ODD))


def with_other_tokenizer(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """The same model with a tokenizer that begins with BOS and puts no space in front."""
    backend = copy.deepcopy(checkpoint.tokenizer.backend_tokenizer)
    bos = checkpoint.tokenizer.bos_token
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, checkpoint.tokenizer.bos_token_id)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=checkpoint.tokenizer.eos_token,
        pad_token=checkpoint.tokenizer.pad_token,
    )
    checkpoint.model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return replace(checkpoint, path=path, tokenizer=tokenizer)


@pytest.mark.agreement
def test_a_tokenizer_that_brings_bos(trained: Train, tools: Path, tmp_path: Path) -> None:
    """With such a tokenizer the library asks what the protocol of 2025 asks."""
    write_relations(tmp_path / "bear")
    checkpoint = with_other_tokenizer(trained("transformer"), tmp_path / "checkpoint")
    assert checkpoint.tokenizer("A cat.")["input_ids"][0] == checkpoint.tokenizer.bos_token_id
    check_agreement(tools, checkpoint, tmp_path / "bear", list(ODD), protocol="2025")


@pytest.mark.agreement
@pytest.mark.parametrize("arch", ["transformer", "hgrn2"])
def test_real_relations(arch: str, trained: Train, shared_data: Path, tools: Path) -> None:
    """Six relations of BEAR, all questions, all answers."""
    chosen = check_agreement(tools, trained(arch), shared_data / "bear" / "BEAR", REAL, 0)
    assert chosen > len(REAL)
