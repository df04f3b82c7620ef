"""Items: what counts as right, what ties, and the standard error of a figure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.benchmarks import Benchmark, Item
from analysis.benchmarks.items import grade


def tokens(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("good", "bad", "value", "finite"),
    [
        (-1.0, -2.0, 1.0, True),
        (-2.0, -1.0, 0.0, True),
        (-1.0, -1.0, 0.5, True),
        (-30.00001, -30.0, 0.5, True),
        (-1.0, -math.inf, 0.0, False),
        (math.nan, -1.0, 0.0, False),
        (math.nan, math.nan, 0.0, False),
    ],
)
def test_grades_of_a_pair(good: float, bad: float, value: float, finite: bool) -> None:
    """Right 1, wrong 0, a tie (to rounding) one half, a non-finite score wrong and marked."""
    outcome = grade(Item("task", ("g", "b")), [tokens(good), tokens(bad)])
    assert (outcome.value, outcome.finite) == (value, finite)
    assert outcome.tied == (value == 0.5)


def test_grades_of_many_options() -> None:
    """A tie for the best shares its credit; ties below the best do not matter."""
    item = Item("task", ("a", "b", "c", "d"), right=1)
    scores = [tokens(-3.0), tokens(-1.0), tokens(-1.0), tokens(-1.0)]
    shared = grade(item, scores)
    assert (shared.value, shared.choice, shared.tied) == (pytest.approx(1 / 3), 1, True)
    clear = grade(item, [tokens(-3.0), tokens(-1.0), tokens(-3.0), tokens(-3.0)])
    assert (clear.value, clear.choice, clear.tied) == (1.0, 1, False)
    missed = grade(item, [tokens(-1.0), tokens(-2.0), tokens(-1.0), tokens(-3.0)])
    assert (missed.value, missed.choice, missed.tied) == (0.0, 0, True)


def test_tokens_add_up_without_normalisation() -> None:
    """More tokens of the same total lose to fewer of a better one."""
    longer, shorter = tokens(-0.5, -0.6, -0.5), tokens(-1.5)
    assert grade(Item("task", ("l", "s")), [longer, shorter]).choice == 1


def test_a_blind_model_ties_options_of_any_length() -> None:
    """Where every token is as probable as any other only lengths differ: all options tie."""
    item = Item("task", ("a", "b"))
    blind = grade(item, [tokens(-2.0, -2.0, -2.0), tokens(-2.0)])
    assert (blind.value, blind.tied) == (0.5, True)
    sees = grade(item, [tokens(-2.0, -2.0, -2.1), tokens(-2.0)])
    assert (sees.value, sees.tied) == (0.0, False)


def test_figure_is_the_mean_of_tasks_and_its_error_stratified() -> None:
    """The formula agrees with the spread of simulated figures."""
    generator = np.random.default_rng(0)
    chances = {"easy": (0.9, 50), "hard": (0.5, 20), "odd": (0.2, 100)}
    items = tuple(Item(task, ("a", "b")) for task, (_, n) in chances.items() for _ in range(n))
    benchmark = Benchmark("blimp", items)

    def draw() -> list[float]:
        return [
            float(value)
            for chance, count in chances.values()
            for value in generator.binomial(1, chance, count)
        ]

    values = draw()
    means = [np.mean(values[:50]), np.mean(values[50:70]), np.mean(values[70:])]
    assert benchmark.figure(values) == pytest.approx(100 * np.mean(means))
    figures = [benchmark.figure(draw()) for _ in range(3000)]
    errors = [benchmark.error(draw()) for _ in range(300)]
    assert np.mean(errors) == pytest.approx(np.std(figures), rel=0.05)


@pytest.mark.parametrize("name", ["bear", "entity_tracking"])
def test_other_figures_have_the_error_of_simulated_ones(name: str) -> None:
    """The same for the mean over items, and for the mean over splits of tasks."""
    generator = np.random.default_rng(1)
    counts = {"regular_0_ops": 30, "regular_1_ops": 80, "moved_0_ops": 40}
    tasks = [task for task, count in counts.items() for _ in range(count)]
    benchmark = Benchmark(name, tuple(Item(task, ("a", "b")) for task in tasks))
    rate = {"regular_0_ops": 0.8, "regular_1_ops": 0.6, "moved_0_ops": 0.7}

    def draw() -> list[float]:
        return [float(generator.random() < rate[task]) for task in tasks]

    spread = np.std([benchmark.figure(draw()) for _ in range(2000)])
    error = np.mean([benchmark.error(draw()) for _ in range(200)])
    assert error == pytest.approx(spread, rel=0.07)
