"""What figures need to know of items, without their texts: scores are kept together with it.

Figures, errors and intervals can then be made anew from stored scores, on any part of the items.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, Any

from analysis.benchmarks.benchmark import Benchmark
from analysis.benchmarks.items import Item
from analysis.benchmarks.kinds import kind_named
from analysis.schema.typed import typed


@dataclass(frozen=True)
class _TaskFacts:
    """The form of a task's facts, see `item_facts`."""

    items: int
    options: int | list[int]
    selection: list[int]
    clusters: list[int] | None = None
    human: list[float | None] | None = None


def _check_facts(facts: dict[str, Any], where: str) -> None:
    typed(facts, dict[str, _TaskFacts], where)


Facts = Annotated[dict[str, dict[str, Any]], _check_facts]
"""What `item_facts` gives, as it is stored; checked where it is read (`typed`)."""


def item_facts(benchmark: Benchmark) -> Facts:
    """Facts of items without their texts, by task and in their order; JSON-ready.

    `items`: how many; `options`: how many an item has (a number where all have the same);
    `selection`: positions of the items of the selection split; `clusters`: a number for each item,
    equal within a cluster of the task, or of all tasks where clusters span several (left out where
    every item is by itself); `human`: people's shares (left out where none has).
    """
    by_task: dict[str, list[tuple[Item, bool]]] = defaultdict(list)
    for item, is_chosen in zip(benchmark.items, benchmark.in_selection, strict=True):
        by_task[item.task].append((item, is_chosen))
    facts: dict[str, dict[str, Any]] = {}
    numbers: dict[str, int] = {}
    for task, members in by_task.items():
        options = [len(item.options) for item, _ in members]
        facts[task] = {
            "items": len(members),
            "options": options[0] if len(set(options)) == 1 else options,
            "selection": [index for index, (_, is_chosen) in enumerate(members) if is_chosen],
        }
        if any(item.cluster for item, _ in members):
            numbers = numbers if benchmark.kind.clusters_span_tasks else {}
            names = [item.cluster or f"item {index}" for index, (item, _) in enumerate(members)]
            facts[task]["clusters"] = [numbers.setdefault(name, len(numbers)) for name in names]
        if any(item.human is not None for item, _ in members):
            facts[task]["human"] = [item.human for item, _ in members]
    return facts


def from_facts(name: str, facts: Facts) -> tuple[Benchmark, list[bool]]:
    """A benchmark without texts, and which of its items are of the selection split.

    The items are in the order of `SuiteScores.outcomes`, task after task.

    Args:
        name: of the benchmark; decides its figure.
        facts: of `item_facts`.
    """
    items: list[Item] = []
    in_selection: list[bool] = []
    for task, fact in facts.items():
        count = fact["items"]
        options = fact["options"]
        options = options if isinstance(options, list) else [options] * count
        of_task = "" if kind_named(name).clusters_span_tasks else task
        clusters = [f"{of_task} {number}" for number in fact.get("clusters", [])] or [""] * count
        human = fact.get("human", [None] * count)
        chosen = set(fact["selection"])
        items += [
            Item(task, ("",) * number, human=share, cluster=cluster)
            for number, share, cluster in zip(options, human, clusters, strict=True)
        ]
        in_selection += [index in chosen for index in range(count)]
    return Benchmark(name, tuple(items)), in_selection
