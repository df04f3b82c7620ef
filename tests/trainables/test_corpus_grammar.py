"""The built-in corpus and benchmark."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from trainables.corpus.builtin import lexicon as lex
from trainables.corpus.builtin.grammar import reserved
from trainables.corpus.builtin.knowledge import FACTS
from trainables.corpus.builtin.paragraphs import MINI_WORDS, WRITERS, mini_text
from trainables.corpus.builtin.phenomena import PARADIGMS

Item = dict[str, str]


@pytest.fixture(scope="module")
def paragraphs() -> dict[str, list[str]]:
    return {split: list(mini_text(split)) for split in ("train", "dev")}


@pytest.fixture(scope="module")
def items(mini_benchmarks: Path) -> dict[str, list[Item]]:
    folder = mini_benchmarks / "blimp_mini"
    return {
        file.stem: [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        for file in sorted(folder.glob("*.jsonl"))
    }


def split_sentences(paragraph: str) -> list[str]:
    return re.split(r"(?<=[.?]) ", paragraph)


def test_size_and_shape(paragraphs: dict[str, list[str]]) -> None:
    """Each split has the promised number of words, in paragraphs of three to seven sentences
    (a question and its answers are not cut)."""
    for split, texts in paragraphs.items():
        words = sum(len(text.split()) for text in texts)
        assert MINI_WORDS[split] <= words < MINI_WORDS[split] + 120
        lengths = {len(split_sentences(text)) for text in texts}
        assert min(lengths) == 3
        assert max(lengths) <= 8


def test_sentences_are_well_formed(paragraphs: dict[str, list[str]]) -> None:
    """Capital first, full stop or question mark last, only letters, commas and single spaces."""
    for text in paragraphs["dev"]:
        for sentence in split_sentences(text):
            assert re.fullmatch(r"[A-Z][A-Za-z]*,?( [A-Za-z]+,?)*[.?]", sentence), sentence


@pytest.mark.parametrize(
    "error",
    [
        r"\b(?:a [aeiou]|an [^aeiou])",
        r"\b(?:these|those|many|few|several) \w+ (?:is|was|has)\b",
        r"\bthere (?:is|was|are|were) (?:every|each|all)\b",
        r"\b(?:did|does|do|can|will|must) (?:not )?(?:was|were|found|took|saw|ate|went|slept)\b",
        r"\b(?:has|have|had) (?:took|saw|ate|went|broke|threw|drew)\b",
        r"\b(?:him|them|us|me) (?:is|was|are|were|has|have)\b",
        r"\b(?:men|women|children|mice|geese) (?:is|was|has)\b",
        r"\b(?:the|a) (?:king|prince|wizard|uncle) \w+ herself\b",
        r"\b(?:the|a) (?:queen|princess|witch|aunt) \w+ himself\b",
        r"\b(?:[Ss]ome|[Ee]very) \w+ (?:has|have|had) ever\b",
        r"\b[Nn]obody (?:has|had) already\b",
        r"\bthat (?:we|you) \w+ themselves\b",
        r"\b(?:we|you|they) (?:is|was|has|does)\b",
    ],
)
def test_corpus_has_no_ungrammatical_forms(paragraphs: dict[str, list[str]], error: str) -> None:
    """The corpus shows only the grammatical side of what the benchmark asks."""
    attractor = re.compile(r"\b(?:near|by|behind|to|under|of|beside|with|that|who)\b")
    for text in paragraphs["train"]:
        for sentence in split_sentences(text):
            match = re.search(error, sentence)
            assert match is None or attractor.search(sentence[: match.end()]), sentence


def test_vocabulary_is_rich(paragraphs: dict[str, list[str]]) -> None:
    """Well over a thousand word forms, of which nearly all occur often enough to learn."""
    counts = Counter(re.findall(r"[A-Za-z]+", " ".join(paragraphs["train"])))
    assert len(counts) > 1500
    assert sum(count >= 5 for count in counts.values()) > 0.9 * len(counts)
    for noun in [*lex.PEOPLE, *lex.ANIMALS, *lex.THINGS, *lex.FOODS]:
        assert min(counts[noun.singular], counts[noun.plural]) >= 5, noun


def test_splits_differ(paragraphs: dict[str, list[str]]) -> None:
    """No dev paragraph is a training paragraph; most dev sentences are new, but for the facts,
    which the corpus states over and over."""
    assert not set(paragraphs["train"]) & set(paragraphs["dev"])
    seen = {s for text in paragraphs["train"] for s in split_sentences(text)}
    facts = {statement for fact in FACTS for statement in fact.statements}
    dev = [s for text in paragraphs["dev"] for s in split_sentences(text) if s not in facts]
    assert sum(s in seen for s in dev) < 0.2 * len(dev)


def test_seed_decides_the_text() -> None:
    """A seed gives the same text in another process with another string hash; another seed
    another text."""

    def digest(seed: int) -> str:
        return hashlib.sha256("\n".join(mini_text("dev", seed)).encode()).hexdigest()

    code = (
        "import hashlib; from trainables.corpus.builtin.paragraphs import mini_text; "
        "print(hashlib.sha256('\\n'.join(mini_text('dev', 3)).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True
    )
    assert run.stdout.strip() == digest(3), run.stderr
    assert digest(3) != digest(4)


def test_every_writer_is_used() -> None:
    """All constructions have a share; names are unique, so the table lists each once."""
    assert len({writer.__name__ for writer in WRITERS}) == len(WRITERS) > 20


def test_benchmark_layout(items: dict[str, list[Item]]) -> None:
    """BLiMP's fields, one file per paradigm, 100 distinct pairs each, 2,000 in all."""
    assert set(items) == {paradigm.uid for paradigm in PARADIGMS}
    assert len(items) >= 10
    for uid, rows in items.items():
        assert len({(row["sentence_good"], row["sentence_bad"]) for row in rows}) == 100
        for number, row in enumerate(rows):
            assert set(row) == {
                "sentence_good",
                "sentence_bad",
                "UID",
                "field",
                "linguistics_term",
                "pair_id",
            }
            assert row["UID"] == uid
            assert row["pair_id"] == number
            assert row["sentence_good"] != row["sentence_bad"]


