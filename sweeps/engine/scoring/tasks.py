"""The tasks that a command names: zero-shot benchmarks, and GLUE tasks to fine-tune on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.benchmarks import HUB, glue
from analysis.benchmarks.folders import hint
from analysis.places import check_came_along, reading, resolved
from trainables.finetune_spec import FinetuneOutcome


@dataclass(frozen=True)
class TaskResult:
    """The result of a task: exactly one of the last three is set.

    Attributes:
        task: its name.
        outcome: how its fine-tuning ended.
        missing: the files that it lacks.
        error: why it has no outcome: its last error.
    """

    task: str
    outcome: FinetuneOutcome | None = None
    missing: tuple[Path, ...] = ()
    error: str = ""


def split_tasks(tasks: Sequence[str], protocol: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Zero-shot tasks, and names of GLUE tasks; "glue" stands for all of the protocol's."""
    zero_shot = tuple(name for name in tasks if name != "glue" and name not in glue.TASKS)
    if "glue" in tasks:
        return zero_shot, glue.PROTOCOL_TASKS[protocol]
    return zero_shot, tuple(name for name in tasks if name in glue.TASKS)


def benchmark_place(path: str) -> str:
    """The folder of benchmarks that --benchmarks names, as a whole path; "hub" is none.

    Raises:
        ValueError: there is no such folder, or it cannot be looked into.
    """
    if path == HUB:
        return path
    check_came_along(path, "--benchmarks", HUB)
    with reading("--benchmarks", path):
        place = resolved(path, "--benchmarks")
        if place.stat() and place.is_dir():
            os.listdir(place)
    return str(place)


def find_glue(path: str) -> Path:
    """The folder of GLUE's files in a folder of benchmarks.

    Raises:
        ValueError: there is none.
    """
    if path == HUB:
        raise ValueError("GLUE needs a folder of files: --benchmarks FOLDER with glue*/ in it")
    found = glue.find(Path(path))
    if found is None:
        expected = "expected <task>.train.jsonl and <task>.valid.jsonl there or in its folder glue*"
        raise ValueError(f"no GLUE files in {path}: {hint(Path(path), of_glue=True) or expected}")
    return found
