"""The architectures that a report compares, each at its choice of learning rate and epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.inference import Estimate, estimate
from analysis.reporting.page import Cell
from analysis.reporting.sections.common import ReportContext, with_spread
from analysis.samples import Chance, Scores, benchmarks_of, chance, sample
from analysis.selection import Selection


@dataclass(frozen=True)
class Contender:
    """An architecture at its choice: scores of its seeds, and what they estimate, by benchmark."""

    choice: Selection
    scores: list[Scores]
    held_out: dict[str, Estimate]
    full: dict[str, Estimate]
    chance: dict[str, Chance]

    @classmethod
    def of(cls, context: ReportContext, choice: Selection) -> Contender:
        """Estimates of all benchmarks, on the held-out items and on all."""
        scores = context.scores_of(choice)
        names = benchmarks_of(scores[0]) if scores else ()
        return cls(
            choice,
            scores,
            {
                name: estimate(sample(scores, name, "held_out"), context.shared(f"held_out_{name}"))
                for name in names
            },
            {name: estimate(sample(scores, name, "all")) for name in names},
            {name: chance(scores[0], name, "held_out") for name in names},
        )

    @property
    def run_ids(self) -> list[str]:
        """MLflow runs of its seeds."""
        return list(self.choice.trials["run_id"])

    @property
    def loss(self) -> float:
        """Mean validation bits/byte over its seeds."""
        return self.choice.mean("bits_per_byte")

    @property
    def order(self) -> tuple[float, float]:
        """Key that sorts the best first: by macro on held-out items, then by loss."""
        macro = self.held_out["macro"].mean if "macro" in self.held_out else -math.inf
        return -macro, self.loss

    def is_above_chance(self, benchmark: str) -> bool:
        """Whether its score is above the interval of a model that guesses."""
        return self.chance[benchmark].is_below(self.held_out[benchmark].mean)

    def score(self, name: str, link: str) -> Cell:
        """The cell of a benchmark; a dash where it was not scored."""
        if name not in self.held_out:
            return Cell("-")
        found = self.held_out[name]
        mark = "chance" if self.chance[name].holds(found.mean) else ""
        return with_spread(found.mean, found.seed_sd, 1, link=link, mark=mark)


def contenders_of(context: ReportContext) -> list[Contender]:
    """All of them, the best first: by macro, or by loss where no macro is above chance."""
    found = [Contender.of(context, choice) for choice in context.choices.values()]
    if no_macro_above_chance(found):
        return sorted(found, key=lambda contender: contender.loss)
    return sorted(found, key=lambda contender: contender.order)


def no_macro_above_chance(contenders: Sequence[Contender]) -> bool:
    """Whether there are macros, and guessing may reach each: then they name no winner."""
    scored = [contender for contender in contenders if "macro" in contender.held_out]
    return bool(scored) and not any(contender.is_above_chance("macro") for contender in scored)
