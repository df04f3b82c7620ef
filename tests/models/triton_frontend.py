"""Recorded launches, read by Triton's frontend: seconds, where the compiler takes minutes.

The frontend makes Triton's intermediate language of a function for the launch's types and
constants: what is no Triton, or has other types in a loop than before it, fails here. So does a
loop that assigns a variable which it does not carry (see `test_loop_variables.py`).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CAPABILITY = 90


class Read(Exception):
    """The frontend is through."""


def unreadable(launches: list[Any], folder: Path = ROOT) -> list[str]:
    """What Triton does not read of the launches, in a process of its own.

    Args:
        launches: their functions may be in modules of this folder, too.
    """
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    variables = {"TRITON_INTERPRET": "0", "TRITON_ALWAYS_COMPILE": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.triton_frontend"],
        input=pickle.dumps(list(dict.fromkeys(launches))),
        env={**os.environ, **variables},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    return list(pickle.loads(done.stdout))


@contextlib.contextmanager
def frontend_only() -> Iterator[None]:
    """Raise `Read` where the compiler would begin; AssertionError for what a loop drops."""
    from triton.compiler.code_generator import CodeGenerator
    from triton.compiler.compiler import ASTSource

    make_ir, find_carries, set_value = (
        ASTSource.make_ir,
        CodeGenerator._find_carries,
        CodeGenerator.set_value,
    )

    def read(self: Any, *arguments: Any, **options: Any) -> None:
        make_ir(self, *arguments, **options)
        raise Read

    def note(self: Any, name: str, value: Any) -> None:
        vars(self).setdefault("assigned", set()).add(name)
        set_value(self, name, value)

    def find(self: Any, node: Any, liveins: dict[str, Any], ignore: Any = frozenset()) -> Any:
        self.assigned = set()
        carried = find_carries(self, node, liveins, set(ignore))
        dropped = (self.assigned & liveins.keys()) - {*carried[0], *ignore}
        assert not dropped, f"a loop assigns and does not carry {', '.join(sorted(dropped))}"
        return carried

    ASTSource.make_ir, CodeGenerator._find_carries = read, find
    CodeGenerator.set_value = note
    try:
        yield
    finally:
        ASTSource.make_ir, CodeGenerator._find_carries = make_ir, find_carries
        CodeGenerator.set_value = set_value


def main() -> None:
    from models.kernels.gpu.build import build, compiling_for

    failures = {}
    with compiling_for(CAPABILITY), frontend_only():
        for launch in pickle.loads(sys.stdin.buffer.read()):
            try:
                build(launch)
                raise AssertionError("it was not read by the frontend")
            except Read:
                pass
            except Exception as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
                failures[f"{launch.module}.{launch.name}: {reason}"] = None
    sys.stdout.buffer.write(pickle.dumps(list(failures)))


if __name__ == "__main__":
    main()
