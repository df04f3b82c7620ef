"""The built-in benchmark measures what was learned: who learned nothing scores at chance."""

from __future__ import annotations

import pytest
import torch

import models
from analysis.benchmarks import load_suite
from trainables.corpus import mini_benchmark, prepare_corpus


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The tokenizer of the mini corpus."""
    return prepare_corpus(
        "mini", vocab_size=2048, cache=tmp_path_factory.mktemp("corpora")
    ).tokenizer()


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """The built-in benchmark under the default protocol."""
    return load_suite(mini_benchmark(tmp_path_factory.mktemp("benchmarks")).parent, "2024")


@pytest.mark.parametrize("arch", models.architectures())
def test_untrained_model_is_at_chance(arch, tokenizer, suite):
    """An untrained model of every architecture scores between 45% and 55%."""
    config = models.build_config(arch, "mini", vocab_size=len(tokenizer), context=64)
    torch.manual_seed(0)
    scores = suite.evaluate(models.build_model(config), tokenizer)
    assert scores.num_pairs >= 1000
    assert len(scores.tasks["blimp"]) >= 8
    assert 45 < scores.macro < 55
