"""Reading times: how much of them a model's surprisal explains beyond length and frequency.

`reading*/*.csv`: a row for each word of a sentence but the first. `item` is what stands before the
`word`, `prev_item` and `prev_word` are the same of the word before it; then means over readers in
milliseconds (`MEASURES`), `Subtlex_log10`, `length`, `context_length` and `prev_length` (de Varda,
Marelli & Amenta 2023, in the BabyLM challenge of 2025). A row may lack any of these numbers.

A baseline regresses a measure on those numbers and their products by twos; the model's surprisal
(nats) of the word is then added. The figure is the share, in percent, of the variance left by the
baseline that it explains, (R^2 - R^2 of the baseline) / (1 - R^2 of the baseline): of four measures
of eye tracking, and of self-paced reading, whose baseline knows the word before as well, with its
surprisal. The figure is the mean of both.

A word is scored with a space before it, as those who collected the times did. The challenge's own
code encodes it without one, which is the same only for tokenizers that put one in front of any
text, as those trained here do.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from analysis.benchmarks.figures import Aggregation, by_task, means, task_of
from analysis.benchmarks.files import read_table
from analysis.benchmarks.items import Answer, Item, sums_of
from analysis.benchmarks.kind import BenchmarkKind, BenchmarkSource, Predictions

MEASURES = {
    "RTfirstfix": "eye_tracking",
    "RTfirstpass": "eye_tracking",
    "RTgopast": "eye_tracking",
    "RTrightbound": "eye_tracking",
    "self_paced_reading_time": "self_paced",
}
"""What is explained, and what is averaged by it."""
_KNOWN = ("Subtlex_log10", "length", "context_length")
_BEFORE = "prev_length"
_TEXTS = ("item", "word", "prev_item", "prev_word")
_COLUMNS = (*_TEXTS, *MEASURES, *_KNOWN, _BEFORE)
_MISSING = ("", "na", "n/a", "#n/a", "<na>", "nan", "null", "none")
_MEAN = means(lambda item: MEASURES[item.task], task_of)


def read_reading(folder: Path, source: BenchmarkSource | None = None) -> tuple[Item, ...]:
    """An item for each measure of each word that has it, in the order of the file's rows.

    Its options are the word and, where there is one, the word before it; `covariates` are the
    number of its row and of all rows, the measure's value, and the numbers that the baseline knows.

    Raises:
        ValueError: no file or several, a column is missing, a word without text before it, what is
            no number where one belongs, or too few values of a measure for its regression. File and
            row are named.
    """
    files = _csv_files(folder)
    if len(files) != 1:
        raise ValueError(f"{folder} holds {len(files)} *.csv files: expected one of reading times")
    rows = list(_rows(files[0]))
    sentences = _sentences([f"{row['item']} {row['word']}" for row in rows])
    items = tuple(
        item
        for number, (row, sentence) in enumerate(zip(rows, sentences, strict=True))
        for item in _items(row, sentence, (float(number), float(len(rows))))
    )
    for measure in MEASURES:
        values = sum(item.task == measure for item in items)
        if values <= _parameters(measure):
            raise ValueError(
                f"{files[0]} has {values} values of {measure} with all that its regression needs: "
                f"too few for {_parameters(measure)} parameters"
            )
    return items


def _csv_files(folder: Path) -> list[Path]:
    return sorted(
        each
        for each in folder.iterdir()
        if each.suffix.lower() == ".csv" and each.name[0] != "." and each.is_file()
    )


def _find(path: Path) -> Path | None:
    return path if path.is_dir() and _csv_files(path) else None


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Texts as they stand, "" for none; numbers, NaN for none."""
    # A text may well be "None" or "NA": what is missing is empty.
    table = read_table(file, dtype=str, keep_default_na=False)
    if missing := [name for name in _COLUMNS if name not in table.columns]:
        raise ValueError(f"{file} lacks the column {missing[0]!r}: expected {', '.join(_COLUMNS)}")
    for number, row in enumerate(table.to_dict("records"), start=2):  # the names are row 1
        try:
            yield {str(name): _value(str(name), str(row[name])) for name in _COLUMNS}
        except ValueError as error:
            raise ValueError(f"{file}, row {number}: {error}") from error


