"""Ranking learning rates, where their optimum lies, and how sure that is."""

from __future__ import annotations

import math
import statistics as stdlib

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.learning_rates import (
    compare_best,
    edge_of_grid,
    open_edge,
    optimum,
    sensitivity,
)
from analysis.parabola import Parabola
from analysis.points import best_points, point_table

Row = tuple[float, int, str | None, float | None]


def frame(*rows: Row, arch: str = "mamba") -> pd.DataFrame:
    """Rows of (lr, seed, outcome, bits/byte); the macro is ten times as much."""
    table = pd.DataFrame(rows, columns=["lr", "seed", "outcome", "bits_per_byte"])
    return table.assign(arch=arch, macro=table["bits_per_byte"].astype(float) * 10)


def test_table_has_mean_and_spread_over_seeds() -> None:
    """Means and sample deviations per rate, the best rate first, architectures apart."""
    first = frame(
        (1e-3, 0, "finished", 2.0), (1e-3, 1, "finished", 2.2), (3e-3, 0, "finished", 3.0)
    )
    table = point_table(pd.concat([first, frame((1e-2, 0, "finished", 9.0), arch="lstm")]))
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
    table = point_table(trials)
    assert table["lr"].tolist() == [1e-3, 1e-2]
    assert table["bits_per_byte"].tolist() == [5.0, math.inf]
    assert table["diverged"].tolist() == [0, 1]
    assert best_points(trials) == {"mamba": {"lr": 1e-3}}
    assert "1e-2, diverged on 1 of 2 seeds" in compare_best(trials, "mamba").sentence


def test_a_rate_with_a_stopped_seed_ranks_between() -> None:
    """Stopped early ranks after finished and before diverged, whatever the figures."""
    trials = frame(
        (1e-4, 0, "diverged", 0.1), (1e-3, 0, "stopped", 0.2), (1e-2, 0, "finished", 3.0)
    )
    assert point_table(trials)["lr"].tolist() == [1e-2, 1e-3, 1e-4]


def test_what_no_seed_finished_is_not_the_best() -> None:
    """Nor is it said that all were stopped, where others diverged."""
    stopped = [(1e-3, seed, "stopped", 1.9) for seed in (0, 1)]
    diverged = [(1e-2, 0, "finished", 1.0), (1e-2, 1, "diverged", 1.0)]
    for rows in (stopped, [*stopped, *diverged]):
        trials = frame(*rows)
        assert point_table(trials)["lr"].iloc[0] == 1e-3
        assert best_points(trials) == {}
        found = compare_best(trials, "mamba")
        assert found.best is None
        assert found.sentence == sensitivity(trials, "mamba").sentence
        assert "each diverged on a seed or was stopped early on all" in found.sentence
        assert open_edge(trials, "mamba") == ""


def test_trials_without_an_outcome_are_left_out() -> None:
    """What is still running decides nothing."""
    trials = frame((1e-4, 0, None, 0.1), (1e-3, 0, "finished", 2.0))
    assert point_table(trials)["lr"].tolist() == [1e-3]
    assert point_table(trials.iloc[:0]).empty


def test_unlike_trials_are_not_averaged() -> None:
    """Two trials with the same rate and seed differ in a setting; averaging them is refused."""
    trials = frame((1e-3, 0, "finished", 2.0), (1e-3, 0, "finished", 3.0))
    with pytest.raises(ValueError, match="of mamba with learning rate 1e-3 and seed 0"):
        point_table(trials)


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
    with pytest.raises(ValueError, match=r"5e-1 is not among those tried: 1e-4, 1e-3, 1e-2"):
        edge_of_grid(grid, 0.5)


GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def curve(best: float, bend: float, seeds: int = 1, noise: float = 0.0) -> list[Row]:
    """Bits-per-byte on a parabola with its minimum of 2 at `best`; a seed adds 0.1 times itself."""
    random = np.random.default_rng(0)
    return [
        (lr, seed, "finished", 2 + bend * math.log10(lr / best) ** 2 + 0.1 * seed + noise * z)
        for seed in range(seeds)
        for lr, z in zip(GRID, random.standard_normal(len(GRID)), strict=True)
    ]


def test_the_optimum_of_a_parabola_is_found() -> None:
    """Exact points give their minimum, height and curve back, whatever seeds add to all rates."""
    found = optimum(frame(*curve(4e-3, 0.5, seeds=3)), "mamba")
    assert found.lr == pytest.approx(4e-3)
    assert found.interval == pytest.approx((4e-3, 4e-3))
    assert found.bits_per_byte == pytest.approx(2.1)
    assert found.at(4e-2) == pytest.approx(2.6)
    assert found.seeds == 3
    assert found.fitted == (3e-4, 3e-2)
    assert "the optimum is 4e-3" in found.sentence


def test_the_ends_of_the_interval_are_just_not_rejected() -> None:
    """An F test of a parabola with its minimum at either end against a free one has p = 0.05."""
    trials = frame(*curve(4e-3, 0.5, seeds=2, noise=0.02))
    found = optimum(trials, "mamba")
    x, y = np.log10(trials["lr"]).to_numpy(), trials["bits_per_byte"].to_numpy(dtype=float)
    each_seed = trials["seed"].to_numpy()[:, None] == np.array([0, 1])

    def left(*columns: np.ndarray) -> float:
        matrix = np.column_stack([each_seed, *columns]).astype(float)
        return float(((y - matrix @ np.linalg.lstsq(matrix, y, rcond=None)[0]) ** 2).sum())

    free, degrees = left(x, x**2), len(y) - 4
    assert found.interval is not None
    assert found.lr is not None
    assert found.interval[0] < found.lr < found.interval[1]
    for end in found.interval:
        statistic = (left((x - math.log10(end)) ** 2) - free) / (free / degrees)
        assert stats.f.sf(statistic, 1, degrees) == pytest.approx(0.05, rel=1e-6)


