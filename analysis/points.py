"""How good is each point that a sweep tried, and which is best.

A point is a learning rate, together with a value of each further axis (`analysis.schema.axes`)
along which trials of an architecture differ. The functions take the frame of `runs.trials`, or any
with the columns `arch`, `lr`, `seed`, `outcome` and `bits_per_byte` (and `macro`, and further
axes), one row per architecture, point and seed.

Rules. The point with the least mean validation bits/byte over seeds is the best one. A diverged
trial counts as infinitely bad, so a point with a diverged seed ranks after all points without,
whatever its other seeds did. A point with a seed that the scheduler stopped early ranks between
them, and one of which no seed finished behind those of which one did: its figure is that of a
shorter training. A point with a diverged seed or without a finished one is never the best, also
where nothing ranks before it (`is_best`). Trials without an outcome yet are left out. Points are
ranked on the seeds that were tried at the most of them: further seeds of the one that was chosen
must not change the choice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from analysis.schema.axes import AXES, LR, Axis, in_words
from analysis.wording import count

Point = TypeVar("Point")
_FIGURES = ("arch", "seed", "outcome", "bits_per_byte", "macro")


def varied(trials: pd.DataFrame) -> tuple[Axis, ...]:
    """The axes along which trials of one architecture differ; the learning rate always."""
    archs = list(trials["arch"])
    others = [
        axis
        for name, axis in AXES.items()
        if axis != LR and name in trials and _differ_within(archs, trials[name])
    ]
    return (LR, *others)


def _differ_within(groups: list[str], column: pd.Series) -> bool:
    """Whether a group has two values, missing ones apart; asked so often that pandas is slow."""
    first: dict[str, Any] = {}
    known = zip(groups, column.tolist(), column.notna(), strict=True)
    return any(
        first.setdefault(group, value) != value for group, value, is_there in known if is_there
    )


def uneven(trials: pd.DataFrame) -> list[str]:
    """A sentence on how many values of each axis and how many seeds the architectures had, where
    these differ: one with more draws had more chances to be good. None at all where they do not.

    Seeds count where points were ranked on them: further ones of the chosen point are no chance.
    """
    trials = trials[trials["outcome"].notna()]
    if trials.empty:
        return []
    by_arch = trials.groupby("arch", sort=False)
    draws = {axis.label: by_arch[axis.field].nunique() for axis in varied(trials)}
    draws["seed"] = on_common_seeds(trials).groupby("arch")["seed"].nunique()
    differing = {name: numbers for name, numbers in draws.items() if numbers.nunique() > 1}
    if not differing:
        return []
    had: dict[str, list[str]] = {}
    for arch in by_arch.groups:
        numbers = [count(int(each[arch]), name) for name, each in differing.items()]
        had.setdefault(", ".join(numbers), []).append(str(arch))
    parts = "; ".join(f"{numbers} for {', '.join(archs)}" for numbers, archs in had.items())
    return [
        f"The architectures had unequal numbers of tries ({parts}): the best of more tries is "
        "better by chance alone, so a lead may come from that; give all of them the same."
    ]


def point_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of every point, best first within each architecture.

    Columns: `arch`, `lr` and the further axes, `seeds` (trials with an outcome), `diverged`,
    `stopped` (how many of them), `bits_per_byte` (mean; infinite where a seed diverged),
    `bits_per_byte_sd`, `macro`, `macro_sd` (percent), `rank` (1 = best of its architecture). All
    but the mean bits/byte are over the seeds that did not diverge; standard deviations are of
    a sample, NaN for one seed.

    Raises:
        ValueError: several trials share architecture, point and seed: they differ in something
            else, and their mean would be of unlike things.
    """
    done = completed(trials.filter([*_FIGURES, *AXES]))  # to choose rows of many columns takes long
    point = ["arch", *(axis.field for axis in varied(done))]
    rows: dict[Any, dict[str, Any]] = {}
    figures: dict[str, dict[Any, dict[int, float]]] = {}
    for key, group in done.groupby(point):
        rows[key] = _row(group, point)
        seeds = dict(zip(group["seed"], group["bits_per_byte"], strict=True))
        figures.setdefault(rows[key]["arch"], {})[key] = seeds
    stopped = {key: row["stopped"] / row["seeds"] for key, row in rows.items()}
    best_first = [rows[key] for points in figures.values() for key in ranked(points, stopped)]
    columns = [*point, "seeds", "diverged", "stopped"]
    columns += ["bits_per_byte", "bits_per_byte_sd", "macro", "macro_sd"]
    table = pd.DataFrame(best_first, columns=columns)
    return table.assign(rank=table.groupby("arch").cumcount() + 1)


