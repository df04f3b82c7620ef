"""How good is the best value of an axis, the learning rate above all, and how sure is that.

The functions take frames as `analysis.points` does. Where trials of an architecture differ along
several axes, they look along one of them, through the best point (`points.along`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.paired import Pair, learnt_from, mean_interval, pairs_of_points, spread_of_pairs
from analysis.parabola import Parabola
from analysis.points import along, at, completed, is_best, point_table, varied
from analysis.schema.axes import LR, Axis, Edge, short
from analysis.shared_spread import SharedSpread
from analysis.wording import count

_IN_WORDS = {"not tried": "was not tried", "diverged": "diverged", "stopped": "was stopped early"}


@dataclass(frozen=True)
class RateComparison:
    """The best value of an axis for an architecture against the runner-up.

    Attributes:
        arch: the architecture.
        best: the best value; None where none is (`points.is_best`).
        runner_up: the second best; None when there is none.
        seeds: seeds on which both were trained to the end.
        difference: mean over these seeds of runner-up minus best, bits/byte; positive favours
            the best; None without a common seed.
        interval: 95 % t interval of the mean difference; None with fewer than two seeds.
        sentence: the same in words.
    """

    arch: str
    best: Any
    runner_up: Any
    seeds: int
    difference: float | None
    interval: tuple[float, float] | None
    sentence: str


def compare_best(trials: pd.DataFrame, arch: str, axis: Axis = LR) -> RateComparison:
    """Compare the two best values of an axis for an architecture, paired by seed.

    Pairing removes what a seed does to both (data order, to some extent initialisation). The best
    value was chosen on the very figures compared, so the interval is somewhat optimistic. How much
    a difference varies over seeds is learnt from pairs of points of all architectures in `trials`.

    Raises:
        ValueError: no trial of this architecture has an outcome, or see `point_table`.
    """
    ranked = _ranked(trials, arch, axis)
    best, label = ranked.iloc[0][axis.field], axis.label
    if not is_best(ranked.iloc[0]):
        advice = "try lower ones" if axis == LR else "try lower learning rates"
        sentence = _none_is_best(ranked.iloc[0], arch, label, advice)
        return RateComparison(arch, None, None, 0, None, None, sentence)
    if len(ranked) == 1:
        sentence = f"{arch}: {axis.show(best)} is the only {label} tried: others may be better."
        return RateComparison(arch, best, None, 0, None, None, sentence)
    second = ranked.iloc[1]
    runner_up = second[axis.field]
    lead = f"{arch}: {axis.show(best)} is the best {label}; the next, {axis.show(runner_up)},"
    if second["diverged"]:
        seeds = count(int(second["seeds"]), "seed")
        sentence = f"{lead} diverged on {second['diverged']} of {seeds}."
        return RateComparison(arch, best, runner_up, 0, None, None, sentence)
    if second["stopped"]:
        sentence = f"{lead} was stopped early because it was behind."
        return RateComparison(arch, best, runner_up, 0, None, None, sentence)
    pair = _pair(trials, arch, best, runner_up, axis=axis)
    shared = spread_of_pairs(pair, pairs_of_points(trials))
    return _compare(arch, axis, best, runner_up, pair.differences, shared)


def _none_is_best(first: pd.Series, arch: str, label: str, advice: str = "") -> str:
    """Of the row that ranks first."""
    if first["diverged"]:
        then = f"; {advice}" if advice else ""
        return f"{arch}: every {label} diverged on at least one seed{then}."
    return (
        f"{arch}: no {label} is the best yet: each diverged on a seed or was stopped early on all."
    )


def _compare(
    arch: str,
    axis: Axis,
    best: Any,
    runner_up: Any,
    differences: np.ndarray,
    shared: SharedSpread,
) -> RateComparison:
    seeds = len(differences)
    first = axis.show(best) if axis == LR else f"{axis.label} {axis.show(best)}"
    second = axis.show(runner_up)
    if seeds == 0:
        sentence = (
            f"{arch}: {first} is ahead of {second}, but on different seeds, which cannot be "
            "compared; train both on the same --seeds."
        )
        return RateComparison(arch, best, runner_up, 0, None, None, sentence)
    mean = float(differences.mean())
    if mean <= 0:  # the values were trained on different seeds besides the common ones
        sentence = (
            f"{arch}: {first} has the lowest mean over its seeds, but on those that both have "
            f"({seeds}) {second} is not behind; train both on the same --seeds."
        )
        return RateComparison(arch, best, runner_up, seeds, mean, None, sentence)
    lead = f"{arch}: {first} is ahead of {second} by {mean:.4f} bits/byte"
    if seeds == 1:
        sentence = (
            f"{lead} on one seed: the spread over seeds is unknown, so this may be chance; "
            "add --seeds to find out."
        )
        return RateComparison(arch, best, runner_up, 1, mean, None, sentence)
    low, high = mean_interval(differences, shared)
    learnt = learnt_from(shared, "pair of points", "pairs of points")
    verdict = (
        "the interval excludes zero"
        if low > 0
        else "the interval includes zero, so either may be the better"
    )
    sentence = (
        f"{lead} (95 % interval {low:.4f} to {high:.4f}, paired over "
        f"{count(seeds, 'seed')}{learnt}): {verdict}."
    )
    return RateComparison(arch, best, runner_up, seeds, mean, (low, high), sentence)


def edge_of_grid(values: Iterable[Any], best: Any, axis: Axis = LR) -> Edge | None:
    """Whether the best value is the lowest ("low") or highest ("high") tried, so that better may
    lie beyond.

    None inside, at a bound of the axis, when only one value was tried, or without an order.

    Raises:
        ValueError: `best` is not among the values.
    """
    grid = sorted(set(values))
    if best not in grid:
        listed = ", ".join(map(axis.show, grid))
        raise ValueError(
            f"the best {axis.label} {axis.show(best)} is not among those tried: {listed}"
        )
    if len(grid) == 1 or not axis.scale:
        return None
    if axis.is_bound(best):
        return None
    return "low" if best == grid[0] else "high" if best == grid[-1] else None


def open_edge(trials: pd.DataFrame, arch: str, axis: Axis = LR) -> str:
    """A sentence where the best value of an axis is the last one that was tried, else "".

    Where trials beyond it have begun and not ended, the sentence says so: the grid is being
    extended, and nothing needs to be added.

    Raises:
        ValueError: see `compare_best`.
    """
    first = _ranked(trials, arch, axis).iloc[0]
    if not is_best(first):
        return ""
    best, mine = first[axis.field], trials[trials["arch"] == arch]
    curve = along(mine, axis)
    edge = edge_of_grid(curve[axis.field], best, axis)
    if edge is None:
        return ""
    others = [other.field for other in varied(mine) if other != axis]
    begun = at(mine[mine["outcome"].isna()], curve.iloc[0][others].to_dict())[axis.field]
    beyond = sorted(begun[begun > best if edge == "high" else begun < best].unique())
    direction = "higher" if edge == "high" else "lower"
    lead = f"{arch}: the best {axis.label}, {axis.show(best)}, is the {direction[:-2]}est"
    if beyond:
        values = ", ".join(map(axis.show, beyond))
        return f"{lead} that has ended; {values}, begun and not ended yet, may be better."
    return f"{lead} tried; the optimum may lie {direction}. Add {axis.flag} beyond it."


@dataclass(frozen=True)
class Optimum:
    """Minimum of the parabola through the rates around the best one.

    Attributes:
        arch: the architecture.
        lr: the rate there; None without one among the rates of the fit.
        interval: 95 % interval of it, which may reach beyond these; None where nothing bounds it.
        bits_per_byte: of the parabola there; None with `lr`.
        coefficients: a, b, c of bits/byte = a + b x + c x^2, x = log10(lr), for the mean of the
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
    """Fit a parabola in log LR to validation bits/byte, and find its minimum.

    By least squares, to the trials at rates from a tenth to ten times the best one, without rates
    at which a seed diverged or was stopped: its other seeds are the lucky ones. A seed may shift
    the whole parabola. The interval holds the rates at which the slope does not differ
    significantly from zero, judged by what the fit leaves unexplained (see `Parabola.interval`).

    Raises:
        ValueError: no trial of this architecture has an outcome, or see `point_table`.
    """
    trials = along(trials, LR)
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
        sentence = (
            f"{arch}: the fitted parabola's minimum lies {side} {short(edge)}, its last rate."
        )
        return replace(known, sentence=sentence)
    interval = fit.interval
    sentence = (
        f"{arch}: by a parabola through {short(low)} to {short(high)} the optimum is {_two(lr)}"
    )
    if interval is not None:
        sentence += f" (95 % interval {_two(interval[0])} to {_two(interval[1])})."
    elif fit.degrees < 1:
        sentence += "; as few points as these fit any parabola, so nothing tells how sure that is."
    else:
        sentence += "; the curve is too flat for its noise to give an interval."
    return replace(known, lr=lr, interval=interval, bits_per_byte=known.at(lr), sentence=sentence)


