"""GlobalPIQA: which of several solutions goes on from a prompt, of BabyLM 2026's hidden tasks.

`global_piqa_parallel*/*.jsonl` (four solutions, the same in all languages) and
`global_piqa_nonparallel*/*.jsonl` (two, of one culture): `prompt`, `solution0`, `solution1` and so
on, and `label`, the number of the right one. A solution's score is the mean, not the sum, of its
tokens' log-probabilities after the prompt (babylm-org/babylm-eval at a66e05d, see `protocols`,
strict/evaluation_pipeline/sentence_zero_shot/compute_results.py, `LENGTH_NORMALIZED_TASKS`). A
file's name, such as eng_latn, is the task. A submission files each prediction under the row's
`example_id` (collate_preds.py, `_check_size_global_piqa`), which nothing else takes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np

from analysis.benchmarks.files import number_field, text_field
from analysis.benchmarks.items import Answer, Item, grade
from analysis.benchmarks.kind import BenchmarkKind, json_lines
from analysis.wording import count


def _question(values: dict[str, object], source: str) -> Item:
    # A set with fewer solutions may have the further columns, with nothing in them.
    names = takewhile(
        lambda name: values.get(name) is not None, map("solution{}".format, itertools.count())
    )
    options = tuple(" " + text_field(values, name) for name in names)
    right, name = number_field(values, "label"), values.get("example_id")
    if len(options) < 2:
        raise ValueError("fields 'solution0' and 'solution1' are not both there")
    if right not in range(len(options)):
        raise ValueError(
            f"'label' is the number of a solution, 0 to {len(options) - 1}, not {right}"
        )
    return Item(
        source,
        options,
        right=int(right),
        context=text_field(values, "prompt"),
        example_id="" if name is None else str(name),
    )


def _grade(items: Sequence[Item], log_probs: Sequence[Sequence[np.ndarray]]) -> list[Answer]:
    """Answers from means over tokens, which are the sums of each token's share in them."""
    return [
        grade(item, [values / len(values) for values in options])
        for item, options in zip(items, log_probs, strict=True)
    ]


def _example_ids(items: Sequence[Item]) -> list[str]:
    ids = [item.example_id for item in items]
    if len(tasks := {item.task for item in items}) > 1:
        raise ValueError(
            f"files of {', '.join(sorted(tasks))}: a submission is of one language; leave only its "
            "file in the folder"
        )
    if nameless := ids.count(""):
        raise ValueError(
            f"{count(nameless, 'row has', 'rows have')} no 'example_id', which a submission files "
            "the prediction under: download the set again"
        )
    if repeated := sorted(name for name, times in Counter(ids).items() if times > 1):
        raise ValueError(
            f"{count(len(repeated), 'example_id')} of several rows, such as {repeated[0]!r}: a "
            "submission has one prediction for each; leave only one language's file in the folder"
        )
    return ids


GLOBAL_PIQA_PARALLEL = BenchmarkKind(
    "global_piqa_parallel",
    ("global_piqa_parallel*",),
    json_lines(_question),
    expects="*.jsonl files with the fields prompt, solution0, solution1 and label",
    grade=_grade,
    submission="global_piqa_parallel",
    submitted_as=_example_ids,
)
GLOBAL_PIQA_NONPARALLEL = replace(
    GLOBAL_PIQA_PARALLEL,
    name="global_piqa_nonparallel",
    folders=("global_piqa_nonparallel*",),
    submission="global_piqa_nonparallel",
)
