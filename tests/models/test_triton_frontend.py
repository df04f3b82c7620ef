"""What no preset's training launches is read by Triton, too: states, options, single steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from triton_frontend import unreadable

import models
from models.kernels.gpu.launch import Launch
from tests.gpu import kernel_agreement
from tests.gpu.building import generation_launches
from tests.gpu.kernel_cases import CASES, MIDDLE

WITH_OPTIONS = [
    case
    for case in CASES
    if re.match(rf"T={MIDDLE} .*(state=True|bias=True|padding=True|reverse=True)", case.name)
]
WITH_STATES = {"depthwise_conv", "gated_linear_attention", "mlstm", "slstm", "selective_scan"}

MADE = """
import triton
import triton.language as tl


@triton.jit
def shifted(x, y, n, D: tl.constexpr):
    at = tl.arange(0, D)
    zero = tl.zeros((D,), tl.float32)
    first, second = zero, APART
    for i in range(n):
        tl.store(y + i * D + at, second)
        first, second = tl.load(x + i * D + at), first


@triton.jit
def reshaped(x, y, n, D: tl.constexpr):
    at = tl.arange(0, D)
    for i in range(n):
        SHAPE = tl.arange(0, 2 * D)
        tl.store(y + at, tl.load(x + at))
"""


def make(folder: Path, module: str, apart: str, name: str) -> list[Launch]:
    """Launches of a module of two kernels, written to the folder."""
    source = MADE.replace("APART", apart).replace("SHAPE", name)
    (folder / f"{module}.py").write_text(source)
    arguments, constants = (torch.float32, torch.float32, 100), (("D", 64),)
    return [Launch(module, name, arguments, constants, 4, 2) for name in ("shifted", "reshaped")]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What Triton does not read of made kernels, and of our launches: in one process, which takes
    long to start."""
    folder = tmp_path_factory.mktemp("made")
    launches = [
        *make(folder, "wrong", apart="zero", name="at"),
        *make(folder, "right", apart="tl.zeros_like(zero)", name="other"),
    ]
    for case in WITH_OPTIONS:
        launches += kernel_agreement.record(case, case.types[-1])
    for arch in models.architectures():
        launches += generation_launches(arch)
    return unreadable([launch.kernel for launch in launches], folder)


def test_what_triton_does_not_read_is_found(found: list[str]) -> None:
    """A variable that a loop silently drops, and one that changes its shape."""
    dropped, changed = (line for line in found if line.startswith("wrong."))
    assert re.search(r"shifted: .*a loop assigns and does not carry second", dropped)
    assert re.search(r"reshaped: .*at has initial type", changed)


def test_options_and_single_steps_are_read(found: list[str]) -> None:
    """Kernels with a state or an option, and what generation launches; made kernels that are right
    as well."""
    assert {case.kernel for case in WITH_OPTIONS} >= WITH_STATES
    assert [line for line in found if not line.startswith("wrong.")] == []


@pytest.mark.slow
def test_all_cases_are_read() -> None:
    """Every length, width and option in both types: no loop of any drops a variable."""
    recorded = [kernel_agreement.record(case, dtype) for case in CASES for dtype in case.types]
    launches = [launch for each in recorded for launch in each]
    assert unreadable([launch.kernel for launch in launches]) == []
