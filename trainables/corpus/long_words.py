"""Runs of characters so long that they are no words, which BPE takes for one.

Learning merges takes time in proportion to the square of a word's length, since every merge moves
all that follows it: 0.1 s for 10,000 letters, a quarter of an hour for a million. So no more than
the beginning of a run takes part. Encoding is fast at any length: the text itself stays whole.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from trainables.corpus.file_names import shown
from trainables.corpus.readers import line_number

LONGEST_WORD = 10_000
"""Characters of one word that merges are learned from; no natural text has longer ones."""

MOST_WARNINGS = 2

_SUSPECT = re.compile(rf"(?<!\S)\S{{{LONGEST_WORD + 1},}}|(?<!\s)\s{{{LONGEST_WORD + 1},}}")
"""Words lie between white space, or are white space."""


def shortened(line: str) -> str:
    """A line with at most the first `LONGEST_WORD` characters of each word: of each run of letters,
    digits, white space or other characters, as byte-level BPE divides text."""
    if len(line) <= LONGEST_WORD:
        return line
    return _SUSPECT.sub(_first_of_each_run, line)


def _first_of_each_run(found: re.Match[str]) -> str:
    runs = (run for _, run in itertools.groupby(found[0], key=_kind))
    return "".join(
        itertools.chain.from_iterable(itertools.islice(run, LONGEST_WORD) for run in runs)
    )


def _kind(character: str) -> str:
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "space" if character.isspace() else "other"


class LongWords:
    """Remembers where words are too long to learn merges from."""

    def __init__(self) -> None:
        self.first: list[tuple[Path, str]] = []
        self.count = 0

    def look(self, file: Path, documents: Iterable[str]) -> None:
        """Look through documents of a file."""
        for line in documents:
            if len(line) > LONGEST_WORD and len(shortened(line)) < len(line):
                self.count += 1
                if len(self.first) < MOST_WARNINGS:
                    self.first.append((file, line))

    def warnings(self, folder: Path) -> list[str]:
        """A line for the first two documents, and one for all others.

        Args:
            folder: in relation to which files are named.
        """
        lines = []
        for file, line in self.first:
            where = f"{shown(file, folder)}, line {line_number(file, line):,}"
            lines.append(
                f"{where}: one of its words has more than {LONGEST_WORD:,} characters, of which "
                f"only the first {LONGEST_WORD:,} train the tokenizer; if it is no text, remove it"
            )
        if (more := self.count - len(self.first)) > 0:
            lines.append(f"and {more:,} more such {'line' if more == 1 else 'lines'}")
        return lines
