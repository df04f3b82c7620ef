"""Compiling recorded launches into Triton's cache, for any GPU and without one."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from models.kernels.gpu.launch import Launch


class _Target:
    """A driver that only knows which GPU to compile for: what Triton asks of one until it runs."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return int(self._target.arch)  # Triton keeps what it compiled by the number of the device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def compiling_for(capability: int) -> Iterator[None]:
    """Let `build` compile for this compute capability, e.g. 90 for an H100."""
    from triton.runtime import driver

    previous = driver._active  # reading `driver.active` would ask for a GPU
    driver.set_active(_Target(capability))
    try:
        yield
    finally:
        driver._active = previous


def build(launch: Launch) -> Any:
    """Compile a launch, or take it from Triton's cache; returns Triton's compiled kernel."""
    kernel = getattr(importlib.import_module(launch.module), launch.name)
    return kernel.warmup(
        *launch.arguments,
        grid=(1,),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        **dict(launch.constants),
    )
