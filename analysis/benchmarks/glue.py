"""GLUE and SuperGLUE as BabyLM uses them: tasks, files, settings.

Wang et al. 2019, arXiv 1804.07461 and 1905.00537. A task is one text or a pair of texts with a
label; a model is fine-tuned on `<task>.train.jsonl` and its figure is that of `<task>.valid.jsonl`.
`mnli-mm` has only the latter: it is another text genre for a model fine-tuned on `mnli`.

What else models are fine-tuned on (`multilingual`) is found, read and set up here, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from analysis.benchmarks import multilingual
from analysis.benchmarks.classification import (
    ClassificationTask,
    MissingFiles,
    TaskData,
    read_files,
)
from analysis.benchmarks.files import depth_folders, is_called
from analysis.benchmarks.protocols import check_protocol
from analysis.schema.typed import typed

SCHEDULES = ("linear", "cosine")
HEADS = ("linear", "mlp")


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


_YES_NO = ("False", "True")
_NLI = ("entailment", "neutral", "contradiction")
_RTE = ("entailment", "not entailment")
_PREMISE = ("{premise}", "{hypothesis}")
_SENTENCES = ("{sentence1}", "{sentence2}")

_GLUE = {
    task.name: task
    for task in (
        ClassificationTask("boolq", _YES_NO, ("{question}", "{passage}")),
        ClassificationTask("cola", ("unacceptable", "acceptable"), ("{sentence}",), "matthews"),
        ClassificationTask("mnli", _NLI, _PREMISE),
        ClassificationTask("mnli-mm", _NLI, _PREMISE, train="mnli"),
        ClassificationTask("mrpc", ("different", "paraphrase"), _SENTENCES, "f1"),
        ClassificationTask(
            "multirc", _YES_NO, ("Question: {question} Answer: {answer}", "{paragraph}")
        ),
        ClassificationTask("qnli", _RTE, ("{question}", "{sentence}")),
        ClassificationTask("qqp", ("different", "duplicate"), ("{question1}", "{question2}"), "f1"),
        ClassificationTask("rte", _RTE, _SENTENCES),
        ClassificationTask("sst2", ("negative", "positive"), ("{sentence}",)),
        ClassificationTask(
            "wsc",
            _YES_NO,
            ('Does "{span2_text}" refer to "{span1_text}" in this passage?', "{text}"),
        ),
    )
}
TASKS = {**_GLUE, **multilingual.TASKS}
"""All tasks by name, those of the multilingual track, too."""

PROTOCOL_TASKS = {
    "2024": tuple(_GLUE),
    **dict.fromkeys(("2025", "2026"), ("boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc")),
}
"""The tasks whose unweighted mean is the GLUE figure of a protocol. Of 2025 and 2026: the tasks and
settings of babylm-org/babylm-eval, strict/scripts/eval_finetuning.sh, in both; F1 of MRPC and QQP,
else accuracy."""
GROUPS = {"glue": ("glue*",), **multilingual.GROUP_FOLDERS}
"""By group of tasks, patterns of the folders that its files are in."""
NAMES = (*TASKS, *GROUPS, multilingual.ALL)
"""Names of tasks, and those that stand for several."""


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

    Those of the multilingual track are the first under each of them: `multilingual` has the source.

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
    if find_task(task).language:
        return dataclasses.replace(_SETTINGS_2024, **changes)
    exceptions = _EXCEPTIONS[protocol].get(task, {})
    return dataclasses.replace(_SETTINGS[protocol], **{**exceptions, **changes})


def find_task(name: str) -> ClassificationTask:
    """The task of this name; ValueError with the valid names if there is none."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r} to fine-tune on: choose from {', '.join(TASKS)}")
    return TASKS[name]


def members(name: str, protocol: str) -> tuple[str, ...]:
    """The tasks that a name of one or of several stands for; none for other names."""
    if name == "glue":
        return PROTOCOL_TASKS[protocol]
    if name == multilingual.ALL:
        return tuple(task for group in multilingual.GROUPS.values() for task in group)
    return multilingual.GROUPS.get(name) or ((name,) if name in TASKS else ())


def groups_of(name: str) -> tuple[str, ...]:
    """The groups of the tasks that a name of one or of several stands for; none for other names."""
    if name == multilingual.ALL:
        return tuple(multilingual.GROUPS)
    if name in GROUPS:
        return (name,)
    return (TASKS[name].group,) if name in TASKS else ()


def tasks_of(group: str) -> tuple[str, ...]:
    """All tasks of a group, of whatever protocol."""
    return tuple(task.name for task in TASKS.values() if task.group == group)


def folders(path: Path, group: str) -> list[Path]:
    """The folders with files of a group: `path`, and those so called in it (`GROUPS`, in capitals
    or small letters), also in the challenge's `full_eval` there."""
    bases = (path, *depth_folders(path))
    inside = [
        each
        for base in bases
        for pattern in GROUPS[group]
        for each in sorted(base.glob(_in_any_case(pattern)))
    ]
    return [folder for folder in (*bases, *inside) if _holds(folder, group)]


def find(path: Path, group: str = "glue") -> Path | None:
    """Find the one folder of a group's files, see `folders`.

    Raises:
        ValueError: several such folders.
    """
    found = folders(path, group)
    if len(found) > 1:
        listed = ", ".join(str(folder) for folder in found)
        raise ValueError(f"several folders with files of {group} ({listed}): name one")
    return found[0] if found else None


def _in_any_case(pattern: str) -> str:
    """The pattern for names in capitals as well; it has letters, * and / only."""
    return "".join(f"[{each}{each.upper()}]" if each.isalpha() else each for each in pattern)


def _holds(folder: Path, group: str) -> bool:
    tasks = [TASKS[name] for name in tasks_of(group)]
    names = {name for task in tasks for name in task.file_names}
    places = {folder / task.subfolder for task in tasks}
    files = (file for place in places if place.is_dir() for file in place.iterdir())
    return any(is_called(file, names) and file.is_file() for file in files)


def groups_in(path: Path) -> dict[str, set[str]]:
    """The groups that have files in a folder itself, and what it holds of each by name."""
    found: dict[str, set[str]] = {}
    for task in TASKS.values():
        names = {file.relative_to(path).parts[0] for file in task.files(path) if file.is_file()}
        if names:
            found.setdefault(task.group, set()).update(names)
    return found


def group_of(folder: Path) -> str:
    """The group whose files a folder has, and whose folders are so called; "" if there is none."""
    called = [
        group
        for group, patterns in GROUPS.items()
        if any(fnmatchcase(folder.name.lower(), pattern) for pattern in patterns)
    ]
    return next((group for group in called if folder.is_dir() and _holds(folder, group)), "")


def read_task(path: Path, name: str) -> TaskData | MissingFiles:
    """The examples of a task in the folder of its group (`find`), or which files are missing.

    Raises:
        ValueError: an unknown task, or a bad row (file and line are named).
    """
    task = find_task(name)
    files = task.files(find(path, task.group) or path / task.language)
    missing = tuple(file for file in files if not file.is_file())
    return MissingFiles(task, missing) if missing else read_files(task, *files)
