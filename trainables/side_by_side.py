"""Processes that take a trial's steps at the same time on one GPU, as trials with shares of it do.

    python -m trainables.side_by_side FD    one of them, told what to do through a pipe

Each gets a setting, and answers when its first steps are done; then all measure at once, and go on
until the last one has its figure. They are no children of `multiprocessing`, which would run a
person's own script once more in each.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean
from typing import IO

import torch

from trainables.memory import OutOfMemory
from trainables.step_time import StepSetting, measured, take_round, warm_up
from trainables.trainer import Trainer

_ROOT = Path(__file__).resolve().parents[1]
_MEASURE = "measure"


class SideBySide:
    """So many processes on a GPU, started with the first setting.

    Args:
        number: of them.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._said: IO[bytes] | None = None  # what they print, of which only an end is of interest

    def seconds(self, setting: StepSetting) -> float:
        """Seconds of a step while all take it, their mean.

        Raises:
            OutOfMemory: it does not fit.
            RuntimeError: a process failed otherwise.
        """
        if not self._processes:
            self._start()
        try:
            self._ask(setting)
            return fmean(self._ask(_MEASURE))
        except BaseException:
            self.close()  # the others wait, or go on
            raise

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
            process.wait()
        if self._said is not None:
            self._said.close()
        self._pipes, self._processes, self._said = [], [], None

    def _start(self) -> None:
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - `close` does
        for _ in range(self.number):
            ours, theirs = Pipe()
            with theirs:
                process = subprocess.Popen(
                    # -P: nothing is imported from the folder in which the person works.
                    [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, "PYTHONPATH": path},
                    stdin=subprocess.DEVNULL,
                    stdout=self._said,
                    stderr=self._said,
                )
            self._pipes.append(ours)
            self._processes.append(process)

    def _ask(self, order: object) -> list[float]:
        """Every process's answer to an order."""
        try:
            for pipe in self._pipes:
                pipe.send(order)
            answers = [pipe.recv() for pipe in self._pipes]
        except (EOFError, OSError) as error:
            raise RuntimeError(f"a process that took steps ended: {self._last_line()}") from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _last_line(self) -> str:
        """What was printed last."""
        assert self._said is not None
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "killed without a word"


def serve(pipe: Connection) -> None:
    """Do what is ordered until the pipe is closed."""
    trainer: Trainer | None = None
    goes_on = False
    while True:
        with contextlib.suppress(RuntimeError):  # this one's figure is told; the next may fit
            while goes_on and trainer is not None and not pipe.poll():
                take_round(trainer)  # neighbours are not done yet
        order = pipe.recv()
        try:
            goes_on = order == _MEASURE
            if trainer is not None and goes_on:
                pipe.send(measured(trainer))
                continue
            trainer = None  # before the next one needs the memory
            trainer = order.trainer()
            warm_up(trainer)
            pipe.send(0.0)
        except (OutOfMemory, torch.OutOfMemoryError) as error:
            pipe.send(OutOfMemory(str(error)))
        except Exception as error:  # whatever it is, it may be of no type that can be sent
            pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(Connection(int(sys.argv[1])))
