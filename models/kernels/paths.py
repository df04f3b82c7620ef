"""Which implementation of a kernel runs on which device: one table, and one variable.

    cpp      C++ of this package, compiled on first use      (`native`)
    triton   Triton of this package, compiled on first use   (`gpu`)
    torch    PyTorch's own operations, anywhere
    library  the kernels of the library that the architecture comes from, on GPUs

`BABYSWEEP_KERNELS` overrides the table: `torch` takes PyTorch everywhere, `triton` insists on
Triton, `library` takes the library's kernel where there is one; `auto` is the table.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from dataclasses import dataclass

import torch

VARIABLE = "BABYSWEEP_KERNELS"
PATHS = ("library", "triton", "cpp", "torch")
CHOICES = ("auto", "library", "torch", "triton")


@dataclass(frozen=True)
class Paths:
    """Paths of a kernel in order of preference; a tensor that one does not take goes to the next.

    `library` names the package whose kernel `BABYSWEEP_KERNELS=library` takes on a GPU, or is "".
    """

    cpu: tuple[str, ...] = ("cpp", "torch")
    cuda: tuple[str, ...] = ("triton", "torch")
    library: str = ""


TABLE: dict[str, Paths] = {
    "block_diagonal": Paths(),
    # On a GPU PyTorch's fused attention is at the hardware's limit: only the rotation is ours.
    "causal_attention": Paths(cuda=("torch",), library="transformers"),
    "depthwise_conv": Paths(library="causal-conv1d"),
    "gated_delta_rule": Paths(cpu=("torch",)),
    "gated_head_norm": Paths(),
    "gated_linear_attention": Paths(library="flash-linear-attention"),
    "layer_norm": Paths(cpu=("torch",)),
    "linear_cross_entropy": Paths(),
    "linear_distillation": Paths(),
    "lstm": Paths(cpu=("torch",), cuda=("torch",)),  # oneDNN's and cuDNN's, through PyTorch
    "mlstm": Paths(library="mlstm_kernels"),
    "rms_norm": Paths(library="transformers"),
    "rotary": Paths(cpu=("torch",), library="transformers"),
    "selective_scan": Paths(library="mamba-ssm"),
    "slstm": Paths(),
    "swiglu": Paths(cpu=("torch",), library="transformers"),
}


def override() -> str:
    """The value of `BABYSWEEP_KERNELS`; ValueError if it is none of `CHOICES`."""
    value = os.environ.get(VARIABLE) or "auto"
    if value not in CHOICES:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(CHOICES)}, not {value!r}")
    return value


def order(kernel: str, device: str) -> tuple[str, ...]:
    """The paths of `kernel` on a device of type "cpu" or "cuda", the preferred one first.

    Raises:
        ValueError: the override asks for Triton where it cannot run; or it is no valid value.
    """
    row, choice = TABLE[kernel], override()
    if choice == "torch":
        return ("torch",)
    if device == "cpu":
        if choice == "triton" and "triton" in row.cuda:
            if not interpreted():
                raise ValueError(
                    f"{VARIABLE}=triton needs a GPU, but the tensors of {kernel} are on the CPU: "
                    "unset it, or set TRITON_INTERPRET=1 to run Triton's slow interpreter"
                )
            return ("triton", "torch")
        return row.cpu
    if choice == "library" and row.library:
        return ("library", *row.cuda)
    if "triton" in row.cuda and not triton_installed():
        if choice == "triton":
            raise ValueError(f"{VARIABLE}=triton, but Triton is not installed: pip install triton")
        return tuple(path for path in row.cuda if path != "triton")
    return row.cuda


def uses_library(kernel: str, device: str) -> bool:
    """Whether the library's own layer is wanted for tensors on a device of this type."""
    return device != "cpu" and order(kernel, device)[0] == "library"


_taken: set[tuple[str, str]] = set()


def note(kernel: str, path: str) -> None:
    """Note that `kernel` computes on this path. Called where that is decided, at every call."""
    if not torch.compiler.is_compiling():  # Dynamo would have to trace it
        _taken.add((kernel, path))


def forget_taken() -> None:
    """Forget what was noted: another trial begins."""
    _taken.clear()


def taken_in_words() -> str:
    """The paths on which kernels did compute, e.g. "mlstm triton, rms_norm triton and torch"."""
    found = {
        kernel: " and ".join(path for path in PATHS if (kernel, path) in _taken) for kernel in TABLE
    }
    return ", ".join(f"{kernel} {taken}" for kernel, taken in found.items() if taken)


@functools.cache
def triton_installed() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's interpreter runs its kernels, which then take tensors on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1" and triton_installed()
