"""What a sweep can vary besides the seed: one entry for each axis.

An entry makes the flag of `lr_sweep.py`, the columns of its tables and of the live display, and the
curves and heat maps of the report. The field must be one of `trainables.spec.TrialSpec`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from analysis.schema.fields import Optimizer, Schedule, range_of
from analysis.schema.ranges import flag_of

Edge = Literal["low", "high"]
_HALF_DECADES = (1.0, 3.0)


@dataclass(frozen=True)
class Axis:
    """A field of a trial's spec along which sweeps look for the best value.

    Attributes:
        field: of the spec, and column of the frame of `runs.trials`.
        label: in tables and pictures.
        help: of its flag.
        kind: type of its values: float, int, or a Literal of names.
        scale: on which values are spaced evenly; None for a choice without an order.
    """

    field: str
    label: str
    help: str
    kind: Any = float
    scale: Literal["log", "linear"] | None = "log"

    def allows(self, value: Any) -> bool:
        """Whether a trial can have this number."""
        allowed = range_of(self.field)
        return allowed is None or allowed.holds(value)

    def is_bound(self, value: float) -> bool:
        """Whether there is nothing beyond a value."""
        allowed = range_of(self.field)
        return allowed is not None and value in allowed.ends

    @property
    def plural(self) -> str:
        """Name of the argument that holds the values to try."""
        return f"{self.field}s"

    @property
    def flag(self) -> str:
        """Name of that argument on the command line."""
        return flag_of(self.plural)

    @property
    def column(self) -> str:
        """Head of a narrow column."""
        return "LR" if self.field == "lr" else self.label

    def show(self, value: Any) -> str:
        """A value as people write it: 1e-3, 0.4, 64, muon."""
        return short(value) if self.field == "lr" else f"{value:g}" if self.scale else str(value)

    def in_order(self, values: Iterable[Any]) -> list[Any]:
        """Each value once, sorted where they have an order."""
        once = list(dict.fromkeys(values))
        return sorted(once) if self.scale else once

    def beyond(self, values: list[Any], edge: Edge) -> Any:
        """The next value beyond an end of a sorted grid of two values or more; None at a bound.

        Half-decade grids (1, 3, 10, ...) go on as such; others with the ratio, on a linear scale
        the difference, of their last two values. Three significant digits, so that the same grid
        gives the same number on every machine.
        """
        last, before = (values[-1], values[-2]) if edge == "high" else (values[0], values[1])
        if self.scale == "linear" or before == 0:
            value = last + (last - before)
        elif last == 0:
            return None
        else:
            value = _half_decade(values, edge) or last * last / before
        value = self.kind(round(value)) if self.kind is int else float(f"{value:.3g}")
        is_new = value > values[-1] if edge == "high" else value < values[0]
        return value if is_new and self.allows(value) else None


AXES = {
    axis.field: axis
    for axis in (
        Axis("lr", "learning rate", "The grid of learning rates."),
        Axis("weight_decay", "weight decay", "Decoupled weight decays of matrices."),
        Axis(
            "dropout",
            "dropout",
            "Probabilities of dropout, of the embeddings and of what each layer adds.",
            scale="linear",
        ),
        Axis("batch_size", "batch size", "Sequences in one optimizer step.", kind=int),
        Axis(
            "warmup",
            "warm-up",
            "Fractions of the steps with rising learning rate.",
            scale="linear",
        ),
        Axis(
            "optimizer",
            "optimizer",
            "adamw, or muon for the hidden matrices.",
            kind=Optimizer,
            scale=None,
        ),
        Axis(
            "schedule",
            "schedule",
            "Learning-rate schedules.",
            kind=Schedule,
            scale=None,
        ),
    )
}
"""By field, the learning rate first."""
LR = AXES["lr"]


def short(value: float) -> str:
    """A learning rate as people write it: 3e-4 of 0.0003, 3.3e-4."""
    digits, exponent = f"{value:.3e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def in_words(point: Mapping[str, Any]) -> str:
    """A point as people write it: 1e-2, or 1e-2 at weight decay 0.4, for several axes."""
    others = [f"{AXES[n].label} {AXES[n].show(v)}" for n, v in point.items() if n != "lr"]
    return LR.show(point["lr"]) + (f" at {', '.join(others)}" if others else "")


def _half_decade(values: list[float], edge: Edge) -> float | None:
    """The next of 1, 3, 10, 30, ... where the grid consists of such, without larger gaps."""
    steps = [high / low for low, high in zip(values, values[1:], strict=False) if low]
    if 0 in values or min(steps) >= 5 or any(_mantissa(v)[0] not in _HALF_DECADES for v in values):
        return None
    mantissa, exponent = _mantissa(values[-1] if edge == "high" else values[0])
    if edge == "high":
        return float(f"3e{exponent}") if mantissa == 1 else float(f"1e{exponent + 1}")
    return float(f"1e{exponent}") if mantissa == 3 else float(f"3e{exponent - 1}")


def _mantissa(value: float) -> tuple[float, int]:
    mantissa, exponent = f"{value:.6e}".split("e")
    return float(mantissa), int(exponent)
