"""What a trial has for MLflow, kept on disk while MLflow does not take it: training goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.schema.typed import parse_json, typed
from analysis.store import LONGEST_PAUSE, call_with_retries, try_call
from analysis.whole_files import write_text
from trainables.files import set_aside, tell

Message = dict[str, Any]
"""One call's worth of results, JSON-ready; to send it twice is to send it once."""


class Outbox:
    """Sends messages in their order; those that cannot be sent now go to a file, and later.

    Of a process that was killed the next one sends what is left. Only one process at a time, the
    one with the trial's lock, may use it.

    Args:
        path: of the file; it is there only while something waits.
        send: hands a message to MLflow.
    """

    def __init__(self, path: Path, send: Callable[[Message], None]) -> None:
        self._path, self._send = path, send
        self._pause = self._due = 0.0

    @property
    def waiting(self) -> list[Message]:
        """Messages that were not sent yet, oldest first."""
        if not self._path.exists():
            return []
        messages, damaged = [], 0
        # A kill in the middle of a line leaves one without its end.
        for line in self._path.read_bytes().split(b"\n")[:-1]:
            try:
                messages.append(typed(parse_json(line.decode()), dict[str, Any]))
            except ValueError:
                damaged += 1
        if damaged:
            aside = set_aside(self._path)
            write_text(self._path, "".join(map(_line, messages)))
            tell(
                f"{damaged} lines of {self._path} are damaged: what MLflow was to be told in them "
                f"is lost; the file as it was is now called {aside.name}"
            )
        return messages

    def post(self, message: Message) -> None:
        """Send a message, or keep it; on return it is in MLflow or on the disk."""
        if self._path.exists():
            self._keep(message)
            if time.monotonic() >= self._due:
                self._try(self._send_waiting)
        elif not self._try(lambda: self._send(message)):
            self._keep(message)

    def drain(self) -> None:
        """Send all that waits, with patience.

        Raises:
            MlflowException: MLflow does not come back, or does not take it.
        """
        call_with_retries(self._send_waiting)

    def _send_waiting(self) -> None:
        waiting = self.waiting
        sent = 0
        try:
            for message in waiting:
                self._send(message)
                sent += 1
        finally:
            if sent == len(waiting):
                self._path.unlink(missing_ok=True)
            elif sent:
                write_text(self._path, "".join(map(_line, waiting[sent:])))

    def _try(self, call: Callable[[], None]) -> bool:
        """Try a call, and return whether it succeeds; if MLflow is away, not again for a while."""
        if try_call(call) is not None:
            self._pause = min(max(1.0, 2 * self._pause), LONGEST_PAUSE)
            self._due = time.monotonic() + self._pause
            return False
        self._pause = 0.0
        return True

    def _keep(self, message: Message) -> None:
        with self._path.open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)  # without what a kill left of a line
            file.write(_line(message).encode())
            file.flush()
            os.fsync(file.fileno())


def _line(message: Message) -> str:
    return json.dumps(message) + "\n"
