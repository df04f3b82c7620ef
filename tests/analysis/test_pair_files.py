"""Minimal pairs of other languages: public layouts are read, what cannot be guessed is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from analysis.benchmarks import BenchmarkSource, load_suite, read_minimal_pairs
from analysis.benchmarks.folders import entry_rows, survey
from analysis.flag_values import checked
from analysis.schema.choices import Layout
from sweeps.arguments import EvaluateArgs

PAIRS = [
    ("de kat slaapt", "de kat slapen"),
    ("猫在睡觉。", "猫睡觉在。"),
    ('"ja", zei hij', "ja zei hij"),
]
MORE = [("de hond blaft", "de hond blaffen")]


def rows(good: str, bad: str, **more: str) -> list[dict[str, str]]:
    return [{good: pair[0], bad: pair[1], **more} for pair in PAIRS]


def as_json(table: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table)


def as_table(table: list[dict[str, str]], separator: str = ",") -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [table[0].keys(), *(row.values() for row in table)]
    return "".join(separator.join(map(cell, line)) + "\n" for line in lines)


def lines(pairs: list[tuple[str, str]], first: str = "{}", second: str = "{}") -> str:
    return "".join(f"{first.format(a)}\n{second.format(b)}\n" for a, b in pairs)


SWAPPED = [(bad, good) for good, bad in PAIRS]
PUBLIC = {
    "zhoblimp": ("a.jsonl", as_json(rows("sentence_good", "sentence_bad", UID="order")), "order"),
    "JBLiMP": ("data.jsonl", as_json(rows("good_sentence", "bad_sentence")), "data"),
    "rublimp": ("a.csv", as_table(rows("source_sentence", "target_sentence", PID="case")), "case"),
    "multiblimp": (
        "data.tsv",
        as_table(rows("sen", "wrong_sen", phenomenon="SV-#", lang="nld"), "\t"),
        "SV-#",
    ),
    "clams": ("simple_agrmt.txt", lines(PAIRS, "True\t{}", "False\t{}"), "simple_agrmt"),
    "clams_swapped": ("simple.txt", lines(SWAPPED, "False\t{}", "True\t{}"), "simple"),
}
"""By folder: file, content, and the task that it is."""


@pytest.mark.parametrize("name", PUBLIC)
def test_public_layouts_are_read(name: str, tmp_path: Path) -> None:
    """By the folder's name, without being told: the good sentence is the first option."""
    file, content, task = PUBLIC[name]
    (tmp_path / name).mkdir()
    (tmp_path / name / file).write_text(content, encoding="utf-8")
    for place in (tmp_path, tmp_path / name):
        (benchmark,) = load_suite(place, "2024").benchmarks
        assert benchmark.name == "blimp"
        assert [item.options for item in benchmark.items] == PAIRS
        assert {item.task for item in benchmark.items} == {task}
        assert {item.right for item in benchmark.items} == {0}


@pytest.mark.parametrize("layout", get_args(Layout))
def test_plain_lines_need_to_be_told_their_order(layout: Layout, tmp_path: Path) -> None:
    """Zorro is published in both orders."""
    (tmp_path / "zorro").mkdir()
    (tmp_path / "zorro" / "agreement-across.txt").write_text(lines(PAIRS))
    source = BenchmarkSource(str(tmp_path), layout=layout)
    if layout == "auto":
        with pytest.raises(
            ValueError, match=r"across.txt, line 1: which .* --layout good-first or"
        ):
            load_suite(source, "2024")
        return
    (benchmark,) = load_suite(source, "2024").benchmarks
    assert [item.options for item in benchmark.items] == (
        PAIRS if layout == "good-first" else SWAPPED
    )


def test_phenomena_of_other_sets_are_groups(tmp_path: Path) -> None:
    """As BLiMP's terms are, beside its field."""
    row = {"UID": "a", "phenomenon": "binding", "field": "syntax"}
    (tmp_path / "x.jsonl").write_text(as_json(rows("sentence_good", "sentence_bad", **row)))
    item = read_minimal_pairs(tmp_path)[0]
    assert item.groups == (("field", "syntax"), ("linguistics_term", "binding"))


