"""The best number of epochs, how sure it is, what it cost, and the picture of it."""

from __future__ import annotations

import itertools
import math
import statistics as stdlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.epochs import (
    agreement,
    best_horizon,
    bootstrap_best,
    differences,
    epoch_table,
    tokens_spent,
)
from analysis.plots import epoch_curve


def frame(curves: list[list[float]], design: str = "branch") -> pd.DataFrame:
    """Scores of one design; a curve of bits/byte over 1, 2, ... epochs for each seed."""
    rows = [
        {
            "design": design,
            "horizon": horizon,
            "seed": seed,
            "bits_per_byte": value,
            "macro": 50.0 + horizon + seed,
            "tokens": 100 * horizon,
        }
        for seed, curve in enumerate(curves)
        for horizon, value in enumerate(curve, start=1)
        if not math.isnan(value)
    ]
    return pd.DataFrame(rows)


def simulated(generator: np.random.Generator, seeds: int, noise: float) -> np.ndarray:
    """Curves (seed, horizon 1..6) with the optimum at 3, an offset for each seed, and noise."""
    curve = 1.0 + 0.01 * (np.arange(1, 7) - 3) ** 2
    offsets = generator.normal(0, 0.2, (seeds, 1))
    return curve + offsets + generator.normal(0, noise, (seeds, 6))


def test_table_has_mean_and_spread_over_seeds() -> None:
    """Means, sample deviations and tokens by horizon; a diverged seed makes the mean infinite."""
    table = epoch_table(frame([[2.0, 1.0], [2.2, math.inf]]))
    first, second = table.to_dict("records")
    assert (first["horizon"], first["seeds"], first["diverged"]) == (1, 2, 0)
    assert first["bits_per_byte"] == pytest.approx(2.1)
    assert first["bits_per_byte_sd"] == pytest.approx(stdlib.stdev([2.0, 2.2]))
    assert first["macro"] == 51.5
    assert (second["bits_per_byte"], second["diverged"], second["macro"]) == (math.inf, 1, 52.0)
    assert second["tokens"] == 200


def test_bootstrap_is_that_of_all_draws_of_three_seeds() -> None:
    """With three seeds the shares of the bootstrap are those of the 27 possible draws."""
    curves = np.array([[1.0, 1.1, 1.3], [1.2, 1.1, 1.0], [1.05, 1.04, 1.2]])
    exact = Counter(
        int(curves[list(draw)].mean(axis=0).argmin())
        for draw in itertools.product(range(3), repeat=3)
    )
    drawn = Counter(bootstrap_best(curves).tolist())
    for index in range(3):
        assert drawn[index] / 10_000 == pytest.approx(exact[index] / 27, abs=0.02)


def test_interval_covers_the_optimum_of_simulated_studies() -> None:
    """Of 200 simulated studies of ten seeds at least nine in ten intervals hold the optimum, and
    where the noise is small against the curve they hold nothing else."""
    generator = np.random.default_rng(0)
    covered, widths = 0, []
    for _ in range(200):
        found = best_horizon(frame(simulated(generator, 10, 0.03).tolist()), "branch")
        assert found.interval is not None
        low, high = found.interval
        covered += low <= 3 <= high
        widths.append(high - low)
    assert covered >= 180
    assert max(widths) >= 1
    sure = best_horizon(frame(simulated(generator, 10, 0.001).tolist()), "branch")
    assert (sure.horizon, sure.interval) == (3, (3, 3))
    assert "the 95 % interval holds no other; bootstrap over 10 seeds" in sure.sentence


def test_what_a_seed_does_to_all_horizons_does_not_widen_the_interval() -> None:
    """Curves that are shifted as a whole agree about the optimum, however far they are apart."""
    curve = [1.2, 1.1, 1.15]
    found = best_horizon(frame([[x + shift for x in curve] for shift in (0, 3, 9)]), "branch")
    assert (found.horizon, found.interval) == (2, (2, 2))


def test_one_seed_admits_that_the_spread_is_unknown() -> None:
    """One seed gives a best horizon, no interval, and the advice to add seeds."""
    found = best_horizon(frame([[1.2, 1.0, 1.1]]), "branch")
    assert (found.horizon, found.seeds, found.interval) == (2, 1, None)
    assert "spread over seeds is unknown" in found.sentence
    assert "add --seeds" in found.sentence
    assert not found.is_longest


