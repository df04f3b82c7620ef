"""A parabola through figures at several learning rates, by least squares, and its minimum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.variances import CONFIDENCE

_MOST_DECADES = 6.0


@dataclass(frozen=True)
class Parabola:
    """Figure = intercept + slope z + bend z^2, z = log10(lr) - centre.

    Attributes:
        centre: mean log10 of the rates.
        intercept, slope, bend: see above; the intercept is the mean over seeds.
        covariance: (2, 2), of slope and bend.
        degrees: degrees of freedom of the covariance; 0 where there are as many points as unknowns.
    """

    centre: float
    intercept: float
    slope: float
    bend: float
    covariance: np.ndarray
    degrees: int

    @classmethod
    def fit(cls, lrs: np.ndarray, seeds: np.ndarray, figures: np.ndarray) -> Parabola | None:
        """Fit (points,) figures; a seed may shift the whole parabola.

        None where the points do not determine it.
        """
        if not len(figures):
            return None
        x = np.log10(lrs)
        z = x - x.mean()
        names = np.unique(seeds)
        matrix = np.column_stack([seeds[:, None] == names, z, z**2]).astype(float)
        solution, _, rank, _ = np.linalg.lstsq(matrix, figures, rcond=None)
        if rank < matrix.shape[1]:
            return None
        degrees = len(figures) - int(rank)
        noise = float(((figures - matrix @ solution) ** 2).sum()) / max(degrees, 1)
        covariance = noise * np.linalg.inv(matrix.T @ matrix)[-2:, -2:]
        intercept = float(solution[: len(names)].mean())
        slope, bend = (float(value) for value in solution[-2:])
        return cls(float(x.mean()), intercept, slope, bend, covariance, degrees)

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """Coefficients of 1, x and x^2, where x = log10(lr)."""
        centre, slope, bend = self.centre, self.slope, self.bend
        return (
            self.intercept - slope * centre + bend * centre**2,
            slope - 2 * bend * centre,
            bend,
        )

    @property
    def minimum(self) -> float | None:
        """The rate at the minimum; None without one."""
        return self._rate(-self.slope / (2 * self.bend)) if self.bend > 0 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the minimum: the rates at which the slope does not differ significantly
        from zero (Fieller 1954, J. R. Stat. Soc. B 16:175).

        Its ends solve (slope + 2 bend z)^2 = t^2 * variance of the left side's root. None where
        the bend is not significant, so that there are no ends, or hardly, so that they lie six
        decades apart or more; or where no degree of freedom is left.
        """
        if self.degrees < 1:
            return None
        square = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.degrees)) ** 2
        (of_slope, of_both), (_, of_bend) = self.covariance
        a = 4 * (self.bend**2 - square * of_bend)
        half_b = 2 * (self.slope * self.bend - square * of_both)
        c = self.slope**2 - square * of_slope
        if a <= 0:
            return None
        root = math.sqrt(max(half_b**2 - a * c, 0.0))
        if root / a > _MOST_DECADES / 2:
            return None
        return self._rate((-half_b - root) / a), self._rate((-half_b + root) / a)

    def _rate(self, z: float) -> float:
        return float(10 ** (self.centre + z))
