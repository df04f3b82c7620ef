"""The sweep's own contact with MLflow: it never waits long, and says when there is no answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.markup import escape

from analysis.errors import without_secret
from analysis.store import LONGEST_PAUSE, call_with_retries, reason, try_call
from analysis.terminal import say

_OF_TRIALS = (
    "Running trials go on: what they measure is kept on the disk, and recorded when MLflow is "
    "back. New trials wait for it."
)
T = TypeVar("T")


class MlflowContact:
    """Asks MLflow for what the sweep's process wants to know or record.

    Args:
        uri: of the store.
        console: where a person is told when it does not answer, and when it does again.
        meanwhile: what becomes of what was measured until then, for that person.
    """

    def __init__(self, uri: str, console: Console, meanwhile: str = _OF_TRIALS) -> None:
        self._uri, self._console, self._meanwhile = uri, console, meanwhile
        self._away_since: float | None = None
        self._due = 0.0

    def try_once(self, call: Callable[[], object], *, now: bool = False) -> bool:
        """Call, and return whether MLflow was there; while it is away it is asked now and then.

        Args:
            call: can be repeated from its beginning, however far it came.
            now: ask also if it was away a moment ago.

        Raises:
            MlflowException: what does not pass by itself.
        """
        if time.monotonic() < self._due and not now:
            return False
        error = try_call(call)
        if error is not None:
            self._say_away(error)
            return False
        self._say_back()
        return True

    def retry(self, call: Callable[[], object], *, now: bool = False) -> bool:
        """Call until MLflow was there, for an hour at most, with all the time that an answer takes.

        Arguments as for `try_once`, and always true.

        Raises:
            MlflowException: what does not pass by itself, or within the hour.
        """
        call_with_retries(call, told=self._say_away)
        self._say_back()
        return True

    def result_of(self, call: Callable[[], T]) -> T:
        """Wait for the result of a call that nothing goes on without, and return it.

        A person knows within seconds if it does not come. Arguments and errors as for `retry`.
        """
        found: list[T] = []

        def keep() -> None:
            found.append(call())

        if not self.try_once(keep, now=True):
            self.retry(keep)
        return found[-1]

    def _say_away(self, error: Exception) -> None:
        now = time.monotonic()
        self._due = now + LONGEST_PAUSE / 3
        if self._away_since is None:
            self._away_since = now
            self._say(
                f"[yellow]MLflow does not answer[/] ({escape(without_secret(self._uri))}: "
                f"{escape(reason(error))}). {escape(self._meanwhile)}"
            )

    def _say_back(self) -> None:
        if self._away_since is not None:
            seconds = time.monotonic() - self._away_since
            self._say(f"MLflow answers again, after {seconds:.0f} s.")
            self._away_since = None

    def _say(self, text: str) -> None:
        say(self._console, text)
