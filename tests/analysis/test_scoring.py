"""The log-probability engine: exact, and independent of batching, order and the model's mode."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CohereConfig, CohereForCausalLM

from analysis.benchmarks import Span, keep_last, sequence_log_probs, token_log_probs
from analysis.benchmarks.scoring import _MAX_LOGITS

VOCAB_SIZE = 19


def random_spans(count: int, longest: int = 20) -> list[Span]:
    generator = random.Random(0)
    spans = []
    for _ in range(count):
        length = generator.randint(2, longest)
        ids = tuple(generator.randrange(VOCAB_SIZE) for _ in range(length))
        spans.append(Span(ids, start=generator.randint(1, length - 1)))
    return spans


def naive(model: Any, span: Span) -> float:
    """One unpadded sequence, whole softmax, in eval mode."""
    model.eval()
    with torch.no_grad():
        hidden = model.base_model(input_ids=torch.tensor([span.ids])).last_hidden_state
        log_probs = model.get_output_embeddings()(hidden).log_softmax(-1)[0]
    return sum(float(log_probs[t - 1, span.ids[t]]) for t in range(span.start, span.stop))


def test_scores_are_those_of_single_unpadded_sequences(model: nn.Module) -> None:
    """Batched and padded scores equal those of one sequence at a time, to 1e-4."""
    spans = random_spans(40)
    scores = sequence_log_probs(model, spans, token_budget=64)
    np.testing.assert_allclose(scores, [naive(model, span) for span in spans], atol=1e-4)


@pytest.mark.parametrize("token_budget", [1, 37, 10_000])
def test_scores_do_not_depend_on_batches_or_order(model: nn.Module, token_budget: int) -> None:
    """Any budget and any order of the list give the same scores, to 1e-4."""
    spans = random_spans(40)
    expected = sequence_log_probs(model, spans)
    shuffled = list(enumerate(spans))
    random.Random(1).shuffle(shuffled)
    scores = sequence_log_probs(model, [span for _, span in shuffled], token_budget=token_budget)
    np.testing.assert_allclose(scores, [expected[index] for index, _ in shuffled], atol=1e-4)


def test_scoring_leaves_the_model_as_it_was(model: nn.Module) -> None:
    """Dropout is off while scoring; each module's mode comes back, and training still works."""
    model.train()
    frozen = next(module for module in model.modules() if not list(module.children()))
    frozen.eval()
    spans = random_spans(4)
    first, second = sequence_log_probs(model, spans), sequence_log_probs(model, spans)
    assert first == second
    assert model.training
    assert not frozen.training
    hidden = model.base_model(input_ids=torch.tensor([spans[0].ids])).last_hidden_state  # type: ignore[operator]
    hidden.sum().backward()


def test_modes_come_back_after_an_error(llama: nn.Module) -> None:
    """A model that fails in the middle of scoring is still in training mode afterwards."""

    def fail(*_: object) -> None:
        raise IndexError("in the middle")

    llama.train()
    handle = llama.lm_head.register_forward_hook(fail)
    with pytest.raises(IndexError, match="in the middle"):
        sequence_log_probs(llama, [Span((0, 5, 1))])
    handle.remove()
    assert llama.training


def test_a_token_that_the_model_does_not_know_is_named(llama: nn.Module) -> None:
    """Wherever in the text it stands, before anything is computed."""
    for ids in ((0, VOCAB_SIZE, 1), (VOCAB_SIZE, 1), (0, 1, VOCAB_SIZE)):
        with pytest.raises(ValueError, match=rf"gives token {VOCAB_SIZE}, the model knows 0 to"):
            sequence_log_probs(llama, [Span((0, 1)), Span(ids, name="blimp order, item 3")])