def test_the_interval_holds_the_optimum_as_often_as_it_says() -> None:
    """Of 2,000 noisy curves of two seeds, 95 % (within two standard errors) hold the true rate."""
    random = np.random.default_rng(1)
    lrs, seeds = np.tile(GRID, 2), np.repeat([0, 1], len(GRID))
    truth = 2 + 0.3 * np.log10(lrs / 4e-3) ** 2
    held = 0
    for _ in range(2000):
        shift = 0.1 * random.standard_normal(2)[seeds]
        fit = Parabola.fit(lrs, seeds, truth + shift + 0.02 * random.standard_normal(len(lrs)))
        assert fit is not None
        assert fit.interval is not None
        held += fit.interval[0] <= 4e-3 <= fit.interval[1]
    assert abs(held / 2000 - 0.95) < 0.01


def test_a_fit_that_says_nothing_says_so() -> None:
    """Too few rates, no minimum, one beyond the rates, no degree of freedom, too flat a curve."""
    few = optimum(frame(*curve(4e-3, 0.5)[:2]), "mamba")
    assert (few.lr, few.coefficients) == (None, None)
    assert "needs three learning rates" in few.sentence
    with pytest.raises(ValueError, match="no parabola could be fitted"):
        few.at(1e-3)
    assert "has no minimum" in optimum(frame(*curve(4e-3, -0.5)), "mamba").sentence
    beyond = optimum(frame(*curve(0.5, 0.5)), "mamba")
    assert beyond.lr is None
    assert "lies above 3e-2" in beyond.sentence
    bare = optimum(frame(*curve(1e-3, 0.5)[:3]), "mamba")
    assert bare.lr == pytest.approx(1e-3)
    assert bare.interval is None
    assert "nothing tells how sure" in bare.sentence
    flat = optimum(frame(*curve(4e-3, 0.02, noise=0.02)), "mamba")
    assert flat.interval is None


def test_diverged_and_stopped_rates_do_not_bend_the_parabola() -> None:
    """A rate with a diverged or stopped seed is left out, with its seeds that went well."""
    rows = curve(4e-3, 0.5, seeds=2)
    last = [row[0] == 3e-2 for row in rows].index(True)
    for trouble in ("diverged", "stopped"):
        changed = list(rows)
        changed[last] = (3e-2, 0, trouble, 1.9)
        found = optimum(frame(*changed), "mamba")
        assert found.lr == pytest.approx(4e-3)
        assert found.fitted == (3e-4, 1e-2)


def test_only_rates_near_the_best_are_fitted() -> None:
    """A rate more than ten times off, where the curve is no parabola, does not move the optimum."""
    found = optimum(frame(*curve(4e-3, 0.5), (1e-5, 0, "finished", 50.0)), "mamba")
    assert found.lr == pytest.approx(4e-3)


def test_sensitivity_is_read_off_tried_rates_paired_by_seed() -> None:
    """Only seeds with both rates count; macro that falls is lost; 0.01 passes for 3 times 0.003."""
    trials = frame(
        (1e-3, 0, "finished", 2.5),
        (3e-3, 0, "finished", 2.0),
        (3e-3, 1, "finished", 2.2),
        (1e-2, 0, "finished", 2.3),
        (1e-2, 1, "finished", 2.6),
    )
    found = sensitivity(trials.assign(macro=100 - trials["bits_per_byte"]), "mamba")
    third, thrice = found.third, found.thrice
    assert third is not None
    assert thrice is not None
    assert (found.best, third.lr, thrice.lr) == (3e-3, 1e-3, 1e-2)
    assert (third.source, third.seeds, thrice.seeds) == ("tried", 1, 2)
    assert third.bits_per_byte == pytest.approx(0.5)
    assert thrice.bits_per_byte == pytest.approx(0.35)
    assert thrice.macro == pytest.approx(0.35)
    assert "+0.3500 bits/byte and -0.35 points at 1e-2 (tried on 2 seeds)" in found.sentence


def test_sensitivity_between_rates_is_read_off_the_parabola() -> None:
    """A grid of factors of two has no rate near 3 times the best; the parabola gives the loss."""
    rows: list[Row] = [
        (4e-3 * 2**step, 0, "finished", 2 + 0.5 * math.log10(2**step) ** 2)
        for step in (-2, -1, 0, 1, 2)
    ]
    found = sensitivity(frame(*rows), "mamba").thrice
    assert found is not None
    assert (found.source, found.macro) == ("fit", None)
    assert found.lr == pytest.approx(1.2e-2)
    assert found.bits_per_byte == pytest.approx(0.5 * math.log10(3) ** 2)


def test_sensitivity_says_where_a_rate_diverged_or_was_not_tried() -> None:
    """Neither has a figure."""
    trials = frame((1e-3, 0, "finished", 2.0), (3e-3, 0, "diverged", None))
    found = sensitivity(trials, "mamba")
    assert found.third is not None
    assert found.thrice is not None
    assert (found.thrice.source, found.thrice.bits_per_byte) == ("diverged", None)
    assert found.third.source == "not tried"
    assert "3.3e-4 was not tried" in found.sentence
    assert "3e-3 diverged" in found.sentence
    assert sensitivity(frame((1e-3, 0, "diverged", None)), "mamba").best is None
    with pytest.raises(ValueError, match="no completed trial of architecture 'gru'"):
        sensitivity(trials, "gru")
