"""What the names of a sweep's trials have to say, so that no two of a study are the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from analysis.schema.axes import AXES
from analysis.schema.fields import DEFAULTS
from trainables.spec import TrialSpec

_FIRST = ("epochs", "size", "context", "batch_size")
"""Fields that say the most to a person, of several that would do."""
_NOT_TOLD = ("arch", "lr", "seed", "corpus", "teacher_name")
"""Fields that every name has, and those that another one stands for."""
_IN_NAMES = ("arch", "alpha", "temperature", *(name for name in AXES if name in DEFAULTS))
"""Fields in which no two sweeps differ without a difference in the names."""


def telling_fields(
    base: TrialSpec, axes: Iterable[str], others: Iterable[Mapping[str, Any]]
) -> tuple[str, ...]:
    """The fields that tell a sweep's trials from those of others that have the same names.

    Args:
        base: a spec of the sweep.
        axes: that it varies; its names have their values.
        others: the fields of further sweeps of the study, those that they vary apart.
    """
    known = [each.name for each in dataclasses.fields(base)]
    candidates = [name for name in (*_FIRST, *known) if name not in (*_NOT_TOLD, *axes)]
    told: list[str] = []
    for other in others:
        fields = {**{name: x for name, x in DEFAULTS.items() if name not in AXES}, **other}
        differing = [
            name
            for name in ("arch", *candidates)
            if name in fields and str(fields[name]) != str(getattr(base, name))
        ]
        if differing and not any(name in told or name in _IN_NAMES for name in differing):
            told.append(differing[0])
    return tuple(told)
