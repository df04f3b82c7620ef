"""A case in which a kernel is checked, and the lengths at which every kernel is.

A kernel's lengths run at the widths of `mini`, where the reference, step by step in float64, is
quick; one length in between runs at the widths of every other preset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

LENGTHS = (1, 7, 48, 64, 65, 512, 1334)
MIDDLE = 65  # of the presets' widths: one step more than the usual chunk

Inputs = dict[str, Tensor]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A kernel on certain inputs.

    Attributes:
        kernel: its name in `models.kernels.paths.TABLE`.
        name: what is special about the case.
        inputs: makes the arguments by name, in float32 on the CPU, the same at every call.
        run, reference: called with them, return a tensor or a tuple of tensors.
        parameters: names of inputs that are float32 also where the others are bf16.
        constants: names of inputs without gradient, float32 as well.
        types: in which the inputs come.
        loosened: factor on the tolerance in float32, where a result is a difference or a quotient
            of larger numbers.
    """

    kernel: str
    name: str
    inputs: Callable[[], Inputs]
    run: Function
    reference: Function
    parameters: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()
    types: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    loosened: float = 1.0

    def __str__(self) -> str:
        return f"{self.kernel} {self.name}"


def draw(*shape: int) -> Tensor:
    return torch.randn(shape)


def case_of(
    kernel: str,
    make: Callable[..., Inputs],
    run: Function,
    reference: Function,
    parameters: str = "",
    constants: str = "",
    **shape: Any,
) -> Case:
    """A case named after its shape, with inputs that depend on nothing else."""

    def inputs() -> Inputs:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make(**shape)

    name = " ".join(f"{key}={value}" for key, value in shape.items())
    kept, constant = frozenset(parameters.split()), frozenset(constants.split())
    return Case(kernel, name, inputs, run, reference, kept, constant)


def by_shape(case: Callable[..., Case], widths: list[dict[str, Any]], **mini: Any) -> list[Case]:
    """Every length at the widths of `mini`, and the middle one at each of the others.

    In float32, in which trials only validate and score, at the first of them and the last.
    """
    lengths = [case(T=time, **mini) for time in LENGTHS]
    others = [case(T=MIDDLE, **width) for width in widths]
    others[1:-1] = [replace(each, types=(torch.bfloat16,)) for each in others[1:-1]]
    return lengths + others
