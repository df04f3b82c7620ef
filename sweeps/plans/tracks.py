"""What the tracks of the BabyLM challenge allow a training: words, and how often they are seen.

Its guidelines of 2026 (arXiv 2602.20092, as in 2025): a corpus of 10M words (strict-small) or 100M
(strict), counted between white space, and at most ten epochs of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rich.console import Console

from analysis.terminal import say
from analysis.wording import count
from sweeps.plans.common import SweepPlan
from trainables.milestones import is_seen

Track = Literal["strict-small", "strict"]
MOST_EPOCHS = 10
_CORPUS: dict[Track, int] = {"strict-small": 10**7, "strict": 10**8}
_OF_CORPUS: dict[str, Track] = {"babylm-strict-small": "strict-small", "babylm-strict": "strict"}


def most_seen(track: Track) -> int:
    """Words that a training of a track may see in all."""
    return _CORPUS[track] * MOST_EPOCHS


def show_rules(plan: SweepPlan, console: Console) -> None:
    """Say of trainings on a track's corpus what they have more of than it allows."""
    if (track := _OF_CORPUS.get(plan.corpus.name)) is not None:
        for sentence in beyond_rules(track, plan.corpus.train_words, plan.epochs):
            say(console, f"[yellow]{sentence}[/]")


def beyond_rules(track: Track, words: int, epochs: int) -> Iterator[str]:
    """Sentences on what a training has more of than its track allows.

    Args:
        track: of the challenge.
        words: of the training text.
        epochs: of the training.
    """
    if not is_seen(words, _CORPUS[track]):
        yield (
            f"The corpus has {count(words, 'word')}, the track {track} allows {_CORPUS[track]:,}: "
            "train on fewer to hand the model in."
        )
    if epochs > MOST_EPOCHS:
        yield (
            f"The challenge allows {count(MOST_EPOCHS, 'epoch')} of its corpus, these are "
            f"{epochs}: take fewer to hand the model in."
        )
