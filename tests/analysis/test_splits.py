"""The selection split, and figures made anew from stored scores."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from analysis.benchmarks import Answer, Benchmark, Item, Suite, from_facts


def items(tasks: dict[str, int], clusters: int = 0) -> tuple[Item, ...]:
    """So many items of each task, in clusters of a size if it is given."""
    return tuple(
        Item(
            task,
            (f"{task} {index} a", f"{task} {index} b"),
            cluster=f"{task} {index // clusters}" if clusters else "",
        )
        for task, count in tasks.items()
        for index in range(count)
    )


def chosen(benchmark: Benchmark) -> set[str]:
    """The first options of the items of the selection split."""
    pairs = zip(benchmark.items, benchmark.in_selection, strict=True)
    return {item.options[0] for item, is_chosen in pairs if is_chosen}


def test_a_fifth_of_every_task_is_set_aside() -> None:
    """Of each task a fifth of the items, at least one of two, and never a task's only one."""
    found = chosen(Benchmark("blimp", items({"long": 50, "short": 5, "two": 2, "one": 1})))
    counts = [sum(text.startswith(task) for text in found) for task in ("long", "short", "two")]
    assert counts == [10, 1, 1]
    assert not any(text.startswith("one") for text in found)


def test_the_split_depends_on_nothing_but_the_tasks_items() -> None:
    """Another order of the items, or further tasks, leave every item where it was."""
    few = items({"a": 30, "b": 20})
    shuffled = list(few)
    random.Random(0).shuffle(shuffled)
    more = (*shuffled, *items({"c": 10}))
    before, after = (chosen(Benchmark("blimp", tuple(each))) for each in (few, more))
    assert {text for text in after if not text.startswith("c")} == before


def test_items_of_a_cluster_stay_together() -> None:
    """The same question in other words is never on both sides."""
    benchmark = Benchmark("ewok", items({"a": 60}, clusters=3))
    sides: dict[str, set[bool]] = {}
    for item, is_chosen in zip(benchmark.items, benchmark.in_selection, strict=True):
        sides.setdefault(item.cluster, set()).add(is_chosen)
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {True} for side in sides.values()) == 4


@pytest.mark.parametrize("name", ["blimp", "bear", "entity_tracking", "wug"])
def test_figures_come_back_from_stored_scores(name: str) -> None:
    """From facts and values, through JSON, come the figures of the suite: of all items, of the
    selection split, and of the others."""
    generator = random.Random(1)
    tasks = {"x_1_ops": 7, "x_2_ops": 12, "y_1_ops": 9}
    made = [
        Item(item.task, item.options, human=generator.random() if name == "wug" else None)
        for item in items(tasks)
    ]
    suite = Suite((Benchmark(name, tuple(made)),), "2024")
    outcomes = [Answer(generator.random(), 0, False, (0.0, -1.0)) for _ in made]
    stored = json.loads(json.dumps(suite.summarize({name: outcomes}).to_dict()))
    benchmark, in_selection = from_facts(name, stored["items"][name])
    values = [value for task in stored["outcomes"][name].values() for value in task]
    assert benchmark.figure(values) == pytest.approx(stored["benchmarks"][name], abs=1e-12)
    assert benchmark.error(values) == pytest.approx(stored["errors"][name], abs=1e-12)
    for part, wanted in (("selection", True), ("held_out", False)):
        indices = [index for index, mine in enumerate(in_selection) if mine == wanted]
        figure = benchmark.part(indices).figure([values[index] for index in indices])
        assert figure == pytest.approx(stored[part][name], abs=1e-12)
    if benchmark.weights is None:
        assert name == "wug"
    else:
        weighted = 100 * np.dot(benchmark.weights, values)
        assert weighted == pytest.approx(stored["benchmarks"][name], abs=1e-9)


def test_chance_error_is_the_spread_of_models_that_guess() -> None:
    """The standard deviation of guessed figures, clusters answered as one, is the one given."""
    sizes = {"a": 40, "b": 10}
    benchmark = Benchmark("ewok", items(sizes, clusters=2))
    generator = np.random.default_rng(0)
    figures = []
    for _ in range(4000):
        guesses = {item.cluster: float(generator.integers(2)) for item in benchmark.items}
        figures.append(benchmark.figure([guesses[item.cluster] for item in benchmark.items]))
    assert np.mean(figures) == pytest.approx(benchmark.chance, abs=0.5)
    assert np.std(figures) == pytest.approx(benchmark.chance_error, rel=0.05)