class CountingBody(nn.Module):
    """Remembers the shapes it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB_SIZE, 4)
        self.shapes: list[tuple[int, int]] = []

    def forward(self, input_ids: torch.Tensor, use_cache: bool = True) -> SimpleNamespace:
        assert not use_cache
        self.shapes.append((input_ids.shape[0], input_ids.shape[1]))
        return SimpleNamespace(last_hidden_state=self.embed(input_ids))


class CountingHead(nn.Linear):
    """Remembers how many positions it was given."""

    rows = 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.rows += input.shape[0]
        return super().forward(input)


class CountingLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace()
        self.base_model = CountingBody()
        self.head = CountingHead(4, VOCAB_SIZE)

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


def test_work_is_bounded_and_not_repeated() -> None:
    """Batches keep to the budget, equal spans run once, the head sees scored positions only."""
    model = CountingLM()
    spans = random_spans(30)
    sequence_log_probs(model, spans + spans, token_budget=50)
    assert all(rows * width <= 50 for rows, width in model.base_model.shapes)
    assert sum(rows for rows, _ in model.base_model.shapes) == len(set(spans))
    assert model.head.rows == sum(span.stop - span.start for span in set(spans))


def test_head_is_applied_in_slices(monkeypatch: pytest.MonkeyPatch, llama: nn.Module) -> None:
    """The number of logits made at once has no influence on the scores."""
    spans = random_spans(20)
    expected = sequence_log_probs(llama, spans)
    assert len(spans) * 20 * VOCAB_SIZE < _MAX_LOGITS
    monkeypatch.setattr("analysis.benchmarks.scoring._MAX_LOGITS", 3 * VOCAB_SIZE)
    np.testing.assert_allclose(sequence_log_probs(llama, spans), expected, atol=1e-4)


def test_batches_that_do_not_fit_are_halved(
    llama: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a device that holds three sequences at once; a single one that is too long is an error."""
    spans = random_spans(20)
    expected = sequence_log_probs(llama, spans)
    body, most = llama.base_model.forward, 3

    def small(input_ids: torch.Tensor, **options: Any) -> Any:
        if len(input_ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return body(input_ids=input_ids, **options)

    monkeypatch.setattr(llama.base_model, "forward", small)
    np.testing.assert_allclose(sequence_log_probs(llama, spans), expected, atol=1e-4)
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        sequence_log_probs(llama, spans)


def test_span_selects_what_is_scored(model: nn.Module) -> None:
    """The parts of a sequence sum to the whole, and what follows `end` plays no role."""
    ids = (0, 5, 6, 7, 8, 9)
    whole, head, tail = sequence_log_probs(model, [Span(ids), Span(ids, 1, 3), Span(ids, 3)])
    assert math.isclose(whole, head + tail, abs_tol=1e-4)
    (other,) = sequence_log_probs(model, [Span((0, 5, 6, 11, 12), 1, 3)])
    assert math.isclose(head, other, abs_tol=1e-4)
    (tokens,) = token_log_probs(model, [Span(ids)])
    assert tokens.shape == (5,)
    assert math.isclose(float(tokens[:2].sum()), head, abs_tol=1e-4)


def test_constant_logits_give_uniform_scores(llama: nn.Module) -> None:
    """A head of zeros gives -log(vocabulary) per scored token, so equal lengths tie exactly."""
    nn.init.zeros_(llama.get_output_embeddings().weight)  # type: ignore[operator]
    short, same, long = sequence_log_probs(
        llama, [Span((0, 1, 2)), Span((0, 3, 4)), Span((0, 1, 2, 3))], token_budget=2
    )
    assert short == same
    assert math.isclose(short, -2 * math.log(VOCAB_SIZE), rel_tol=1e-6)
    assert math.isclose(long, -3 * math.log(VOCAB_SIZE), rel_tol=1e-6)


def test_softmax_is_float32_in_a_bfloat16_model(llama: nn.Module) -> None:
    """A bfloat16 model gives float32 log-probabilities close to those of the float32 model."""
    spans = random_spans(10)
    expected = sequence_log_probs(llama, spans)
    llama.to(torch.bfloat16)
    values = token_log_probs(llama, spans)
    assert all(value.dtype == np.float32 for value in values)
    np.testing.assert_allclose([value.sum() for value in values], expected, rtol=0.02)


def test_autocast_around_it_changes_nothing(llama: nn.Module) -> None:
    """Scoring inside a caller's autocast gives the same float32 scores as outside."""
    spans = random_spans(10)
    expected = sequence_log_probs(llama, spans)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sequence_log_probs(llama, spans) == expected


def test_progress_counts_distinct_spans(llama: nn.Module) -> None:
    """Progress rises to the number of distinct spans, which it states from the beginning."""
    calls: list[tuple[int, int]] = []
    spans = random_spans(12)
    sequence_log_probs(
        llama, spans + spans[:3], token_budget=40, progress=lambda *call: calls.append(call)
    )
    assert [total for _, total in calls] == [12] * len(calls)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (12, 12)


def test_nothing_to_score_gives_nothing(llama: nn.Module) -> None:
    """No spans, no scores."""
    assert sequence_log_probs(llama, []) == []


def test_context_is_a_limit_on_what_is_read(llama: nn.Module) -> None:
    """A context of 32 reads 32 tokens and predicts a 33rd; a longer span is named in the error."""
    (score,) = sequence_log_probs(llama, [Span((3,) * 33)])
    assert math.isfinite(score)
    with pytest.raises(ValueError, match=r"sequence 1 \(long one\).*33 tokens.*context is 32"):
        sequence_log_probs(llama, [Span((3, 4)), Span((3,) * 34, name="long one")])


@pytest.mark.parametrize(
    "span", [Span((3,)), Span((3, 4), start=0), Span((3, 4), start=2), Span((3, 4), end=3)]
)
def test_impossible_spans_are_errors(llama: nn.Module, span: Span) -> None:
    """A span without a token that can be scored is refused instead of scoring zero."""
    with pytest.raises(ValueError, match="sequence 0: nothing to score"):
        sequence_log_probs(llama, [span])


def test_budget_must_be_positive(llama: nn.Module) -> None:
    """A budget of no tokens is a mistake, and named."""
    with pytest.raises(ValueError, match="token_budget must be at least 1 token, not 0"):
        sequence_log_probs(llama, [Span((3, 4))], token_budget=0)


@pytest.mark.parametrize("pad", [0, 1, None])
def test_a_model_that_changes_its_logits_is_scored_by_them(pad: int | None) -> None:
    """Where something follows the head (here a scale) the model's own logits count, also with a
    padding whose embedding is zero."""
    torch.manual_seed(0)
    config = CohereConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        logit_scale=5.0,
        pad_token_id=pad,
    )
    model = CohereForCausalLM(config).eval()
    ids = torch.tensor([[3, 7, 2, 9]])
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    expected = log_probs.gather(1, ids[0, 1:, None])[:, 0].numpy()
    (scored,) = token_log_probs(model, [Span((3, 7, 2, 9))])
    np.testing.assert_allclose(scored, expected, atol=1e-5)


