"""How good is each learning rate, which is best, and how sure is that.

The functions take the frame of `runs.trials`, or any with the columns `arch`, `lr`, `seed`,
`outcome` and `bits_per_byte` (and `macro`), one row per architecture, learning rate and seed.

Rules. The learning rate with the least mean validation bits-per-byte over seeds is the best one. A
diverged trial counts as infinitely bad, so a rate with a diverged seed ranks after all rates
without, whatever its other seeds did. A rate with a seed that the scheduler stopped early ranks
between them: its figure is that of a shorter training. Trials without an outcome yet are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95


def lr_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of every learning rate, best first within each architecture.

    Columns: `arch`, `lr`, `seeds` (trials with an outcome), `diverged`, `stopped` (how many of
    them), `bits_per_byte` (mean; infinite where a seed diverged), `bits_per_byte_sd`, `macro`,
    `macro_sd` (percent), `rank` (1 = best of its architecture). All but the mean bits-per-byte are
    over the seeds that did not diverge; standard deviations are of a sample, NaN for one seed.

    Raises:
        ValueError: several trials share architecture, rate and seed: they differ in something else,
            and their mean would be of unlike things.
    """
    rows = [_lr_row(group) for _, group in completed(trials).groupby(["arch", "lr"])]
    columns = ["arch", "lr", "seeds", "diverged", "stopped"]
    columns += ["bits_per_byte", "bits_per_byte_sd", "macro", "macro_sd"]
    table = pd.DataFrame(rows, columns=columns)
    table = (
        table.assign(_diverged=table["diverged"] > 0, _stopped=table["stopped"] > 0)
        .sort_values(["arch", "_diverged", "_stopped", "bits_per_byte", "lr"], ignore_index=True)
        .drop(columns=["_diverged", "_stopped"])
    )
    return table.assign(rank=table.groupby("arch").cumcount() + 1)


def best_lrs(trials: pd.DataFrame) -> dict[str, float]:
    """The best learning rate of each architecture that has one without a diverged seed."""
    table = lr_table(trials)
    best = table[(table["rank"] == 1) & (table["diverged"] == 0)]
    return dict(zip(best["arch"], best["lr"], strict=True))


@dataclass(frozen=True)
class Comparison:
    """The best learning rate of an architecture against the runner-up.

    Attributes:
        arch: the architecture.
        best: the best rate; None when every rate diverged.
        runner_up: the second best; None when there is none.
        seeds: seeds on which both were trained to the end.
        difference: mean over these seeds of runner-up minus best, bits-per-byte; positive favours
            the best; None without a common seed.
        interval: 95 % t interval of the mean difference; None with fewer than two seeds.
        sentence: the same in words.
    """

    arch: str
    best: float | None
    runner_up: float | None
    seeds: int
    difference: float | None
    interval: tuple[float, float] | None
    sentence: str


def compare_best(trials: pd.DataFrame, arch: str) -> Comparison:
    """Compare the two best learning rates of an architecture, paired by seed.

    Pairing removes what a seed does to both (data order, to some extent initialisation). The best
    rate was chosen on the very figures compared, so the interval is somewhat optimistic.

    Raises:
        ValueError: no trial of this architecture has an outcome, or see `lr_table`.
    """
    table = lr_table(trials)
    ranked = table[table["arch"] == arch]
    if ranked.empty:
        known = ", ".join(sorted(table["arch"].unique())) or "none"
        raise ValueError(f"no completed trial of architecture {arch!r}: there are those of {known}")
    if ranked.iloc[0]["diverged"]:
        sentence = f"{arch}: every learning rate diverged on at least one seed; try lower ones."
        return Comparison(arch, None, None, 0, None, None, sentence)
    best = float(ranked.iloc[0]["lr"])
    if len(ranked) == 1:
        sentence = f"{arch}: {best:g} is the only learning rate tried, so nothing says it is good."
        return Comparison(arch, best, None, 0, None, None, sentence)
    second = ranked.iloc[1]
    runner_up = float(second["lr"])
    if second["diverged"]:
        sentence = (
            f"{arch}: {best:g} is the best learning rate; the next, {runner_up:g}, diverged on "
            f"{second['diverged']} of {second['seeds']} seeds."
        )
        return Comparison(arch, best, runner_up, 0, None, None, sentence)
    if second["stopped"]:
        sentence = (
            f"{arch}: {best:g} is the best learning rate; the next, {runner_up:g}, was stopped "
            "early because it was behind."
        )
        return Comparison(arch, best, runner_up, 0, None, None, sentence)
    differences = _paired_differences(trials, arch, best, runner_up)
    return _compare(arch, best, runner_up, differences)


