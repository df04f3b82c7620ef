"""How many epochs are best, how sure is that, and what the answer cost.

The functions take plain frames. `scores` has one row for each design, horizon (epochs trained) and
seed, with the figures at the end of those epochs: `design`, `horizon`, `seed`, `bits_per_byte`
(infinite where the trial diverged), `macro` (percent, or missing) and `tokens` (training tokens
seen). `trials` has one row for each trial of a design: `design`, `horizon`, `seed`, `tokens`, and
`began`, how many of these were the tokens of another trial that it went on from.

Rules. The best horizon has the least mean validation bits/byte over the seeds that have all
horizons of its design; the shortest of equals. Benchmark scores are reported, never chosen by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.paired import mean_interval
from analysis.variances import CONFIDENCE
from analysis.wording import count

_DRAWS = 10_000
_FEW = 5
"""Fewer seeds know little of their spread: their percentiles lie too close together."""


def epoch_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds at every horizon of every design.

    Columns: `design`, `horizon`, `seeds`, `diverged` (how many of them), `bits_per_byte` (mean;
    infinite where a seed diverged), `bits_per_byte_sd`, `macro`, `macro_sd`, `tokens`. All but the
    mean bits/byte are over the seeds that did not diverge; standard deviations are of a sample,
    NaN for one seed.
    """
    rows = []
    for (design, horizon), group in scores.groupby(["design", "horizon"], sort=False):
        finite = group[np.isfinite(group["bits_per_byte"])]
        macro = finite["macro"].astype(float)
        rows.append(
            {
                "design": design,
                "horizon": horizon,
                "seeds": len(group),
                "diverged": len(group) - len(finite),
                "bits_per_byte": group["bits_per_byte"].mean(),
                "bits_per_byte_sd": finite["bits_per_byte"].std(),
                "macro": macro.mean(),
                "macro_sd": macro.std(),
                "tokens": group["tokens"].max(),
            }
        )
    columns = ["design", "horizon", "seeds", "diverged", "bits_per_byte", "bits_per_byte_sd"]
    return pd.DataFrame(rows, columns=[*columns, "macro", "macro_sd", "tokens"])


@dataclass(frozen=True)
class BestHorizon:
    """The best number of epochs by one design.

    Attributes:
        design: which.
        horizon: the best one; None when no seed has all horizons, or all diverged.
        seeds: seeds that have all horizons of the design.
        bits_per_byte: mean at the best one.
        interval: least and greatest horizon that the 95 % bootstrap interval holds; None with
            fewer than two seeds.
        is_longest: whether it is the longest of several, so that more epochs may be better.
        sentence: the same in words.
    """

    design: str
    horizon: int | None
    seeds: int
    bits_per_byte: float | None
    interval: tuple[int, int] | None
    is_longest: bool
    sentence: str


def best_horizon(scores: pd.DataFrame, design: str, *, random_seed: int = 0) -> BestHorizon:
    """The horizon of least mean bits/byte, with a percentile bootstrap over seeds.

    Seeds are drawn with replacement, each with its whole curve: what a seed does to all horizons
    cancels (Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13). With few seeds the
    interval is too narrow: two or three know little of the spread.

    Args:
        scores: see the module.
        design: which of its designs.
        random_seed: of the draws.
    """
    curves = seed_curves(scores, design)
    horizons, seeds = curves.columns.to_numpy(), len(curves)
    means = curves.mean(axis=0)
    if seeds == 0 or math.isinf(means.min()):
        trouble = (
            "no seed has finished every horizon; run the command again"
            if seeds == 0
            else "every horizon has a diverged seed; try a lower --lr"
        )
        return BestHorizon(design, None, seeds, None, None, False, f"{design}: {trouble}.")
    best = int(means.idxmin())
    interval = None
    if seeds > 1:
        draws = bootstrap_best(curves.to_numpy(), random_seed)
        tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        low, high = np.quantile(draws, tails, method="inverted_cdf")
        interval = int(horizons[low]), int(horizons[high])
    is_longest = len(horizons) > 1 and best == horizons[-1]
    sentence = _in_words(design, best, len(horizons), float(means[best]), seeds, interval)
    return BestHorizon(design, best, seeds, float(means[best]), interval, is_longest, sentence)


