"""GLUE tasks: files, templates, metrics, baselines, settings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis.benchmarks import classification, glue
from analysis.benchmarks.classification import Example, MissingFiles, TaskData

LABELS = [1, 1, 1, 0, 0]
PREDICTIONS = [1, 1, 0, 1, 0]  # 2 true and 1 false positive, 1 false negative, 1 true negative


def write_rows(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> Path:
    """A file of JSON lines."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def data_of(task: str, train: Sequence[int], valid: Sequence[int]) -> TaskData:
    """A task whose texts do not matter."""
    parts = [tuple(Example(("text",), label) for label in part) for part in (train, valid)]
    return TaskData(glue.find_task(task), *parts)


@pytest.mark.parametrize(
    ("task", "percent"),
    [("rte", 60.0), ("mrpc", 100 * 4 / 6), ("cola", 100 / 6)],
    ids=["accuracy", "f1", "matthews"],
)
def test_metrics_by_hand(task: str, percent: float) -> None:
    """2 + 1 of 5 are right; F1 = 2*2 / (2*2 + 1 + 1); Matthews = (2*1 - 1*1) / sqrt(3*3*2*2)."""
    assert classification.score(glue.find_task(task), LABELS, PREDICTIONS) == pytest.approx(percent)


def test_accuracy_of_three_labels() -> None:
    """Confusions between any two labels count alike."""
    assert classification.score(glue.find_task("mnli"), [0, 1, 2, 2], [0, 2, 1, 2]) == 50.0


@pytest.mark.parametrize(("task", "answer"), [("mrpc", 0), ("cola", 0), ("cola", 1)])
def test_a_constant_answer_without_a_defined_metric_scores_zero(task: str, answer: int) -> None:
    """F1 without a predicted 1 and Matthews without variation are zero, not NaN."""
    assert classification.score(glue.find_task(task), LABELS, [answer] * 5) == 0.0


def test_standard_error_is_the_binomial_one_for_accuracy() -> None:
    """Of 150 right answers in 200 the error is 100 sqrt(0.75 * 0.25 / 200) percentage points."""
    labels, predictions = [0] * 200, [0] * 150 + [1] * 50
    error = classification.standard_error(glue.find_task("rte"), labels, predictions)
    assert error == pytest.approx(100 * math.sqrt(0.75 * 0.25 / 200), rel=0.1)


def test_baseline_label_comes_from_the_training_examples() -> None:
    """The label that is most frequent in training is scored, though another one is in the file."""
    assert classification.baseline(data_of("rte", train=[0, 0, 1], valid=[1, 1, 1, 0])) == 25.0


def test_baseline_is_in_the_metric_of_the_task() -> None:
    """For F1 the constant answer is 1 even where 0 is more frequent, for Matthews it scores 0."""
    train, valid = [0, 0, 0, 1], [0, 0, 1, 1]
    assert classification.baseline(data_of("qqp", train, valid)) == pytest.approx(100 * 4 / 6)
    assert classification.baseline(data_of("cola", train, valid)) == 0.0


TEXTS = {
    "multirc": (
        {"question": "Who slept?", "answer": "The cat", "paragraph": "A {cat} slept."},
        ("Question: Who slept? Answer: The cat", "A {cat} slept."),
    ),
    "wsc": (
        {"span1_text": "the cat", "span2_text": "it", "text": "The cat ate as it sat."},
        ('Does "it" refer to "the cat" in this passage?', "The cat ate as it sat."),
    ),
    "mnli": ({"premise": "A", "hypothesis": "B"}, ("A", "B")),
    "boolq": ({"question": "is it", "passage": "It is."}, ("is it", "It is.")),
    "qnli": ({"question": "Is it?", "sentence": "It is."}, ("Is it?", "It is.")),
    "qqp": ({"question1": "Is it?", "question2": "It is?"}, ("Is it?", "It is?")),
    "mrpc": ({"sentence1": "A", "sentence2": "B"}, ("A", "B")),
    "rte": ({"sentence1": "A", "sentence2": "B"}, ("A", "B")),
    "cola": ({"sentence": "A"}, ("A",)),
    "sst2": ({"sentence": "A"}, ("A",)),
}


@pytest.mark.parametrize("task", TEXTS)
def test_texts_of_a_row(task: str, tmp_path: Path) -> None:
    """A row of the public files becomes the texts of its task's template."""
    fields, texts = TEXTS[task]
    write_rows(tmp_path, f"{task}.train", [{**fields, "label": 1, "idx": 0}])
    write_rows(tmp_path, f"{task}.valid", [{**fields, "label": 0, "idx": 0}] * 2)
    data = glue.read_task(tmp_path, task)
    assert isinstance(data, TaskData)
    assert data.train == (Example(texts, 1),)
    assert data.valid == (Example(texts, 0),) * 2


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"sentence": "A", "label": 2}, "label must be 0 to 1"),
        ({"sentence": "A", "label": -1}, "label must be 0 to 1"),
        ({"sentence": "A"}, "field 'label'"),
        ({"label": 0}, "field 'sentence' is missing"),
        ({"sentence": 7, "label": 0}, "field 'sentence' is missing or not a string"),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """What is wrong with a row is said with its file and line."""
    write_rows(tmp_path, "sst2.train", [{"sentence": "A", "label": 1}, row])
    write_rows(tmp_path, "sst2.valid", [{"sentence": "A", "label": 1}])
    with pytest.raises(ValueError, match=rf"sst2\.train\.jsonl, line 2: {problem}"):
        glue.read_task(tmp_path, "sst2")


