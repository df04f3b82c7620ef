"""Numbers and nouns in sentences, and words of commands that they name."""

from __future__ import annotations

import shlex


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


def as_flag(name: str, *words: str) -> str:
    """A flag with its values as they are typed: one that looks like a flag itself is joined to it.

    Args:
        name: of the flag, without dashes before it.
        words: its values, quoted.
    """
    if len(words) == 1 and words[0].lstrip("'\"").startswith("-"):
        return f"--{name}={words[0]}"
    return " ".join([f"--{name}", *words])
