"""Checks of what the kernels are given: C++ reads memory by the sizes that it is told."""

from __future__ import annotations

import torch
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


def expect_targets(targets: Tensor, tokens: int) -> None:
    """Raise ValueError or TypeError unless these are the ids of so many tokens."""
    expect("targets", targets, tokens)
    if targets.dtype != torch.int64:
        raise TypeError(f"targets are {targets.dtype}, but token ids are needed as int64")


def expect_tokens(targets: Tensor, vocab: int, ignore_index: int) -> None:
    """Raise IndexError unless every target is a token or `ignore_index`."""
    wrong = targets[((targets < 0) | (targets >= vocab)) & (targets != ignore_index)]
    if len(wrong):
        raise IndexError(
            f"target {wrong[0]} is out of bounds: it must be below the vocabulary's size {vocab}, "
            f"or {ignore_index} where there is nothing to predict"
        )
