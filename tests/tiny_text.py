"""A small text to train on."""

from __future__ import annotations

import random
from pathlib import Path

_WORDS = ["the", "a", "old", "small", "cat", "dog", "sees", "likes", "runs", "here", "now", "and"]


def write_tiny_text(folder: Path) -> None:
    """Write about 4,000 words of nonsense: one domain with its validation file."""
    chance = random.Random(0)
    for name, lines in (("talk.train", 600), ("talk.dev", 30)):
        text = "\n".join(" ".join(chance.choices(_WORDS, k=6)) for _ in range(lines))
        (folder / name).write_text(text + "\n")
