"""The suite: what is found in a folder, how figures are averaged, what a broken model scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmark_files import write_blimp
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from analysis.benchmarks import (
    Benchmark,
    Item,
    Suite,
    SuiteScores,
    load_suite,
    sequence_log_probs,
)


def test_hash_is_of_items_and_protocol(evaluation_data: Path, tmp_path: Path) -> None:
    """The same items elsewhere hash alike; another protocol or another word does not."""
    original = load_suite(evaluation_data / "blimp_fast", "2024").hash
    folder = write_blimp(tmp_path / "elsewhere" / "blimp_mini")
    assert load_suite(folder, "2024").hash == original
    assert load_suite(folder, "2025").hash != original
    file = folder / "adverb.jsonl"
    file.write_text(file.read_text().replace("often", "seldom", 1))
    assert load_suite(folder, "2024").hash != original


def test_the_hash_of_items_stays() -> None:
    """The same items under the same protocol hash as they always did: stored scores bear it."""
    item = Item("task", ("good", "bad"), 1, "before", (("field", "syntax"),), 0.25, "twin")
    assert Suite((Benchmark("blimp", (item,)),), "2024").hash == "a93a3eb68d65fcee"


def expected_outcomes(suite: Suite, model: Any, tokenizer: Any, name: str) -> list[float]:
    """Outcomes of a benchmark from one scoring call per sentence."""
    part = Suite(tuple(b for b in suite.benchmarks if b.name == name), suite.protocol)
    scores = [sequence_log_probs(model, [span])[0] for span in part.spans(tokenizer)]
    return [float(good > bad) for good, bad in zip(scores[::2], scores[1::2], strict=True)]


@pytest.mark.parametrize("protocol", ["2024", "2025"])
@pytest.mark.parametrize("token_budget", [1, 1000])
def test_figures_are_means_over_tasks_then_benchmarks(
    evaluation_data: Path,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    protocol: str,
    token_budget: int,
) -> None:
    """Outcomes equal those of sentences scored alone; every figure follows from them."""
    suite = load_suite(evaluation_data, protocol)
    scores = suite.evaluate(model, tokenizer, token_budget=token_budget)
    blimp = scores.outcomes["blimp"]
    assert list(blimp) == ["adverb", "agreement", "order"]
    flat = [value for values in blimp.values() for value in values]
    assert flat == expected_outcomes(suite, model, tokenizer, "blimp")
    figures = {uid: 100 * sum(values) / len(values) for uid, values in blimp.items()}
    assert scores.tasks["blimp"] == pytest.approx(figures)
    assert scores.benchmarks["blimp"] == pytest.approx(sum(figures.values()) / 3)
    assert scores.groups["blimp"]["field"] == pytest.approx(
        {
            "morphology": figures["agreement"],
            "syntax": (figures["order"] + figures["adverb"]) / 2,
        }
    )
    assert scores.groups["blimp"]["linguistics_term"] == pytest.approx(figures)
    assert scores.macro == pytest.approx(sum(scores.benchmarks.values()) / 2)
    assert scores.num_items == {"blimp": 5, "supplement": 1}
    assert scores.ties == scores.non_finite == {"blimp": 0, "supplement": 0}
    assert scores.chance == {"blimp": 50.0, "supplement": 50.0}
    assert (scores.protocol, scores.suite_hash) == (protocol, suite.hash)


class FixedLogits(nn.Module):
    """A model without input: the same logits everywhere."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.config = SimpleNamespace()
        self.head = nn.Linear(1, len(logits), bias=False)
        self.head.weight = nn.Parameter(logits[:, None])
        self.base_model = lambda input_ids, use_cache: SimpleNamespace(
            last_hidden_state=torch.ones(*input_ids.shape, 1)
        )

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


def suite_of(*pairs: tuple[str, str]) -> Suite:
    return Suite((Benchmark("blimp", tuple(Item("task", pair) for pair in pairs)),), "2024")


def test_a_collapsed_model_scores_fifty_by_ties(tokenizer: PreTrainedTokenizerFast) -> None:
    """Constant logits tie every pair, of whatever lengths: exactly 50 %, and the ties say why."""
    suite = suite_of(
        ("the cat sleeps", "the cat sleep"),
        ("the cat sleeps", "the cat often sleeps"),
        ("a", "b a"),
    )
    scores = suite.evaluate(FixedLogits(torch.zeros(19)), tokenizer)
    assert (scores.macro, scores.ties) == (50.0, {"blimp": 3})


