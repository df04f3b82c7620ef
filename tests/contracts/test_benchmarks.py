"""What architectures and benchmarks owe each other.

An architecture: scores that depend on the sentence alone. A benchmark: items that can be told
apart, a figure that is what its parts say, stored scores without a text, and its name where people
look for it.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import models
from analysis.benchmarks import (
    Answer,
    Benchmark,
    Span,
    Suite,
    from_facts,
    load_suite,
    sequence_log_probs,
)
from analysis.benchmarks.figures import CORRELATION
from analysis.benchmarks.kind import BenchmarkKind
from analysis.benchmarks.kinds import ALL_KINDS, KINDS
from analysis.benchmarks.predictions import write_submission
from analysis.benchmarks.reading import MEASURES, READING
from analysis.command_line import help_of
from sweeps.arguments import EvaluateArgs, TrainingArgs
from tests.contracts.benchmark_folders import write_folder
from tests.contracts.import_graph import ROOT

VOCAB_SIZE = 64
CONTEXT = 64


@pytest.fixture(scope="module", params=models.architectures())
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    config = models.build_config(
        request.param, "mini", vocab_size=VOCAB_SIZE, context=CONTEXT, pad_token_id=1
    )
    return models.build_model(config)


def random_spans(count: int) -> list[Span]:
    generator = random.Random(0)
    lengths = [generator.randint(2, CONTEXT) for _ in range(count)]
    return [Span(tuple(generator.randrange(VOCAB_SIZE) for _ in range(n))) for n in lengths]


def test_batched_scores_equal_scores_from_the_models_own_logits(model: PreTrainedModel) -> None:
    """Padded batches give what `model(input_ids).logits` gives one sequence at a time, to 1e-3.

    Between batchings of the same path the bound is 1e-4; the logits path may add in another order.
    """
    spans = random_spans(10)
    scores = sequence_log_probs(model, spans, token_budget=256)
    model.eval()
    expected = []
    for span in spans:
        ids = torch.tensor([span.ids])
        with torch.no_grad():
            log_probs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        expected.append(float(log_probs.gather(1, ids[0, 1:, None]).sum()))
    np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_scores_do_not_depend_on_batch_size_or_order(model: PreTrainedModel) -> None:
    """One sequence at a time, or all in one padded batch, in any order: equal to 1e-4."""
    spans = random_spans(12)
    together = sequence_log_probs(model, spans, token_budget=10_000)
    alone = sequence_log_probs(model, spans[::-1], token_budget=1)[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_training_goes_on_after_scoring(model: PreTrainedModel) -> None:
    """Scoring between two training steps leaves mode and gradients alone."""
    model.train()
    sequence_log_probs(model, random_spans(2))
    assert model.training
    ids = torch.tensor([random_spans(1)[0].ids])
    model(input_ids=ids).logits.sum().backward()
    assert all(p.grad is not None for p in model.get_output_embeddings().parameters())


@pytest.fixture(params=ALL_KINDS, ids=KINDS)
def kind(request: pytest.FixtureRequest) -> BenchmarkKind:
    found: BenchmarkKind = request.param
    return found


@pytest.fixture(params=["2025", "2026"])
def protocol(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def benchmark(kind: BenchmarkKind, protocol: str, tmp_path: Path) -> Benchmark:
    """A small one of the kind, found among folders by its name."""
    write_folder(kind, tmp_path)
    (found,) = load_suite(tmp_path, protocol, [kind.name]).benchmarks
    return found


@pytest.fixture
def handed_in(benchmark: Benchmark) -> Benchmark:
    """The one that a submission is of: of GlobalPIQA's languages English alone."""
    items = tuple(item for item in benchmark.items if item.task != "nld_latn")
    return replace(benchmark, items=items)


def answered(benchmark: Benchmark, option: int) -> list[Answer]:
    """Answers of a model that always chooses this option."""
    return [
        Answer(
            float(item.right == option),
            option,
            False,
            tuple(-float(index != option) for index in range(len(item.options))),
        )
        for item in benchmark.items
    ]


def test_items_can_be_told_apart(kind: BenchmarkKind, benchmark: Benchmark) -> None:
    """A folder called like the kind is of the kind; every option of an item is another text."""
    assert benchmark.name == kind.name
    assert benchmark.dataset.startswith(kind.folders[0].rstrip("*"))
    assert len({item.task for item in benchmark.items}) > 1
    for item in benchmark.items:
        assert len(set(item.texts)) == len(item.options) > 1
        assert 0 <= item.right < len(item.options)
        assert item.human is None or len(item.options) == 2


