"""Classification tasks that a model is fine-tuned on: texts, labels, metrics, constant answers.

A task is one text or a pair of texts with a label; a model is fine-tuned on `*.train.jsonl` and its
figure is that of `*.valid.jsonl`. Figures are percentages: accuracy, F1 of label 1, or 100 times
Matthews' correlation coefficient (Matthews 1975).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from analysis.benchmarks.files import SourceRow, in_any_case, read_file

METRICS = ("accuracy", "f1", "matthews")

_RESAMPLES = 1000
_MOST_SHOWN = 12
"""Labels in an error."""
Label: TypeAlias = str | int
_KINDS = {str: "a text", int: "an integer"}


@dataclass(frozen=True)
class ClassificationTask:
    """A classification task.

    Attributes:
        name: also the name of its files.
        labels: what the label indices stand for; none where the training file tells (`read_files`).
        texts: templates of the one or two texts, with the names of fields.
        metric: one of `METRICS`.
        train: name of the task whose training file it uses.
        language: of the multilingual track's tasks, as their names end; "" for those of GLUE.
    """

    name: str
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    metric: str = "accuracy"
    train: str = ""
    language: str = ""

    def files(self, folder: Path) -> tuple[Path, Path]:
        """Paths in its group's folder of its training and of its reported examples."""
        train, valid = (in_any_case(folder / self.subfolder / name) for name in self.file_names)
        return train, valid

    @property
    def file_names(self) -> tuple[str, str]:
        """Names of these files."""
        return f"{self.train or self.name}.train.jsonl", f"{self.name}.valid.jsonl"

    @property
    def subfolder(self) -> str:
        """Where they are in the folder; "" for the folder itself."""
        return self.name.removesuffix(f"_{self.language}") if self.language else ""

    @property
    def group(self) -> str:
        """The tasks that lie in a folder with it, and are averaged: "glue", "multilingual_nl"."""
        return f"multilingual_{self.language}" if self.language else "glue"


@dataclass(frozen=True)
class Example:
    """One or two texts, and the index of their label."""

    texts: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class TaskData:
    """A task's examples: to train on, and to report on."""

    task: ClassificationTask
    train: tuple[Example, ...]
    valid: tuple[Example, ...]

    @cached_property
    def hash(self) -> str:
        """Hex digest of all examples, in their order."""
        parts = [[[e.texts, e.label] for e in part] for part in (self.train, self.valid)]
        canonical = json.dumps([self.task.name, *parts], separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class MissingFiles:
    """A task that cannot be run, and the files that it lacks."""

    task: ClassificationTask
    files: tuple[Path, ...]


def read_files(task: ClassificationTask, train: Path, valid: Path) -> TaskData:
    """The examples of a task; a task without labels gets those of its training file, sorted.

    Raises:
        ValueError: an empty file or a bad row (file and line are named), or a single label.
    """
    rows: Iterable[SourceRow] = read_file(train)
    if task.labels:
        index_of = _fixed(task)
    else:
        rows = list(rows)
        labels = _labels_of(rows, train)
        task = replace(task, labels=tuple(map(str, labels)))
        index_of = _among(labels, train)

    def parse(values: dict[str, object], source: str) -> Example:
        label = index_of(values.get("label"))
        return Example(tuple(_fill(template, values) for template in task.texts), label)

    examples = (tuple(row.parse(parse) for row in part) for part in (rows, read_file(valid)))
    return TaskData(task, *examples)


def _fixed(task: ClassificationTask) -> Callable[[object], int]:
    def index_of(label: object) -> int:
        if isinstance(label, bool) or not isinstance(label, int):
            raise ValueError(f"field 'label' is missing or not an integer: {label!r}")
        if not 0 <= label < len(task.labels):
            raise ValueError(
                f"label must be 0 to {len(task.labels) - 1} for {task.name}, not {label} "
                "(a test set without its answers cannot be scored)"
            )
        return label

    return index_of


def _labels_of(rows: Sequence[SourceRow], file: Path) -> list[Label]:
    """The different labels of a training file, sorted: all texts, or all whole numbers."""
    kind = type(rows[0].values.get("label"))

    def parse(values: dict[str, object], source: str) -> Label:
        label = values.get("label")
        if label == "" or isinstance(label, bool) or not isinstance(label, str | int):
            raise ValueError(f"field 'label' is missing or neither text nor integer: {label!r}")
        if not isinstance(label, kind):
            raise ValueError(
                f"label {label!r} is {_KINDS[type(label)]}, that of the first row is "
                f"{_KINDS[kind]}: write all of them alike"
            )
        return label

    found: set[Any] = {row.parse(parse) for row in rows}  # of one type, which Python can sort
    labels: list[Label] = sorted(found)
    if len(labels) == 1:
        raise ValueError(
            f"{file}: every row has the label {labels[0]!r}, and there is nothing to learn: are "
            "rows missing?"
        )
    return labels


def _among(labels: Sequence[Label], train: Path) -> Callable[[object], int]:
    indices = {label: index for index, label in enumerate(labels)}

    def index_of(label: object) -> int:
        # True and 1.0 are equal to 1.
        if not isinstance(label, str | int) or isinstance(label, bool) or label not in indices:
            more = ", ..." if len(labels) > _MOST_SHOWN else ""
            raise ValueError(
                f"label {label!r} is in no row of {train.name}, which has "
                f"{', '.join(map(repr, labels[:_MOST_SHOWN]))}{more}: correct it, or leave the row "
                "out (a test set without its answers cannot be scored)"
            )
        return indices[label]

    return index_of


def _fill(template: str, values: dict[str, object]) -> str:
    fields = [name for _, name, _, _ in Formatter().parse(template) if name]
    return template.format(**{name: _text(values, name) for name in fields})


def _text(values: Mapping[str, object], name: str) -> str:
    """A field that must be a text, perhaps an empty one: full QQP has such questions."""
    value = values.get(name)
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} is missing or not a string")
    return value


