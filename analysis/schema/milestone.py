"""What is measured of a model on the way, as trials keep it and MLflow holds it."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.benchmarks.suite import Scores
from analysis.schema.ranges import MOST, check, within


@dataclass(frozen=True)
class MilestoneReport:
    """The measurements after so many words.

    Attributes:
        val_loss: mean cross-entropy on the validation text, nats a token; None in the records of an
            older version, which did not measure it.
        bits_per_byte: validation nats / (ln 2 x UTF-8 bytes); None likewise.
        scores: zero-shot scores (`SuiteScores.to_dict()`), of this version without the values of
            single items: those of thirty models are much to write, and the models are kept. None
            without benchmarks.
        group_errors: standard errors over items of the scores' `groups`, percentage points.
    """

    val_loss: float | None = within(0, MOST, default=None)
    bits_per_byte: float | None = within(0, MOST, default=None)
    scores: Scores | None = None
    group_errors: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)
