"""How good is each learning rate, and which is best.

The functions take the frame of `runs.trials`, or any with the columns `arch`, `lr`, `seed`,
`outcome` and `bits_per_byte` (and `macro`), one row per architecture, learning rate and seed.

Rules. The learning rate with the least mean validation bits-per-byte over seeds is the best one. A
diverged trial counts as infinitely bad, so a rate with a diverged seed ranks after all rates
without, whatever its other seeds did. A rate with a seed that the scheduler stopped early ranks
between them: its figure is that of a shorter training. Trials without an outcome yet are left out.
Rates are ranked on the seeds that were tried at the most of them: further seeds of the one that was
chosen must not change the choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.inference import mean_interval
from analysis.parabola import Parabola

_IN_WORDS = {"not tried": "was not tried", "diverged": "diverged", "stopped": "was stopped early"}


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
    done = completed(trials)
    rows = [_lr_row(group) for _, group in done.groupby(["arch", "lr"])]
    columns = ["arch", "lr", "seeds", "diverged", "stopped"]
    columns += ["bits_per_byte", "bits_per_byte_sd", "macro", "macro_sd"]
    table = pd.DataFrame(rows, columns=columns)
    on_common = on_common_seeds(done).groupby(["arch", "lr"])["bits_per_byte"].mean()
    keys = pd.DataFrame(
        {
            "arch": table["arch"],
            "diverged": table["diverged"] > 0,
            "stopped": table["stopped"] > 0,
            # Missing, and so after the others, where a rate was tried on other seeds only.
            "figure": on_common.reindex(pd.MultiIndex.from_frame(table[["arch", "lr"]])).to_numpy(),
            "lr": table["lr"],
        }
    )
    table = table.loc[keys.sort_values(list(keys.columns)).index].reset_index(drop=True)
    return table.assign(rank=table.groupby("arch").cumcount() + 1)


def on_common_seeds(trials: pd.DataFrame) -> pd.DataFrame:
    """Of each architecture the trials of the seeds that were tried at the most learning rates."""
    rates = trials.groupby(["arch", "seed"])["lr"].transform("nunique")
    return trials[rates == rates.groupby(trials["arch"]).transform("max")]


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
    ranked = _ranked(trials, arch)
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
    differences = _paired_differences(trials, arch, best, runner_up, "bits_per_byte")
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


@dataclass(frozen=True)
class Optimum:
    """Where the parabola through the rates around the best one has its minimum.

    Attributes:
        arch: the architecture.
        lr: the rate there; None without one among the rates of the fit.
        interval: 95 % interval of it, which may reach beyond these; None where nothing bounds it.
        bits_per_byte: of the parabola there; None with `lr`.
        coefficients: a, b, c of bits-per-byte = a + b x + c x^2, x = log10(lr), for the mean of the
            seeds; None without a fit.
        fitted: least and greatest rate of the fit; None without one.
        seeds: seeds of the fit.
        sentence: the same in words, with the reason for what is missing.
    """

    arch: str
    lr: float | None
    interval: tuple[float, float] | None
    bits_per_byte: float | None
    coefficients: tuple[float, float, float] | None
    fitted: tuple[float, float] | None
    seeds: int
    sentence: str

    def at(self, lr: float) -> float:
        """Bits-per-byte of the parabola at a rate.

        Raises:
            ValueError: there is no fit.
        """
        if self.coefficients is None:
            raise ValueError(f"no parabola could be fitted: {self.sentence}")
        a, b, c = self.coefficients
        x = math.log10(lr)
        return a + b * x + c * x**2


def optimum(trials: pd.DataFrame, arch: str) -> Optimum:
    """Fit a parabola in log LR to validation bits-per-byte, and find its minimum.

    By least squares, to the trials at rates from a tenth to ten times the best one, without rates
    at which a seed diverged or was stopped: its other seeds are the lucky ones. A seed may shift
    the whole parabola. The interval holds the rates at which the slope does not differ
    significantly from zero, judged by what the fit leaves unexplained (see `Parabola.interval`).

    Raises:
        ValueError: no trial of this architecture has an outcome, or see `lr_table`.
    """
    ranked = _ranked(trials, arch)
    best = float(ranked.iloc[0]["lr"])
    near = np.abs(np.log10(ranked["lr"] / best)) < 1 + 1e-6
    usable = ranked[near & (ranked["diverged"] == 0) & (ranked["stopped"] == 0)]
    done = completed(trials)
    points = done[(done["arch"] == arch) & done["lr"].isin(usable["lr"])]
    seeds = points["seed"].nunique()
    fit = Parabola.fit(*(points[name].to_numpy() for name in ("lr", "seed", "bits_per_byte")))
    if fit is None:
        sentence = (
            f"{arch}: no parabola can be fitted; that needs three learning rates within ten times "
            f"of the best that finished on every seed, and there are {len(usable)}."
        )
        return Optimum(arch, None, None, None, None, None, seeds, sentence)
    lr = fit.minimum
    low, high = fitted = float(points["lr"].min()), float(points["lr"].max())
    known = Optimum(arch, None, None, None, fit.coefficients, fitted, seeds, "")
    if lr is None:
        return replace(known, sentence=f"{arch}: the fitted parabola has no minimum.")
    if not low * (1 - 1e-9) <= lr <= high * (1 + 1e-9):
        side, edge = ("below", low) if lr < low else ("above", high)
        sentence = f"{arch}: the fitted parabola's minimum lies {side} {edge:g}, its last rate."
        return replace(known, sentence=sentence)
    interval = fit.interval
    sentence = f"{arch}: by a parabola through {low:g} to {high:g} the optimum is {lr:.2g}"
    if interval is not None:
        sentence += f" (95 % interval {interval[0]:.2g} to {interval[1]:.2g})."
    elif fit.degrees < 1:
        sentence += "; as few points as these fit any parabola, so nothing tells how sure that is."
    else:
        sentence += "; the curve is too flat for its noise to give an interval."
    return replace(known, lr=lr, interval=interval, bits_per_byte=known.at(lr), sentence=sentence)


@dataclass(frozen=True)
class Loss:
    """What a learning rate away from the best one costs.

    Attributes:
        lr: the rate looked at.
        source: "tried", "fit" (by the parabola), "diverged", "stopped" or "not tried".
        bits_per_byte: how much higher than at the best; None unless tried or by the fit.
        macro: how many points lower than at the best; None unless tried, with scores.
        seeds: seeds that finished with both; 0 unless tried.
    """

    lr: float
    source: str
    bits_per_byte: float | None = None
    macro: float | None = None
    seeds: int = 0

    @property
    def words(self) -> str:
        """The same in words."""
        if self.bits_per_byte is None:
            return f"{self.lr:.2g} {_IN_WORDS[self.source]}"
        text = f"{self.bits_per_byte:+.4f} bits-per-byte"
        if self.macro is not None:
            text += f" and {-self.macro:+.2f} points"
        how = "by the fit" if self.source == "fit" else f"tried on {self.seeds}"
        return f"{text} at {self.lr:.2g} ({how})"


@dataclass(frozen=True)
class Sensitivity:
    """What three times and a third of the best learning rate cost.

    Attributes:
        arch: the architecture.
        best: its best rate; None when all diverged.
        third, thrice: the losses; None with `best`.
        sentence: the same in words.
    """

    arch: str
    best: float | None
    third: Loss | None
    thrice: Loss | None
    sentence: str


def sensitivity(trials: pd.DataFrame, arch: str) -> Sensitivity:
    """What is lost at 3 times and at 1/3 of the best tried learning rate.

    From the tried rate nearest to it if that is within 26 % (a tenth of a decade), paired by seed;
    else from the parabola of `optimum`, if the rate lies within its rates. A rate with a diverged
    seed counts as diverged.

    Raises:
        ValueError: no trial of this architecture has an outcome, or see `lr_table`.
    """
    ranked = _ranked(trials, arch)
    if ranked.iloc[0]["diverged"]:
        sentence = f"{arch}: every learning rate diverged on at least one seed."
        return Sensitivity(arch, None, None, None, sentence)
    best = float(ranked.iloc[0]["lr"])
    third, thrice = (_loss(trials, arch, ranked, best, factor) for factor in (1 / 3, 3))
    sentence = (
        f"{arch}: against the best, {best:g}, a third: {third.words}; thrice: {thrice.words}."
    )
    return Sensitivity(arch, best, third, thrice, sentence)


def _loss(
    trials: pd.DataFrame, arch: str, ranked: pd.DataFrame, best: float, factor: float
) -> Loss:
    wanted = best * factor
    distance = np.abs(np.log10(ranked["lr"] / wanted))
    nearest = ranked.loc[distance.idxmin()]
    if distance.min() <= 0.1:
        lr = float(nearest["lr"])
        for trouble in ("diverged", "stopped"):
            if nearest[trouble]:
                return Loss(lr, trouble)
        losses = _paired_differences(trials, arch, best, lr, "bits_per_byte")
        if len(losses):
            gains = _paired_differences(trials, arch, best, lr, "macro")
            macro = -float(gains.mean()) if len(gains) else None
            return Loss(lr, "tried", float(losses.mean()), macro, len(losses))
    fit = optimum(trials, arch)
    if fit.fitted is not None and fit.fitted[0] <= wanted <= fit.fitted[1]:
        return Loss(wanted, "fit", fit.at(wanted) - fit.at(best))
    return Loss(wanted, "not tried")


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


def _ranked(trials: pd.DataFrame, arch: str) -> pd.DataFrame:
    """The rows of `lr_table` of one architecture, best first."""
    table = lr_table(trials)
    ranked = table[table["arch"] == arch]
    if ranked.empty:
        known = ", ".join(sorted(table["arch"].unique())) or "none"
        raise ValueError(f"no completed trial of architecture {arch!r}: there are those of {known}")
    return ranked


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
    trials: pd.DataFrame, arch: str, best: float, other: float, column: str
) -> np.ndarray:
    """Other minus best by seed, for the seeds that finished with both and have the figure."""
    done = completed(trials)
    done = done[(done["arch"] == arch) & (done["outcome"] == "finished")]
    if column not in done:
        return np.array([])
    by_seed = done.pivot(index="seed", columns="lr", values=column)
    pairs = by_seed.reindex(columns=[best, other]).astype(float).dropna()
    return (pairs[other] - pairs[best]).to_numpy(dtype=float)
