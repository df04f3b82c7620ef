"""GLUE and SuperGLUE as BabyLM uses them: tasks, files, metrics, baselines, settings.

Wang et al. 2019, arXiv 1804.07461 and 1905.00537. A task is one text or a pair of texts with a
label; a model is fine-tuned on `<task>.train.jsonl` and its figure is that of `<task>.valid.jsonl`.
`mnli-mm` has only the latter: it is another text genre for a model fine-tuned on `mnli`.

Figures are percentages: accuracy, F1 of label 1 (mrpc, qqp), or 100 times Matthews' correlation
coefficient (cola; Matthews 1975).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike

from analysis.benchmarks.files import depth_folders, in_any_case, is_called, read_file
from analysis.benchmarks.protocols import check_protocol
from analysis.schema.typed import typed

METRICS = ("accuracy", "f1", "matthews")
SCHEDULES = ("linear", "cosine")
HEADS = ("linear", "mlp")

_RESAMPLES = 1000


@dataclass(frozen=True)
class _Figures:
    """What is shown of a task's stored result; without a score, `error` may be a reason."""

    score: float | None = None
    baseline: float | None = None
    error: float | str | None = None

    def __post_init__(self) -> None:
        is_known = self.baseline is not None and isinstance(self.error, int | float)
        if self.score is not None and not is_known:
            raise ValueError("a score without its baseline, or its error")


def _check_results(results: dict[str, dict[str, Any]], where: str) -> None:
    for task, result in results.items():
        shown = {f.name: result[f.name] for f in dataclasses.fields(_Figures) if f.name in result}
        typed(shown, _Figures, f"{where}.{task}")


GlueResults = Annotated[dict[str, dict[str, Any]], _check_results]
"""The result of each task, as it is stored; checked where it is read (`typed`)."""


@dataclass(frozen=True)
class GlueTask:
    """A classification task.

    Attributes:
        name: also the name of its files.
        labels: what the label indices stand for.
        texts: templates of the one or two texts, with the names of fields.
        metric: one of `METRICS`.
        train: name of the task whose training file it uses.
    """

    name: str
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    metric: str = "accuracy"
    train: str = ""

    def files(self, folder: Path) -> tuple[Path, Path]:
        """Paths in a folder of its training and of its reported examples."""
        train, valid = (in_any_case(folder / name) for name in self.file_names)
        return train, valid

    @property
    def file_names(self) -> tuple[str, str]:
        """Names of these files."""
        return f"{self.train or self.name}.train.jsonl", f"{self.name}.valid.jsonl"


_YES_NO = ("False", "True")
_NLI = ("entailment", "neutral", "contradiction")
_RTE = ("entailment", "not entailment")
_PREMISE = ("{premise}", "{hypothesis}")
_SENTENCES = ("{sentence1}", "{sentence2}")

TASKS = {
    task.name: task
    for task in (
        GlueTask("boolq", _YES_NO, ("{question}", "{passage}")),
        GlueTask("cola", ("unacceptable", "acceptable"), ("{sentence}",), "matthews"),
        GlueTask("mnli", _NLI, _PREMISE),
        GlueTask("mnli-mm", _NLI, _PREMISE, train="mnli"),
        GlueTask("mrpc", ("different", "paraphrase"), _SENTENCES, "f1"),
        GlueTask("multirc", _YES_NO, ("Question: {question} Answer: {answer}", "{paragraph}")),
        GlueTask("qnli", _RTE, ("{question}", "{sentence}")),
        GlueTask("qqp", ("different", "duplicate"), ("{question1}", "{question2}"), "f1"),
        GlueTask("rte", _RTE, _SENTENCES),
        GlueTask("sst2", ("negative", "positive"), ("{sentence}",)),
        GlueTask(
            "wsc",
            _YES_NO,
            ('Does "{span2_text}" refer to "{span1_text}" in this passage?', "{text}"),
        ),
    )
}
"""All tasks by name."""

PROTOCOL_TASKS = {
    "2024": tuple(TASKS),
    **dict.fromkeys(("2025", "2026"), ("boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc")),
}
"""The tasks whose unweighted mean is the GLUE figure of a protocol. Of 2025 and 2026: the tasks and
settings of babylm-org/babylm-eval, strict/scripts/eval_finetuning.sh, in both; F1 of MRPC and QQP,
else accuracy."""


