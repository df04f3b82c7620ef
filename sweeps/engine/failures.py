"""Failures of a trial that its process explains; to import this costs nothing."""

from __future__ import annotations

from typing import Any

HOPELESS = "hopeless"
"""In a report of a trial: why it fails, and would fail again."""

_WORST = 1e6
"""Bits per byte: finite, so that Tune takes it."""


class TrialFailure(RuntimeError):
    """The end of a trial without an outcome.

    Args:
        reason: why, in one line.
        hopeless: whether the same trial would fail the same way again.
    """

    def __init__(self, reason: str, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.hopeless = reason, hopeless

    def __reduce__(self) -> tuple[type[TrialFailure], tuple[str, bool]]:
        return TrialFailure, (self.reason, self.hopeless)


def hopeless_report(reason: str) -> dict[str, Any]:
    """A report that announces a failure not worth another try.

    It is of no epoch, and the worst there can be: Tune wants the figures in every report.
    """
    worst = {"bits_per_byte": _WORST, "best_bits_per_byte": _WORST}
    return {"epoch": 0, **worst, "macro": -1.0, "diverged": 0, "ended": 0, HOPELESS: reason}