def ranked(
    figures: Mapping[Point, Mapping[int, float]], stopped: Mapping[Point, float] | None = None
) -> list[Point]:
    """Points, best first, by the rules at the head of this module; of equals as they came.

    Args:
        figures: of each point by seed, bits/byte, infinite for a diverged trial.
        stopped: of each point, which share of its seeds was stopped early; none by default.
    """
    tried = Counter(chain.from_iterable(figures.values()))
    common = {seed for seed, number in tried.items() if number == max(tried.values())}

    def key(point: Point) -> tuple[bool, bool, bool, float]:
        seeds = figures[point]
        compared = [figure for seed, figure in seeds.items() if seed in common]
        diverged = not all(map(math.isfinite, seeds.values()))
        share = (stopped or {}).get(point, 0.0)
        # After the others where it was tried on other seeds only.
        return diverged, share == 1, share > 0, fmean(compared) if compared else math.inf

    return sorted(figures, key=key)


def on_common_seeds(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials of the seeds that were tried at the most points, for each architecture."""
    points = point_keys(trials).groupby([trials["arch"], trials["seed"]]).transform("nunique")
    return trials[points == points.groupby(trials["arch"]).transform("max")]


def point_keys(trials: pd.DataFrame) -> pd.Series:
    """One text for each trial, equal for those of one architecture at one point."""
    names = ["arch", *(axis.field for axis in varied(trials))]
    texts = [" ".join(map(str, row)) for row in trials[names].to_numpy()]
    return pd.Series(texts, index=trials.index, dtype=object)


def is_best(row: Mapping[str, Any]) -> bool:
    """Whether a row of `point_table` is the best point of its architecture: the first one, if none
    of its seeds diverged and one finished."""
    return bool(row["rank"] == 1 and not row["diverged"] and row["stopped"] < row["seeds"])


def best_points(trials: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The best point of each architecture that has one (`is_best`), by axis."""
    names = [axis.field for axis in varied(completed(trials))]
    best = filter(is_best, point_table(trials).to_dict("records"))
    return {row["arch"]: {name: row[name] for name in names} for row in best}


def at(trials: pd.DataFrame, point: Mapping[str, Any]) -> pd.DataFrame:
    """The trials with these values, by axis."""
    fits = np.ones(len(trials), dtype=bool)
    for name, value in point.items():
        fits &= (trials[name] == value).to_numpy(dtype=bool, na_value=False)
    return trials[fits]


def along(trials: pd.DataFrame, *axes: Axis) -> pd.DataFrame:
    """The trials with an outcome that share their other axes with the first of `point_table`.

    Of each architecture: a curve through its best point for one axis, a plane for two.
    """
    trials = trials[trials["outcome"].notna()]
    names = [axis.field for axis in varied(trials) if axis not in axes]
    table = point_table(trials)
    rows = table[table["rank"] == 1].to_dict("records")
    parts = [at(trials, {"arch": row["arch"], **{n: row[n] for n in names}}) for row in rows]
    return pd.concat(parts) if parts else trials


def has_plane(trials: pd.DataFrame, *axes: Axis) -> bool:
    """Whether trials have several values of each axis, and a loss to show."""
    several = all(trials[axis.field].nunique() > 1 for axis in axes)
    return several and bool((completed(trials)["outcome"] != "diverged").any())


def completed(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials with an outcome, each a figure: infinite bits/byte where there is no finite one.

    A trial that ended without a finite figure counts as diverged, whatever its outcome says.

    Raises:
        ValueError: several trials share architecture, point and seed.
    """
    done = trials[trials["outcome"].notna()]
    repeated = done[done.duplicated(["arch", *(axis.field for axis in varied(done)), "seed"])]
    if not repeated.empty:
        first = repeated.iloc[0]
        point = in_words({axis.field: first[axis.field] for axis in varied(done)})
        raise ValueError(
            f"several trials of {first['arch']} with learning rate {point} and seed "
            f"{first['seed']}: they differ in size, corpus, epochs or another setting; keep "
            "one before comparing"
        )
    figure = done["bits_per_byte"].astype(float)
    good = (done["outcome"] != "diverged") & np.isfinite(figure)
    outcome = done["outcome"].where(good, "diverged")
    return done.assign(outcome=outcome, bits_per_byte=figure.where(good, math.inf))


def _row(group: pd.DataFrame, point: list[str]) -> dict[str, Any]:
    # Of arrays: pandas takes a hundred times as long for each of so many small groups.
    values = {name: group[name].to_numpy() for name in (*point, "bits_per_byte")}
    outcomes = list(group["outcome"])
    survived = np.array([outcome != "diverged" for outcome in outcomes])
    bits_per_byte = values["bits_per_byte"]
    macro = group["macro"].to_numpy(dtype=float)[survived] if "macro" in group else np.empty(0)
    macro = macro[~np.isnan(macro)]
    return {
        **{name: values[name][0] for name in point},
        "seeds": len(outcomes),
        "diverged": len(outcomes) - int(survived.sum()),
        "stopped": outcomes.count("stopped"),
        "bits_per_byte": bits_per_byte.mean(),
        "bits_per_byte_sd": _deviation(bits_per_byte[survived]),
        "macro": macro.mean() if len(macro) else math.nan,
        "macro_sd": _deviation(macro),
    }


def _deviation(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
