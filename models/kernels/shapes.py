"""Checks of what the kernels are given: C++ reads memory by the sizes that it is told."""

from __future__ import annotations

from torch import Tensor


def expect(name: str, x: Tensor, *shape: int) -> None:
    """Raise ValueError if `x` is not of this shape, in which -1 stands for any size."""
    sizes = tuple(x.shape)
    fits = len(sizes) == len(shape) and all(
        want in (-1, size) for want, size in zip(shape, sizes, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if want == -1 else str(want) for want in shape)
        raise ValueError(f"{name} has the shape {sizes}, but ({wanted}) is needed")
