"""The flags with the values to try on each axis, made from `analysis.schema.axes`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, Literal, TypeVar

import tyro

from analysis.flag_values import default_is
from analysis.schema.axes import AXES
from analysis.schema.fields import trial_field
from analysis.schema.ranges import flag_of
from sweeps.arguments.presets import preset_default

Args = TypeVar("Args")


def axes_args() -> Any:
    """A dataclass with the values to try on each axis, e.g. `lrs`, `weight_decays`."""
    fields = [
        (
            axis.plural,
            Annotated[
                tuple[axis.kind, ...],  # type: ignore[name-defined]
                tyro.conf.arg(help=axis.help),
                preset_default("lrs") if axis.field == "lr" else default_is("not varied"),
            ],
            trial_field(axis.field, default=()),
        )
        for axis in AXES.values()
    ]
    namespace = {"PANEL": "grid"}
    return make_dataclass("AxesArgs", fields, namespace=namespace, frozen=True, kw_only=True)


AxesArgs: Any = axes_args()


@dataclass(frozen=True, kw_only=True)
class GridArgs(AxesArgs):  # type: ignore[misc]
    """The values to try, and in which order."""

    PANEL = "grid"

    order: Annotated[
        Literal["grid", "coordinate"],
        tyro.conf.arg(
            help="With several axes: grid tries all combinations; coordinate one axis after the "
            "other, each from the best point so far, in the order "
            f"{', '.join(axis.label for axis in AXES.values())}."
        ),
    ] = "grid"


def given_value(args: Any, name: str) -> Any:
    """The value that a flag gives a field of a trial's spec; None without such a flag or value."""
    return getattr(args, name, None)


def set_single(args: Args) -> Args:
    """The arguments with a single value of an axis moved to the flag that sets it, if there is one.

    It is no axis; the learning rate is one with any number of values.

    Raises:
        ValueError: an axis is both set and varied.
    """
    changes: dict[str, Any] = {}
    for name, axis in AXES.items():
        given = tuple(dict.fromkeys(getattr(args, axis.plural)))
        if name == "lr" or not given:
            continue
        if (single := given_value(args, name)) is not None:
            raise ValueError(
                f"{flag_of(name)} {single} sets what {axis.flag} varies: give one of them"
            )
        if len(given) == 1 and hasattr(args, name):
            changes |= {axis.plural: (), name: given[0]}
    return dataclasses.replace(args, **changes)  # type: ignore[type-var]


def values_of(args: Any) -> dict[str, tuple[Any, ...]]:
    """The values to try, each once, by axis that is varied; the learning rate always."""
    values = {name: tuple(dict.fromkeys(getattr(args, a.plural))) for name, a in AXES.items()}
    return {name: given for name, given in values.items() if given or name == "lr"}
