"""Age of acquisition: are words learned in the order in which children learn them?

Of each word of a list (`*.json`: by word a list of `{"context": ...}`) the surprisal after its
contexts is taken from models of one training that have seen more and more text. A sigmoid through a
word's surprisals says after how much it is half learned; the figure is Pearson's correlation of
that with the age at which half of all children know the word, likewise from a sigmoid (a table
`*.csv` with a row for each `word`, and columns 16 to 30 of the share of children of so many months
who know it). Chang & Bergen 2022, doi 10.1162/tacl_a_00444; Frank et al. 2017 (Wordbank).

The constants are those of the BabyLM challenge (babylm-org/babylm-eval, strict/evaluation_pipeline/
utils.py, `AoAEvaluator`): of 2025 as commit 45fe2c1 still has them, of 2026 as of a66e05d. In
2026 a model that knows nothing has the tokenizer's vocabulary and as many choices as the word has
tokens, the surprisals of a word's contexts are averaged before the fit, and a correlation that may
well be chance counts as 0 (`_RULES`).
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from transformers import PreTrainedTokenizerBase

from analysis.benchmarks.files import read_object, read_table, text_field
from analysis.benchmarks.protocols import Encoder, token_ids
from analysis.benchmarks.scoring import Span

_AGES = tuple(map(str, range(16, 31)))
_KNOWN_BY = 0.5
"""Share of children who know a word that is learned."""
_LEAST_POINTS = 3
_Bounds: TypeAlias = tuple[Sequence[float] | float, Sequence[float] | float]
"""Least and greatest height, slope, middle and lower end of a sigmoid."""


def _of_words(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[float]:
    return [math.log2(300_000)] * len(words)  # in bits, though the surprisals are in nats


def _of_tokens(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[float]:
    # After another word, as a word is mostly: it may begin with a token that has a space in it.
    texts = ["The", *(f"The {word}" for word in words)]
    start, *whole = map(len, token_ids(tokenizer, texts, add_special_tokens=False))
    return [max(1, length - start) * math.log(tokenizer.vocab_size) for length in whole]


def _unbounded(times: np.ndarray, known: np.ndarray) -> _Bounds:
    return -math.inf, math.inf


def _near_the_points(times: np.ndarray, known: np.ndarray) -> _Bounds:
    spread, low, high = float(np.ptp(known)), float(known.min()), float(known.max())
    return (
        (0.0, 0.0, float(times.min()) - 1, low - 2 * spread - 1),
        (10 * spread + 1, 100.0, float(times.max()) + 1, high + 1),
    )


@dataclass(frozen=True)
class _Rules:
    """How a year's challenge tells when a model learns a word.

    Attributes:
        ignorant: gives the surprisal of each word by a model that knows nothing.
        averages: whether a model's surprisals of a word in its contexts are one point or several.
        bounds: gives the sigmoid's, from its points: logarithms of words seen, and log-probability.
        calls: most of them while it is fitted.
        least: height and slope below which it is none.
        chance: p-value above which the correlation counts as 0.
    """

    ignorant: Callable[[Sequence[str], PreTrainedTokenizerBase], list[float]]
    averages: bool
    bounds: Callable[[np.ndarray, np.ndarray], _Bounds]
    calls: int
    least: float
    chance: float


_RULES = {
    "2025": _Rules(_of_words, False, _unbounded, calls=1000, least=0.0, chance=1.0),
    "2026": _Rules(_of_tokens, True, _near_the_points, calls=20_000, least=1e-6, chance=0.1),
}


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


def correlation(
    results: Sequence[Mapping[str, Any]],
    human: Path,
    protocol: str,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[float, int]:
    """The figure, and the number of words that it is of.

    It is 0 with fewer than three words, and in 2026 where its p-value is above 0.1.

    Args:
        results: entries of all models, from the one that has seen least (`results_of`).
        human: the table of children's words.
        protocol: the challenge's year, "2025" or "2026".
        tokenizer: of the models.

    Raises:
        ValueError: it is no such table.
    """
    from scipy import stats  # 60 MB: only for those who use it

    rules, children = _RULES[protocol], _ages_of_children(human)
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in results:
        if entry["target_word"] in children:
            points[entry["target_word"]].append((entry["word_count"], entry["surprisal"]))
    pairs = []
    for word, ignorant in zip(points, rules.ignorant(list(points), tokenizer), strict=True):
        learned = _words_until_learned(np.array(points[word], dtype=float), ignorant, rules)
        age = _age_when_known(*children[word]) if learned is not None else None
        if learned is not None and age is not None:
            pairs.append((learned, age))
    if len(pairs) < _LEAST_POINTS:
        return 0.0, len(pairs)
    found = stats.pearsonr(*zip(*pairs, strict=True))
    return 0.0 if found.pvalue > rules.chance else float(found.statistic), len(pairs)


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


def _words_until_learned(points: np.ndarray, ignorant: float, rules: _Rules) -> float | None:
    """Logarithm (base 10) of the words after which a word is half learned: its surprisal is halfway
    from that of a model that knows nothing to its least.

    Args:
        points: (points, 2): words seen, and surprisal.
        ignorant: the surprisal of a model that knows nothing.
        rules: of the year.
    """
    if rules.averages:
        seen = np.unique(points[:, 0])
        means = [points[points[:, 0] == each, 1].mean() for each in seen]
        points = np.column_stack([seen, means])
    points = points[np.isfinite(points[:, 1])]
    if len(points) < _LEAST_POINTS:
        return None
    seen, known = points[:, 0], -points[:, 1]
    halfway = (known.max() - ignorant) / 2
    times = np.log10(seen + 1)
    start = (float(np.ptp(known)), 1.0, float(times.mean()), float(known.min()))
    bounds = rules.bounds(times, known)
    crossing = _crossing(times, known, start, halfway, bounds, rules.calls, rules.least)
    if crossing is None or not times[0] <= crossing <= times[-1]:
        return None
    return crossing


def _crossing(
    times: np.ndarray,
    values: np.ndarray,
    start: tuple[float, float, float, float],
    level: float,
    bounds: _Bounds,
    calls: int = 1000,
    least: float = 0.0,
) -> float | None:
    """Time at which a rising sigmoid through the values reaches a level; None if none is found."""
    from scipy.optimize import curve_fit

    def sigmoid(x: np.ndarray, height: float, slope: float, middle: float, low: float) -> Any:
        return height / (1 + np.exp(-slope * (x - middle))) + low

    try:
        with warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("ignore")  # of a covariance that nobody reads
            fitted, _ = curve_fit(sigmoid, times, values, start, bounds=bounds, maxfev=calls)
    except (RuntimeError, ValueError, TypeError):
        return None  # none within so many calls; the start is out of bounds; too few points
    height, slope, middle, low = map(float, fitted)
    if slope <= least or height <= least or not low < level < height + low:
        return None
    return middle - math.log(height / (level - low) - 1) / slope
