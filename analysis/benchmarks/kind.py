"""A kind of benchmark is one record: all in which two of them differ, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.benchmarks.figures import MEAN_OF_TASKS, Aggregation
from analysis.benchmarks.files import find_json_lines, read_folder
from analysis.benchmarks.items import Answer, Item, grade_each, tasks_of
from analysis.schema.choices import Layout


@dataclass(frozen=True)
class BenchmarkSource:
    """A choice of benchmarks, and the place that they are read from.

    Attributes:
        path: a benchmark's folder or the folder that holds them, or `loading.HUB`.
        tasks: kinds of benchmarks (`kinds.KINDS`), names of folders, or "all"; by default those of
            the protocol's macro figure that are there.
        all_templates: ask BEAR's questions in all their wordings, not in the first only.
        fast: of several folders of a kind take the one ending in `_fast`, or in `fast_eval`; if
            not, the one that does not.
        layout: of minimal pairs in files of plain lines.
        ewok_password: of EWoK's zip file; by default the environment's `BABYSWEEP_EWOK_PASSWORD`.
        protocol: whose questions are read; `loading.load_suite` puts its own here.
    """

    path: str
    tasks: tuple[str, ...] = ()
    all_templates: bool = False
    fast: bool = True
    layout: Layout = "auto"
    ewok_password: str | None = field(default=None, repr=False)
    protocol: str = "2024"


Reader = Callable[[Path, BenchmarkSource], tuple[Item, ...]]
Grader = Callable[[Sequence[Item], Sequence[Sequence[np.ndarray]]], list[Answer]]
"""Gives the answers to items from the token log-probabilities (nats) of each one's options."""
Predictions = dict[str, list[dict[str, Any]]]
"""What the BabyLM challenge wants to be told, by its name of a task."""


def json_lines(parse: Callable[[dict[str, object], str], Item]) -> Reader:
    """A reader of all rows of a folder's `*.jsonl` files, in the order of the files' names.

    Args:
        parse: makes an item of a row's fields and the name of its file without suffix. The reader's
            ValueErrors name file and line.
    """
    return lambda folder, source: tuple(row.parse(parse) for row in read_folder(folder))


@dataclass(frozen=True)
class BenchmarkKind:
    """A kind of benchmark, defined in the module that reads it and listed in `kinds.ALL_KINDS`.

    Attributes:
        name: what flags, figures and stored scores call it.
        folders: patterns (`fnmatch`, lower case) of what its folders are called. A name that fits
            several kinds belongs to that of the longest pattern.
        read: gives the items at the place that `find` found; ValueError for a bad file.
        files: patterns of what is read in its folders.
        only_first_form: whether only files of the first of these patterns that fits any are read.
        expects: what its folders hold, for errors: which files, and of which fields.
        find: gives the place of the benchmark in a folder so called, None if it holds none.
        from_hub: gives the items of the Hugging Face hub's data set; None if it is not read there.
        hub_id: that data set's name.
        figure: how the items' values become the figure.
        grade: gives the items' answers.
        clusters_span_tasks: whether items of several tasks may be of one cluster; then every item
            has one.
        submission: the BabyLM challenge's name of the task that it is submitted with, None if it is
            no part of the predictions.
        submitted: gives the predictions of all items, in their order, which are no choices then;
            None for the chosen options.
        submitted_as: gives what each item's choice is filed under in there; ValueError if an item
            lacks what it takes. By default its task.
        shown_by: what the report's phenomena are: "task", or a grouping of the items where the
            tasks are many. None leaves it out: chance differs from task to task, or the figure is
            no percentage of right answers.
        listed_as: what a task is called in the table of tasks that an evaluation prints; "" for no
            such table.
    """

    name: str
    folders: tuple[str, ...]
    read: Reader
    files: tuple[str, ...] = ("*.jsonl",)
    only_first_form: bool = False
    expects: str = "*.jsonl files"
    find: Callable[[Path], Path | None] = find_json_lines
    from_hub: Callable[[BenchmarkSource], tuple[Item, ...]] | None = None
    hub_id: str = ""
    figure: Aggregation = MEAN_OF_TASKS
    grade: Grader = grade_each
    clusters_span_tasks: bool = False
    submission: str | None = None
    submitted: Callable[[Sequence[Item], Sequence[Answer]], Predictions] | None = None
    submitted_as: Callable[[Sequence[Item]], list[str]] = tasks_of
    shown_by: str | None = "task"
    listed_as: str = ""