def test_only_seeds_with_all_horizons_decide() -> None:
    """A seed that lacks a horizon would favour those it has: it is left out."""
    found = best_horizon(frame([[2.0, 1.0, 1.5], [0.1, math.nan, 9.0]]), "branch")
    assert (found.horizon, found.seeds) == (2, 1)


def test_a_diverged_horizon_is_never_the_best() -> None:
    """However good its other seeds; and if all horizons have one, there is no best."""
    found = best_horizon(frame([[1.5, 0.1], [1.5, math.inf], [1.6, 0.1]]), "branch")
    assert (found.horizon, found.interval) == (1, (1, 2))  # the bad seed may not be drawn
    lost = best_horizon(frame([[math.inf, 1.0], [1.0, math.inf]]), "branch")
    assert lost.horizon is None
    assert "every horizon has a diverged seed" in lost.sentence


def test_special_cases_are_said_plainly() -> None:
    """The longest of several, the only one, equals, and a design without a whole seed."""
    assert best_horizon(frame([[3.0, 2.0]]), "branch").is_longest
    only = best_horizon(frame([[3.0], [2.9]]), "branch")
    assert not only.is_longest
    assert "1 epoch is the only horizon tried" in only.sentence
    assert best_horizon(frame([[1.0, 1.0]]), "branch").horizon == 1
    none = best_horizon(frame([[3.0]], "trajectory"), "branch")
    assert none.horizon is None
    assert "no seed has finished every horizon" in none.sentence


def test_tokens_are_those_that_the_trials_took() -> None:
    """What a trial went on from counts for the trial that took it; half a seed does not count."""
    rows = [("branch", 3, 0, 0, 300), ("branch", 2, 0, 160, 200), ("branch", 1, 0, 80, 100)]
    rows += [("branch", 3, 1, 0, 300), ("independent", 3, 0, 0, 300)]
    columns = ["design", "horizon", "seed", "began", "tokens"]
    spent = tokens_spent(pd.DataFrame(rows, columns=columns))
    assert spent.to_dict() == {("branch", 0): 360, ("independent", 0): 300}


def test_a_design_is_compared_with_the_seeds_of_another() -> None:
    """Differences of means by horizon, and whether they are within two standard deviations of the
    other's seeds; where a seed diverged there is none."""
    other = frame([[1.0, 2.0, 3.0], [1.2, 2.2, math.inf]], "independent")
    gaps = differences(pd.concat([frame([[1.05, 2.5, 3.0]]), other]), "branch", "independent")
    assert gaps["horizon"].tolist() == [1, 2]
    assert gaps["difference"].tolist() == pytest.approx([-0.05, 0.4])
    assert gaps["within"].tolist() == [True, False]
    assert gaps["spread"].tolist() == pytest.approx([0.2 / math.sqrt(2)] * 2)


def test_agreement_is_paired_by_seed() -> None:
    """The mean over horizons of what each seed loses as a branch, with its t interval."""
    whole = frame([[1.0, 2.0], [1.5, 2.5], [0.5, 1.5]], "independent")
    branch = frame([[1.1, 2.1], [1.6, 2.6], [0.7, 1.7]])
    text = agreement(pd.concat([branch, whole]))
    assert "branch minus independent: +0.1333 to +0.1333 bits/byte" in text
    assert "at 2 of 2 horizons" in text
    half = 4.302653 * math.sqrt(0.01 / 3) / math.sqrt(3)  # sample deviation of 0.1, 0.1, 0.2
    expected = f"+0.1333 (95 % interval {0.4 / 3 - half:.4f} to {0.4 / 3 + half:.4f}, paired"
    assert expected in text
    assert agreement(branch) == ""


def test_picture_names_designs_and_bands(tmp_path: Path) -> None:
    """Designs stand in the legend, a band where there are several seeds, and no second panel
    without a macro."""
    both = pd.concat([frame([[2.0, 1.0]] * 2), frame([[2.0, math.inf]], "trajectory")])
    picture = epoch_curve(both, tmp_path / "curve.svg", title="a title", chance=50.0).read_text()
    for text in ("branch", "trajectory", "min to max of seeds", "epochs trained", "chance"):
        assert f"<!-- {text} -->" in picture
    assert "<!-- independent -->" not in picture
    plain = epoch_curve(frame([[2.0]]).assign(macro=math.nan), tmp_path / "one.svg").read_text()
    assert "zero-shot macro" not in plain
    assert "min to max" not in plain
    with pytest.raises(ValueError, match="nothing to draw"):
        epoch_curve(both.iloc[:0], tmp_path / "none.png")
