"""The built-in benchmarks of knowledge: what follows from situations, facts, tasks as in GLUE."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from analysis.benchmarks import classification, glue, load_suite
from analysis.benchmarks.classification import TaskData
from trainables.corpus import Blocks, mini_benchmark, prepare_corpus
from trainables.corpus.builtin import lexicon as lex
from trainables.corpus.builtin import mini_suite
from trainables.corpus.builtin.knowledge import DOMAINS, FACTS, KNOWN_PEOPLE, RELATIONS, state
from trainables.corpus.builtin.paragraphs import mini_text
from trainables.files import tell
from trainables.finetune import finetune
from trainables.finetune_spec import FinetuneOutcome, FinetuneSpec, model_hash
from trainables.spec import TrialSpec
from trainables.trainer import Trainer, TrialData, World

Row = dict[str, Any]
SPLITS = {"train": 800, "valid": 200}
FIELDS = {
    "rte": {"sentence1", "sentence2", "label", "idx"},
    "cola": {"sentence", "label", "idx"},
}


def read(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def split_sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?]) ", text)


@pytest.fixture(scope="module")
def folder(mini_benchmarks: Path) -> Path:
    return mini_benchmarks


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [*mini_text("train"), *mini_text("dev")]


@pytest.fixture(scope="module")
def sentences(texts: list[str]) -> Counter[str]:
    return Counter(sentence for text in texts for sentence in split_sentences(text))


def test_readers_find_the_benchmarks(folder: Path) -> None:
    """The readers of the public layouts read all of EWoK's and BEAR's items, and GLUE is left to
    fine-tuning; by default a suite has those that count in the macro figure."""
    bear, blimp, ewok = load_suite(folder, "2024", ["all"]).benchmarks
    assert (bear.name, blimp.name, ewok.name) == ("bear", "blimp", "ewok")
    assert Counter(item.task for item in ewok.items) == dict.fromkeys(
        (domain.__name__ for domain in DOMAINS), 120
    )
    assert Counter(item.task for item in bear.items) == dict.fromkeys(
        (relation.name for relation in RELATIONS), 16
    )
    assert (ewok.chance, bear.chance) == (50.0, 12.5)
    assert {group for item in bear.items for group in item.groups} == {
        ("domain", relation.domain) for relation in RELATIONS
    }
    assert [benchmark.name for benchmark in load_suite(folder, "2024").benchmarks] == [
        "blimp",
        "ewok",
    ]


def test_all_wordings_of_a_fact_are_asked(folder: Path) -> None:
    """BEAR's metadata holds several wordings of each relation, all with both gaps."""
    described = json.loads((folder / "bear_mini" / "metadata_relations.json").read_text())
    for values in described.values():
        assert len(set(values["templates"])) >= 3
        assert all(text.count("[X]") == text.count("[Y]") == 1 for text in values["templates"])
        assert len(set(values["answer_space_labels"])) == 8


@pytest.mark.parametrize("domain", [domain.__name__ for domain in DOMAINS])
def test_ewok_rows_are_symmetric(folder: Path, domain: str) -> None:
    """Every item stands in both orders, so who does not read the context is right in exactly one
    half; the contexts differ, and so do the targets."""
    rows = read(folder / "ewok_mini" / f"{domain}.jsonl")
    fields = ("Context1", "Context2", "Target1", "Target2")
    items = Counter(tuple(row[field] for field in fields) for row in rows)
    assert len(items) == 120
    for (context, other, right, wrong), count in items.items():
        assert items[other, context, wrong, right] == count == 1
        assert context != other
        assert right != wrong
    assert {row["ContextDiff"] for row in rows} == {"concept swap", "variable swap"}
    extra = {"Domain", "ConceptA", "ConceptB", "ContextType", "ContextDiff", "TargetDiff"}
    assert all(set(row) == {*fields, *extra} and row["Domain"] == domain for row in rows)


