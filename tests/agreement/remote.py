"""An object in a process of another interpreter, called through pipes: a JSON line each way.

What is sent is never written to disk, as the terms of some benchmarks ask.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.agreement.tools import ENVIRONMENT, ROOT
from tests.speed.processes import Failed


class Remote:
    """An object of a class in a process of its own; use as a context manager.

    Raises Failed, with the other side's traceback, where a method raises or the process dies.
    """

    def __init__(
        self,
        python: Path | str,
        served: str,
        environment: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        """Make an object of the class `served`, "module:Class", from `arguments` (JSON types)."""
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(python), "-m", __name__, served],
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.call("", **arguments)
        except Failed:
            self.close()
            raise

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method with arguments of JSON types and wait for its result."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps([method, arguments]), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise Failed(self._last_words()) from None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(self._last_words())
        succeeded, value = json.loads(line)
        if not succeeded:
            raise Failed(value)
        return value

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        return f"{self._errors.read()[-2000:]}\nthe process died with status {code}"


def serve(served: str) -> None:
    """Make the object that the first line asks for, then answer calls until the pipe is closed."""
    module, name = served.split(":")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print
    target: Any = None
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            if target is None:
                target, value = getattr(importlib.import_module(module), name)(**arguments), None
            else:
                value = getattr(target, method)(**arguments)
            answer = (True, value)
        except Exception:
            answer = (False, traceback.format_exc())
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
