"""The multilingual track's fine-tuning sets: files, labels, what is said of bad ones, settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis.benchmarks import classification, glue, multilingual
from analysis.benchmarks.classification import Example, MissingFiles, TaskData
from analysis.benchmarks.folders import entry_rows, survey
from analysis.benchmarks.protocols import PROTOCOLS
from sweeps.engine.scoring.finetuning import check_tasks
from sweeps.engine.scoring.tasks import check_folder, split_tasks

TOPICS = [{"sentence": f"de {what} is hier", "label": what} for what in ("zee", "kat", "boom")]


def write_task(
    folder: Path, task: str, train: Sequence[dict[str, Any]], valid: Sequence[dict[str, Any]]
) -> Path:
    """The two files of a task such as sib200_nl, below a folder of languages; returns the first."""
    name, language = task.rsplit("_", 1)
    place = folder / language / name
    place.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", train), ("valid", valid)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (place / f"{task}.{part}.jsonl").write_text(lines)
    return place / f"{task}.train.jsonl"


def read(folder: Path, task: str) -> TaskData:
    data = glue.read_task(folder, task)
    assert isinstance(data, TaskData)
    return data


def test_labels_are_those_of_the_training_file(tmp_path: Path) -> None:
    """Sorted, whatever the order of rows; the reported examples' indices are of the same list."""
    write_task(tmp_path, "sib200_nl", TOPICS, TOPICS[:1] * 2)
    data = read(tmp_path, "sib200_nl")
    assert data.task.labels == ("boom", "kat", "zee")
    assert [example.label for example in data.train] == [2, 1, 0]
    assert data.valid == (Example(("de zee is hier",), 2),) * 2
    assert glue.find_task("sib200_nl").labels == ()


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    """They are sorted as such: 10 stands behind 2."""
    rows = [{"premise": "A", "hypothesis": "B", "label": label} for label in (10, 2, 0)]
    write_task(tmp_path, "xnli_zh", rows, rows)
    data = read(tmp_path, "xnli_zh")
    assert data.task.labels == ("0", "2", "10")
    assert [example.label for example in data.train] == [2, 1, 0]


@pytest.mark.parametrize("task", multilingual.TASKS)
def test_texts_of_a_row(task: str, tmp_path: Path) -> None:
    """Of one text or of two, by the fields that the public files have; others count for nothing."""
    name = task.rsplit("_", 1)[0]
    fields = {"mnli": ("premise", "hypothesis"), "xcopa": ("sentence1", "sentence2")}
    keys = {**fields, "xnli": fields["mnli"]}.get(name, ("sentence",))
    rows = [{**{key: f"the {key}" for key in keys}, "label": x, "idx": 7} for x in ("A", "B")]
    write_task(tmp_path, task, rows, rows)
    data = read(tmp_path, task)
    assert data.train == data.valid
    assert data.valid[0] == Example(tuple(f"the {key}" for key in keys), 0)


@pytest.mark.parametrize(
    ("train", "valid", "problem"),
    [
        ([], [{"sentence": "A", "label": 7}], r"valid\.jsonl, line 1: label 7 is in no row of .*"),
        ([], [{"sentence": "A"}], r"valid\.jsonl, line 1: label None is in no row of .*'kat'"),
        ([], [{"sentence": "A", "label": ["kat"]}], r"line 1: label \['kat'\] is in no row of "),
        ([], [{"label": "kat"}], r"valid\.jsonl, line 1: field 'sentence' is missing"),
        ([], [], r"valid\.jsonl is empty"),
        ([{"sentence": "A"}], TOPICS, r"train\.jsonl, line 4: field 'label' is missing or neither"),
        ([{"sentence": "A", "label": ""}], TOPICS, r"line 4: field 'label' is missing or neither"),
        ([{"sentence": "A", "label": True}], TOPICS, r"line 4: field 'label' is .*: True"),
        ([{"sentence": "A", "label": 1}], TOPICS, r"line 4: label 1 is an integer, that of the fi"),
        ([{"sentence": 1, "label": "kat"}], TOPICS, r"train\.jsonl, line 4: field 'sentence'"),
    ],
)
def test_a_bad_row_is_named(
    train: list[dict[str, Any]], valid: list[dict[str, Any]], problem: str, tmp_path: Path
) -> None:
    """What is wrong with it is said, with file and line; a label that was never trained on, too."""
    write_task(tmp_path, "sib200_nl", [*TOPICS, *train], valid)
    with pytest.raises(ValueError, match=rf"sib200_nl\..*{problem}"):
        glue.read_task(tmp_path, "sib200_nl")


def test_true_is_no_label_called_1(tmp_path: Path) -> None:
    """Though Python holds them for equal."""
    rows = [{"sentence1": "A", "sentence2": "B", "label": label} for label in (0, 1)]
    write_task(tmp_path, "xcopa_zh", rows, [{**rows[1], "label": True}])
    with pytest.raises(ValueError, match=r"xcopa_zh\.valid\.jsonl, line 1: label True is in no"):
        glue.read_task(tmp_path, "xcopa_zh")