def test_contexts_are_not_in_the_corpus(folder: Path, sentences: Counter[str]) -> None:
    """No context, premise or sentence to judge occurs in the corpus, so nothing that follows from
    one could be learned by heart."""
    contexts = [
        row[field]
        for file in (folder / "ewok_mini").glob("*.jsonl")
        for row in read(file)
        for field in ("Context1", "Context2")
    ]
    for task, field in (("rte", "sentence1"), ("cola", "sentence")):
        for split in SPLITS:
            contexts += [row[field] for row in read(folder / "glue_mini" / f"{task}.{split}.jsonl")]
    assert len(set(contexts)) > 1000
    assert not [context for context in contexts if context in sentences]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", FIELDS)
def test_glue_rows_have_the_public_fields(folder: Path, task: str, split: str) -> None:
    """Each split has its number of rows, numbered, half of them of either label."""
    rows = read(folder / "glue_mini" / f"{task}.{split}.jsonl")
    assert [row["idx"] for row in rows] == list(range(SPLITS[split]))
    assert all(set(row) == FIELDS[task] for row in rows)
    assert Counter(row["label"] for row in rows) == dict.fromkeys((0, 1), SPLITS[split] // 2)


@pytest.mark.parametrize("split", SPLITS)
def test_rte_is_balanced(folder: Path, split: str) -> None:
    """Both labels are equally frequent with every premise and every hypothesis, so that no word and
    neither text alone says anything about the label."""
    rows = read(folder / "glue_mini" / f"rte.{split}.jsonl")
    labels: dict[str, Counter[int]] = defaultdict(Counter)
    for row in rows:
        for text in row.values():
            if isinstance(text, str):
                labels[text][row["label"]] += 1
    assert all(set(count) == {0, 1} and count[0] == count[1] for count in labels.values())


def cola_words(folder: Path, label: int) -> list[Counter[str]]:
    """The words of each training sentence of one label."""
    rows = read(folder / "glue_mini" / "cola.train.jsonl")
    texts = [row["sentence"] for row in rows if row["label"] == label]
    return [Counter(text.lower().rstrip(".?").split()) for text in texts]


def test_no_word_tells_whether_a_sentence_is_acceptable(folder: Path) -> None:
    """Every frequent word stands in acceptable and unacceptable sentences about as often."""
    good, bad = (sum(cola_words(folder, label), Counter()) for label in (1, 0))
    shares = {word: good[word] / total for word, total in (good + bad).items() if total >= 20}
    assert len(shares) > 40
    assert {word: share for word, share in shares.items() if not 0.25 < share < 0.75} == {}


def test_cola_tells_no_pairs(folder: Path) -> None:
    """Hardly an acceptable sentence has an unacceptable one of the same words beside it, so a part
    of the rows can stand for new ones."""
    bad = {frozenset(words.items()) for words in cola_words(folder, 0)}
    good = [frozenset(words.items()) for words in cola_words(folder, 1)]
    assert sum(words in bad for words in good) < 4


def test_cola_is_not_blimp(folder: Path) -> None:
    """No sentence of cola stands in the minimal pairs that are scored beside it."""
    judged = {
        row["sentence"]
        for split in SPLITS
        for row in read(folder / f"glue_mini/cola.{split}.jsonl")
    }
    files = list((folder / "blimp_mini").glob("*.jsonl"))
    fields = ("sentence_good", "sentence_bad")
    told = {row[field] for file in files for row in read(file) for field in fields}
    assert len(told) > 3500
    assert not judged & told


@pytest.mark.parametrize(("task", "constant"), [("rte", 50.0), ("cola", 0.0)])
def test_glue_reader_takes_the_tasks(folder: Path, task: str, constant: float) -> None:
    """The reader of the public files finds the folder and reads both splits; a constant answer is
    at chance in the task's metric."""
    found = glue.find(folder)
    assert found == folder / "glue_mini"
    data = glue.read_task(found, task)
    assert isinstance(data, TaskData)
    assert (len(data.train), len(data.valid)) == (800, 200)
    assert classification.baseline(data) == constant


@pytest.mark.parametrize(
    ("task", "field", "rows_each"), [("rte", "sentence1", 2), ("cola", "sentence", 1)]
)
def test_glue_splits_share_no_text(folder: Path, task: str, field: str, rows_each: int) -> None:
    """What is validated on was not trained on."""
    train, valid = (
        {row[field] for row in read(folder / "glue_mini" / f"{task}.{split}.jsonl")}
        for split in SPLITS
    )
    assert len(train) == SPLITS["train"] // rows_each
    assert len(valid) == SPLITS["valid"] // rows_each
    assert not train & valid


CONVERSE = {a: b for pair in lex.CONVERSE_PLACES for a, b in (pair, pair[::-1])}
PLACES = "|".join(CONVERSE)
SPATIAL = re.compile(rf"The (\w+ \w+) (?:is|was) ({PLACES}) the (\w+ \w+)\b")
HAVING = re.compile(r"(He|She) (has|had|own|keep|kept|lack|miss)\w* the ")
GIVING = re.compile(r"(\w+) g[ai]ves? the [\w ]+ to (\w+)\b")


def truth(context: str, statement: str) -> bool | None:
    """Whether a statement follows, by rules that know two relations only; None for others."""
    space, claimed = SPATIAL.match(context), SPATIAL.match(statement)
    if space and claimed:
        first, place, second = space.groups()
        return claimed.groups() in ((first, place, second), (second, CONVERSE[place], first))
    gift, claimed = GIVING.match(context), HAVING.match(statement)
    if gift and claimed and {gift[1], gift[2]} <= {*lex.MALE_NAMES, *lex.FEMALE_NAMES}:
        one = gift[1] if claimed[2] in ("lack", "miss") else gift[2]
        return claimed[1] == ("He" if one in lex.MALE_NAMES else "She")
    return None


def test_corpus_and_benchmarks_tell_the_truth(folder: Path, texts: list[str]) -> None:
    """What the corpus says after a context follows from it, EWoK's right targets do and its wrong
    ones do not, and a label of RTE says which, judged by rules of the test's own."""
    told = []
    for text in texts:
        parts = split_sentences(text)
        told += [truth(*pair) for pair in zip(parts, parts[1:], strict=False)]
    judged = [verdict for verdict in told if verdict is not None]
    assert len(judged) > 500
    # Two sentences that stand together by chance may contradict each other.
    assert sum(judged) > 0.98 * len(judged)
    verdicts = []
    for name in ("spatial_relations", "possession"):
        for row in read(folder / "ewok_mini" / f"{name}.jsonl"):
            verdicts.append((truth(row["Context1"], row["Target1"]), True))
            verdicts.append((truth(row["Context1"], row["Target2"]), False))
    for row in read(folder / "glue_mini" / "rte.train.jsonl"):
        verdicts.append((truth(row["sentence1"], row["sentence2"]), row["label"] == 0))
    known = [(found, expected) for found, expected in verdicts if found is not None]
    assert len(known) > 250
    assert all(found == expected for found, expected in known)


def test_facts_are_balanced(folder: Path) -> None:
    """Every answer of a relation is right for two people, so the commonest answer is at chance."""
    for relation in RELATIONS:
        rows = read(folder / "bear_mini" / f"{relation.name}.jsonl")
        assert len({row["sub_label"] for row in rows}) == 16
        assert set(Counter(row["answer_idx"] for row in rows).values()) == {2}
        assert all(row["obj_label"] == relation.answers[row["answer_idx"]] for row in rows)


def test_facts_are_told_often_and_never_otherwise(sentences: Counter[str]) -> None:
    """The corpus states every fact in two wordings or more and twenty times or more, of the second
    person of an answer never in the first wording, and never another answer."""
    for index, fact in enumerate(FACTS):
        relation, person = fact.relation, fact.person
        told = {
            (wording, answer): sentences[state(wording, person, answer)]
            for wording in relation.wordings
            for answer in relation.answers
        }
        heard = {key: count for key, count in told.items() if count}
        assert {answer for _, answer in heard} == {fact.answer}, fact
        assert len(heard) >= 2, fact
        assert sum(heard.values()) >= 20, fact
        is_second = index % len(KNOWN_PEOPLE) >= len(relation.answers)
        if is_second:
            assert relation.wordings[0] not in {wording for wording, _ in heard}


@pytest.mark.slow
def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """A seed decides every file; another seed asks other items about the same facts."""
    again, other = mini_benchmark(tmp_path / "a"), mini_benchmark(tmp_path / "b", seed=1)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.json*"))
    assert len(names) == 20 + 5 + 7 + 4
    for name in names:
        expected = (folder / name).read_bytes()
        assert (again / name).read_bytes() == expected
        assert ((other / name).read_bytes() == expected) == name.startswith("bear_mini"), name


def test_files_in_use_are_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing the benchmarks again touches no file, for a trial may be reading it, and makes none
    of their sentences, which takes seconds."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json*")}
    monkeypatch.delattr(mini_suite, "_tables")
    assert mini_benchmark(folder) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.json*")} == before


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_epochs_teach_relations_and_facts(
    folder: Path, mini_corpora: Path, tmp_path: Path
) -> None:
    """A mini HGRN2 that has read the corpus three times draws conclusions from contexts that it
    never saw, in most domains, and knows most facts, also in a wording it never met them in; the
    syntax is learned beside. Fine-tuned, it is far better than a constant answer."""
    corpus = prepare_corpus("mini", vocab_size=2048, cache=mini_corpora)
    tokenizer = corpus.tokenizer()
    suite = load_suite(folder, "2024", ["all"])
    spec = TrialSpec(
        arch="hgrn2",
        size="mini",
        corpus=corpus.name,
        corpus_hash=corpus.hash,
        benchmarks_hash=suite.hash,
        context=64,
        batch_size=32,
        lr=1e-2,
        epochs=3,
        seed=0,
    )
    blocks = Blocks(corpus.train, spec.context), Blocks(corpus.dev, spec.context)
    trainer = Trainer(spec, TrialData(corpus, *blocks, tokenizer, suite), World(), None)
    for _ in range(trainer.total_steps):
        trainer.step()
    scores = suite.evaluate(trainer.model, tokenizer)
    assert scores.benchmarks["blimp"] > 85
    assert scores.benchmarks["ewok"] > 65
    assert sum(figure > 60 for figure in scores.tasks["ewok"].values()) >= 3
    assert scores.benchmarks["bear"] > 60
    unheard = [value for task in scores.outcomes["bear"].values() for value in task[8:]]
    assert sum(unheard) / len(unheard) > 0.5
    trainer.model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for task, figure in (("rte", 75.0), ("cola", 25.0)):
        outcome = fine_tune(task, folder, tmp_path / "model", tmp_path)
        assert outcome.score is not None
        assert outcome.error is not None
        assert outcome.score > figure > outcome.baseline + 3 * outcome.error


