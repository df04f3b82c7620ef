"""Numbers and nouns in sentences, and words of commands that they name."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable

OVER_SEEDS = "± standard deviation over seeds"
OVER_ITEMS = "± standard error over items"


def in_gb(size: float) -> str:
    """Bytes in GB, or MB where these are few."""
    unit, name = (1e9, "GB") if size >= 1e8 else (1e6, "MB")
    return f"{size / unit:.{0 if size >= 10 * unit else 1}f} {name}"


def count(number: int, noun: str, nouns: str | None = None) -> str:
    """A number with its noun: 1 trial, 2 trials, 1,000 trials.

    Args:
        number: how many.
        noun: of one.
        nouns: of others, by default with an s.
    """
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def between(low: int, high: int, noun: str) -> str:
    """Numbers with their noun: 1 seed, 3 seeds, 1 to 3 seeds."""
    return count(high, noun) if low == high else f"{low:,} to {count(high, noun)}"


def with_error(figure: float, error: float, digits: int) -> str:
    """A figure and what it is uncertain by, where that is known; "-" for no figure.

    `OVER_SEEDS` or `OVER_ITEMS` must stand beside it, see `legend`.
    """
    if not math.isfinite(figure):
        return "-"
    known = "" if math.isnan(error) else f" ± {error:.{digits}f}"
    return f"{figure:.{digits}f}{known}"


def legend(cells: Iterable[str]) -> str:
    """What a table of means over seeds says below itself, "" where none has a spread."""
    return OVER_SEEDS if any("±" in cell for cell in cells) else ""


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
