"""Processes that measure, and what they are asked to measure.

All are forks of one server that has imported the libraries and computed nothing: a fresh process
starts at once, and its peak memory is that of its own work. This module imports nothing heavy.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sweeps.engine.environment import WORKER_ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
SERVED = "tests.speed.training_step"
"""The module of the classes whose objects live in measuring processes."""
PRELOADED = [SERVED, "tyro", "rich.progress"]
"""Multiprocessing runs the command's module again in each process: its imports stand ready."""


@dataclass(frozen=True)
class Shape:
    """Preset, vocabulary and batch of a step; `layers` replaces the preset's number if given."""

    size: str
    vocab: int
    batch: int
    context: int
    layers: int | None = None

    @property
    def tokens(self) -> int:
        return self.batch * self.context


@dataclass(frozen=True)
class Row:
    """What computes the step.

    Attributes:
        arch: name of the architecture.
        path: "library" (the library as it is, with all logits at once), "torch" and "cpp" (ours
            without and with a compiler), or "yardstick" (the library's model, our loss in chunks).
        precision: "plain" (PyTorch's defaults), "fp32" (its faster products where they are exact),
            "bf16" (the same with autocast) or "trial" (the one that a trial takes).
        compiled: through torch.compile.
    """

    arch: str
    path: str
    precision: str
    compiled: bool = False

    @property
    def name(self) -> str:
        return f"{self.arch} {self.path} {self.precision}{' compiled' * self.compiled}"


class Failed(Exception):
    """A measuring process raised; carries its traceback."""

    @property
    def reason(self) -> str:
        """The traceback's last line, shortened."""
        return str(self).strip().splitlines()[-1].strip()[:100]


class Process:
    """An object of a class of `SERVED` in a process of its own; use as a context manager.

    Raises Failed where the object's methods raise, or if the process dies.
    """

    def __init__(self, class_name: str, *arguments: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        self._pipe, other_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other_end, class_name, arguments), daemon=True
        )
        self._process.start()
        other_end.close()
        try:
            self.result()
        except Failed:
            self.close()
            raise

    def start(self, method: str, *arguments: Any) -> None:
        """Begin a call whose `result` is asked for later."""
        self._pipe.send((method, arguments))

    def result(self) -> Any:
        """The result of the call that was started."""
        try:
            succeeded, value = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise Failed(f"the process died with status {code} (-9: out of memory?)") from None
        if not succeeded:
            raise Failed(value)
        return value

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method and wait for its result."""
        self.start(method, *arguments)
        return self.result()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prepare_server() -> None:
    """Set how the server of all `Process` starts: all imported, in the environment of a trial."""
    os.environ.update(WORKER_ENVIRONMENT)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)


def _serve(pipe: Connection, class_name: str, arguments: tuple[Any, ...]) -> None:
    """Make the object, then answer (method, arguments) until the pipe is closed."""
    server = None
    while True:
        try:
            if server is None:
                make = getattr(importlib.import_module(SERVED), class_name)
                server, value = make(*arguments), None
            else:
                method, arguments = pipe.recv()
                value = getattr(server, method)(*arguments)
        except EOFError:
            return
        except Exception:
            pipe.send((False, traceback.format_exc()))
            if server is None:
                return
        else:
            pipe.send((True, value))