def _value(column: str, text: str) -> str | float:
    if column in _TEXTS:
        if column == "word" and not text.strip():
            raise ValueError(f"{column!r} is empty")
        # "None of ..." is a sentence that tables of missing values lose: no context is empty.
        return text if text.strip() or column != "item" else "None"
    if text.strip().lower() in _MISSING:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        number = math.inf
    if math.isinf(number):
        raise ValueError(f"{column!r} is no number, but {text!r}")
    return number


def _sentences(texts: Sequence[str]) -> list[str]:
    """Of each beginning of a sentence the longest one that goes on from it."""
    longest: dict[str, str] = {}
    whole = ""
    for text in sorted(texts, reverse=True):  # what goes on from a text comes right before it
        whole = whole if whole.startswith(f"{text} ") else text
        longest[text] = whole
    return [longest[text] for text in texts]


def _items(row: Mapping[str, Any], sentence: str, where: tuple[float, float]) -> list[Item]:
    """The measures of a word."""
    has_before = bool(row["prev_item"].strip() and row["prev_word"].strip())
    found = []
    for measure, group in MEASURES.items():
        names = (measure, *_KNOWN, *((_BEFORE,) if group == "self_paced" else ()))
        covariates = tuple(row[name] for name in names)
        if all(map(math.isfinite, covariates)) and (has_before or group != "self_paced"):
            found.append((measure, covariates))
    texts = [(row["item"], row["word"])]
    texts += [(row["prev_item"], row["prev_word"])] if has_before else []
    return [
        Item(
            measure,
            options=tuple(" " + word.strip() for _, word in texts),
            context=tuple(context for context, _ in texts),
            groups=(("reading", MEASURES[measure]),),
            cluster=sentence,
            covariates=(*where, *covariates),
        )
        for measure, covariates in found
    ]


def _grade(items: Sequence[Item], log_probs: Sequence[Sequence[np.ndarray]]) -> list[Answer]:
    """Answers whose values say what each reading time contributes to the figure.

    Their mean over a measure is its share R = 1 - S / B of explained variance, where S and B are
    the sums of squared residuals with the surprisal and without. A value is R plus the influence
    of its item on R, n ((1 - R) b^2 - s^2) / B, so that the variance of the values' mean is R's by
    the delta method. A measure with a surprisal that is not finite is not explained at all.
    """
    scores = [sums_of(each) for each in log_probs]
    values = [0.0] * len(items)
    by_measure: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        by_measure[item.task].append(index)
    for measure, indices in by_measure.items():
        texts = 2 if MEASURES[measure] == "self_paced" else 1
        surprisals = -np.array([scores[index][:texts] for index in indices])
        if np.isfinite(surprisals).all():
            known = np.array([items[index].covariates[2:] for index in indices])
            for index, share in zip(indices, _shares(known, surprisals), strict=True):
                values[index] = share
    return [
        Answer(value, 0 if all(map(math.isfinite, score)) else -1, False, score)
        for value, score in zip(values, scores, strict=True)
    ]


def _shares(covariates: np.ndarray, surprisals: np.ndarray) -> list[float]:
    """What each reading time contributes, see `_grade`.

    Args:
        covariates: (items, 1 + numbers): the times, and what the baseline knows.
        surprisals: (items, 1 or 2): of the word, and of the one before it, which the baseline
            knows too.
    """
    times, known = covariates[:, 0], np.hstack([covariates[:, 1:], surprisals[:, 1:]])
    spread = known.std(axis=0)
    # Without means and units the columns span the same, and are farther from one another.
    known = (known - known.mean(axis=0)) / np.where(spread > 0, spread, 1)
    products = [known[:, i] * known[:, j] for i, j in combinations(range(known.shape[1]), 2)]
    baseline = np.column_stack([np.ones(len(known)), known, *products])
    without = _residuals(baseline, times)
    left = float(without @ without)
    if left == 0:
        return [0.0] * len(times)
    with_it = _residuals(np.column_stack([baseline, surprisals[:, 0]]), times)
    share = 1 - float(with_it @ with_it) / left
    influence = len(times) * ((1 - share) * without**2 - with_it**2) / left
    return [float(value) for value in share + influence]


