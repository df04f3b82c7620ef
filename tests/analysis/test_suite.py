"""The suite: what is found in a folder, how figures are averaged, what a broken model scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmark_files import write_blimp, write_supplement
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from analysis.benchmarks import (
    Encoder,
    MinimalPair,
    MinimalPairs,
    Span,
    Suite,
    SuiteScores,
    load_suite,
    sequence_log_probs,
)

REAL_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def names(suite: Suite) -> list[str]:
    return [benchmark.name for benchmark in suite.benchmarks]


def test_finds_folders_in_and_at_the_path(evaluation_data: Path) -> None:
    """Both benchmarks are found one level down; a benchmark folder itself works as path too."""
    suite = load_suite(evaluation_data, "2024")
    assert names(suite) == ["blimp", "supplement"]
    assert suite.num_items == 6
    assert names(load_suite(evaluation_data / "blimp_fast", "2024")) == ["blimp"]
    assert names(load_suite(str(evaluation_data / "supplement_filtered"), "2025")) == ["supplement"]


def test_a_blimp_supplement_folder_is_the_supplement(tmp_path: Path) -> None:
    """The name `blimp_supplement` does not make it BLiMP."""
    write_supplement(tmp_path / "blimp_supplement")
    assert names(load_suite(tmp_path, "2024")) == ["supplement"]


def test_fast_folder_is_preferred_and_names_override(evaluation_data: Path) -> None:
    """Of several folders the fast one counts, unless names says otherwise."""
    full = write_blimp(evaluation_data / "blimp_filtered")
    (full / "adverb.jsonl").unlink()
    assert load_suite(evaluation_data, "2024").num_items == 6
    chosen = load_suite(evaluation_data, "2024", names=["blimp_filtered"])
    assert (names(chosen), chosen.num_items) == (["blimp"], 4)


def test_ambiguous_or_unknown_names_are_errors(evaluation_data: Path) -> None:
    """Two folders of one benchmark, or one that does not exist, are never chosen silently."""
    write_supplement(evaluation_data / "supplement_mine")
    with pytest.raises(ValueError, match=r"several supplement folders \(supplement_filtered, sup"):
        load_suite(evaluation_data, "2024")
    with pytest.raises(ValueError, match="are both supplement"):
        load_suite(evaluation_data, "2024", names=["supplement_mine", "supplement_filtered"])
    with pytest.raises(ValueError, match="no benchmark folder blimp_full in .* it has blimp_fast"):
        load_suite(evaluation_data, "2024", names=["blimp_full"])


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    """A wrong path names the layout that was expected."""
    with pytest.raises(ValueError, match=r"no benchmark folder at .*missing: expected blimp\*"):
        load_suite(tmp_path / "missing", "2024")
    (tmp_path / "blimp_empty").mkdir()
    with pytest.raises(ValueError, match=r"one named blimp\* or supplement\* that holds \*.jsonl"):
        load_suite(tmp_path, "2024")
    with pytest.raises(ValueError, match="unknown protocol '2030'"):
        load_suite(tmp_path, "2030")


def test_hash_is_of_items_and_protocol(evaluation_data: Path, tmp_path: Path) -> None:
    """The same items elsewhere hash alike; another protocol or another word does not."""
    original = load_suite(evaluation_data / "blimp_fast", "2024").hash
    folder = write_blimp(tmp_path / "elsewhere" / "blimp_mini")
    assert load_suite(folder, "2024").hash == original
    assert load_suite(folder, "2025").hash != original
    file = folder / "adverb.jsonl"
    file.write_text(file.read_text().replace("often", "seldom", 1))
    assert load_suite(folder, "2024").hash != original


def expected_outcomes(suite: Suite, model: Any, tokenizer: Any, name: str) -> list[float]:
    """Outcomes of a benchmark from one scoring call per sentence."""
    benchmark = next(b for b in suite.benchmarks if b.name == name)
    encoder = Encoder(tokenizer, suite.protocol)
    scores = [sequence_log_probs(model, [span])[0] for span in benchmark.spans(encoder)]
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
    assert scores.groups["field"] == pytest.approx(
        {
            "morphology": figures["agreement"],
            "syntax": (figures["order"] + figures["adverb"]) / 2,
        }
    )
    assert scores.groups["linguistics_term"] == pytest.approx(figures)
    assert scores.macro == pytest.approx(sum(scores.benchmarks.values()) / 2)
    assert (scores.num_pairs, scores.ties, scores.non_finite) == (6, 0, 0)
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
    items = tuple(MinimalPair("task", good, bad) for good, bad in pairs)
    return Suite((MinimalPairs("blimp", items),), "2024")


def test_a_collapsed_model_scores_fifty_by_ties(tokenizer: PreTrainedTokenizerFast) -> None:
    """Constant logits tie all pairs of equal length: exactly 50 %, and the ties say why."""
    suite = suite_of(("the cat sleeps", "the cat sleep"), ("a dog sees", "a dogs sees"))
    scores = suite.evaluate(FixedLogits(torch.zeros(19)), tokenizer)
    assert (scores.macro, scores.ties) == (50.0, 2)


def test_constant_logits_prefer_the_shorter_sentence(tokenizer: PreTrainedTokenizerFast) -> None:
    """Without length normalisation unequal lengths are no tie: the shorter sentence wins."""
    suite = suite_of(("the cat sleeps", "the cat often sleeps"), ("the cat .", "cat ."))
    scores = suite.evaluate(FixedLogits(torch.zeros(19)), tokenizer)
    assert scores.outcomes["blimp"]["task"] == [1.0, 0.0]
    assert scores.ties == 0


def test_a_model_blind_to_order_ties_permuted_words(tokenizer: PreTrainedTokenizerFast) -> None:
    """A unigram model's sums over the same words in another order differ by rounding: a tie."""
    torch.manual_seed(0)
    suite = suite_of(
        ("the cat often sees a dog .", "a dog often . sees the cat"),
        ("a cat sees the dogs often , often .", "often . a the cat sees dogs , often"),
    )
    scores = suite.evaluate(FixedLogits(5 * torch.randn(19)), tokenizer)
    assert scores.ties == 2


