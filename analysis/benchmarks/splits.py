"""Which items choose, and which report.

Learning rates and epochs that are chosen on the very items that are reported look better than they
are. So a fifth of every task's items is set aside: a choice by benchmark scores looks at these
only (the selection split), and what is reported comes from the others (held out).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence

from analysis.benchmarks.items import Item

SELECTION_SHARE = 0.2


def selection_split(items: Sequence[Item], by_task: bool = True) -> list[bool]:
    """Whether each item belongs to the selection split: a fifth of every task, by hash.

    The items of a cluster stay together, also those of several tasks if it is not made by task.
    The share is of a task's clusters, rounded, and at least one of two or more. It depends on
    nothing but the task's items: not on their order, nor on what else is scored.
    """
    units: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, item in enumerate(items):
        units[item.task if by_task else ""][item.cluster or f"item {index}"].append(index)
    chosen: set[int] = set()
    for members in units.values():
        ranked = sorted(members.values(), key=lambda unit: min(_digest(items[i]) for i in unit))
        count = max(round(SELECTION_SHARE * len(ranked)), int(len(ranked) > 1))
        chosen.update(index for unit in ranked[:count] for index in unit)
    return [index in chosen for index in range(len(items))]


def _digest(item: Item) -> str:
    content = json.dumps([item.task, item.context, item.options, item.right], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()
