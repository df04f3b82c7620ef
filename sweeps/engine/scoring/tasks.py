"""The tasks that a command names: zero-shot benchmarks, and tasks to fine-tune on."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.benchmarks import HUB, glue
from analysis.benchmarks.folders import hint
from analysis.places import check_came_along, reading, resolved
from analysis.schema.choices import MULTILINGUAL
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
    """Zero-shot tasks, and tasks to fine-tune on; names such as "glue" stand for several."""
    zero_shot = tuple(name for name in tasks if name not in glue.NAMES)
    finetuned = (task for name in tasks for task in glue.members(name, protocol))
    return zero_shot, tuple(dict.fromkeys(finetuned))


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


def check_folder(path: str, asked: Sequence[str]) -> Path:
    """The folder of benchmarks where the files of tasks to fine-tune on are.

    Args:
        path: of a folder, or "hub".
        asked: names of tasks, or of several ("glue"), as a user gives them; those of zero-shot
            tasks count for nothing.

    Raises:
        ValueError: for one of them there is no file at all, of its group or of any of its groups.
    """
    for name in asked:
        if groups := glue.groups_of(name):
            check_files(path, groups)
    return Path(path)


def check_files(path: str, groups: Collection[str]) -> None:
    """Check that there are files of one of these groups of tasks (`glue.GROUPS`) in a folder.

    Raises:
        ValueError: there are none; the message says where they are, or what is expected.
    """
    named = ", ".join(groups)
    expected = "; ".join(_EXPECTED[suite] for suite in dict.fromkeys(map(_suite_of, groups)))
    if path == HUB:
        raise ValueError(
            f"tasks of {named} are files of a folder, not of the hub: --benchmarks FOLDER; "
            f"{expected}"
        )
    if not any(glue.find(Path(path), group) for group in groups):
        raise ValueError(f"no files of {named} in {path}: {hint(Path(path), groups) or expected}")


def _suite_of(group: str) -> str:
    return group.partition("_")[0]


_EXPECTED = {
    "glue": "expected <task>.train.jsonl and <task>.valid.jsonl there or in its folder glue*",
    "multilingual": "expected <name>/<task>.train.jsonl and <name>/<task>.valid.jsonl (sib200_nl, "
    f"...) in folders {', '.join(MULTILINGUAL)} there or in its folder multilingual*",
}
"""By the beginning of groups of tasks, where their files are."""