@dataclass(frozen=True)
class FinetuneSettings:
    """The settings of a fine-tuning.

    Attributes:
        lr: peak learning rate.
        batch_size: examples in one optimizer step.
        epochs: most passes over the training examples; the schedule spans them all.
        seed: of the new head's weights, the order of examples, dropout, and the selection split.
        patience: epochs in a row without a gain before the training ends; None: it never does.
        min_delta: least gain that counts for patience, percentage points.
        max_length: tokens of an example; of two texts the longer one is cut first.
        schedule: "linear" or "cosine" decay of the learning rate.
        warmup: fraction of all steps with linearly rising learning rate.
        final_lr: last learning rate as a fraction of the peak.
        weight_decay: decoupled, on all parameters.
        grad_clip: largest global norm of the gradient; None for any.
        head: "linear" (one layer without bias), or "mlp" (norm, linear, GELU, norm, dropout,
            linear; the norms have no weights).
        head_dropout: of "mlp".
    """

    lr: float
    batch_size: int
    epochs: int
    seed: int
    patience: int | None
    min_delta: float
    max_length: int
    schedule: str
    warmup: float
    final_lr: float
    weight_decay: float
    grad_clip: float | None
    head: str
    head_dropout: float

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) == 0:  # -0.0 is the same fine-tuning
                object.__setattr__(self, field.name, abs(getattr(self, field.name)))
        for name in ("lr", "batch_size", "epochs", "max_length"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("warmup", "final_lr", "head_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a fraction, 0 to 1, not {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1 epoch, not {self.patience}")
        for name, choices in (("schedule", SCHEDULES), ("head", HEADS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )


# The paper's settings (BabyHGRN, "Fine-tuning"); what it leaves open is the default of the Trainer
# of transformers, which the public 2024 pipeline ran.
_SETTINGS_2024 = FinetuneSettings(
    lr=5e-5,
    batch_size=64,
    epochs=10,
    seed=12,
    patience=3,
    min_delta=0.1,
    max_length=128,
    schedule="linear",
    warmup=0.0,
    final_lr=0.0,
    weight_decay=0.0,
    grad_clip=1.0,
    head="linear",
    head_dropout=0.0,
)
# The defaults of the public 2025 pipeline, which stops no training early; 2026 keeps them.
_SETTINGS_2025 = FinetuneSettings(
    lr=3e-5,
    batch_size=32,
    epochs=10,
    seed=42,
    patience=None,
    min_delta=0.0,
    max_length=512,
    schedule="cosine",
    warmup=0.06,
    final_lr=0.1,
    weight_decay=0.01,
    grad_clip=None,
    head="mlp",
    head_dropout=0.1,
)
_SETTINGS = {"2024": _SETTINGS_2024, "2025": _SETTINGS_2025, "2026": _SETTINGS_2025}
_EXCEPTIONS_2025 = {
    "wsc": {"epochs": 30},
    "boolq": {"batch_size": 16},
    "multirc": {"batch_size": 16},
}
_EXCEPTIONS: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "2024": {"wsc": {"lr": 1e-5, "epochs": 20, "patience": 6}},
    "2025": _EXCEPTIONS_2025,
    "2026": _EXCEPTIONS_2025,
}


def settings(protocol: str, task: str, changes: Mapping[str, Any] = {}) -> FinetuneSettings:
    """The settings of a task under the protocol "2024" (the paper's), "2025" or "2026".

    Args:
        protocol, task: their names.
        changes: values of fields of `FinetuneSettings` in place of the protocol's.

    Raises:
        ValueError: unknown protocol, task or field, or a value that cannot be.
    """
    check_protocol(protocol)
    fields = [field.name for field in dataclasses.fields(FinetuneSettings)]
    if unknown := [name for name in changes if name not in fields]:
        raise ValueError(
            f"unknown settings of fine-tuning: {', '.join(unknown)}; choose from "
            f"{', '.join(fields)}"
        )
    exceptions = _EXCEPTIONS[protocol].get(find_task(task).name, {})
    return dataclasses.replace(_SETTINGS[protocol], **{**exceptions, **changes})


def find_task(name: str) -> GlueTask:
    """The task of this name; ValueError with the valid names if there is none."""
    if name not in TASKS:
        raise ValueError(f"unknown GLUE task {name!r}: choose from {', '.join(TASKS)}")
    return TASKS[name]


@dataclass(frozen=True)
class Example:
    """One or two texts, and the index of their label."""

    texts: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class TaskData:
    """A task's examples: to train on, and to report on."""

    task: GlueTask
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

    task: GlueTask
    files: tuple[Path, ...]


def find(path: Path) -> Path | None:
    """Find the folder of the task files: `path`, or the one folder `glue*` in it, also in the
    challenge's `full_eval` there.

    Raises:
        ValueError: several such folders.
    """
    bases = (path, *depth_folders(path))
    folders = [each for base in bases for each in sorted(base.glob("glue*")) if each.is_dir()]
    names = {name for task in TASKS.values() for name in task.file_names}
    found = [
        folder
        for folder in (*bases, *folders)
        if any(is_called(file, names) and file.is_file() for file in folder.iterdir())
    ]
    if len(found) > 1:
        listed = ", ".join(str(folder) for folder in found)
        raise ValueError(f"several folders with GLUE files ({listed}): name one")
    return found[0] if found else None


def read_task(folder: Path, name: str) -> TaskData | MissingFiles:
    """The examples of a task, or which of its files are missing.

    Raises:
        ValueError: an unknown task, or a bad row (file and line are named).
    """
    task = find_task(name)
    files = task.files(folder)
    missing = tuple(file for file in files if not file.is_file())
    if missing:
        return MissingFiles(task, missing)
    train, valid = (_read_examples(file, task) for file in files)
    return TaskData(task, train, valid)


def _read_examples(file: Path, task: GlueTask) -> tuple[Example, ...]:
    def parse(values: dict[str, object], source: str) -> Example:
        label = values.get("label")
        if isinstance(label, bool) or not isinstance(label, int):
            raise ValueError(f"field 'label' is missing or not an integer: {label!r}")
        if not 0 <= label < len(task.labels):
            raise ValueError(
                f"label must be 0 to {len(task.labels) - 1} for {task.name}, not {label} "
                "(a test set without its answers cannot be scored)"
            )
        return Example(tuple(_fill(template, values) for template in task.texts), label)

    return tuple(row.parse(parse) for row in read_file(file))


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


def score(task: GlueTask, labels: ArrayLike, predictions: ArrayLike) -> float:
    """The task's metric of predicted label indices, percent."""
    return float(figure(task.metric, confusion(labels, predictions, len(task.labels))))


def standard_error(task: GlueTask, labels: ArrayLike, predictions: ArrayLike) -> float:
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
