"""The signals that end a command: Ctrl-C, a job that is stopped or whose time is nearly over, a
terminal that is closed.

To import this costs nothing: a command is ready for them before it imports anything that does.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""The last is what batch systems announce the end of a job's time with."""
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 1
"""Who reads the output, such as `head`, had enough: rich ends a command with this status."""
_STOPPED = "\nStopped.\n"
_STOPPING = "\nStopping; a second signal ends at once.\n"
_LOADING = "Loading libraries ...\n"
_received: list[int] = []
_started: list[str] = []


def start(module: str) -> NoReturn:
    """Run a module's `main` as a script.

    Its imports take seconds, in which nothing has begun that could be ended in good order: a signal
    ends the process at once then. Where something has begun, there is `ending_on_signals`.
    """
    _install(_leave)
    _started.append(module)
    main: Callable[[], int] = importlib.import_module(module).main
    try:
        status = _to_the_end(main)
    except KeyboardInterrupt:
        _say(_STOPPED)
        status = EXIT_INTERRUPTED
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        status = EXIT_UNREAD
    sys.exit(status)


def _to_the_end(main: Callable[[], int]) -> int:
    """Run it, and write what is left for stdout, while a broken pipe can still be answered."""
    try:
        status = main()
    except SystemExit:  # after help, or wrong words
        _flush()
        raise
    _flush()
    return status


def _flush() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:  # Python says at the exit what it is
        pass


def say_loading() -> None:
    """Say in a process of `start` that what a command imports next takes seconds."""
    if _started:
        _say(_LOADING)


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
    """Have the signals end the command. Ray's start and end install others: again then."""
    _install(_end)


def was_signalled() -> bool:
    """Whether one of the signals came since `ending_on_signals` began."""
    return bool(_received)


def _install(handler: Callable[[int, FrameType | None], None]) -> None:
    if not _is_main_thread():  # no other can have handlers
        return
    for number in ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) > 1:
        _kill_children()
        os._exit(EXIT_INTERRUPTED)
    _say(_STOPPING)  # at once: what runs may need seconds to its end
    raise KeyboardInterrupt


def _nobody_reads() -> bool:
    """Whether it is stdout whose reader is gone; what is left to write goes nowhere then."""
    if sys.stdout is None:
        return False
    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)  # its errors alone
    if is_gone := bool(reader.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return is_gone


def _kill_children() -> None:
    """End what this process has started: some of Ray's would not notice its end for a long time."""
    import psutil  # not needed by most commands

    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()


def _leave(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(Exception):  # where the signal came in the middle of another flush
        sys.stdout.flush()
    _say(_STOPPED)
    os._exit(EXIT_INTERRUPTED)


def _say(text: str) -> None:
    """Write in the middle of whatever goes on; a terminal that was closed takes no word."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # the latter of a stream that was closed
            os.write(sys.stderr.fileno(), text.encode())
