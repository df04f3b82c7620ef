"""A trial inside a process that lives longer than it: memory given back, failures explained.

A process whose GPU failed is never used again: after a CUDA error every later call fails, too. Tune
starts the trial anew, in a fresh process, unless it would only fail the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sweeps.engine.failures import TrialFailure
from sweeps.engine.notices import collecting_notices
from trainables.memory import MemoryTaken, OutOfMemory
from trainables.spec import TrialSpec
from trainables.trainer import RuntimeConfig, World
from trainables.trial import run_trial

_DEVICE_SIGNS = ("CUDA", "cuDNN", "CUDNN", "CUBLAS", "NCCL", "NVIDIA", "HIP error")
_OUT_OF_MEMORY = (OutOfMemory, torch.OutOfMemoryError)
_DEVICE_ERRORS = (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()


def run_here(
    spec: TrialSpec, runtime: RuntimeConfig, report: Callable[[dict[str, Any]], None], world: World
) -> None:
    """Run a trial and leave the process, and its GPU, to the next one.

    Reports, and a failure, take along what was logged for the person at the command (`NOTICES`).

    Raises:
        TrialFailure: the GPU failed, or has not the memory.
    """
    with collecting_notices() as notices, memory_given_back():
        try:
            with failures_explained():
                run_trial(spec, runtime, lambda metrics: report(notices.added_to(metrics)), world)
        except TrialFailure as failure:
            failure.notices = notices.taken()
            raise


@contextlib.contextmanager
def memory_given_back() -> Iterator[None]:
    """Free what the block held: Python's cycles first, then what glibc and PyTorch keep.

    Other trials on the same GPU can use it while this process waits for its next one.
    """
    try:
        yield
    except BaseException as error:  # a scheduler's stop comes as one, too
        _clear_frames(error)
        with contextlib.suppress(RuntimeError):  # after a CUDA error there is another one here
            _give_back()
        raise
    _give_back()


@contextlib.contextmanager
def failures_explained() -> Iterator[None]:
    """Turn errors of the device into a `TrialFailure`; let others pass.

    Raises:
        TrialFailure: the GPU failed, or has not the memory.
    """
    try:
        yield
    except Exception as error:
        failure = device_failure(error)
        if failure is None:
            raise
        raise failure from error


def device_failure(error: Exception) -> TrialFailure | None:
    """The failure of the device that an error reports; None if it reports none.

    A GPU's memory runs out again if the same trial is tried again, unless another process took it;
    what else happens to a GPU (an uncorrectable memory error, a lost connection, another process's
    fault) may be over.
    """
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, _OUT_OF_MEMORY):
        # Bare errors of PyTorch name no way out; those of `trainables.memory` do.
        advice = "" if "--" in text else " (try a smaller --micro-batch, or auto)"
        return TrialFailure(f"out of memory: {text}{advice}", hopeless=True)
    if isinstance(error, MemoryTaken):
        return TrialFailure(f"out of memory: {text}")
    is_device = isinstance(error, _DEVICE_ERRORS) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _DEVICE_SIGNS)
    )
    return TrialFailure(f"the GPU failed: {text}") if is_device else None


def _clear_frames(error: BaseException) -> None:
    """Empty the variables of the functions that an error ended: they hold model and optimizer."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__


def _give_back() -> None:
    gc.collect()
    # What glibc was told to keep for the next step: of a mini trial some 150 MB.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # an error that is still on its way must not meet the next trial
        # Those of cuBLAS are kept by stream, and every trial has streams of its own.
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