def bootstrap_best(curves: np.ndarray, random_seed: int = 0) -> np.ndarray:
    """Index of the least mean in each of 10,000 draws of seeds; `curves` is (seed, horizon)."""
    generator = np.random.default_rng(random_seed)
    seeds = len(curves)
    # How often each seed is drawn, (draw, seed): means without an array of all drawn curves.
    counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=_DRAWS)
    with np.errstate(invalid="ignore"):
        sums = counts @ np.where(np.isinf(curves), 0.0, curves)
    diverged = counts @ np.isinf(curves) > 0
    return np.asarray(np.where(diverged, np.inf, sums).argmin(axis=1))


def seed_curves(scores: pd.DataFrame, design: str) -> pd.DataFrame:
    """Bits-per-byte by seed (rows) and horizon (columns), of the seeds that have all horizons."""
    mine = scores[scores["design"] == design]
    return mine.pivot(index="seed", columns="horizon", values="bits_per_byte").dropna().sort_index()


def _in_words(
    design: str,
    best: int,
    horizons: int,
    mean: float,
    seeds: int,
    interval: tuple[int, int] | None,
) -> str:
    epochs = count(best, "epoch")
    if horizons == 1:
        return f"{design}: {epochs} is the only horizon tried: others may be better."
    lead = f"{design}: best after {epochs}, {mean:.4f} bits/byte"
    if interval is None:
        return (
            f"{lead} on one seed: the spread over seeds is unknown, so this may be chance; add "
            "--seeds to find out."
        )
    low, high = interval
    verdict = f"95 % interval {low} to {high}" if low < high else "the 95 % interval holds no other"
    few = ", which is too narrow with so few" if seeds < _FEW else ""
    return f"{lead} ({verdict}; bootstrap over {count(seeds, 'seed')}{few})."


def tokens_spent(trials: pd.DataFrame) -> pd.Series:
    """Training tokens that the trials of each design took themselves, by `design` and `seed`.

    Only seeds that have all lengths of their design.
    """
    lengths = trials.groupby("design")["horizon"].transform("nunique")
    have = trials.groupby(["design", "seed"])["horizon"].transform("nunique")
    whole = trials[have == lengths]
    by_seed = whole.groupby(["design", "seed"])
    return by_seed["tokens"].sum() - by_seed["began"].sum()


def differences(scores: pd.DataFrame, design: str, reference: str) -> pd.DataFrame:
    """Distances of a design's mean bits/byte from another's at the horizons that both have.

    Columns: `horizon`, `difference` (of the means over seeds; positive: the design is worse),
    `spread` (standard deviation of the reference's seeds; NaN for one), `within` (whether the
    difference is at most two of them). Horizons with a diverged seed are left out.
    """
    ours = scores[scores["design"] == design].groupby("horizon")["bits_per_byte"].mean()
    theirs = scores[scores["design"] == reference].groupby("horizon")["bits_per_byte"]
    frame = pd.DataFrame({"difference": ours - theirs.mean(), "spread": theirs.std()})
    frame = frame.astype(float)  # also without rows
    frame = frame[np.isfinite(frame["difference"])]
    within = frame["difference"].abs() <= 2 * frame["spread"]
    return frame.assign(within=within).reset_index()


def agreement(scores: pd.DataFrame) -> str:
    """Whether branches end where whole trials do, in words; "" unless a horizon has both."""
    gaps = differences(scores, "branch", "independent")
    if gaps.empty:
        return ""
    low, high = gaps["difference"].min(), gaps["difference"].max()
    text = f"branch minus independent: {low:+.4f} to {high:+.4f} bits/byte"
    known = gaps["spread"].notna().sum()
    if known:
        text += (
            f"; within two standard deviations of independent's seeds at {gaps['within'].sum()} of "
            f"{count(int(known), 'horizon')}"
        )
    curves = [
        seed_curves(scores, name)[list(gaps["horizon"])] for name in ("branch", "independent")
    ]
    seeds = curves[0].index.intersection(curves[1].index)
    if len(seeds) > 1:
        by_seed = (curves[0] - curves[1]).loc[seeds].mean(axis=1)
        low, high = mean_interval(by_seed.to_numpy())
        text += (
            f"; on average {by_seed.mean():+.4f} (95 % interval {low:.4f} to {high:.4f}, paired "
            f"over {count(len(seeds), 'seed')})"
        )
    return f"{text}."
