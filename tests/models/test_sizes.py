"""Sizes: matched where they claim to be, the paper's where they claim that, errors that help."""

from __future__ import annotations

import subprocess
import sys

import pytest

import models

# Haller et al. 2024 at a vocabulary of 16,000, untied, in millions.
PAPER_TABLE = {"transformer": 361.5, "lstm": 283.5, "xlstm": 338.2, "mamba": 350.4, "hgrn2": 366.8}


@pytest.mark.parametrize("size", ["mini", "small", "base"])
def test_sizes_are_matched(size: str) -> None:
    """At one size the largest architecture has at most 2% more non-embedding parameters than the
    smallest."""
    counts = [
        models.num_params(
            models.build_config(arch, size, vocab_size=2048, context=64)
        ).non_embedding
        for arch in models.architectures()
    ]
    assert max(counts) / min(counts) < 1.02, counts


@pytest.mark.parametrize(("arch", "millions"), PAPER_TABLE.items())
def test_paper_size_is_that_of_the_paper(arch: str, millions: float) -> None:
    """The `paper` presets have the study's parameter counts to half a percent."""
    config = models.build_config(arch, "paper", vocab_size=16_000, context=512)
    assert models.num_params(config).total / 1e6 == pytest.approx(millions, rel=5e-3)


def test_unknown_names_are_answered_with_the_valid_ones() -> None:
    """A wrong architecture, size or config names what there is to choose."""
    with pytest.raises(ValueError, match="'gru'.*transformer, lstm, xlstm, mamba, hgrn2"):
        models.build_config("gru", "mini", vocab_size=10, context=8)
    with pytest.raises(ValueError, match="'huge'.*mini, small, base, paper"):
        models.build_config("lstm", "huge", vocab_size=10, context=8)


def test_the_import_is_silent_and_the_table_prints() -> None:
    """`python -m models.sizes` prints every preset, and nothing goes to stderr."""
    result = subprocess.run(
        [sys.executable, "-m", "models.sizes"], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    for word in (*models.architectures(), *models.sizes()):
        assert word in result.stdout
