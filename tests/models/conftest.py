"""Fixtures of the tests of `models`."""

from __future__ import annotations

from functools import partial, partialmethod
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

from models.kernels import native, paths


@pytest.fixture(params=["torch", "cpp", pytest.param("triton", marks=pytest.mark.slow)])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way a kernel computes; the test runs once for each that this machine has, in Triton's
    interpreter only among the slow tests."""
    if request.param == "cpp" and native.find_compiler() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("BABYSWEEP_CPP", str(int(request.param == "cpp")))
    if request.param == "triton":
        take_triton(monkeypatch)
    return request.param


@pytest.fixture
def on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run in Triton's interpreter; some seconds of this belong to the default tests."""
    take_triton(monkeypatch)


def take_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send tensors on the CPU to the Triton kernels, in the interpreter."""
    if not paths.interpreted():
        pytest.skip("TRITON_INTERPRET=0: Triton's kernels are compiled, for GPUs only")
    monkeypatch.setenv(paths.VARIABLE, "triton")
    monkeypatch.setattr(
        interpreter, "_convert_float", partial(_convert, interpreter._convert_float)
    )
    builder = interpreter.InterpreterBuilder
    monkeypatch.setattr(builder, "create_dot", partialmethod(_dot, builder.create_dot))


def _convert(convert: Any, data: Any, source: Any, target: Any, rounding: Any) -> Any:
    """Round float32 to the nearest bf16, as GPUs do; the interpreter cuts digits off."""
    if (source, target) == (tl.float32, tl.bfloat16):
        return torch.from_numpy(data.copy()).to(torch.bfloat16).view(torch.uint16).numpy()
    return convert(data, source, target, rounding)


def _dot(self: Any, multiply: Any, a: Any, b: Any, total: Any, *options: Any) -> Any:
    """Products of bf16; the interpreter would multiply the bit patterns."""
    return multiply(self, _widened(a), _widened(b), total, *options)


def _widened(handle: Any) -> Any:
    if handle.dtype != tl.bfloat16:
        return handle
    data = (handle.data.astype(np.uint32) << 16).view(np.float32)
    return interpreter.TensorHandle(data, tl.float32)
