"""What a trial's process has to say to the person at the command, though its trial goes on.

Whatever of models and training logs a warning: a broken installation, a step that cannot be
captured, a file that was mended. Ray keeps the logs of such processes to itself, so each report of
a trial takes along what was logged since the one before, and so does its failure.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

NOTICES = "notices"
"""In a report of a trial: the lines that were logged, if any were."""
_SOURCES = ("models", "trainables")


class Notices(logging.Handler):
    """Lines that were logged and not yet reported, each once and in their order."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line, and leave it in the process's own log, too."""
        self._lines[" ".join(record.getMessage().split())] = None
        # As if there were no handler.
        if logging.lastResort is not None and not logging.root.handlers:
            logging.lastResort.handle(record)

    def added_to(self, report: dict[str, Any]) -> dict[str, Any]:
        """The report with the lines that none had before; with none of them as it was."""
        lines = self.taken()
        return {**report, NOTICES: lines} if lines else report

    def taken(self) -> list[str]:
        """The lines that none had before."""
        with self.lock or contextlib.nullcontext():
            lines, self._lines = [*self._lines], {}
        return lines


@contextlib.contextmanager
def collecting_notices() -> Iterator[Notices]:
    """Collect what is logged meanwhile."""
    notices = Notices()
    loggers = [logging.getLogger(name) for name in _SOURCES]
    for logger in loggers:
        logger.addHandler(notices)
    try:
        yield notices
    finally:
        for logger in loggers:
            logger.removeHandler(notices)
