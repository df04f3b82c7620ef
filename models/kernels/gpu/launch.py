"""Launching Triton kernels: on a GPU, in Triton's interpreter, or only on record.

Under `recording` a launch notes what would be compiled, and computes nothing. So the kernels of any
model and shape can be listed with fake tensors, and compiled for any GPU (`build`), on a machine
that has none.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.kernels import paths

ELEMENT_TYPES = (torch.float32, torch.bfloat16)
# Triton's present default, said aloud: unsaid, Triton 3.9 prints a warning with every process.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
ASSEMBLER = "TRITON_PTXAS_PATH"

OLDEST = (8, 0)  # compute capability: bf16 products and asynchronous copies


CHOOSES_WELL = (3, 9)
"""The version of Triton from which Hopper's code comes from the newest assembler by itself."""


def _take_newer_assembler() -> None:
    """Let an older Triton assemble for every GPU with the newest ptxas that it brings along.

    Triton 3.6 keeps ptxas 12.9 for Blackwell and takes 12.8 for older GPUs, which gives some matrix
    products of Hopper the address of another operand: HGRN2's results were wrong without an error.
    """
    found = importlib.util.find_spec("triton")
    if found is None:
        return
    major, minor = metadata.version("triton").split(".")[:2]
    if (int(major), int(minor)) >= CHOOSES_WELL:
        return
    for folder in found.submodule_search_locations or ():
        newer = Path(folder, "backends", "nvidia", "bin", "ptxas-blackwell")
        if newer.exists():
            os.environ.setdefault(ASSEMBLER, str(newer))


_take_newer_assembler()


@dataclass(frozen=True)
class Launch:
    """A launch on record: what its compilation depends on.

    Attributes:
        module, name: of the Triton function.
        arguments: its arguments in order; of a tensor the type.
        constants: its `tl.constexpr` parameters, sorted by name.
    """

    module: str
    name: str
    arguments: tuple[Any, ...]
    constants: tuple[tuple[str, Any], ...]
    num_warps: int
    num_stages: int

    @property
    def kernel(self) -> Launch:
        """The launch that stands for all that Triton compiles to the same kernel."""
        return replace(self, arguments=tuple(map(_as_compiled, self.arguments)))


def _as_compiled(argument: Any) -> Any:
    """What Triton sees of an argument: of a whole number whether it is 1, a multiple of 16, and
    beyond 32 bits, of another number nothing."""
    if isinstance(argument, float):
        return 0.5
    if type(argument) is not int or argument == 1:
        return argument
    least = 2**31 if argument >= 2**31 else 0
    return least + 16 if argument % 16 == 0 else least + 15


_record: list[Launch] | None = None


@contextlib.contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collect launches in place of running them; tensors may lie on any device, or be fake."""
    global _record
    previous, _record = _record, []
    try:
        yield _record
    finally:
        _record = previous


def takes(
    kernel: str,
    *tensors: Tensor,
    fits: bool = True,
    types: tuple[torch.dtype, ...] = ELEMENT_TYPES,
) -> bool:
    """Whether the Triton version of `kernel` is the one for these tensors, which is noted.

    They must be of `types`, on a GPU that Triton compiles for, and not empty. `fits` is what the
    kernel asks of the shapes.
    """
    are_taken = _would_take(kernel, *tensors, fits=fits, types=types)
    if are_taken and _record is None:
        paths.note(kernel, "triton")
    return are_taken


def _would_take(
    kernel: str,
    *tensors: Tensor,
    fits: bool = True,
    types: tuple[torch.dtype, ...] = ELEMENT_TYPES,
) -> bool:
    if not (fits and all(x.dtype in types and x.numel() for x in tensors)):
        return False
    if _record is not None:
        return True
    device = tensors[0].device
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < OLDEST:
        return False
    if device.type not in ("cpu", "cuda"):
        return False
    # Who asks, asks after the library did not take them.
    own = (path for path in paths.order(kernel, device.type) if path != "library")
    return next(own) == "triton"


def takes_together(kernels: tuple[str, ...], x: Tensor, *parameters: Tensor) -> bool:
    """Whether the Triton versions of all `kernels` are those for these tensors, one after the other
    as one function to autograd.

    That casts nothing: `x` must be in the type in which autocast would compute.
    """
    kind = x.device.type
    working = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    are_taken = x.dtype == working and all(
        not paths.uses_library(kernel, kind) and _would_take(kernel, x, *parameters)
        for kernel in kernels
    )
    for kernel in kernels if are_taken and _record is None else ():
        paths.note(kernel, "triton")
    return are_taken


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *arguments: Any,
    num_warps: int,
    num_stages: int = 2,
    **constants: Any,
) -> None:
    """Run a Triton function on `grid` programs.

    Args:
        kernel: decorated by `triton.jit`.
        grid: one to three sizes.
        arguments: tensors, numbers or None, in the function's order.
        num_warps, num_stages: of its one configuration.
        constants: its `tl.constexpr` parameters, by name: numbers, strings, None.
    """
    if _record is not None:
        types = tuple(x.dtype if isinstance(x, Tensor) else x for x in arguments)
        named = tuple(sorted(constants.items()))
        where = kernel.fn.__module__, kernel.fn.__name__
        _record.append(Launch(*where, types, named, num_warps, num_stages))
        return
    device = next(x.device for x in arguments if isinstance(x, Tensor))
    on_device = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with on_device:
        kernel[grid](*arguments, num_warps=num_warps, num_stages=num_stages, **constants)


def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU: programs that run side by side; 132, an H100's, on
    record and in the interpreter."""
    if device.type != "cuda":
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count


def dot_precision(dtype: torch.dtype) -> str:
    """Precision of `tl.dot`: float32 in three passes of TF32, near float32's own precision,
    unless PyTorch's products may be plain TF32, too."""
    if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        return "tf32"
    return "tf32x3"
