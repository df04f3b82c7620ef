"""Triton's interpreter, which runs kernels on the CPU, mended where it computes unlike a GPU."""

from __future__ import annotations

from functools import partial, partialmethod
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

from models.kernels import paths


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
