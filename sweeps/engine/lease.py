"""One command at a time on a study in a bucket, where no lock of one machine is seen by another.

The command leaves a mark that it changes every few seconds. Another one looks at it for longer than
that: a mark that stays as it is was left by a command that is gone. So no clocks are compared.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from analysis.terminal import say
from analysis.wording import quoted
from trainables.bucket import without_patience
from trainables.kept import KeptFolder, kept

MARK = "command"
RENEW_SECONDS = 5.0
LOOK_SECONDS = 4 * RENEW_SECONDS
"""After which an unchanged mark is that of a dead command."""


@contextlib.contextmanager
def sole_command(study: Path, console: Console) -> Iterator[None]:
    """Keep other commands off a study while the block lasts, if it is kept in a bucket.

    Should another one take over all the same, since our mark could not be changed for long, this
    command ends as by SIGTERM.

    Raises:
        ValueError: another command is at work on the study.
    """
    folder = kept(study / "locks")
    if folder is None:
        yield
        return
    lease = _Lease(folder)
    lease.take(study.name, console)
    over = threading.Event()
    thread = threading.Thread(target=lease.renew, args=(over, console), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(RENEW_SECONDS)
        with without_patience():
            lease.give_back()


class _Lease:
    """The mark of one command."""

    def __init__(self, folder: KeptFolder) -> None:
        self._folder, self._renewals = folder, 0
        self._owner = f"{socket.gethostname()} process {os.getpid()} {secrets.token_hex(8)}"

    def take(self, study: str, console: Console) -> None:
        """Leave the mark.

        Raises:
            ValueError: another command renews its own.
        """
        found = self._folder.read_mark(MARK)
        end = time.monotonic() + LOOK_SECONDS
        if found is not None:
            say(
                console, f"Looking for {LOOK_SECONDS:g} s whether an earlier command is still there"
            )
        while found is not None and time.monotonic() < end:
            time.sleep(RENEW_SECONDS / 5)
            now = self._folder.read_mark(MARK)
            if now not in (None, found):
                self._refuse(study, now or "")
            found = now
        self._mark()
        # Two that came at once: the later mark stands, and both look again.
        time.sleep(RENEW_SECONDS / 2)
        now = self._folder.read_mark(MARK) or ""
        if not self._is_mine(now):
            self._refuse(study, now)

    def renew(self, over: threading.Event, console: Console) -> None:
        """Change the mark every few seconds, until it is over or another command's."""
        while not over.wait(RENEW_SECONDS):
            try:
                found = self._folder.read_mark(MARK)
                if found is None or self._is_mine(found):
                    self._mark()
                    continue
            except OSError:  # the trials say that the bucket does not answer
                continue
            say(console, f"another command took the study over ({_who(found)}): this one ends")
            os.kill(os.getpid(), signal.SIGTERM)
            return

    def give_back(self) -> None:
        """Remove the mark, unless it is another command's."""
        if self._is_mine(self._folder.read_mark(MARK) or ""):
            self._folder.remove_mark(MARK)

    def _mark(self) -> None:
        self._renewals += 1
        self._folder.mark(MARK, f"{self._owner} {self._renewals}")

    def _is_mine(self, text: str) -> bool:
        return text.startswith(f"{self._owner} ")

    def _refuse(self, study: str, text: str) -> None:
        raise ValueError(
            f"another command is at work on study {quoted(study)} ({_who(text)}): wait for it, or "
            "choose another --study"
        )


def _who(text: str) -> str:
    """A mark without its secret."""
    return " ".join(text.split()[:3])
