"""The signals that end a command: Ctrl-C, a job that is stopped, a terminal that is closed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from analysis.errors import EXIT_INTERRUPTED

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_received: list[int] = []


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on the first of these signals, and end at once on a second.

    A command that was started in the background with `&` ignores SIGINT; it can be ended, too. What
    `nohup` lets it ignore it goes on to ignore. The handlers of before come back in the end.
    """
    before = {number: signal.getsignal(number) for number in ENDING}
    _received.clear()
    install_handlers()
    try:
        yield
    finally:
        if _is_main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def install_handlers() -> None:
    """Have the signals end the command. Ray's start installs others, which abort: again then."""
    if not _is_main_thread():  # no other can have handlers
        return
    for number in ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def was_signalled() -> bool:
    """Whether one of the signals came since `ending_on_signals` began."""
    return bool(_received)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) > 1:
        os._exit(EXIT_INTERRUPTED)  # Ray's processes of this command end with it
    raise KeyboardInterrupt
