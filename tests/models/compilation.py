"""Recorded launches of Triton kernels, compiled for GPUs that are not here.

Triton's interpreter and its compiler exclude each other in a process; the tests run with the
former, so this compiles in a process of its own.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Most shared memory that a block may have, in bytes, by compute capability.
SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448}


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes.

    Attributes:
        shared: bytes of shared memory of a block.
        registers: of a thread, at most 255.
        spilled: bytes of local memory of a thread, into which registers are spilled.
        hot: instructions on local memory in the innermost loops; of the whole kernel without loops.
    """

    name: str
    capability: int
    shared: int
    registers: int
    spilled: int
    hot: int


FEW = 8
"""Instructions that spill by the assembler's choice, with registers left."""


def assert_fits(usage: Usage) -> None:
    """Within the shared memory of its GPU, and with nothing spilled for want of registers where the
    time goes."""
    assert usage.shared <= SHARED_MEMORY[usage.capability], usage
    assert usage.hot == 0 or (usage.registers < 255 and usage.hot <= FEW), usage


def compile_for(launches: list[Any], capabilities: tuple[int, ...]) -> list[Usage]:
    """Compile every launch once for each capability; raises CalledProcessError where one fails."""
    unique = list(dict.fromkeys(launch.kernel for launch in launches))
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.compilation"],
        input=pickle.dumps((unique, capabilities)),
        env={**os.environ, "TRITON_INTERPRET": "0"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    return pickle.loads(done.stdout)


def _usage(compiled: Any, capability: int) -> Usage:
    usage = _dump(compiled, "--dump-resource-usage")
    figures = {name: int(re.search(rf"\b{name}:(\d+)", usage)[1]) for name in ("REG", "STACK")}
    hot = _hot_spills(_dump(compiled, "--dump-sass"))
    name = compiled.metadata.name
    return Usage(name, capability, compiled.metadata.shared, figures["REG"], figures["STACK"], hot)


def _dump(compiled: Any, option: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [tool, option, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _hot_spills(sass: str) -> int:
    """Instructions that load from or store to local memory where most of the time goes.

    A branch to an earlier address closes a loop; behind the exit it returns from code that stands
    apart. Loops of a few instructions wait for a barrier.
    """
    found = re.findall(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?);", sass, re.MULTILINE)
    code = [(int(address, 16), text) for address, text in found]
    exits = [address for address, text in code if re.search(r"\bEXIT\b", text)]  # or only for some
    back = [
        (int(target[1], 16), address)
        for address, text in code
        if address < exits[-1] and (target := re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text))
    ]
    loops = [(begin, end) for begin, end in back if end - begin > 16 * 16]  # bytes of instructions
    innermost = [
        (begin, end)
        for begin, end in loops
        if not any(a >= begin and b <= end and (a, b) != (begin, end) for a, b in loops)
    ]
    if not innermost:
        innermost = [(0, code[-1][0])]
    local = re.compile(r"\b(LDL|STL)\b")
    return sum(
        begin <= address <= end and bool(local.search(text))
        for begin, end in innermost
        for address, text in code
    )


def main() -> None:
    from models.kernels.gpu.build import build, compiling_for

    launches, capabilities = pickle.loads(sys.stdin.buffer.read())
    usages = []
    for capability in capabilities:
        with compiling_for(capability):
            usages += [_usage(build(launch), capability) for launch in launches]
    sys.stdout.buffer.write(pickle.dumps(usages))


if __name__ == "__main__":
    from tests.models import compilation  # so that pickle finds the classes by this name

    compilation.main()
