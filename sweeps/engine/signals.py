"""The signals that end a command: Ctrl-C, a job that is stopped, a terminal that is closed."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from analysis.errors import EXIT_INTERRUPTED

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_received: list[int] = []


def end_on_signals() -> None:
    """Raise KeyboardInterrupt on the first of these signals, and end at once on a second.

    Ray installs handlers of its own when it starts, which abort: call it again after that. A
    command that was started in the background with `&` ignores SIGINT; it can be ended, too.
    """
    _received.clear()
    if threading.current_thread() is threading.main_thread():  # no other can have handlers
        for number in ENDING:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) > 1:
        os._exit(EXIT_INTERRUPTED)  # Ray's processes of this command end with it
    raise KeyboardInterrupt
