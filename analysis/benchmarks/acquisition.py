"""Age of acquisition: are words learned in the order in which children learn them?

Of each word of a list (`*.json`: by word a list of `{"context": ...}`) the surprisal after its
contexts is taken from models of one training that have seen more and more text. A sigmoid through a
word's surprisals says after how much it is half learned; the figure is Pearson's correlation of
that with the age at which half of all children know the word, likewise from a sigmoid (a table
`*.csv` with a row for each `word`, and columns 16 to 30 of the share of children of so many months
who know it). Chang & Bergen 2022, doi 10.1162/tacl_a_00444; Frank et al. 2017 (Wordbank); as in the
BabyLM challenge of 2025 and 2026, whose constants these are.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.benchmarks.files import read_object, read_table, text_field
from analysis.benchmarks.protocols import Encoder
from analysis.benchmarks.scoring import Span

_AGES = tuple(map(str, range(16, 31)))
_KNOWN_BY = 0.5
"""Share of children who know a word that is learned."""
_VOCABULARY = 300_000
"""Words among which a model that knows nothing is taken to choose; its surprisal is in bits."""
_LEAST_POINTS = 3
_MOST_CALLS = 1000


@dataclass(frozen=True)
class WordInContext:
    """A word whose surprisal is asked for.

    Attributes:
        word: without white space around it.
        number: of the context, among the word's.
        context: what stands before it.
    """

    word: str
    number: int
    context: str


def read_words(file: Path) -> tuple[WordInContext, ...]:
    """The words of a list with all their contexts; those of one letter are left out.

    Raises:
        ValueError: it is no such list; file and word are named.
    """
    found = []
    for word, contexts in read_object(file).items():
        if not isinstance(contexts, list):
            raise ValueError(f"{file}, {word!r}: expected a list of contexts")
        for number, each in enumerate(contexts if len(word) > 1 else ()):
            if not isinstance(each, dict):
                raise ValueError(f"{file}, {word!r}: expected objects with a context")
            try:
                found.append(WordInContext(word.strip(), number, text_field(each, "context")))
            except ValueError as error:
                raise ValueError(f"{file}, {word!r}: {error}") from error
    if not found:
        raise ValueError(f"{file} holds no word with a context")
    return tuple(found)


def spans_of(words: Sequence[WordInContext], encoder: Encoder) -> list[Span]:
    """What is to be scored of each."""
    options = [(each.context.strip(), f" {each.word}") for each in words]
    names = [f"word {each.word!r}, context {each.number}" for each in words]
    return encoder.spans(options, names)


def results_of(
    words: Sequence[WordInContext], revision: str, seen: int, log_probs: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """The challenge's entries of one model.

    Args:
        words: that were scored.
        revision: what the model is called.
        seen: words that it was trained on.
        log_probs: of each word after its context, nats.
    """
    for each, log_prob in zip(words, log_probs, strict=True):
        yield {
            "step": revision,
            "word_count": seen,
            "target_word": each.word,
            "context_id": each.number,
            "context": each.context,
            "surprisal": -log_prob,
        }


def correlation(results: Sequence[Mapping[str, Any]], human: Path) -> tuple[float, int]:
    """The figure, and the number of words that it is of; 0 with fewer than three.

    Args:
        results: entries of all models, from the one that has seen least (`results_of`).
        human: the table of children's words.

    Raises:
        ValueError: it is no such table.
    """
    from scipy import stats  # 60 MB: only for those who use it

    children = _ages_of_children(human)
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in results:
        points[entry["target_word"]].append((entry["word_count"], entry["surprisal"]))
    pairs = []
    for word, of_word in points.items():
        if word in children:
            learned = _words_until_learned(np.array(of_word, dtype=float))
            age = _age_when_known(*children[word]) if learned is not None else None
            if learned is not None and age is not None:
                pairs.append((learned, age))
    if len(pairs) < _LEAST_POINTS:
        return 0.0, len(pairs)
    return float(stats.pearsonr(*zip(*pairs, strict=True)).statistic), len(pairs)


def _ages_of_children(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By word: ages in months, and the shares of children who know it; of a word that stands there
    twice those of the first."""
    import pandas as pd  # a second: only for those who use it

    table = read_table(file, dtype={"word": str})
    ages = [age for age in _AGES if age in table.columns]
    if "word" not in table.columns or not ages:
        raise ValueError(f"{file} lacks the column 'word', or all of {_AGES[0]} to {_AGES[-1]}")
    shares = table[ages].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for word, of_word in zip(table["word"], shares, strict=True):
        known = np.isfinite(of_word)
        found.setdefault(str(word), (np.array(ages, dtype=float)[known], of_word[known]))
    return found


def _age_when_known(ages: np.ndarray, shares: np.ndarray) -> float | None:
    """Months at which half of all children know a word; None if that is not between the ages."""
    if len(ages) < _LEAST_POINTS:
        return None
    start = (1.0, 0.1, float(ages.mean()), 0.0)
    bounds = ((0.0, 0.0, ages[0], -0.5), (2.0, 1.0, ages[-1], 0.5))
    age = _crossing(ages, shares, start, _KNOWN_BY, bounds)
    return age if age is not None and ages[0] <= age <= ages[-1] else None


def _words_until_learned(points: np.ndarray) -> float | None:
    """Logarithm (base 10) of the words after which a word is half learned: its surprisal is halfway
    from that of a model that knows nothing to its least.

    Args:
        points: (points, 2): words seen, and surprisal.
    """
    points = points[np.isfinite(points[:, 1])]
    if len(points) < _LEAST_POINTS:
        return None
    seen, known = points[:, 0], -points[:, 1]
    halfway = (known.max() - math.log2(_VOCABULARY)) / 2
    times = np.log10(seen + 1)
    start = (float(np.ptp(known)), 1.0, float(times.mean()), float(known.min()))
    crossing = _crossing(times, known, start, halfway)
    if crossing is None or not times[0] <= crossing <= times[-1]:
        return None
    return crossing


def _crossing(
    times: np.ndarray,
    values: np.ndarray,
    start: tuple[float, float, float, float],
    level: float,
    bounds: tuple[Any, Any] = (-np.inf, np.inf),
) -> float | None:
    """Time at which a rising sigmoid through the values reaches a level; None if none is found."""
    from scipy.optimize import curve_fit

    def sigmoid(x: np.ndarray, height: float, slope: float, middle: float, low: float) -> Any:
        return height / (1 + np.exp(-slope * (x - middle))) + low

    try:
        with warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("ignore")  # of a covariance that nobody reads
            fitted, _ = curve_fit(sigmoid, times, values, start, bounds=bounds, maxfev=_MOST_CALLS)
    except (RuntimeError, ValueError, TypeError):
        return None  # none within so many calls; the start is out of bounds; too few points
    height, slope, middle, low = map(float, fitted)
    if slope <= 0 or height <= 0 or not low < level < height + low:
        return None
    return middle - math.log(height / (level - low) - 1) / slope
