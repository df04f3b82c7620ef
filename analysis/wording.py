"""Numbers and nouns in sentences, and words of commands that they name."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def count(number: int, noun: str, nouns: str | None = None) -> str:
    """A number with its noun: 1 trial, 2 trials, 1,000 trials.

    Args:
        number: how many.
        noun: of one.
        nouns: of others, by default with an s.
    """
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def quoted(*words: str) -> str:
    """Words as they are typed into a shell: study 'my text'."""
    return shlex.join(words)


def flag_words(flag: str, values: Sequence[str]) -> str:
    """A flag and its values, in the shell's quotes already, as they are typed; a single value that
    looks like a flag is joined to it."""
    if len(values) == 1 and values[0].lstrip("'\"").startswith("-"):
        return f"{flag}={values[0]}"
    return " ".join([flag, *values])
