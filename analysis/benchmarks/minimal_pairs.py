"""Minimal pairs in BLiMP layout: does a model give the good sentence more probability than the bad?

One `*.jsonl` file per task, one pair per line: `sentence_good`, `sentence_bad`, and in BLiMP also
`UID` (the task; the file's stem where it is absent, as in the BLiMP supplement), `field` and
`linguistics_term`. BLiMP: Warstadt et al. 2020, arXiv 1912.00582. Supplement: Warstadt et al. 2023,
the BabyLM Challenge.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.benchmarks.protocols import Encoder
from analysis.benchmarks.scoring import Span

GROUPINGS = ("field", "linguistics_term")

# Scores closer than this (nats) are a tie: the accuracy of float32 sums over differently padded
# batches. A model blind to word order must not win pairs of permuted words by rounding.
TIE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class MinimalPair:
    """One item. `field` and `linguistics_term` are "" where the file gives none."""

    uid: str
    good: str
    bad: str
    field: str = ""
    linguistics_term: str = ""


@dataclass(frozen=True)
class Outcome:
    """How one item went.

    Attributes:
        task: the item's UID.
        value: 1 right, 0 wrong, 0.5 a tie.
        finite: whether all of the item's scores were finite; if not, `value` is 0.
        groups: the item's group in each grouping that it states, e.g. {"field": "syntax"}.
    """

    task: str
    value: float
    finite: bool
    groups: dict[str, str]


@dataclass(frozen=True)
class MinimalPairs:
    """A benchmark of minimal pairs; `name` is "blimp" or "supplement"."""

    name: str
    pairs: tuple[MinimalPair, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def content(self) -> list[list[str]]:
        """All that determines a score, as JSON, for the suite's hash."""
        return [[p.uid, p.field, p.linguistics_term, p.good, p.bad] for p in self.pairs]

    def spans(self, encoder: Encoder) -> list[Span]:
        """Two spans per pair: good, bad, good, bad, ..."""
        texts = [text for pair in self.pairs for text in (pair.good, pair.bad)]
        names = [
            f"{self.name} {pair.uid} pair {index} {side}"
            for index, pair in enumerate(self.pairs)
            for side in ("good", "bad")
        ]
        return encoder.texts(texts, names)

    def grade(self, log_probs: Sequence[float]) -> list[Outcome]:
        """One outcome per pair, from the log-probabilities (nats) of `spans` in their order."""
        good, bad = log_probs[0::2], log_probs[1::2]
        return [_grade(*item) for item in zip(self.pairs, good, bad, strict=True)]


def _grade(pair: MinimalPair, good: float, bad: float) -> Outcome:
    groups = {name: getattr(pair, name) for name in GROUPINGS if getattr(pair, name)}
    if not (math.isfinite(good) and math.isfinite(bad)):
        return Outcome(pair.uid, 0.0, False, groups)
    value = 0.5 if abs(good - bad) < TIE_TOLERANCE else float(good > bad)
    return Outcome(pair.uid, value, True, groups)


def read_minimal_pairs(name: str, folder: Path) -> MinimalPairs:
    """Read every `*.jsonl` file of a folder, in the order of their names.

    Raises:
        ValueError: no file, an empty file, or a line that is not a pair (file and line are named).
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise ValueError(
            f"{folder} holds no *.jsonl file: a minimal-pair benchmark has one per task"
        )
    return MinimalPairs(name, tuple(pair for file in files for pair in _read_file(file)))


def _read_file(file: Path) -> Iterator[MinimalPair]:
    lines = file.read_text(encoding="utf-8").split(
        "\n"
    )  # a JSON string may hold U+2028, so no splitlines
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise ValueError(f"{file} is empty: expected one JSON object per line")
    for number, line in numbered:
        try:
            yield _parse(line, file.stem)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error


def _parse(line: str, default_uid: str) -> MinimalPair:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, not {type(row).__name__}")
    for key in ("sentence_good", "sentence_bad"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ValueError(f"field {key!r} is missing, empty or not a string")
    return MinimalPair(
        uid=str(row.get("UID") or default_uid),
        good=row["sentence_good"],
        bad=row["sentence_bad"],
        field=str(row.get("field") or ""),
        linguistics_term=str(row.get("linguistics_term") or ""),
    )
