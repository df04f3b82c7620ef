"""The built-in benchmarks: files in the layouts of the public ones, about the built-in language.

Nothing in them can be told by length or by the frequency of a word, so a model that has learned
nothing scores at chance. Every sentence of `blimp_mini` and cola, and every context of `ewok_mini`
and rte, is one that the corpus leaves out (see `grammar.reserved`), so no context was ever seen
with what follows from it. The facts of `bear_mini` are in the corpus; see `knowledge`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Set
from itertools import count, islice
from pathlib import Path
from typing import Any

from analysis.whole_files import write_text
from trainables.corpus.builtin.grammar import Dice, Grammar, reserved, sentence
from trainables.corpus.builtin.knowledge import (
    CONCEPT_SWAP,
    DOMAINS,
    FACTS,
    RELATIONS,
    Relation,
    Situation,
)
from trainables.corpus.builtin.phenomena import PARADIGMS, Pair, Paradigm, pairs
from trainables.files import reading, set_aside, tell

SHA256 = {0: "9844417b9d3a87ff9e8f4d49f8d4abf1b02625517fa8712787db52806f88bad3"}
"""Of the suite of a seed: one that is whole is not made anew, which takes seconds."""
EWOK_ITEMS = 60
"""Of each domain; each gives two rows."""
GLUE_SITUATIONS = {"train": 40, "valid": 10}
"""Of each domain; each gives four rows of rte."""
GLUE_PAIRS = {"train": 80, "valid": 20}
"""Of each of `COLA_PARADIGMS`; each gives one row of cola."""
COLA_PARADIGMS = (
    "anaphor_number",
    "anaphor_domain",
    "object_gap",
    "adjunct_island",
    "coordinate_island",
    "even_or_least",
    "existential_there",
    "transitivity",
    "passive",
    "pronoun_case",
)
"""Half of all: 80 sentences teach a small model to judge these, and 40 of each of 20 do not."""

Row = dict[str, Any]


def mini_benchmark(directory: str | Path, seed: int = 0) -> Path:
    """Write the benchmarks to folders in `directory`, and return it.

    `blimp_mini/<uid>.jsonl`: 20 paradigms of 100 minimal pairs, with BLiMP's fields.
    `ewok_mini/<domain>.jsonl`: 5 domains of 60 items, each a second time with 1 and 2 swapped, with
    EWoK's fields.
    `bear_mini/`: 5 relations of 16 people and 8 answers, in BEAR's layout. The same for all seeds,
    as the facts are.
    `glue_mini/{rte,cola}.{train,valid}.jsonl`: 800 and 200 rows each, with the fields of the GLUE
    tasks. rte: 0 is entailment; only situations that swap the relation, for these a small model has
    learned from the corpus before it is fine-tuned. cola: 1 is acceptable; sentences of minimal
    pairs that `blimp_mini` does not have.

    The same seed writes the same bytes. A file that is already there with these bytes is left
    alone, for trials may be reading it.
    """
    directory = Path(directory)
    if _digest(directory) == SHA256.get(seed):
        return directory
    for name, rows in _tables(seed):
        _write_once(directory / name, "".join(json.dumps(row) + "\n" for row in rows))
    bear = directory / "bear_mini"
    described = {
        relation.name: {
            "templates": relation.wordings,
            "answer_space_labels": relation.answers,
            "answer_space_ids": [f"{relation.name}-{i}" for i in range(len(relation.answers))],
        }
        for relation in RELATIONS
    }
    _write_once(bear / "metadata_relations.json", json.dumps(described, indent=1) + "\n")
    domains = {relation.name: {"domains": [relation.domain]} for relation in RELATIONS}
    _write_once(bear / "relation_info.json", json.dumps(domains, indent=1) + "\n")
    return directory


def _digest(directory: Path) -> str:
    """SHA-256 of the names and contents of the suite's files."""
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*_mini/*")):
        if file.suffix in (".json", ".jsonl") and file.is_file():
            with reading(file):
                content = file.read_bytes()
            digest.update(f"{file.parent.name}/{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _tables(seed: int) -> Iterator[tuple[str, Iterable[Row]]]:
    """The names of the files of rows, and their rows."""
    blimp = {
        paradigm: pairs(paradigm, 1000 * seed + index) for index, paradigm in enumerate(PARADIGMS)
    }
    for paradigm, minimal_pairs in blimp.items():
        yield f"blimp_mini/{paradigm.uid}.jsonl", _blimp_rows(paradigm, minimal_pairs)
    for index, domain in enumerate(DOMAINS):
        rows = _ewok_rows(domain, 1000 * seed + 100 + index)
        yield f"ewok_mini/{domain.__name__}.jsonl", rows
    for relation in RELATIONS:
        yield f"bear_mini/{relation.name}.jsonl", _bear_rows(relation)
    told = {text for minimal_pairs in blimp.values() for pair in minimal_pairs for text in pair}
    for task, splits in (("rte", _rte_splits(seed)), ("cola", _cola_splits(seed, told))):
        for split, table in splits.items():
            yield f"glue_mini/{task}.{split}.jsonl", table


def _blimp_rows(paradigm: Paradigm, minimal_pairs: list[Pair]) -> Iterator[Row]:
    for pair_id, (good, bad) in enumerate(minimal_pairs):
        yield {
            "sentence_good": good,
            "sentence_bad": bad,
            "UID": paradigm.uid,
            "field": paradigm.field,
            "linguistics_term": paradigm.term,
            "pair_id": pair_id,
        }


Domain = Callable[[Grammar], Situation]


def _unseen(g: Grammar, domain: Domain) -> Situation:
    """A situation whose contexts the corpus leaves out, in the grammar's tense."""
    while True:
        drawn = domain(g)
        if all(map(reserved, drawn.contexts)):
            return drawn


def _situations(domain: Domain, g: Grammar) -> Iterator[Situation]:
    """Draw situations without end, no two with the same context."""
    told: set[str] = set()
    while True:
        g.tense = g.dice.pick(("past", "present"))
        drawn = _unseen(g, domain)
        if told.isdisjoint(drawn.contexts):
            told.update(drawn.contexts)
            yield drawn


def _ewok_rows(domain: Domain, seed: int) -> Iterator[Row]:
    for drawn in islice(_situations(domain, Grammar(seed)), EWOK_ITEMS):
        contexts, concepts = drawn.contexts, drawn.concepts
        targets = tuple(sentence(claim.statement) for claim in drawn.claims)
        for one, other in ((0, 1), (1, 0)):
            yield {
                "Domain": domain.__name__,
                "ConceptA": concepts[0],
                "ConceptB": concepts[1],
                "ContextType": "direct",
                "ContextDiff": drawn.context_diff,
                "TargetDiff": drawn.target_diff,
                "Context1": contexts[one],
                "Context2": contexts[other],
                "Target1": targets[one],
                "Target2": targets[other],
            }


def _bear_rows(relation: Relation) -> Iterator[Row]:
    for fact in FACTS:
        if fact.relation is relation:
            index = relation.answers.index(fact.answer)
            yield {
                "sub_id": fact.person.lower(),
                "sub_label": fact.person,
                "sub_aliases": [],
                "obj_id": f"{relation.name}-{index}",
                "obj_label": fact.answer,
                "answer_idx": index,
            }


def _rte_splits(seed: int) -> dict[str, list[Row]]:
    """Balanced rows in random order; the rows of a situation are in one split together."""
    g = Grammar(1000 * seed + 200)
    splits: dict[str, list[Row]] = {split: [] for split in GLUE_SITUATIONS}
    for domain in DOMAINS:
        situations = (
            drawn for drawn in _situations(domain, g) if drawn.context_diff == CONCEPT_SWAP
        )
        for split, wanted in GLUE_SITUATIONS.items():
            for drawn in islice(situations, wanted):
                splits[split].extend(_rte_rows(drawn))
    return {split: _shuffled(g.dice, rows) for split, rows in splits.items()}


def _rte_rows(drawn: Situation) -> Iterator[Row]:
    """Pair each premise once with what follows from it and once with what does not, and each
    hypothesis as often with the one label as with the other."""
    for number, premise in enumerate(drawn.contexts):
        for other, claim in enumerate(drawn.claims):
            hypothesis = sentence(claim.statement)
            yield {"sentence1": premise, "sentence2": hypothesis, "label": int(number != other)}


def _cola_splits(seed: int, told: Set[str]) -> dict[str, list[Row]]:
    """Balanced rows in random order, without the sentences that were told elsewhere.

    Of each minimal pair only one sentence is told. If both were, whatever part of the rows is held
    out to choose the epoch on would be nearly the same sentences as in the rest, labelled the other
    way, and a model would be chosen for not having learned them.
    """
    splits: dict[str, list[Row]] = {split: [] for split in GLUE_PAIRS}
    told = set(told)
    chosen = [paradigm for paradigm in PARADIGMS if paradigm.uid in COLA_PARADIGMS]
    for index, paradigm in enumerate(chosen):
        found = _new_pairs(paradigm, 1000 * seed + 300 + index, told)
        for split, wanted in GLUE_PAIRS.items():
            for number, pair in enumerate(islice(found, wanted)):
                # Two good sentences, not flipped and flipped, then two bad ones; or bad ones first.
                is_bad = (number // 2 + index) % 2
                splits[split].append({"sentence": pair[is_bad], "label": 1 - is_bad})
    dice = Dice(1000 * seed + 201)
    return {split: _shuffled(dice, rows) for split, rows in splits.items()}


def _new_pairs(paradigm: Paradigm, seed: int, told: set[str]) -> Iterator[Pair]:
    """Pairs without a sentence that was told, by turns not flipped and flipped, so that no word
    tells a label; without end."""
    for more in count(seed, 1_000_000):
        drawn = pairs(paradigm, more)
        for two in zip(drawn[::2], drawn[1::2], strict=True):
            sentences = [text for pair in two for text in pair]
            if told.isdisjoint(sentences):
                told.update(sentences)
                yield from two


def _shuffled(dice: Dice, rows: list[Row]) -> list[Row]:
    order = dice.sample(range(len(rows)), len(rows))
    return [{**rows[old], "idx": new} for new, old in enumerate(order)]


def _write_once(path: Path, text: str) -> None:
    """Write a file whole or not at all, and not again: trials may be reading it. One that holds
    something else is kept beside its place."""
    if path.is_file():
        with reading(path):
            if path.read_bytes() == text.encode():
                return
    wrong = path.parent if path.parent.is_file() else path
    if wrong.exists():
        tell(f"{wrong} is damaged: it is now called {set_aside(wrong).name}, and made again")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