def fine_tune(task: str, folder: Path, model: Path, storage: Path) -> FinetuneOutcome:
    """At a learning rate and for as long as so small a model needs: the protocols' settings, made
    for far larger ones, leave it at chance."""
    data = glue.read_task(folder / "glue_mini", task)
    assert isinstance(data, TaskData)
    settings = glue.settings("2024", task, {"lr": 1e-3, "epochs": 20, "patience": None})
    spec = FinetuneSpec(model_hash(model), task, data.hash, "2024", settings)
    return finetune(spec, model, data, storage)


def test_damaged_built_in_benchmarks_are_made_again(
    mini_benchmarks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is in their place is kept beside it, and not read; what is whole is left alone."""
    shutil.copytree(mini_benchmarks, tmp_path, dirs_exist_ok=True)
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in whole}
    noise, folder, cut, *_ = sorted(tmp_path.glob("blimp_mini/*.jsonl"))
    noise.write_bytes(b"\xff\xfe\x00" * 1000)
    folder.unlink()
    folder.mkdir()
    cut.write_bytes(whole[cut][:100])
    shutil.rmtree(tmp_path / "glue_mini")
    (tmp_path / "glue_mini").touch()
    tell.cache_clear()
    mini_benchmark(tmp_path)
    assert {path: path.read_bytes() for path in whole} == whole
    assert len(list(tmp_path.rglob("damaged-*"))) == len(caplog.messages) == 4
    for path in (noise, folder, cut, tmp_path / "glue_mini"):
        assert f"{path} is damaged" in caplog.text
    assert len(list(tmp_path.glob("blimp_mini/*.jsonl"))) == 20
    of_bear = [path for path in whole if path.parent.name == "bear_mini"]
    assert all(path.stat().st_mtime_ns == times[path] for path in of_bear)