@dataclass(frozen=True)
class RateCost:
    """Cost of a learning rate away from the best one.

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
            return f"{_two(self.lr)} {_IN_WORDS[self.source]}"
        text = f"{self.bits_per_byte:+.4f} bits/byte"
        if self.macro is not None:
            text += f" and {-self.macro:+.2f} points"
        how = "by the fit" if self.source == "fit" else f"tried on {count(self.seeds, 'seed')}"
        return f"{text} at {_two(self.lr)} ({how})"


@dataclass(frozen=True)
class Sensitivity:
    """Costs of three times and of a third of the best learning rate.

    Attributes:
        arch: the architecture.
        best: its best rate; None where none is (`points.is_best`).
        third, thrice: the losses; None with `best`.
        sentence: the same in words.
    """

    arch: str
    best: float | None
    third: RateCost | None
    thrice: RateCost | None
    sentence: str


def sensitivity(trials: pd.DataFrame, arch: str) -> Sensitivity:
    """Estimate the loss at 3 times and at 1/3 of the best tried learning rate.

    From the tried rate nearest to it if that is within 26 % (a tenth of a decade), paired by seed;
    else from the parabola of `optimum`, if the rate lies within its rates. A rate with a diverged
    seed counts as diverged.

    Raises:
        ValueError: no trial of this architecture has an outcome, or see `point_table`.
    """
    ranked = _ranked(trials, arch)
    if not is_best(ranked.iloc[0]):
        sentence = _none_is_best(ranked.iloc[0], arch, "learning rate")
        return Sensitivity(arch, None, None, None, sentence)
    best = float(ranked.iloc[0]["lr"])
    third, thrice = (_loss(trials, arch, ranked, best, factor) for factor in (1 / 3, 3))
    sentence = (
        f"{arch}: beside the best rate, {short(best)}: a third of it, {third.words}; three times "
        f"it, {thrice.words}."
    )
    return Sensitivity(arch, best, third, thrice, sentence)


def _loss(
    trials: pd.DataFrame, arch: str, ranked: pd.DataFrame, best: float, factor: float
) -> RateCost:
    wanted = best * factor
    distance = np.abs(np.log10(ranked["lr"] / wanted))
    nearest = ranked.loc[distance.idxmin()]
    if distance.min() <= 0.1:
        lr = float(nearest["lr"])
        for trouble in ("diverged", "stopped"):
            if nearest[trouble]:
                return RateCost(lr, trouble)
        losses = _pair(trials, arch, best, lr).differences
        if len(losses):
            gains = _pair(trials, arch, best, lr, "macro").differences
            macro = -float(gains.mean()) if len(gains) else None
            return RateCost(lr, "tried", float(losses.mean()), macro, len(losses))
    fit = optimum(trials, arch)
    if fit.fitted is not None and fit.fitted[0] <= wanted <= fit.fitted[1]:
        return RateCost(wanted, "fit", fit.at(wanted) - fit.at(best))
    return RateCost(wanted, "not tried")


def _two(lr: float) -> str:
    """A rate that was computed: two digits of it mean something."""
    return short(float(f"{lr:.2g}"))


def _ranked(trials: pd.DataFrame, arch: str, axis: Axis = LR) -> pd.DataFrame:
    """The rows of `point_table` of one architecture along an axis, best first."""
    table = point_table(along(trials, axis))
    ranked = table[table["arch"] == arch]
    if ranked.empty:
        known = ", ".join(sorted(table["arch"].unique())) or "none"
        raise ValueError(f"no completed trial of architecture {arch!r}: there are those of {known}")
    return ranked


def _pair(
    trials: pd.DataFrame,
    arch: str,
    best: Any,
    other: Any,
    column: str = "bits_per_byte",
    axis: Axis = LR,
) -> Pair:
    """Other minus best by seed, for the seeds that finished with both and have the figure."""
    done = completed(along(trials, axis))
    done = done[done["outcome"] == "finished"]
    first, second = (at(done, {"arch": arch, axis.field: value}) for value in (best, other))
    return Pair.of(first, second, column)
