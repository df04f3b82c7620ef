"""The end of a command in the middle of its trials: each writes a checkpoint of where it is."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from analysis.signals import was_signalled
from analysis.terminal import say
from analysis.wording import count
from trainables.bucket import without_patience
from trainables.checkpoint import TrialFolder
from trainables.kept import remove_mark, set_mark

SAVE_SECONDS = "BABYSWEEP_SAVE_SECONDS"
"""Variable: how long to wait for the next ten steps and the writing of a checkpoint, 60 by default.
Who scores meanwhile may not be ready."""
LOOK_SECONDS = 0.05


@contextlib.contextmanager
def stopping_at_checkpoints(
    stop: Path, running: Callable[[], list[TrialFolder]], console: Console
) -> Iterator[None]:
    """Have trials write a checkpoint and end where a signal ends the block.

    Args:
        stop: the file that asks them (`RuntimeConfig.stop`); else it is kept away.
        running: the folders of trials whose processes are alive.
        console: where it is told how many did, and how many were not ready in time.
    """
    remove_mark(stop)  # of a command that was killed
    try:
        yield
    except KeyboardInterrupt:
        if was_signalled():
            with without_patience():
                set_mark(stop)
                _wait_for_checkpoints(running(), console)
        raise
    finally:
        with without_patience():
            remove_mark(stop)


def _wait_for_checkpoints(running: Sequence[TrialFolder], console: Console) -> None:
    patience, late = float(os.environ.get(SAVE_SECONDS) or 60), running
    end = time.monotonic() + patience
    while late and time.monotonic() < end:
        late = [folder for folder in late if not folder.may_be_ended]
        time.sleep(LOOK_SECONDS)
    for folder in running:
        folder.look()
    # Some have not begun to train.
    if ready := sum(folder.newest() is not None for folder in running if folder not in late):
        say(console, f"{count(ready, 'trial')} will go on from a checkpoint.")
    if late:
        came = f"{count(len(late), 'trial')} did not come to a checkpoint in {patience:g} s"
        say(console, f"{came}, and will go on from the one before.")