def test_a_broken_training_file_is_named(tmp_path: Path) -> None:
    """Empty, not JSON, or with one label only, of which nothing can be learned."""
    file = write_task(tmp_path, "arc_en", [{"sentence": "a", "label": "A"}] * 2, TOPICS)
    for text, problem in (
        (file.read_text(), r": every row has the label 'A', and there is nothing to learn"),
        ("", " is empty"),
        ('{"sentence": "a", "label": "A"}\n{"sentence"\n', ", line 2: not valid JSON"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"arc_en\.train\.jsonl{problem}"):
            glue.read_task(tmp_path, "arc_en")


def test_marks_and_line_ends_of_editors_change_nothing(tmp_path: Path) -> None:
    """A byte-order mark, CRLF and blank lines."""
    file = write_task(tmp_path, "sib200_nl", TOPICS, TOPICS)
    expected = read(tmp_path, "sib200_nl")
    text = file.read_bytes()
    file.write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert read(tmp_path, "sib200_nl") == expected


def test_the_folder_of_a_language_is_found(tmp_path: Path) -> None:
    """It may be given itself, or lie in the folder, in one called multilingual*, in full_eval; two
    such folders are refused."""
    for place in ("", "multilingual", "multilingual_sets", "full_eval", "full_eval/multilingual"):
        data = tmp_path / "data"
        write_task(data / place, "sib200_nl", TOPICS, TOPICS)
        folder = data / place / "nl"
        assert glue.find(data, "multilingual_nl") == glue.find(folder, "multilingual_nl") == folder
        assert glue.find(data, "multilingual_zh") is None
        assert len(read(data, "sib200_nl").train) == 3
        data.rename(tmp_path / f"{len(place)}")
    for place in ("a/multilingual", "a/multilingual_more"):
        write_task(tmp_path / place, "sib200_nl", TOPICS, TOPICS)
    with pytest.raises(ValueError, match=r"several folders with files of multilingual_nl \("):
        glue.read_task(tmp_path / "a", "sib200_nl")


def test_missing_files_are_a_result(tmp_path: Path) -> None:
    """Of one task among others; where a language has none at all, too."""
    write_task(tmp_path, "sib200_nl", TOPICS, TOPICS).unlink()
    for task, names in (
        ("sib200_nl", ["nl/sib200/sib200_nl.train.jsonl"]),
        ("mnli_zh", [f"zh/mnli/mnli_zh.{part}.jsonl" for part in ("train", "valid")]),
    ):
        data = glue.read_task(tmp_path, task)
        assert isinstance(data, MissingFiles)
        assert [str(file.relative_to(tmp_path)) for file in data.files] == names


def test_a_folder_without_any_is_refused(tmp_path: Path) -> None:
    """With what is looked for, or the folder to give; of all languages one is enough, one that is
    named must be there."""
    with pytest.raises(ValueError, match=r"no files of multilingual_nl in .*: expected <name>/<ta"):
        check_folder(str(tmp_path), ["sib200_nl"])
    write_task(tmp_path / "finetune" / "data", "sib200_nl", TOPICS, TOPICS)
    with pytest.raises(ValueError, match=rf"--benchmarks {tmp_path}/finetune/data$"):
        check_folder(str(tmp_path), ["sib200_nl"])
    data = tmp_path / "finetune" / "data"
    assert check_folder(str(data), ["multilingual", "blimp"]) == data
    assert check_folder(str(data), ["multilingual_nl", "mnli_nl"]) == data
    for asked in (["multilingual_en", "multilingual_nl"], ["multilingual", "arc_en"]):
        with pytest.raises(ValueError, match="no files of multilingual_en in"):
            check_folder(str(data), asked)
    with pytest.raises(ValueError, match="no files of multilingual_zh in"):
        check_folder(str(data), ["sib200_zh"])
    with pytest.raises(ValueError, match="no files of glue in"):
        check_folder(str(data), ["sib200_nl", "rte"])
    with pytest.raises(ValueError, match="not of the hub: --benchmarks FOLDER"):
        check_folder("hub", ["sib200_nl"])


def test_the_folder_to_give_is_of_the_group_asked_for(tmp_path: Path) -> None:
    """Nearer benchmarks, and folders that are several of another group, are no answer; a path with
    a space is quoted."""
    row = json.dumps({"sentence_good": "a b", "sentence_bad": "b a"})
    for place in ("near/blimp", "near/glue_a", "near/glue_b"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "rte.valid.jsonl").write_text(row)
    write_task(tmp_path / "more" / "my data", "sib200_nl", TOPICS, TOPICS)
    with pytest.raises(ValueError, match=rf"--benchmarks '{tmp_path}/more/my data'$"):
        check_folder(str(tmp_path), ["sib200_nl"])


def test_several_folders_of_a_language_are_no_matter_unless_it_is_asked_for(tmp_path: Path) -> None:
    """What else the folder holds is found and told of."""
    (tmp_path / "blimp").mkdir()
    row = {"sentence_good": "a b", "sentence_bad": "b a"}
    (tmp_path / "blimp" / "a.jsonl").write_text(json.dumps(row))
    for place in ("", "multilingual"):
        write_task(tmp_path / place, "sib200_en", TOPICS, TOPICS)
    assert {entry.name for entry in survey(tmp_path.parent)} >= {tmp_path.name}
    assert {entry.name for entry in survey(tmp_path)} == {"blimp", "en", "multilingual/en"}
    with pytest.raises(ValueError, match="several folders with files of multilingual_en"):
        check_folder(str(tmp_path), ["multilingual_en"])


def test_folders_may_be_called_in_capitals(tmp_path: Path) -> None:
    """As those of zero-shot benchmarks may."""
    write_task(tmp_path / "data", "sib200_nl", TOPICS, TOPICS)
    (tmp_path / "data").rename(tmp_path / "Multilingual")
    (tmp_path / "Multilingual" / "nl").rename(tmp_path / "Multilingual" / "NL")
    assert len(read(tmp_path, "sib200_nl").train) == 3
    assert told(tmp_path)["Multilingual/NL"][0] == "multilingual_nl"
    assert len(read(tmp_path / "Multilingual" / "NL", "sib200_nl").train) == 3
    assert told(tmp_path / "Multilingual")["NL"][0] == "multilingual_nl"


def test_names_of_several_tasks() -> None:
    """Those that the organisers' script runs; the other two are named by themselves. Zero-shot
    tasks stay, and none is run twice."""
    zero_shot, tasks = split_tasks(["blimp", "multilingual_nl", "sib200_nl", "xcopa_zh"], "2025")
    names = ["arc", "belebele", "bmlama", "include", "mnli", "sib200", "truthfulqa"]
    assert zero_shot == ("blimp",)
    assert tasks == (*(f"{name}_nl" for name in names), "xcopa_zh")
    every = split_tasks(["multilingual"], "2024")[1]
    assert len(every) == 7 + 7 + 8
    assert set(multilingual.TASKS) - set(every) == {
        *(f"global_mmlu_{language}" for language in ("en", "nl", "zh")),
        *("xcopa_en", "xcopa_zh"),
    }
    assert split_tasks(["glue"], "2025") == ((), glue.PROTOCOL_TASKS["2025"])


def test_settings_are_those_of_the_organisers_script() -> None:
    """Under each protocol; what is changed wins."""
    for protocol in PROTOCOLS:
        found = glue.settings(protocol, "sib200_nl", {"seed": 3})
        assert (found.lr, found.batch_size, found.epochs, found.patience) == (5e-5, 64, 10, 3)
        assert (found.max_length, found.min_delta, found.seed) == (128, 0.1, 3)


def test_the_figure_is_accuracy_beside_the_most_frequent_label(tmp_path: Path) -> None:
    """Of the training file's labels; two of three answers are right."""
    sea, cat, tree = TOPICS
    write_task(tmp_path, "sib200_nl", [sea, sea, cat, tree], [sea, cat, cat])
    data = read(tmp_path, "sib200_nl")
    assert classification.baseline(data) == pytest.approx(100 / 3)
    assert classification.score(data.task, [2, 1, 1], [2, 1, 0]) == pytest.approx(200 / 3)


def told(folder: Path, *tasks: str) -> dict[str, tuple[str, str]]:
    """What the table says of each folder, where these tasks were asked for."""
    rows = entry_rows(survey(folder), [], check_tasks(folder, tasks))
    return {name: (group, fate) for name, group, fate in rows}


def test_the_table_knows_them(tmp_path: Path) -> None:
    """By language: tasks with the labels that were found, or how to ask for them."""
    root = tmp_path / "multilingual"
    four = [{"sentence": "a", "label": label} for label in "DBCA"]
    write_task(root, "arc_nl", four, four)
    write_task(root, "sib200_nl", TOPICS, TOPICS)
    write_task(root, "sib200_zh", TOPICS, TOPICS)
    (root / "fr").mkdir()
    rows = told(tmp_path, "arc_nl", "sib200_nl", "mnli_nl")
    assert rows["multilingual/nl"] == (
        "multilingual_nl",
        "fine-tuned on: arc_nl (4 labels: A, B, C and 1 more), "
        "sib200_nl (3 labels: boom, kat, zee), mnli_nl (lacks files)",
    )
    assert rows["multilingual/zh"] == (
        "multilingual_zh",
        "left out: fine-tuned only with --tasks multilingual_zh, or one of its tasks (arc_zh, "
        "belebele_zh, bmlama_zh and 7 more)",
    )
    assert "no benchmark is called so (" in rows["multilingual/fr"][1]
    assert set(told(root)) == {"nl", "zh", "fr"}
    (root / "nl" / "mine").mkdir()
    assert set(told(root / "nl")) == {"nl", "mine"}