def test_files_of_one_form_are_read_and_the_others_told_of(tmp_path: Path) -> None:
    """The same pairs often lie beside themselves."""
    folder = tmp_path / "blimp_nl"
    folder.mkdir()
    table = rows("sentence_good", "sentence_bad")
    (folder / "a.csv").write_text(as_table(table))
    (folder / "b.tsv").write_text(as_table(table, "\t"))
    (folder / "README.txt").write_text("what this is\n")
    suite = load_suite(tmp_path, "2024")
    assert len(suite.benchmarks[0]) == len(PAIRS)
    ((_, _, told),) = entry_rows(survey(tmp_path), suite.benchmarks, ())
    assert told == f"to score: {len(PAIRS)} items (not read in it: b.tsv)"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.jsonl", as_json([{"right": "a", "wrong": "b"}]), "line 1: no sentences are called .*"),
        ("a.csv", "sentence_good,bad\na,b\n", "line 2: field 'sentence_bad' is missing"),
        ("a.csv", "sentence_good,sentence_bad\na\n", "line 2: other than 2 columns"),
        ("a.csv", "sentence_good,sentence_bad\na,b,c\n", "line 2: other than 2 columns"),
        ("a.csv", 'sentence_good,sentence_bad\n"a"b,c\n', "line 2: .*expected after"),
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "sentence_good,sentence_bad\n", "a.csv is empty"),
        ("a.csv", "sentence_good,sentence_bad\n\n", "a.csv is empty"),
        ("a.txt", "a\nb\nc\n", "a.txt has 3 lines: expected two for each pair"),
        ("a.txt", "", "a.txt has 0 lines"),
        ("a.txt", "True\ta\nb\n", "line 1: expected a line of True and one of False"),
        ("a.txt", "True\tx\nFalse\ty\nTrue\ta\nTrue\tb\n", "line 3: expected a line of True"),
        ("a.txt", "True\t \nFalse\tb\n", "line 1: field 'good_sentence' is missing, empty"),
    ],
)
def test_bad_files_are_named(file: str, content: str, message: str, tmp_path: Path) -> None:
    """File and line stand in the error."""
    (tmp_path / "blimp").mkdir()
    (tmp_path / "blimp" / file).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        load_suite(tmp_path, "2024")
    assert file in str(error.value)


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    """Other characters that end lines somewhere are of the sentence."""
    pairs = [("a \u2028 b", "a b"), ("c \x85 d", "c d"), ("e \x0c f", "e f")]
    (tmp_path / "a.txt").write_text(lines(pairs), encoding="utf-8")
    assert [item.options for item in read_minimal_pairs(tmp_path, "good-first")] == pairs


def test_the_folder_of_a_repository_is_searched(tmp_path: Path) -> None:
    """For the only folder of pairs in it; texts that lie beside are none. With several there is no
    telling which, and other benchmarks are scored as ever."""
    data = tmp_path / "JBLiMP" / "data" / "validated"
    data.mkdir(parents=True)
    (tmp_path / "JBLiMP" / "requirements.txt").write_text("torch\nnumpy\n")
    (tmp_path / "JBLiMP" / "LICENSE.txt").write_text("as you like\nit\n")
    (data / "a.jsonl").write_text(as_json(rows("good_sentence", "bad_sentence")))
    (benchmark,) = load_suite(tmp_path, "2024").benchmarks
    assert (benchmark.place, len(benchmark)) == (data, len(PAIRS))
    (data.parent / "raw").mkdir()
    (data.parent / "raw" / "a.jsonl").write_text(as_json(rows("good_sentence", "bad_sentence")))
    (tmp_path / "blimp_small").mkdir()
    (tmp_path / "blimp_small" / "a.jsonl").write_text(
        as_json(rows("sentence_good", "sentence_bad"))
    )
    (benchmark,) = load_suite(tmp_path, "2024").benchmarks
    assert benchmark.dataset == "blimp_small"


def test_blimp_goes_before_sets_of_other_languages(tmp_path: Path) -> None:
    """Beside it they are told of, and asked for by name."""
    for name in ("blimp_filtered", "zhoblimp", "babylm_blimp_supplement"):
        (tmp_path / name).mkdir()
        content = as_json(rows("sentence_good", "sentence_bad"))
        (tmp_path / name / "a.jsonl").write_text(content)
    suite = load_suite(tmp_path, "2024")
    assert {b.name: b.dataset for b in suite.benchmarks} == {
        "blimp": "blimp_filtered",
        "supplement": "babylm_blimp_supplement",
    }
    fates = {name: fate for name, _, fate in entry_rows(survey(tmp_path), suite.benchmarks, ())}
    assert fates["zhoblimp"] == "left out: blimp_filtered is scored; --tasks zhoblimp"
    (other,) = load_suite(tmp_path, "2024", ["zhoblimp"]).benchmarks
    assert (other.name, other.dataset) == ("blimp", "zhoblimp")


def test_a_good_sentence_against_several_is_one_piece_of_evidence(tmp_path: Path) -> None:
    """Its score decides all its pairs: they are of one cluster, but in BLiMP's own form, whose
    stored scores hold each pair by itself."""
    (tmp_path / "a.txt").write_text(lines([("a", "b"), ("a", "c"), ("d", "e")]))
    assert [item.cluster for item in read_minimal_pairs(tmp_path, "good-first")] == ["a", "a", "d"]
    (tmp_path / "a.jsonl").write_text(as_json(rows("sentence_good", "sentence_bad")))
    assert {item.cluster for item in read_minimal_pairs(tmp_path)} == {""}


def test_data_may_be_called_as_it_likes(tmp_path: Path) -> None:
    """A licensed word is no licence."""
    (tmp_path / "licensed_npi.jsonl").write_text(as_json(rows("sentence_good", "sentence_bad")))
    assert len(read_minimal_pairs(tmp_path)) == len(PAIRS)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_named(encoding: str, tmp_path: Path) -> None:
    """Rather than read as other letters."""
    (tmp_path / "a.csv").write_bytes("sentence_good,sentence_bad\né,ü\n".encode(encoding))
    with pytest.raises(ValueError, match=r"a.csv is not UTF-8 text"):
        read_minimal_pairs(tmp_path)


def test_the_flags_take_names_of_such_folders() -> None:
    """Also after the folder that they lie in, as the table of a folder shows them."""
    names = ("zhoblimp", "RuBLiMP", "clams_de", "full_eval/wug_adj_nominalization", "blimp_nl")
    assert checked(EvaluateArgs(model="m", tasks=names)).tasks == names
    with pytest.raises(ValueError, match="'limp' is none of blimp, .*did you mean blimp"):
        checked(EvaluateArgs(model="m", tasks=("limp",)))
