"""What a training has more of than a track of the BabyLM challenge allows is said before it."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from sweeps.plans.tracks import beyond_rules, most_seen, show_rules

WITHIN = "babylm-strict-small"


def said(corpus: str, words: int, epochs: int) -> str:
    output = io.StringIO()
    plan = SimpleNamespace(corpus=SimpleNamespace(name=corpus, train_words=words), epochs=epochs)
    show_rules(plan, Console(file=output, width=1000))  # type: ignore[arg-type]
    return output.getvalue()


@pytest.mark.parametrize(
    ("corpus", "words"), [(WITHIN, 10_000_000), (WITHIN, 10_099_000), ("babylm-strict", 10**8)]
)
def test_ten_epochs_of_a_tracks_corpus_are_within_the_rules(corpus: str, words: int) -> None:
    """Also of one that is counted a little longer than its name."""
    assert said(corpus, words, 10) == ""


def test_more_is_said() -> None:
    assert said(WITHIN, 10**7, 11) == (
        "The challenge allows 10 epochs of its corpus, these are 11: take fewer to hand the model "
        "in.\n"
    )
    assert said(WITHIN, 10_200_000, 1) == (
        "The corpus has 10,200,000 words, the track strict-small allows 10,000,000: train on fewer "
        "to hand the model in.\n"
    )
    assert len([*beyond_rules("strict", 2 * 10**8, 20)]) == 2


def test_other_corpora_have_no_rules() -> None:
    assert said("mini", 10**9, 100) == ""


def test_what_is_seen_in_all_is_ten_times_the_corpus() -> None:
    assert (most_seen("strict-small"), most_seen("strict")) == (10**8, 10**9)
