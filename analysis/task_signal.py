"""How well a task tells architectures apart: its signal and its noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from analysis.inference import Estimate


@dataclass(frozen=True)
class TaskSignal:
    """What architectures score on a task, apart from each other and from themselves.

    Attributes:
        signal: standard deviation of the architectures' mean scores, percentage points.
        noise: root mean square of the means' standard errors, over other seeds and other items (of
            an architecture with one seed over items only), percentage points.
    """

    signal: float
    noise: float

    @classmethod
    def of(cls, estimates: Sequence[Estimate]) -> TaskSignal | None:
        """Of one estimate for each architecture; None for fewer than two."""
        if len(estimates) < 2:
            return None
        squares = [one.standard_error**2 for one in estimates]
        return cls(stdev(one.mean for one in estimates), math.sqrt(fmean(squares)))

    @property
    def ratio(self) -> float:
        """Signal over noise.

        About 1, or less, is what architectures that are all alike show: the noise of seeds and
        items alone sets their means as far apart (less, since they share the items). NaN where
        there is neither.
        """
        if self.noise == 0:
            return math.inf if self.signal else math.nan
        return self.signal / self.noise
