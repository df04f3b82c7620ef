"""The kernels of mamba-ssm and causal-conv1d (Gu and Dao 2023), to compare with.

Where one is wanted and cannot be imported, the log says why, and the next path computes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DEVICE = "cuda"
TYPES = (torch.float32, torch.bfloat16)
MOST_STATES = 256
TAPS = (2, 3, 4)
ALIGNMENT = 8  # of strides, in elements, for the convolution with channels last

_log = logging.getLogger(__name__)


def takes_scan(inputs: list[Tensor], states: int, initial_state: Tensor | None) -> bool:
    """Whether mamba-ssm scans these: u, delta, b, c and a gate of one type, from no state."""
    fits = initial_state is None and states <= MOST_STATES
    return fits and _takes(inputs) and _scan_function() is not None


def selective_scan(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor | None,
    gate: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Compute `models.kernels.selective_scan.selective_scan`."""
    scan = _scan_function()
    assert scan is not None
    skip, delta_bias = (None if x is None else x.float() for x in (skip, delta_bias))
    y, last = scan(u, delta, a.float(), b, c, skip, gate, delta_bias, delta_softplus, True)
    return y, last.detach().float()


def takes_convolution(x: Tensor, width: int) -> bool:
    """Whether causal-conv1d takes inputs of this type and so many taps."""
    return width in TAPS and _takes([x]) and _convolution_function() is not None


def convolution(x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    """x (batch, time, dim), weight (dim, width), bias (dim,) -> like x."""
    convolve = _convolution_function()
    assert convolve is not None
    if x.stride(0) % ALIGNMENT or x.stride(1) % ALIGNMENT or x.stride(2) != 1:
        x = x.mT.contiguous().mT  # channels first are taken as they are
    y: Tensor = convolve(x.mT, weight, bias, activation="silu" if silu else None)
    return y.mT


def _takes(inputs: list[Tensor]) -> bool:
    kinds = {(x.device.type, x.dtype) for x in inputs}
    return len(kinds) == 1 and kinds <= {(DEVICE, dtype) for dtype in TYPES}


def _scan_function() -> Callable[..., Any] | None:
    module = "mamba_ssm.ops.selective_scan_interface"
    return _function("mamba-ssm", module, "selective_scan_fn")


def _convolution_function() -> Callable[..., Any] | None:
    return _function("causal-conv1d", "causal_conv1d", "causal_conv1d_fn")


@functools.cache
def _function(package: str, module: str, name: str) -> Callable[..., Any] | None:
    """A function of a package, or None with one line in the log that says why.

    A package that was built for another version of PyTorch or CUDA fails with any kind of error.
    """
    if importlib.util.find_spec(module.split(".")[0]) is None:
        _log.warning("%s is not installed; Triton computes", package)
        return None
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        _log.warning("%s is installed but does not import: %s; Triton computes", package, reason)
        return None
    return function