def test_a_text_may_be_empty(tmp_path: Path) -> None:
    """Full QQP has empty questions: they are examples like others."""
    row = {"question1": "", "question2": "Why?", "label": 0}
    for part in ("train", "valid"):
        write_rows(tmp_path, f"qqp.{part}", [row])
    data = glue.read_task(tmp_path, "qqp")
    assert isinstance(data, TaskData)
    assert data.train == data.valid == (Example(("", "Why?"), 0),)


def test_a_missing_file_is_a_result(tmp_path: Path) -> None:
    """A task without one of its files is no exception: the answer names the file."""
    write_rows(tmp_path, "boolq.valid", [{"question": "A", "passage": "B", "label": 0}])
    found = glue.read_task(tmp_path, "boolq")
    assert found == MissingFiles(glue.find_task("boolq"), (tmp_path / "boolq.train.jsonl",))


def test_mnli_mm_trains_on_mnli(tmp_path: Path) -> None:
    """The mismatched task reports on its own file, after training on that of the matched one."""
    train = write_rows(tmp_path, "mnli.train", [{"premise": "A", "hypothesis": "B", "label": 2}])
    missing = glue.read_task(tmp_path, "mnli-mm")
    assert isinstance(missing, MissingFiles)
    assert [file.name for file in missing.files] == ["mnli-mm.valid.jsonl"]
    train.rename(tmp_path / "mnli-mm.valid.jsonl")
    missing = glue.read_task(tmp_path, "mnli-mm")
    assert isinstance(missing, MissingFiles)
    assert [file.name for file in missing.files] == ["mnli.train.jsonl"]


def test_find_takes_the_folder_or_the_one_in_it(tmp_path: Path) -> None:
    """Task files are found in the folder itself or in its `glue*`; two such folders are refused."""
    assert glue.find(tmp_path) is None
    folder = tmp_path / "glue_filtered"
    folder.mkdir()
    assert glue.find(tmp_path) is None
    write_rows(folder, "rte.valid", [{}])
    assert glue.find(tmp_path) == glue.find(folder) == folder
    (tmp_path / "glue_more").mkdir()
    write_rows(tmp_path / "glue_more", "cola.train", [{}])
    with pytest.raises(ValueError, match="several folders"):
        glue.find(tmp_path)


def test_settings_are_those_of_protocol_and_task() -> None:
    """Each year's values, with the exceptions for single tasks."""
    rte, wsc = glue.settings("2024", "rte"), glue.settings("2024", "wsc")
    assert (rte.lr, rte.batch_size, rte.epochs, rte.patience) == (5e-5, 64, 10, 3)
    assert (rte.max_length, rte.seed, rte.min_delta, rte.head) == (128, 12, 0.1, "linear")
    assert (wsc.lr, wsc.epochs, wsc.patience) == (1e-5, 20, 6)
    new = {task: glue.settings("2025", task) for task in ("rte", "wsc", "boolq", "multirc")}
    assert {task: s.batch_size for task, s in new.items()} == {
        "rte": 32,
        "wsc": 32,
        "boolq": 16,
        "multirc": 16,
    }
    assert (new["rte"].epochs, new["wsc"].epochs, new["rte"].patience) == (10, 30, None)
    assert (new["rte"].lr, new["rte"].max_length, new["rte"].seed) == (3e-5, 512, 42)


def test_changes_win_over_protocol_and_task() -> None:
    """What is changed replaces also a task's exception; the rest stays, and must make sense."""
    changed = glue.settings("2024", "wsc", {"lr": 3e-4, "patience": None})
    assert (changed.lr, changed.patience, changed.epochs) == (3e-4, None, 20)
    with pytest.raises(ValueError, match=r"unknown settings .*: rate, size; .* lr, batch_size"):
        glue.settings("2024", "rte", {"rate": 1e-3, "epochs": 1, "size": 2})
    with pytest.raises(ValueError, match="epochs must be positive, not 0"):
        glue.settings("2024", "rte", {"epochs": 0})


@pytest.mark.parametrize(("protocol", "task"), [("2023", "rte"), ("2024", "snli")])
def test_unknown_names_are_refused(protocol: str, task: str) -> None:
    """The message lists what there is."""
    with pytest.raises(ValueError, match=r"choose from .*(2024|boolq)"):
        glue.settings(protocol, task)


def test_hash_is_of_the_examples(tmp_path: Path) -> None:
    """Equal examples hash alike wherever they lie; one changed label is another data set."""
    first = data_of("rte", [0, 1], [1])
    assert first.hash == data_of("rte", [0, 1], [1]).hash
    others = [data_of("rte", [0, 1], [0]), data_of("rte", [1, 0], [1]), data_of("rte", [0], [1, 1])]
    assert first.hash not in {other.hash for other in others}
