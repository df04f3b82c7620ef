"""What a trial has measured so far, and how it ended."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from analysis.benchmarks.suite import Scores
from analysis.schema.ranges import LARGEST_SEED, MOST, check, within

_ENDS = ("finished", "diverged", "stopped")


@dataclass(frozen=True)
class EpochReport:
    """The measurements of one finished epoch.

    Attributes:
        epoch: 1-based.
        step: optimizer steps taken so far.
        tokens: training tokens seen so far.
        train_loss: mean cross-entropy over the epoch, nats a token.
        val_loss: mean cross-entropy on the validation text, nats a token.
        bits_per_byte: validation nats / (ln 2 x UTF-8 bytes): comparable between tokenizers.
        seconds: training and evaluation time of this epoch.
        train_seconds: of it, the time spent in optimizer steps.
        scores: zero-shot scores (`SuiteScores.to_dict()`), or None without benchmarks.
    """

    epoch: int = within(1, MOST)
    step: int = within(0, MOST)
    tokens: int = within(0, LARGEST_SEED)
    # Below 0 by a rounding of the divergence from a teacher.
    train_loss: float = within(-MOST, MOST)
    val_loss: float = within(0, MOST)
    bits_per_byte: float = within(0, MOST)
    seconds: float = within(0, MOST)
    train_seconds: float = within(0, MOST)
    scores: Scores | None = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def macro(self) -> float | None:
        """Mean of the zero-shot benchmarks in percent, or None without one that counts for it."""
        return None if self.scores is None else self.scores["macro"]


@dataclass
class TrialProgress:
    """The state of a trial: its position, and what its finished epochs measured.

    Attributes:
        step: optimizer steps taken.
        epoch_nats: training nats summed over the epoch so far (float64).
        epoch_tokens: training tokens in `epoch_nats`.
        epoch_train_seconds: wall time of the optimizer steps of the epoch so far.
        history: one report for each finished epoch.
        has_digests: whether it was read from a checkpoint whose files have digests.
    """

    step: int = within(0, MOST, default=0)
    epoch_nats: float = 0.0
    epoch_tokens: int = within(0, LARGEST_SEED, default=0)
    epoch_train_seconds: float = within(0, MOST, default=0.0)
    history: list[EpochReport] = field(default_factory=list)
    has_digests: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        check(self)

    @property
    def best(self) -> EpochReport | None:
        """See `best_epoch`."""
        return best_epoch(self.history)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TrialOutcome:
    """The end of a trial: "finished", "diverged" or "stopped" (by the scheduler)."""

    kind: str
    history: tuple[EpochReport, ...]
    checkpoint: str | None
    """Name of the best epoch's checkpoint folder, None when no epoch was finished."""
    reason: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _ENDS:
            raise ValueError(f"a trial ends as one of {', '.join(_ENDS)}, not {self.kind!r}")
        if self.kind != "diverged" and not self.history:
            raise ValueError(f"a {self.kind} trial has one epoch or more")

    @property
    def best(self) -> EpochReport | None:
        """See `best_epoch`."""
        return best_epoch(self.history)

    @property
    def score(self) -> float:
        """Lowest validation bits per byte of all epochs; infinite for a diverged trial."""
        if self.kind == "diverged":
            return math.inf
        return min(report.bits_per_byte for report in self.history)


def best_epoch(history: Iterable[EpochReport]) -> EpochReport | None:
    """The epoch with the lowest validation loss, the earliest of equals."""
    return min(history, key=lambda report: report.val_loss, default=None)
