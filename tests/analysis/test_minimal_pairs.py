"""Minimal pairs: what is read, and which lines are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.benchmarks import Item, read_minimal_pairs

GOOD = {"sentence_good": "the cat sleeps", "sentence_bad": "the cat sleep"}


def write(folder: Path, *lines: str, name: str = "task.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_reads_blimp_and_supplement_lines(tmp_path: Path) -> None:
    """UID, field and term come from the line; without a UID the file's stem is the task."""
    row = {**GOOD, "UID": "agreement", "field": "morphology", "linguistics_term": "agree", "row": 3}
    folder = write(tmp_path / "blimp", json.dumps(row), "", json.dumps(GOOD), name="stem.jsonl")
    sentences = ("the cat sleeps", "the cat sleep")
    groups = (("field", "morphology"), ("linguistics_term", "agree"))
    assert read_minimal_pairs(folder) == (
        Item("agreement", sentences, right=0, groups=groups),
        Item("stem", sentences),
    )


def test_one_field_has_one_spelling(tmp_path: Path) -> None:
    """The public files write the field syntax/semantics in two ways: both are one group."""
    rows = [
        json.dumps({**GOOD, "field": name}) for name in ("syntax/semantics", "syntax_semantics")
    ]
    items = read_minimal_pairs(write(tmp_path / "blimp", *rows))
    assert items[0].groups == items[1].groups == (("field", "syntax/semantics"),)


def test_a_byte_order_mark_and_whole_pairs_are_read(tmp_path: Path) -> None:
    """As some editors and JSON writers leave them, with line ends of either kind."""
    row = r'{"sentence_good": "a \ud83d\ude00", "sentence_bad": "b \\ud83d"}'
    (tmp_path / "task.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n".encode() * 2)
    first, second = read_minimal_pairs(tmp_path)
    assert first == second == Item("task", ("a \U0001f600", r"b \ud83d"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sentence_good": ', r"task.jsonl, line 2: not valid JSON"),
        (
            r'{"sentence_good": "A \ud83d.", "sentence_bad": "b"}',
            r"line 2: \\ud83d is half of",
        ),
        (r'{"sentence_good": "a", "sentence_bad": "\uDE00\uD83D"}', r"line 2: \\ude00 is half of"),
        (
            r'{"sentence_good": "a", "x": [{"y": "\udc00"}]}',
            r"line 2: \\udc00 is half of a surrogate",
        ),
        ('{"x": ' + "9" * 5000 + "}", "line 2: not valid JSON"),
        ("[" * 100_000, "line 2: not valid JSON"),
        ("[1]", r"task.jsonl, line 2: expected a JSON object, not list"),
        ('{"sentence_good": "a"}', r"task.jsonl, line 2: field 'sentence_bad' is missing"),
        ('{"sentence_good": "", "sentence_bad": "b"}', r"line 2: field 'sentence_good' is missing"),
        ('{"sentence_good": 3, "sentence_bad": "b"}', r"line 2: .* not a string"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    """An error in a file names the file, the line and the field."""
    with pytest.raises(ValueError, match=message):
        read_minimal_pairs(write(tmp_path / "blimp", json.dumps(GOOD), line))


def test_empty_files_and_folders_are_errors(tmp_path: Path) -> None:
    """Neither an empty file nor a folder without files passes as a benchmark."""
    with pytest.raises(ValueError, match=r"holds no \*.jsonl, .* file"):
        read_minimal_pairs(tmp_path)
    with pytest.raises(ValueError, match=r"task.jsonl is empty"):
        read_minimal_pairs(write(tmp_path / "blimp", "", ""))