def _compare(arch: str, best: float, runner_up: float, differences: np.ndarray) -> Comparison:
    count = len(differences)
    if count == 0:
        sentence = (
            f"{arch}: {best:g} is ahead of {runner_up:g}, but on different seeds, which cannot be "
            "compared; train both on the same --seeds."
        )
        return Comparison(arch, best, runner_up, 0, None, None, sentence)
    mean = float(differences.mean())
    if mean <= 0:  # the rates were trained on different seeds besides the common ones
        sentence = (
            f"{arch}: {best:g} has the lowest mean over its seeds, but on those that both have "
            f"({count}) {runner_up:g} is not behind; train both on the same --seeds."
        )
        return Comparison(arch, best, runner_up, count, mean, None, sentence)
    lead = f"{arch}: {best:g} is ahead of {runner_up:g} by {mean:.4f} bits-per-byte"
    if count == 1:
        sentence = (
            f"{lead} on one seed: the spread over seeds is unknown, so this may be chance; "
            "add --seeds to find out."
        )
        return Comparison(arch, best, runner_up, 1, mean, None, sentence)
    low, high = mean_interval(differences)
    verdict = (
        "the interval excludes zero"
        if low > 0
        else "the interval includes zero, so either may be the better"
    )
    sentence = (
        f"{lead} (95 % interval {low:.4f} to {high:.4f}, paired over {count} seeds): {verdict}."
    )
    return Comparison(arch, best, runner_up, count, mean, (low, high), sentence)


def mean_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 95 % t interval of the mean of two or more values."""
    sample = np.asarray(values, dtype=float)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(sample) - 1) * sample.std(ddof=1)
    half /= math.sqrt(len(sample))
    return float(sample.mean() - half), float(sample.mean() + half)


@dataclass(frozen=True)
class Gain:
    """What a change gains over its control, paired by seed.

    Attributes:
        seeds: seeds that both were trained with.
        mean: mean of control minus changed, so that positive is better where less is better.
        interval: 95 % t interval of the mean; None with fewer than two seeds.
    """

    seeds: int
    mean: float
    interval: tuple[float, float] | None

    @property
    def sentence(self) -> str:
        """The gain in bits per byte in words."""
        if self.seeds == 0:
            return "no seed was trained to the end with and without it"
        verb = "gains" if self.mean > 0 else "loses"
        text = f"{verb} {abs(self.mean):.4f} bits-per-byte"
        if self.interval is None:
            return f"{text} on one seed: the spread is unknown, so this may be chance; add --seeds"
        low, high = self.interval
        verdict = "the interval excludes zero" if low * high > 0 else "the interval includes zero"
        return (
            f"{text} (95 % interval of the gain {low:.4f} to {high:.4f}, paired over {self.seeds} "
            f"seeds): {verdict}"
        )


def paired_gain(changed: pd.Series, control: pd.Series) -> Gain:
    """The gain of one figure per seed over another, both indexed by seed; less is better."""
    both = pd.concat([changed, control], axis=1, keys=["changed", "control"]).dropna()
    differences = (both["control"] - both["changed"]).to_numpy(dtype=float)
    if not len(differences):
        return Gain(0, math.nan, None)
    interval = mean_interval(differences) if len(differences) > 1 else None
    return Gain(len(differences), float(differences.mean()), interval)


def edge_of_grid(lrs: Sequence[float], best: float) -> str | None:
    """Whether the best rate is the lowest ("low") or highest ("high") tried, so that better may lie
    beyond; None inside, or when only one rate was tried.

    Raises:
        ValueError: `best` is not among the rates.
    """
    grid = sorted(set(lrs))
    if best not in grid:
        listed = ", ".join(f"{lr:g}" for lr in grid)
        raise ValueError(f"the best learning rate {best:g} is not among those tried: {listed}")
    if len(grid) == 1:
        return None
    return {grid[0]: "low", grid[-1]: "high"}.get(best)


def completed(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials with an outcome, each a figure: infinite bits-per-byte where there is no finite one.

    A trial that ended without a finite figure counts as diverged, whatever its outcome says.

    Raises:
        ValueError: several trials share architecture, rate and seed.
    """
    done = trials[trials["outcome"].notna()]
    repeated = done[done.duplicated(["arch", "lr", "seed"])]
    if not repeated.empty:
        first = repeated.iloc[0]
        raise ValueError(
            f"several trials of {first['arch']} with lr {first['lr']:g} and seed {first['seed']}: "
            "they differ in size, corpus, epochs or another setting; keep one before comparing"
        )
    figure = done["bits_per_byte"].astype(float)
    good = (done["outcome"] != "diverged") & np.isfinite(figure)
    outcome = done["outcome"].where(good, "diverged")
    return done.assign(outcome=outcome, bits_per_byte=figure.where(good, math.inf))


def _lr_row(group: pd.DataFrame) -> dict[str, object]:
    survived = group[group["outcome"] != "diverged"]
    macro = survived["macro"].astype(float) if "macro" in group else pd.Series(dtype=float)
    return {
        "arch": group["arch"].iloc[0],
        "lr": group["lr"].iloc[0],
        "seeds": len(group),
        "diverged": len(group) - len(survived),
        "stopped": int((group["outcome"] == "stopped").sum()),
        "bits_per_byte": group["bits_per_byte"].mean(),
        "bits_per_byte_sd": survived["bits_per_byte"].std(),
        "macro": macro.mean(),
        "macro_sd": macro.std(),
    }


def _paired_differences(
    trials: pd.DataFrame, arch: str, best: float, runner_up: float
) -> np.ndarray:
    """Runner-up minus best by seed, for the seeds that finished with both."""
    done = completed(trials)
    done = done[(done["arch"] == arch) & (done["outcome"] == "finished")]
    by_seed = done.pivot(index="seed", columns="lr", values="bits_per_byte")
    pairs = by_seed.reindex(columns=[best, runner_up]).dropna()
    return (pairs[runner_up] - pairs[best]).to_numpy(dtype=float)
