"""Sizes: matched where they claim to be, the paper's where they claim that, errors that help."""

from __future__ import annotations

import subprocess
import sys

import pytest

import models
from models.sizes import ANCHOR, PRESETS, non_embedding_params, shape, solved_width
from tests.architectures import FACTS

# Haller et al. 2024 at a vocabulary of 16,000, untied, in millions.
PAPER_TABLE = {"transformer": 361.5, "lstm": 283.5, "xlstm": 338.2, "mamba": 350.4, "hgrn2": 366.8}


MATCHED = ("mini", "small", "base", "large")


@pytest.mark.parametrize("size", MATCHED)
def test_sizes_are_matched(size: str) -> None:
    """At one size no architecture has fewer non-embedding parameters than Mamba, nor 2% more."""
    counts = {
        arch: models.num_params(
            models.build_config(arch, size, vocab_size=2048, context=64)
        ).non_embedding
        for arch in models.architectures()
    }
    assert min(counts.values()) == counts["mamba"]
    assert max(counts.values()) < 1.02 * counts["mamba"], counts


@pytest.mark.parametrize("arch", [arch for arch in models.architectures() if arch != ANCHOR])
@pytest.mark.parametrize("size", MATCHED)
def test_a_solved_width_is_the_narrowest_that_matches(size: str, arch: str) -> None:
    """One width is solved for; one step less would be too few parameters."""
    if (size, arch) == ("large", "hgrn2"):
        assert not solved_width(arch, size), "it is given by the study"
        return
    ((name, width),) = solved_width(arch, size).items()
    step = PRESETS[size][arch][name].step
    target = non_embedding_params(ANCHOR, shape(ANCHOR, size))
    narrower = {**shape(arch, size), name: width - step}
    assert width % step == 0
    assert non_embedding_params(arch, narrower) < target
    assert non_embedding_params(arch, shape(arch, size)) >= target


def test_mini_stays_what_it_was() -> None:
    """The widths of `mini`, for which there are recorded results, are frozen."""
    solved = {arch: solved_width(arch, "mini") for arch in models.architectures()}
    assert solved == {arch: facts.mini for arch, facts in FACTS.items()}


@pytest.mark.parametrize(("arch", "millions"), PAPER_TABLE.items())
def test_paper_size_is_that_of_the_paper(arch: str, millions: float) -> None:
    """The `paper` presets have the study's parameter counts to half a percent."""
    config = models.build_config(arch, "paper", vocab_size=16_000, context=512)
    assert models.num_params(config).total / 1e6 == pytest.approx(millions, rel=5e-3)


def test_large_holds_the_final_model_of_the_study() -> None:
    """Its HGRN2 has 990.5M parameters, and it comes behind all smaller sizes."""
    config = models.build_config("hgrn2", "large", vocab_size=16_000, context=512)
    assert models.num_params(config).total / 1e6 == pytest.approx(990.5, abs=0.05)
    assert models.sizes() == ("mini", "small", "base", "paper", "large")


def test_unknown_names_are_answered_with_the_valid_ones() -> None:
    """A wrong architecture, size or config names what there is to choose."""
    with pytest.raises(ValueError, match="'gru'.*transformer, lstm, xlstm, mamba, hgrn2"):
        models.build_config("gru", "mini", vocab_size=10, context=8)
    with pytest.raises(ValueError, match="'huge'.*mini, small, base, paper, large"):
        models.build_config("lstm", "huge", vocab_size=10, context=8)


@pytest.mark.slow  # a process of its own, which builds every size
def test_the_import_is_silent_and_the_table_prints() -> None:
    """`python -m models.sizes` prints every preset, and nothing goes to stderr."""
    result = subprocess.run(
        [sys.executable, "-m", "models.sizes"], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    for word in (*models.architectures(), *models.sizes()):
        assert word in result.stdout
