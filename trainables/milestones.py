"""Milestones of a training: numbers of words seen, what the models kept there are called, and what
is measured of them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable

from analysis.benchmarks import Benchmark, Suite
from analysis.benchmarks.figures import MEAN_OF_TASKS
from analysis.benchmarks.items import Item
from analysis.benchmarks.suite import Scores
from analysis.schema.milestone import MilestoneReport
from trainables.corpus import Corpus
from trainables.spec import TrialSpec

_WORDS = re.compile(r"(\d+(?:\.\d+)?)([KMB]?)", re.IGNORECASE)
_UNITS = {"B": 10**9, "M": 10**6, "K": 10**3, "": 1}
_REVISION = "chck_"
_LEFT_OVER = 0.01
_OF_ITEMS = ("outcomes", "items")
"""Fields of scores that have a value for every item."""
BABYLM = (
    *(n * 10**6 for n in range(1, 10)),
    *(n * 10**7 for n in range(1, 10)),
    *(n * 10**8 for n in range(1, 11)),
)
"""Those that the BabyLM challenge asks for, up to the words that a training sees."""


def words_of(text: str) -> int:
    """A number of words: 1000000, 250K, 1.5M.

    Raises:
        ValueError: it is none, or less than one word.
    """
    match = _WORDS.fullmatch(text)
    number = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    words = round(number) if math.isfinite(number) else 0
    if words < 1:
        raise ValueError(f"numbers of words are like 1000000, 250K or 1M, not {text!r}")
    return words


def revision_of(words: int) -> str:
    """What the challenge calls the model that has seen so many words: chck_1M."""
    unit = next(name for name, size in _UNITS.items() if words % size == 0 and name != "B")
    return f"{_REVISION}{words // _UNITS[unit]}{unit}"


def words_of_revision(name: str) -> int | None:
    """The words that a model so called has seen; None for another name."""
    if not name.startswith(_REVISION):
        return None
    try:
        return words_of(name.removeprefix(_REVISION))
    except ValueError:
        return None


def is_seen(words: int, seen: int) -> bool:
    """Whether a training that sees so many words comes to a milestone: blocks that fill no batch
    are left over in each epoch, so that ten of 10M words end a little before 100M."""
    return words <= seen * (1 + _LEFT_OVER)


def milestone_step(spec: TrialSpec, corpus: Corpus, words: int, total_steps: int) -> int:
    """The first optimizer step after which so many words of the corpus were seen.

    A token counts as the corpus's words over its tokens. It is the last step where the training
    ends a little before (`is_seen`).
    """
    words_a_step = spec.batch_size * spec.context * corpus.train_words  # over train_tokens
    step = max(1, -(-words * corpus.train_tokens // words_a_step))
    seen = total_steps * words_a_step // corpus.train_tokens
    return min(step, total_steps) if is_seen(words, seen) else step


def steps_between(
    spec: TrialSpec, corpus: Corpus, milestones: Iterable[int], total_steps: int
) -> list[int]:
    """The optimizer steps within epochs after which a milestone is measured, ascending: at an
    epoch's end its figures are the epoch's."""
    steps = {milestone_step(spec, corpus, words, total_steps) for words in milestones}
    an_epoch = total_steps // spec.epochs
    return sorted(step for step in steps if step <= total_steps and step % an_epoch)


def milestone_report(
    val_loss: float, bits_per_byte: float, suite: Suite | None, scores: Scores | None
) -> MilestoneReport:
    """What was measured of a model, as it is kept.

    Args:
        val_loss, bits_per_byte: see `MilestoneReport`.
        suite: that the scores are of; None without benchmarks.
        scores: of all items (`SuiteScores.to_dict()`), or None.
    """
    if suite is None or scores is None:
        return MilestoneReport(val_loss, bits_per_byte)
    errors = {b.name: _group_errors(b, scores["outcomes"][b.name]) for b in suite.benchmarks}
    kept = {name: value for name, value in scores.items() if name not in _OF_ITEMS}
    return MilestoneReport(val_loss, bits_per_byte, kept, errors)


def _group_errors(
    benchmark: Benchmark, outcomes: dict[str, list[float]]
) -> dict[str, dict[str, float]]:
    """By grouping and group the standard error over items of the mean over the group's tasks.

    The benchmark's own one knows of clusters that span tasks, and is of that mean where there are
    such; else tasks are independent, whatever the benchmark's figure is.
    """
    figure = benchmark.kind.figure if benchmark.kind.clusters_span_tasks else MEAN_OF_TASKS
    left = {task: iter(values) for task, values in outcomes.items()}
    members: dict[tuple[str, str], tuple[list[Item], list[float]]] = defaultdict(lambda: ([], []))
    for item in benchmark.items:
        value = next(left[item.task])
        for key in item.groups:
            items, values = members[key]
            items.append(item)
            values.append(value)
    errors: dict[str, dict[str, float]] = defaultdict(dict)
    for (grouping, group), of_group in sorted(members.items()):
        errors[grouping][group] = figure.error(*of_group)
    return dict(errors)
