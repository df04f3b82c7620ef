"""What a plan of trials is, and the searcher that hands the trials of plans to Ray Tune.

A plan varies the seed and some axes (`analysis.schema.axes`) of one spec. It hands out specs and is
told their scores; it keeps no state on disk: told the finished trials of an interrupted sweep, it
goes on where that stood.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Protocol

from ray.tune.search import Searcher

from trainables.spec import TrialSpec

Values = Mapping[str, Sequence[Any]]
"""By axis (`analysis.schema.axes`), the values to try."""


def variants(base: TrialSpec, values: Values, axes: Iterable[str]) -> list[TrialSpec]:
    """A spec with each combination of the values of these axes; of one without, with its own."""
    given = {name: values.get(name) or [getattr(base, name)] for name in axes}
    return [
        base.replace(**dict(zip(given, each, strict=True))) for each in product(*given.values())
    ]


class Plan(Protocol):
    """The order in which trials are tried."""

    @property
    def values(self) -> Values:
        """The values that are known to be tried; none of an axis whose values are searched."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to hand out, now or after further results."""

    def ask(self) -> TrialSpec | None:
        """The next trial, or None when there is none before further results."""

    def tell(self, spec: TrialSpec, score: float) -> None:
        """The score of a finished trial, lower is better; infinite for a diverged one."""

    def remaining(self) -> int:
        """Trials still to be trained as far as known, those handed out included."""


class SweepSearch(Searcher):
    """Hands the trials of several plans to Ray Tune, one plan after the other."""

    def __init__(self, plans: Mapping[str, Plan]) -> None:
        super().__init__(metric="best_bits_per_byte", mode="min")
        self._plans = plans
        self.given: dict[str, TrialSpec] = {}
        self._owners: dict[str, str] = {}
        self._asked_for = {name: {**plan.values} for name, plan in plans.items()}

    def suggest(self, trial_id: str) -> Any:
        """A config {"spec": fields}, None for "not now", or FINISHED."""
        for name, plan in self._plans.items():
            spec = plan.ask()
            if spec is not None:
                self.given[trial_id] = spec
                self._owners[trial_id] = name
                return {"spec": spec.to_dict()}
        if all(plan.finished for plan in self._plans.values()):
            return Searcher.FINISHED
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the trial's plan its best validation bits per byte."""
        lost = error or result is None or result.get("diverged", 1)
        score = math.inf if lost or result is None else float(result["best_bits_per_byte"])
        self._plans[self._owners[trial_id]].tell(self.given[trial_id], score)

    def beyond(self, trial_id: str) -> list[str]:
        """The axes on which a trial has a value that was added since, beyond those asked for."""
        spec, asked_for = self.given[trial_id], self._asked_for[self._owners[trial_id]]
        return [name for name, values in asked_for.items() if getattr(spec, name) not in values]

    def remaining(self) -> int:
        """Trials known to be still to come, running ones included."""
        return sum(plan.remaining() for plan in self._plans.values())

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the plans are rebuilt from the study's folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the plans are rebuilt from the study's folder."""
