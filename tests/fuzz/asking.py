"""Asks a command in this process, and judges what it answers."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import pytest
import torch

from trainables.files import tell

MOST_LINES, MOST_SECONDS = 3, 20


class TrainingBegins(BaseException):
    """The command has found nothing wrong, and would start Ray."""


class Hangs(BaseException):
    """The command has not answered in time."""


@dataclass(frozen=True)
class Answer:
    """What a command said and how it ended: exit status, or what it raised."""

    text: str
    status: int | None
    raised: BaseException | None

    @property
    def begins(self) -> bool:
        """Whether it found nothing wrong."""
        return isinstance(self.raised, TrainingBegins) or (not self.raised and not self.status)

    def fault(self, *names: str) -> str:
        """What is wrong with the answer to something wrong, "" if nothing is.

        Args:
            names: of flag or file, of which it must name one.
        """
        if self.raised is not None and not isinstance(self.raised, TrainingBegins):
            where = traceback.extract_tb(self.raised.__traceback__)[-1]
            place = f"{where.filename.rpartition('/site-packages/')[2]}:{where.lineno}"
            return f"{type(self.raised).__name__} in {place}: {str(self.raised)[:200]}"
        if self.begins:
            return f"goes on: {self.text[-200:]!r}"
        lines = [line for line in self.text.splitlines() if line.strip()]
        if "Traceback" in self.text or not 1 <= len(lines) <= MOST_LINES:
            return f"{len(lines)} lines: {self.text[:300]!r}"
        if not any(name in self.text for name in names):
            return f"names none of {', '.join(names)}: {self.text[:300]!r}"
        return ""


class Asker:
    """Asks commands whose Ray never starts."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        self._capsys, self._caplog = capsys, caplog

    def conclude(self, asked: str, faults: list[str]) -> None:
        """Tell the terminal what was asked, and fail if any answer was at fault."""
        with self._capsys.disabled():
            print(f"{asked}, {len(faults)} faults")
        assert not faults, "\n".join([asked, *faults])

    def ask(self, main: Callable[[list[str]], int | None], words: list[str]) -> Answer:
        """Run a command to its end, or to where training begins."""
        tell.cache_clear()  # or a second command would not be told
        torch.set_flush_denormal(False)  # which a dry run sets for its process
        self._capsys.readouterr()
        self._caplog.clear()
        status, raised = None, None
        try:
            with _in_time():
                status = main(words)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException as error:  # whatever it is, it is reported
            if isinstance(error, KeyboardInterrupt):
                raise
            raised = error
        told = [r.getMessage() for r in self._caplog.records if r.name == "trainables.files"]
        out, err = self._capsys.readouterr()
        return Answer("\n".join([out, err, *told]), status, raised)


@contextmanager
def _in_time() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Hangs(f"no answer in {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    started = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - started < MOST_SECONDS + 5