def confusion(labels: ArrayLike, predictions: ArrayLike, num_labels: int) -> np.ndarray:
    """Counts of examples with each label (row) and prediction (column): (label, prediction)."""
    table = np.zeros((num_labels, num_labels), dtype=np.int64)
    np.add.at(table, (np.asarray(labels), np.asarray(predictions)), 1)
    return table


def figure(metric: str, table: np.ndarray) -> np.ndarray:
    """The metric in percent of one or more confusion tables: (..., label, prediction) -> (...).

    F1 is 0 without a true or predicted 1, Matthews' coefficient 0 without a variation in labels or
    predictions.
    """
    table = table.astype(np.float64)
    if metric == "accuracy":
        return np.asarray(100 * np.trace(table, axis1=-2, axis2=-1) / table.sum((-2, -1)))
    tn, fp, fn, tp = (table[..., i, j] for i in (0, 1) for j in (0, 1))
    if metric == "f1":
        return 100 * _ratio(2 * tp, 2 * tp + fp + fn)
    if metric == "matthews":
        norm = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return 100 * _ratio(tp * tn - fp * fn, norm)
    raise ValueError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}")


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(above, below, out=np.zeros_like(below), where=below > 0))


def score(task: ClassificationTask, labels: ArrayLike, predictions: ArrayLike) -> float:
    """The task's metric of predicted label indices, percent."""
    return float(figure(task.metric, confusion(labels, predictions, len(task.labels))))


def standard_error(task: ClassificationTask, labels: ArrayLike, predictions: ArrayLike) -> float:
    """Standard error over examples of `score`, percentage points: bootstrap of 1,000 resamples.

    Drawing examples anew is drawing the cells of the confusion table from a multinomial.
    """
    table = confusion(labels, predictions, len(task.labels))
    draws = np.random.default_rng(0).multinomial(
        int(table.sum()), table.ravel() / table.sum(), size=_RESAMPLES
    )
    return float(np.std(figure(task.metric, draws.reshape(-1, *table.shape)), ddof=1))


def baseline(data: TaskData) -> float:
    """The figure, percent, of giving every reported example the same label.

    The label is the one whose constant answer has the best figure on the training examples. For
    accuracy that is the most frequent label; for F1 it is label 1, where the most frequent label
    of qqp would score zero and make any model look good.
    """
    best = max(range(len(data.task.labels)), key=lambda label: _constant(data, "train", label))
    return _constant(data, "valid", best)


def _constant(data: TaskData, part: str, label: int) -> float:
    labels = [example.label for example in getattr(data, part)]
    return score(data.task, labels, [label] * len(labels))
