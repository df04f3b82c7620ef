"""Small frames for every picture, with the situations that a study can end in."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from analysis.learning_rates import Optimum
from analysis.plots import (
    STYLES,
    axis_figure,
    cost_curves,
    epoch_figure,
    gain_figure,
    heat_map,
    leaderboard,
    milestone_figure,
)

NAN = math.nan


def fit(arch: str, lr: float, interval: tuple[float, float] | None) -> Optimum:
    """A parabola with its minimum of 1.9 at this rate."""
    x, bend = math.log10(lr), 0.2
    coefficients = 1.9 + bend * x**2, -2 * bend * x, bend
    return Optimum(arch, lr, interval, 1.9, coefficients, (1e-4, 1e-3), 2, "a sentence")


def trials(archs: list[str], seeds: int = 1, macro: bool = True) -> pd.DataFrame:
    rows = [
        {
            "arch": arch,
            "lr": lr,
            "seed": seed,
            "outcome": "finished",
            "bits_per_byte": 2 + 0.1 * seed,
            "macro": 55.0 + seed if macro else NAN,
        }
        for arch in archs
        for lr in (1e-4, 3e-4, 1e-3)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def horizons() -> pd.DataFrame:
    """Two seeds of one design, the second of which diverged at the last horizon."""
    rows = [("branch", 1, 0, 2.0), ("branch", 1, 1, 2.1), ("branch", 2, 0, 1.5)]
    rows += [("branch", 2, 1, math.inf)]
    frame = pd.DataFrame(rows, columns=["design", "horizon", "seed", "bits_per_byte"])
    return frame.assign(macro=60.0, tokens=100)


def board() -> pd.DataFrame:
    """The macro puts mamba before lstm; BEAR has no scores, one of EWoK's is missing."""
    rows = [
        ("lstm", "ewok", 70.0, 68.0, 72.0, 50.0, 49.0, 51.0),
        ("lstm", "macro", 70.0, 69.0, 71.0, 50.0, 49.5, 50.5),
        ("mamba", "ewok", NAN, NAN, NAN, 50.0, 49.0, 51.0),
        ("mamba", "macro", 75.0, NAN, NAN, 50.0, 49.5, 50.5),
        ("lstm", "bear", NAN, NAN, NAN, NAN, NAN, NAN),
    ]
    columns = ["arch", "benchmark", "mean", "low", "high", "chance", "chance_low", "chance_high"]
    return pd.DataFrame(rows, columns=columns).assign(seeds=[3, 3, 1, 1, 3])


def phenomena() -> pd.DataFrame:
    """Scores from 40 to 99 % by phenomenon; one cell is missing."""
    scores = {"anaphor_agreement": (99.0, 40.0), "binding": (50.0, 61.5), "npi": (75.0, NAN)}
    rows = [
        ("blimp", group, arch, score, 50.0)
        for group, cells in scores.items()
        for arch, score in zip(("lstm", "mamba"), cells, strict=True)
    ]
    columns = ["group", "phenomenon", "arch", "score", "chance"]
    return pd.DataFrame(rows[:-1], columns=columns)


def costs() -> pd.DataFrame:
    """Two seeds of lstm, the second of which reached two epochs of three; one of mamba."""
    rows = [
        (arch, f"{arch}{seed}", epoch * 1e6, epoch * 1e12, epoch * 60.0 + seed, 2 - epoch / 10)
        for arch, seed, epochs in (("lstm", 0, 3), ("lstm", 1, 2), ("mamba", 0, 20))
        for epoch in range(1, epochs + 1)
    ]
    columns = ["arch", "run_id", "tokens", "flops", "seconds", "bits_per_byte"]
    return pd.DataFrame(rows, columns=columns)


def gains() -> pd.DataFrame:
    """A clear gain, an unclear one, and one without an interval."""
    rows = [
        ("lstm, alpha 0.5", "macro, points", 1.5, 0.5, 2.5),
        ("mamba, alpha 0.5", "macro, points", 0.5, -0.5, 1.5),
        ("hgrn2", "bits/byte", -0.01, NAN, NAN),
    ]
    return pd.DataFrame(rows, columns=["student", "metric", "gain", "low", "high"])


def milestones() -> pd.DataFrame:
    """Two seeds of an architecture and one of another, of a loss and a score."""
    rows = [
        (panel, unit, arch, words, start + words / 1e8, chance)
        for panel, unit, chance in (("loss", "lower is better", NAN), ("blimp", "%", 50.0))
        for arch, start in (("lstm", 52.0), ("lstm", 53.0), ("hgrn2", 55.0))
        for words in (10**6, 2 * 10**6, 10**7)
    ]
    return pd.DataFrame(rows, columns=["panel", "unit", "arch", "words", "value", "chance"])


FIGURES: dict[str, Callable[[], Figure]] = {
    "lr": lambda: axis_figure(
        trials([*STYLES, "gru"], seeds=2),
        title="t",
        fits={"lstm": fit("lstm", 3e-4, (2e-4, 5e-4))},
    ),
    "epoch": lambda: epoch_figure(horizons(), "a title"),
    "leaderboard": lambda: leaderboard(board()),
    "heat_map": lambda: heat_map(phenomena()),
    "cost": lambda: cost_curves(costs()),
    "milestone": lambda: milestone_figure(milestones()),
    "gain": lambda: gain_figure(gains()),
}
