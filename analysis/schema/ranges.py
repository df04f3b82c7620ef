"""Ranges of values, beside the fields that hold them."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from typing import Any

MOST = 2**31 - 1
"""Of counts: tensors, files and MLflow's tables hold no more."""
MOST_EPOCHS = 10**6
"""Their steps are counts in turn."""
LARGEST_SEED = 2**63 - 1
"""What a data frame, SQLite and PyTorch's generators hold alike."""

SMALLEST_SHARE = 1e-4
"""Of a GPU: Ray counts in steps of it."""

LARGEST_VOCAB = 2**24
"""Tokens; beyond 10^9 the tokenizer's library aborts the process for want of memory."""


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, without the latter if `below`, with 0 if `or_zero`."""

    low: float
    high: float
    below: bool = False
    or_zero: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies in the range; NaN never does, nor what is computed with as 0."""
        if isinstance(value, float) and (not math.isfinite(value) or is_denormal(value)):
            return False
        if self.or_zero and value == 0:
            return True
        return self.low <= value < self.high if self.below else self.low <= value <= self.high

    @property
    def words(self) -> str:
        """The range as an error names it."""
        low, high = (str(end) if isinstance(end, int) else f"{end:g}" for end in self.ends)
        zero = "0, or " if self.or_zero else ""
        return f"{zero}from {low} to {'below ' if self.below else ''}{high}"

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest number."""
        return self.low, self.high


def is_denormal(value: float) -> bool:
    """Whether a number is so small that processors lose its digits, or take it for zero."""
    return 0 < abs(value) < sys.float_info.min


def within(
    low: float, high: float, *, below: bool = False, or_zero: bool = False, **options: Any
) -> Any:
    """A dataclass field whose value, or each of whose values, must lie in a range.

    `None`, texts and what is true or false are left to the field's type.
    """
    return dataclasses.field(metadata={"range": Range(low, high, below, or_zero)}, **options)


def flag_of(name: str) -> str:
    """The flag of a field: `--batch-size` of `batch_size`."""
    return f"--{name.replace('_', '-')}"


def check(values: Any, *, flags: bool = False) -> None:
    """Check the ranged fields of a dataclass's instance.

    Args:
        values: the instance.
        flags: whether to name fields as flags of a command.

    Raises:
        ValueError: a value lies outside of its range.
    """
    for field in dataclasses.fields(values):
        if (allowed := field.metadata.get("range")) is None:
            continue
        found = getattr(values, field.name)
        for value in found if isinstance(found, tuple) else (found,):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and not allowed.holds(value):
                name = flag_of(field.name) if flags else field.name
                why = ", which is too small to compute with" if is_denormal(value) else ""
                raise ValueError(f"{name} must be {allowed.words}, not {value}{why}")