def test_the_figure_is_what_its_parts_say(kind: BenchmarkKind, benchmark: Benchmark) -> None:
    """It is 100 % where all is right, and what its weights add up to where they exist."""
    right = [1.0 if item.human is None else item.human for item in benchmark.items]
    assert benchmark.figure(right) == pytest.approx(100)
    values = np.random.default_rng(0).random(len(benchmark))
    assert benchmark.error(values.tolist()) > 0
    assert (benchmark.weights is None) == (kind.figure is CORRELATION)
    if benchmark.weights is not None:
        assert sum(benchmark.weights) == pytest.approx(1)
        assert benchmark.figure(values.tolist()) == pytest.approx(
            100 * np.dot(benchmark.weights, values)
        )
        assert 0 < benchmark.chance < 100


def test_stored_scores_hold_no_text_and_give_figures_back(benchmark: Benchmark) -> None:
    """Figure, its error and chance follow from what is stored, in which no text is."""
    suite = Suite((benchmark,), "2025")
    scores = suite.summarize({benchmark.name: answered(benchmark, 0)}).to_dict()
    assert "zebra" not in json.dumps(scores)
    stored, in_selection = from_facts(benchmark.name, scores["items"][benchmark.name])
    values = [value for task in scores["outcomes"][benchmark.name].values() for value in task]
    assert stored.figure(values) == pytest.approx(scores["benchmarks"][benchmark.name])
    assert stored.error(values) == pytest.approx(scores["errors"][benchmark.name])
    assert stored.chance == pytest.approx(scores["chance"][benchmark.name])
    assert stored.chance_error == pytest.approx(scores["chance_errors"][benchmark.name])
    assert sum(in_selection) == sum(benchmark.in_selection)


_PIQA = {f"eng_latn_{n}" for n in range(4)}
_OF_BOTH_YEARS = {
    "blimp": {"agreement", "order"},
    "supplement": {"turns", "hypernym"},
    "ewok": {"space", "matter"},
    "entity_tracking": {f"{s}_{n}_ops" for s in ("regular", "move_contents") for n in (0, 1)},
    "comps": {"base", "wugs_dist_before"},
    "reading": {"reading"},
}
LOOKED_UP = {
    "2025": {**_OF_BOTH_YEARS, "wug": {"wug_adj"}, "wug_past": {"wug_past"}},
    "2026": {
        **_OF_BOTH_YEARS,
        "global_piqa_parallel": _PIQA,
        "global_piqa_nonparallel": _PIQA,
    },
}
"""By protocol and kind: what the challenge's scorer looks up in a submission of
`benchmark_folders.FILES`, which has no other kinds. Of BLiMP, its supplement and EWoK it opens the
file of the key's name, of GlobalPIQA it looks for each row's `example_id`; the rest are its own
names."""


def test_a_submission_tells_the_choices_apart(
    kind: BenchmarkKind, handed_in: Benchmark, protocol: str, tmp_path: Path
) -> None:
    """Under the challenge's name of the task: another choice is another prediction."""
    texts = []
    is_submitted = kind.name in LOOKED_UP[protocol]
    for option in (0, 1):
        out = tmp_path / f"out{option}"
        answers = {handed_in.name: answered(handed_in, option)}
        files = write_submission(Suite((handed_in,), protocol), answers, out)
        dataset = "" if kind is READING else handed_in.dataset
        place = out / f"zero_shot/causal/{kind.submission}" / dataset / "predictions.json"
        assert files == ([place] if is_submitted else [])
        tasks = [json.loads(file.read_text()) for file in files]
        texts.append([x["pred"] for uids in tasks for t in uids.values() for x in t["predictions"]])
    measures = len(MEASURES) if kind is READING else 1
    assert len(texts[0]) == (len(handed_in) / measures if is_submitted else 0)
    assert all(first != second for first, second in zip(*texts, strict=True))


def test_a_submission_has_the_keys_that_the_scorer_looks_up(
    kind: BenchmarkKind, handed_in: Benchmark, protocol: str, tmp_path: Path
) -> None:
    """No more and no fewer; predictions are numbered under their key, with a share if it counts."""
    answers = {handed_in.name: answered(handed_in, 0)}
    files = write_submission(Suite((handed_in,), protocol), answers, tmp_path / "out")
    for file in files:
        uids = json.loads(file.read_text())
        assert set(uids) == LOOKED_UP[protocol][kind.name]
        for uid, content in uids.items():
            assert set(content) == {"predictions"}
            numbers = range(len(content["predictions"]))
            numbered = [n if kind is READING else f"{uid}_{n}" for n in numbers]
            assert [entry["id"] for entry in content["predictions"]] == numbered
            has_share = {"prob" in entry for entry in content["predictions"]}
            assert has_share == {kind.figure is CORRELATION}


def test_readme_and_help_name_it(kind: BenchmarkKind) -> None:
    """So do the table of tasks, and the help of --tasks and --benchmarks: name and folder."""
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line[:3] == "| `"]
    assert any(f"`{kind.name}`" in row and f"`{kind.folders[0]}`" in row for row in rows)
    for arguments in (TrainingArgs, EvaluateArgs):
        assert re.search(rf"\b{kind.name}\b", help_of(arguments, "tasks") or "")
    assert kind.folders[0] in (help_of(EvaluateArgs, "benchmarks") or "")