def test_benchmark_is_disjoint_from_the_corpus(
    items: dict[str, list[Item]], paragraphs: dict[str, list[str]]
) -> None:
    """No sentence of the benchmark, good or bad, occurs in the corpus, because the corpus has
    no reserved sentence and the benchmark no other."""
    seen = {s for texts in paragraphs.values() for text in texts for s in split_sentences(text)}
    assert not any(reserved(sentence) for sentence in seen)
    for rows in items.values():
        for row in rows:
            for side in ("sentence_good", "sentence_bad"):
                assert reserved(row[side])
                assert row[side] not in seen


def test_benchmark_gives_nothing_away(items: dict[str, list[Item]]) -> None:
    """Within a paradigm, good and bad sides have as many words, and no word is more than a
    little commoner on one side: nothing for a model that has learned nothing."""
    for uid, rows in items.items():
        counts = {
            side: Counter(word for row in rows for word in row[side].lower().split())
            for side in ("sentence_good", "sentence_bad")
        }
        good, bad = counts["sentence_good"], counts["sentence_bad"]
        assert abs(good.total() - bad.total()) <= 0.01 * good.total(), uid
        for word in good | bad:
            assert abs(good[word] - bad[word]) <= 0.2 * len(rows), (uid, word)


@pytest.mark.parametrize(
    ("base", "forms"),
    [
        ("carry", "carries carried carried carrying"),
        ("hug", "hugs hugged hugged hugging"),
        ("take", "takes took taken taking"),
        ("see", "sees saw seen seeing"),
        ("watch", "watches watched watched watching"),
        ("go", "goes went gone going"),
        ("play", "plays played played playing"),
    ],
)
def test_verb_forms(base: str, forms: str) -> None:
    """Regular and irregular verbs are spelled right."""
    verbs = [*lex.LIVING_OBJECT, *lex.THING_OBJECT, *lex.ANY_OBJECT, *lex.INTRANSITIVE]
    verb = next(verb for verb in verbs if verb.base == base)
    assert " ".join(verb[1:]) == forms