def test_non_finite_scores_are_wrong_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    """A model of NaN gets nothing right."""
    scores = suite_of(("the cat", "cat the"), ("a dog", "a dogs")).evaluate(
        FixedLogits(torch.full((19,), math.nan)), tokenizer
    )
    assert (scores.macro, scores.non_finite, scores.ties) == (0.0, 2, 0)


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
    with pytest.raises(ValueError, match=r"blimp task pair 1 bad\).*40 tokens, its context is 32"):
        suite.evaluate(llama, tokenizer)


def test_other_kinds_of_benchmark_fit_in(
    llama: nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Anything with a name, items, spans and grades is scored beside the minimal pairs."""

    class Continuations(MinimalPairs):
        def spans(self, encoder: Encoder) -> list[Span]:
            return [Span(span.ids, start=3, end=span.end) for span in super().spans(encoder)]

    pair = MinimalPair("spatial", "the cat sleeps .", "the cat sleep .")
    suite = Suite(
        (*suite_of(("a cat", "cat a")).benchmarks, Continuations("ewok", (pair,))), "2024"
    )
    scores = suite.evaluate(llama, tokenizer)
    assert list(scores.benchmarks) == ["blimp", "ewok"]
    assert scores.macro == pytest.approx(sum(scores.benchmarks.values()) / 2)


def test_a_suite_needs_benchmarks_of_different_names(evaluation_data: Path) -> None:
    """No benchmark, or one name twice, would make the macro figure meaningless."""
    blimp = load_suite(evaluation_data / "blimp_fast", "2024").benchmarks
    with pytest.raises(ValueError, match="one or more benchmarks of different names"):
        Suite((), "2024")
    with pytest.raises(ValueError, match=r"not \['blimp', 'blimp'\]"):
        Suite((*blimp, *blimp), "2024")


@pytest.mark.skipif(not (REAL_DATA / "blimp_fast").is_dir(), reason="no public benchmark files")
def test_public_files_load() -> None:
    """The public files are read whole: 67 BLiMP tasks of 200 pairs, 5 supplement tasks."""
    chosen = ["blimp_fast", "supplement_filtered"]
    blimp, supplement = load_suite(REAL_DATA, "2024", names=chosen).benchmarks
    assert isinstance(blimp, MinimalPairs)
    assert isinstance(supplement, MinimalPairs)
    assert len({pair.uid for pair in blimp.pairs}) == 67
    assert len(blimp) == 13_400
    assert len({pair.uid for pair in supplement.pairs}) == 5
    assert len(supplement) == 5_218
