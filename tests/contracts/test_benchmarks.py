"""What every architecture owes the benchmarks: scores that depend on the sentence alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import models
from analysis.benchmarks import Span, sequence_log_probs

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