def test_bf16_is_close_and_asked_for_by_name(model: nn.Module) -> None:
    """Autocast changes scores by its rounding, not more; another name is an error."""
    spans = [Span((3, 4, 5, 6, 7)), Span((3, 5, 4))]
    exact = sequence_log_probs(model, spans)
    rounded = sequence_log_probs(model, spans, precision="bf16")
    assert rounded != exact
    np.testing.assert_allclose(rounded, exact, rtol=0.02)
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, not 'fp16'"):
        sequence_log_probs(model, spans, precision="fp16")


def test_keep_last_is_the_rule_of_a_shorter_context(llama: nn.Module) -> None:
    """Of a long span the last tokens are read; of these, those that were scored still are."""
    long = Span(tuple(range(10)), start=3, end=9)
    assert keep_last([long], 8) == [long]
    (cut,) = keep_last([long], 4)
    assert (cut.ids, cut.start, cut.stop) == ((4, 5, 6, 7, 8), 1, 5)
    late = Span(tuple(range(10)), start=8)
    (cut,) = keep_last([late], 4)
    assert (cut.ids, cut.start) == ((5, 6, 7, 8, 9), 3)
    whole = token_log_probs(llama, [Span((5, 6, 7, 8, 9), start=3)])[0]
    np.testing.assert_array_equal(token_log_probs(llama, [cut])[0], whole)
