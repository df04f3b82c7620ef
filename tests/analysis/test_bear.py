"""BEAR: relations and questions become statements to choose from."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest

from analysis.benchmarks import Benchmark, load_suite
from analysis.benchmarks.bear import read_bear

REAL_DATA = Path(__file__).resolve().parents[2].parent / "shared/data/bear"
RELATIONS = {
    "P36": {
        "templates": ["the capital of [X] is [Y].", "[Y] is [X]'s capital."],
        "answer_space_labels": ["Rome", "Paris", "Oslo"],
    },
    "P30": {"templates": ["[X] lies in [Y]."], "answer_space_labels": ["Asia", "Europe"]},
}
QUESTIONS = {
    "P36": [
        {"sub_label": "France", "answer_idx": 1},
        {"sub_label": "Italy", "answer_idx": 0},
        {"sub_label": "Norway", "answer_idx": 2},
    ],
    "P30": [{"sub_label": "China", "answer_idx": 0}],
}
DOMAINS = {"P36": {"domains": ["Geographic", "Political"]}, "P30": {"domains": ["Geographic"]}}


@pytest.fixture
def bear(tmp_path: Path) -> Path:
    """The layout of the public data set, with the relations one folder down."""
    folder = tmp_path / "bear" / "BEAR"
    folder.mkdir(parents=True)
    (folder / "metadata_relations.json").write_text(json.dumps(RELATIONS))
    for name, rows in QUESTIONS.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    (folder.parent / "relation_info.json").write_text(json.dumps(DOMAINS))
    return folder


def test_every_answer_makes_a_statement(bear: Path) -> None:
    """The first template is filled with subject and answer, and begins with a capital letter."""
    items = read_bear(bear)
    assert len(items) == 4
    france = items[0]
    assert france.options == (
        "The capital of France is Rome.",
        "The capital of France is Paris.",
        "The capital of France is Oslo.",
    )
    assert (france.task, france.right) == ("P36", 1)
    assert france.groups == (("domain", "Geographic"), ("domain", "Political"))


def test_all_templates_ask_each_question_again(bear: Path) -> None:
    """Three questions in two wordings and one in one."""
    items = read_bear(bear, all_templates=True)
    assert len(items) == 7
    assert items[3].options[1] == "Paris is France's capital."


def test_other_wordings_are_no_further_evidence(bear: Path) -> None:
    """The same answers to the same questions in more words have the same standard error."""
    once, often = (Benchmark("bear", read_bear(bear, all_templates=x)) for x in (False, True))
    capitals = [1.0, 0.0, 1.0]
    one = once.part(range(3)).error(capitals)
    assert often.part(range(6)).error(capitals * 2) == pytest.approx(one)


def test_the_figure_counts_items_not_relations(bear: Path) -> None:
    """Micro score, and chance as the mean of one over the number of answers."""
    benchmark = Benchmark("bear", read_bear(bear))
    assert benchmark.figure([1.0, 1.0, 1.0, 0.0]) == pytest.approx(75.0)
    assert benchmark.chance == pytest.approx(100 * (1 / 3 * 3 + 1 / 2) / 4)


def test_bear_is_found_by_its_folder(bear: Path) -> None:
    """The folder above, and the folder itself, both hold BEAR; it is taken when named."""
    for path in (bear.parent.parent, bear.parent, bear):
        (benchmark,) = load_suite(path, "2025", ["bear"]).benchmarks
        assert len(benchmark) == 4


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metadata_relations.json", "{", r"relations.json, line 1: not valid JSON"),
        ("metadata_relations.json", "[]", r"relations.json: expected a JSON object, not list"),
        (
            "metadata_relations.json",
            '{"P36": {"templates": ["[X] is."], "answer_space_labels": ["a"]}}',
            r"P36: the template '\[X\] is.' lacks \[X\] or \[Y\]",
        ),
        (
            "metadata_relations.json",
            '{"P36": {"templates": []}}',
            r"P36: field 'templates' is not a list of texts",
        ),
        (
            "P36.jsonl",
            '{"sub_label": "France", "answer_idx": 3}',
            r"P36.jsonl, line 1: answer_idx must be 0 to 2, not 3",
        ),
        ("P36.jsonl", '{"answer_idx": 0}', r"P36.jsonl, line 1: field 'sub_label' is missing"),
    ],
)
def test_bad_files_are_named(bear: Path, file: str, text: str, message: str) -> None:
    """File, and line or relation, are in the message."""
    (bear / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_bear(bear)


def test_a_missing_relation_is_named(bear: Path) -> None:
    """A relation without its questions is not left out in silence."""
    (bear / "P30.jsonl").unlink()
    with pytest.raises(ValueError, match=r"P30.jsonl is missing, but .* describes P30"):
        read_bear(bear)


def test_bear_from_the_hub(bear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's copy is read like a folder; without network the message gives the way out."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kw: str(bear.parent))
    (benchmark,) = load_suite("hub", "2024", ["bear"]).benchmarks
    assert (len(benchmark), benchmark.dataset) == (4, "lm-pub-quiz/BEAR")

    def refuse(*args: str, **options: str) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=r"lm-pub-quiz/BEAR cannot be read.*give its folder"):
        load_suite("hub", "2024", ["bear"])


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no public BEAR files")
def test_the_public_data_set_loads() -> None:
    """60 relations, 7,731 questions, 209,499 statements in a wording; chance 4.68 %."""
    (benchmark,) = load_suite(REAL_DATA, "2024", ["bear"]).benchmarks
    assert len({item.task for item in benchmark.items}) == 60
    assert len(benchmark) == 7731
    assert sum(len(item.options) for item in benchmark.items) == 209_499
    assert benchmark.chance == pytest.approx(4.68, abs=0.005)
