"""The built-in benchmarks measure what was learned: who learned nothing scores at chance."""

from __future__ import annotations

import pytest
import torch

import models
from analysis.benchmarks import load_suite
from tests.architectures import slow_but
from trainables.corpus import prepare_corpus


@pytest.fixture(scope="module")
def tokenizer(mini_corpora):
    """The tokenizer of the mini corpus."""
    return prepare_corpus("mini", vocab_size=2048, cache=mini_corpora).tokenizer()


@pytest.fixture(scope="module")
def suite(mini_benchmarks):
    """All built-in zero-shot benchmarks under the default protocol."""
    return load_suite(mini_benchmarks, "2024", ["all"])


def test_mini_models_can_read_all_of_it(tokenizer, suite):
    """No text is longer than the context of the mini preset."""
    suite.check_fits(tokenizer, context=64)


@pytest.mark.parametrize("arch", slow_but("transformer"))
def test_untrained_model_is_at_chance(arch, tokenizer, suite):
    """An untrained model of every architecture is right in 45% to 55% of the pairs of BLiMP and
    EWoK, and in no more of BEAR's questions, of eight answers each, than luck explains."""
    config = models.build_config(arch, "mini", vocab_size=len(tokenizer), context=64)
    torch.manual_seed(0)
    scores = suite.evaluate(models.build_model(config), tokenizer)
    assert scores.num_items == {"blimp": 2000, "ewok": 600, "bear": 80}
    assert 45 < scores.benchmarks["blimp"] < 55
    assert 45 < scores.benchmarks["ewok"] < 55
    # Three standard deviations of 80 independent guesses are 11 points.
    assert 2 < scores.benchmarks["bear"] < 23
