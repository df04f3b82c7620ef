"""Ranking learning rates, and how sure the best one is."""

from __future__ import annotations

import math
import statistics as stdlib

import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import best_lrs, compare_best, edge_of_grid, lr_table

Row = tuple[float, int, str | None, float | None]


def frame(*rows: Row, arch: str = "mamba") -> pd.DataFrame:
    """Rows of (lr, seed, outcome, bits-per-byte); the macro is ten times as much."""
    table = pd.DataFrame(rows, columns=["lr", "seed", "outcome", "bits_per_byte"])
    return table.assign(arch=arch, macro=table["bits_per_byte"].astype(float) * 10)


def test_table_has_mean_and_spread_over_seeds() -> None:
    """Means and sample deviations per rate, the best rate first, architectures apart."""
    first = frame(
        (1e-3, 0, "finished", 2.0), (1e-3, 1, "finished", 2.2), (3e-3, 0, "finished", 3.0)
    )
    table = lr_table(pd.concat([first, frame((1e-2, 0, "finished", 9.0), arch="lstm")]))
    lstm, best, other = (row for _, row in table.iterrows())
    assert (lstm["arch"], lstm["rank"]) == ("lstm", 1)
    assert (best["lr"], best["rank"], best["seeds"]) == (1e-3, 1, 2)
    assert best["bits_per_byte"] == pytest.approx(2.1)
    assert best["bits_per_byte_sd"] == pytest.approx(stdlib.stdev([2.0, 2.2]))
    assert best["macro"] == pytest.approx(21)
    assert (other["rank"], other["seeds"]) == (2, 1)
    assert math.isnan(other["bits_per_byte_sd"])


@pytest.mark.parametrize(
    "bad", [("diverged", 1.0), ("diverged", None), ("finished", math.nan), ("finished", math.inf)]
)
def test_a_rate_with_a_diverged_seed_ranks_last(bad: tuple[str, float | None]) -> None:
    """However good its other seeds, with or without a figure for this one, it is not the best."""
    trials = frame((1e-3, 0, "finished", 5.0), (1e-2, 0, "finished", 1.0), (1e-2, 1, *bad))
    table = lr_table(trials)
    assert table["lr"].tolist() == [1e-3, 1e-2]
    assert table["bits_per_byte"].tolist() == [5.0, math.inf]
    assert table["diverged"].tolist() == [0, 1]
    assert best_lrs(trials) == {"mamba": 1e-3}
    assert "0.01, diverged on 1 of 2 seeds" in compare_best(trials, "mamba").sentence


def test_a_rate_with_a_stopped_seed_ranks_between() -> None:
    """Stopped early ranks after finished and before diverged, whatever the figures."""
    trials = frame(
        (1e-4, 0, "diverged", 0.1), (1e-3, 0, "stopped", 0.2), (1e-2, 0, "finished", 3.0)
    )
    assert lr_table(trials)["lr"].tolist() == [1e-2, 1e-3, 1e-4]


def test_trials_without_an_outcome_are_left_out() -> None:
    """What is still running decides nothing."""
    trials = frame((1e-4, 0, None, 0.1), (1e-3, 0, "finished", 2.0))
    assert lr_table(trials)["lr"].tolist() == [1e-3]
    assert lr_table(trials.iloc[:0]).empty


def test_unlike_trials_are_not_averaged() -> None:
    """Two trials with the same rate and seed differ in a setting; averaging them is refused."""
    trials = frame((1e-3, 0, "finished", 2.0), (1e-3, 0, "finished", 3.0))
    with pytest.raises(ValueError, match="several trials of mamba with lr 0.001 and seed 0"):
        lr_table(trials)


def test_comparison_is_paired_by_seed() -> None:
    """The interval is that of a paired t test, over the seeds that both rates share."""
    best, second = [1.0, 2.0, 3.0], [1.1, 2.3, 3.2]
    rows = [(1e-3, seed, "finished", value) for seed, value in enumerate(best)]
    rows += [(3e-3, seed, "finished", value) for seed, value in enumerate(second)]
    comparison = compare_best(frame(*rows, (3e-3, 7, "finished", 9.0)), "mamba")
    expected = stats.ttest_rel(second, best).confidence_interval(0.95)
    assert (comparison.best, comparison.runner_up, comparison.seeds) == (1e-3, 3e-3, 3)
    assert comparison.difference == pytest.approx(0.2)
    assert comparison.interval == pytest.approx((expected.low, expected.high))
    assert "paired over 3 seeds" in comparison.sentence
    assert "includes zero" in comparison.sentence


def test_a_clear_winner_is_called_one() -> None:
    """An interval above zero is said to exclude it."""
    rows = [(lr, seed, "finished", 2 + lr + seed) for lr in (0.1, 0.5) for seed in range(3)]
    assert "excludes zero" in compare_best(frame(*rows), "mamba").sentence


def test_one_seed_admits_that_the_spread_is_unknown() -> None:
    """One seed gives a difference, no interval, and the advice to add seeds."""
    comparison = compare_best(
        frame((1e-3, 0, "finished", 2.0), (3e-3, 0, "finished", 2.5)), "mamba"
    )
    assert (comparison.difference, comparison.interval) == (0.5, None)
    assert "spread over seeds is unknown" in comparison.sentence
    assert "--seeds" in comparison.sentence


def test_special_comparisons_are_said_plainly() -> None:
    """No common seed, one rate, none that held, no trial: each has its own words."""
    apart = frame((1e-3, 0, "finished", 2.0), (3e-3, 1, "finished", 2.5))
    assert "on different seeds" in compare_best(apart, "mamba").sentence
    assert "only learning rate tried" in compare_best(apart.iloc[:1], "mamba").sentence
    diverged = compare_best(frame((1e-3, 0, "diverged", None)), "mamba")
    assert diverged.best is None
    assert "every learning rate diverged" in diverged.sentence
    with pytest.raises(ValueError, match="no completed trial of architecture 'gru'.*mamba"):
        compare_best(apart, "gru")


def test_edge_of_grid() -> None:
    """Low, high, inside, a single rate, and a rate that was not tried."""
    grid = [1e-2, 1e-4, 1e-3, 1e-4]
    assert edge_of_grid(grid, 1e-4) == "low"
    assert edge_of_grid(grid, 1e-2) == "high"
    assert edge_of_grid(grid, 1e-3) is None
    assert edge_of_grid([1e-3], 1e-3) is None
    with pytest.raises(ValueError, match=r"0.5 is not among those tried: 0.0001, 0.001, 0.01"):
        edge_of_grid(grid, 0.5)
