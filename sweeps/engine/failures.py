"""Failures of a trial that its process explains; to import this costs nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.errors import without_secret
from analysis.whole_files import write_text
from sweeps.engine.notices import NOTICES

HOPELESS = "hopeless"
"""In a report of a trial: why it fails, and would fail again."""

_KILLED_FOR_MEMORY = (
    "a process was killed because memory was short: run fewer trials at once (--max-concurrent), "
    "or smaller ones (--micro-batch)"
)
_DEATH = re.compile(r"\b(ActorDied|ActorUnavailable|WorkerCrashed)Error\b")
_BY_RAY = "running low on memory"
"""In Ray's words on a process that it killed, before the system would have killed another one."""

_WORST = 1e6
"""Bits per byte: finite, so that Tune takes it."""


class TrialFailure(RuntimeError):
    """The end of a trial without an outcome.

    Args:
        reason: why, in one line.
        hopeless: whether the same trial would fail the same way again.
        notices: what was logged since the trial's last report.
    """

    def __init__(self, reason: str, hopeless: bool = False, notices: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason, self.hopeless, self.notices = reason, hopeless, notices

    def __reduce__(self) -> tuple[type[TrialFailure], tuple[str, bool, Sequence[str]]]:
        return TrialFailure, (self.reason, self.hopeless, self.notices)


def hopeless_report(failure: TrialFailure) -> dict[str, Any]:
    """A report that announces a failure not worth another try.

    It is of no epoch, and the worst there can be: Tune wants the figures in every report.
    """
    worst = {"bits_per_byte": _WORST, "best_bits_per_byte": _WORST}
    said = {HOPELESS: failure.reason, NOTICES: [*failure.notices]}
    return {"epoch": 0, **worst, "macro": -1.0, "diverged": 0, "ended": 0, **said}


def in_a_line(error: str, was_killed: bool) -> str:
    """The line that says most of the error that ended a trial.

    Args:
        error: all of it.
        was_killed: whether the system killed a process for want of memory meanwhile: to Ray its
            death is like any other.
    """
    if _BY_RAY in error or (was_killed and is_death(error)):
        return _KILLED_FOR_MEMORY
    return error.splitlines()[-1][:300]


def is_death(error: str) -> bool:
    """Whether it is that a process was suddenly gone, which cannot say why."""
    return _DEATH.search(error) is not None


def keep_error(error_file: str | None, folder: Path) -> tuple[str, Path]:
    """Keep the error that ended a trial in its folder, without secrets.

    Args:
        error_file: where Tune wrote it, if it did.
        folder: of the trial.

    Returns:
        The error, whose last line says most, and the file that holds it now.
    """
    text = Path(error_file).read_text("utf-8", "replace") if error_file else ""
    error = without_secret(text.strip()) or "no error was recorded"
    kept = folder / "error.txt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, error + "\n")
    return error, kept