def _residuals(design: np.ndarray, times: np.ndarray) -> np.ndarray:
    coefficients = np.linalg.lstsq(design, times, rcond=None)[0]
    return np.asarray(times - design @ coefficients)


def _error(items: Sequence[Item], values: Sequence[float]) -> float:
    """Standard error over other sentences: what one adds to the figure, over all measures, varies
    from sentence to sentence (Liang & Zeger 1986)."""
    assert _MEAN.weights
    sums: dict[str, float] = defaultdict(float)
    for item, value, weight in zip(
        items, _influences(items, values), _MEAN.weights(items), strict=True
    ):
        sums[item.cluster] += weight * value
    if len(sums) == 1:  # shows no variance
        return 100.0
    return 100 * math.sqrt(len(sums) / (len(sums) - 1)) * math.hypot(*sums.values())


def _influences(items: Sequence[Item], values: Sequence[float]) -> list[float]:
    """How far each value is from the mean of its measure, which the figure is the mean of."""
    mean_of = {task: fmean(found) for task, found in by_task(items, values).items()}
    return [value - mean_of[item.task] for item, value in zip(items, values, strict=True)]


def _linearized(items: Sequence[Item], values: Sequence[float]) -> list[float]:
    figure = _MEAN.value(items, values) / 100
    return [figure + influence for influence in _influences(items, values)]


def _parameters(measure: str) -> int:
    """Parameters of a measure's regression with the surprisal: the constant, what the baseline
    knows, its products, and the surprisal."""
    known = len(_KNOWN) + 2 * (MEASURES[measure] == "self_paced")
    return 1 + known + math.comb(known, 2) + 1


def _chance(items: Sequence[Item]) -> tuple[float, float]:
    """A surprisal that has nothing to do with the times explains a share that is Beta distributed
    with parameters 1/2 and half the residual degrees of freedom. The measures' shares are of the
    same surprisal: at worst they vary together."""
    parts: dict[str, dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        parts[MEASURES[item.task]][item.task].append(item)
    found = [
        [_chance_of(len(of_task), measure) for measure, of_task in tasks.items()]
        for tasks in parts.values()
    ]
    level, spread = (fmean(fmean(each[i] for each in tasks) for tasks in found) for i in (0, 1))
    return 100 * level, 100 * spread


def _chance_of(values: int, measure: str) -> tuple[float, float]:
    a, b = 0.5, max(values - _parameters(measure), 1) / 2
    return a / (a + b), math.sqrt(a * b / (a + b + 1)) / (a + b)


def _submitted(items: Sequence[Item], answers: Sequence[Answer]) -> Predictions:
    """Surprisals of the word of each row, and of the one before it.

    NaN, which JSON lacks and the challenge's reader wants, where there is no word before, and of
    words that none of its figures counts.
    """
    found: dict[int, tuple[float, ...]] = {}
    for item, answer in zip(items, answers, strict=True):
        found[int(item.covariates[0])] = (*answer.log_probs, math.nan)
    rows = int(items[0].covariates[1])
    nothing = (math.nan, math.nan)
    scores = [found.get(row, nothing) for row in range(rows)]
    return {
        "reading": [
            {"id": row, "pred": -each[0], "prev_pred": -each[1]} for row, each in enumerate(scores)
        ]
    }


READING = BenchmarkKind(
    "reading",
    ("reading*",),
    read_reading,
    files=("*.csv",),
    expects=f"one *.csv file with the columns {', '.join(_COLUMNS)}",
    find=_find,
    figure=Aggregation(_MEAN.value, _error, _MEAN.weights, _chance, False, _linearized),
    grade=_grade,
    clusters_span_tasks=True,
    submission="reading",
    submitted=_submitted,
    shown_by=None,
    listed_as="measure",
)