def test_a_model_blind_to_order_ties_permuted_words(tokenizer: PreTrainedTokenizerFast) -> None:
    """A unigram model's sums over the same words in another order differ by rounding: a tie."""
    torch.manual_seed(0)
    suite = suite_of(
        ("the cat often sees a dog .", "a dog often . sees the cat"),
        ("a cat sees the dogs often , often .", "often . a the cat sees dogs , often"),
    )
    scores = suite.evaluate(FixedLogits(5 * torch.randn(19)), tokenizer)
    assert scores.ties == {"blimp": 2}


def test_pairs_of_two_identical_sentences_are_ties(
    llama: nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    """BLiMP as it was published has seven; whatever a model knows, each counts one half."""
    same = ["the cat sees a dog", "a cat sleeps", "the dogs", "cats see", "a dog", "the cat", "a"]
    suite = suite_of(*((text, text) for text in same), ("the cat sleeps", "the cat sleep"))
    scores = suite.evaluate(llama, tokenizer)
    assert scores.ties == {"blimp": 7}
    assert scores.outcomes["blimp"]["task"][:7] == [0.5] * 7


def test_non_finite_scores_are_wrong_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    """A model of NaN gets nothing right."""
    scores = suite_of(("the cat", "cat the"), ("a dog", "a dogs")).evaluate(
        FixedLogits(torch.full((19,), math.nan)), tokenizer
    )
    assert (scores.macro, scores.non_finite) == (0.0, {"blimp": 2})
    assert scores.ties == {"blimp": 0}


def test_scores_survive_json_and_hold_no_sentence(
    evaluation_data: Path, llama: nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    """to_dict is plain JSON from which the scores come back; no text is in it."""
    scores = load_suite(evaluation_data, "2024").evaluate(llama, tokenizer)
    text = json.dumps(scores.to_dict())
    assert SuiteScores(**json.loads(text)) == scores
    assert "the cat" not in text


def test_too_long_sentence_is_named(llama: nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    """The error says which pair of which task does not fit the context."""
    suite = suite_of(("the cat", "cat the"), ("the cat", "often " * 40))
    with pytest.raises(ValueError, match=r"task, item 1, option 1\).*40 tokens, its context is 32"):
        suite.evaluate(llama, tokenizer)


def test_benchmarks_beside_the_macro_do_not_enter_it(
    llama: nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    """The macro figure is the mean of BLiMP, the supplement and EWoK; others stand beside it."""
    context = Item("spatial", (" sleeps .", " sleep ."), context="the cat")
    facts = Item("P1", ("the cat sees", "the cat see", "the cat sleep"), right=2)
    more = (Benchmark("ewok", (context,)), Benchmark("bear", (facts,)))
    suite = Suite((*suite_of(("a cat", "cat a")).benchmarks, *more), "2024")
    scores = suite.evaluate(llama, tokenizer)
    figures = scores.benchmarks
    assert list(figures) == ["blimp", "ewok", "bear"]
    assert scores.macro == pytest.approx((figures["blimp"] + figures["ewok"]) / 2)
    assert scores.chance["bear"] == pytest.approx(100 / 3)
    alone = Suite((Benchmark("bear", (facts,)),), "2024").evaluate(llama, tokenizer)
    assert (alone.macro, alone.macro_error) == (None, None)


def test_macro_error_adds_independent_errors(tokenizer: PreTrainedTokenizerFast) -> None:
    """Benchmarks are independent: the macro's error is the root of squares over their number."""
    items = tuple(Item("a", ("the cat", "cat the")) for _ in range(4))
    suite = Suite((Benchmark("blimp", items), Benchmark("ewok", items[:1])), "2024")
    torch.manual_seed(0)
    scores = suite.evaluate(FixedLogits(5 * torch.randn(19)), tokenizer)
    assert scores.errors["ewok"] == pytest.approx(50.0)  # one item: the largest variance
    assert scores.macro_error == pytest.approx(math.hypot(*scores.errors.values()) / 2)


def test_a_suite_needs_benchmarks_of_different_names(evaluation_data: Path) -> None:
    """No benchmark, or one name twice, would make the macro figure meaningless."""
    blimp = load_suite(evaluation_data / "blimp_fast", "2024").benchmarks
    with pytest.raises(ValueError, match="one or more benchmarks of different names"):
        Suite((), "2024")
    with pytest.raises(ValueError, match=r"not \['blimp', 'blimp'\]"):
        Suite((*blimp, *blimp), "2024")
