"""Numbers and nouns in sentences."""

from __future__ import annotations


def count(number: int, noun: str, nouns: str | None = None) -> str:
    """A number with its noun: 1 trial, 2 trials, 1,000 trials.

    Args:
        number: how many.
        noun: of one.
        nouns: of others, by default with an s.
    """
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"
