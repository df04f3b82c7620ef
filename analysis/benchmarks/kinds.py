"""All kinds of benchmarks there are; `CONTRIBUTING.md` says how to add one."""

from __future__ import annotations

from fnmatch import fnmatchcase

from analysis.benchmarks.bear import BEAR
from analysis.benchmarks.ewok import EWOK
from analysis.benchmarks.kind import BenchmarkKind
from analysis.benchmarks.later_tasks import COMPS, ENTITY_TRACKING, WUG, WUG_PAST
from analysis.benchmarks.minimal_pairs import BLIMP, SUPPLEMENT
from analysis.benchmarks.reading import READING

ALL_KINDS = (BLIMP, SUPPLEMENT, EWOK, BEAR, WUG, WUG_PAST, ENTITY_TRACKING, COMPS, READING)
_BY_NAME = {kind.name: kind for kind in ALL_KINDS}
_BY_FOLDER = {pattern: kind for kind in ALL_KINDS for pattern in kind.folders}
KINDS = tuple(_BY_NAME)
"""Their names."""
MACRO = tuple(kind.name for kind in ALL_KINDS if kind.in_macro)
"""The benchmarks whose unweighted mean is the macro figure; the others stand beside it."""


def kind_named(name: str) -> BenchmarkKind:
    """The kind of that name; one that nobody listed is a mean of tasks, made in Python only."""
    return _BY_NAME.get(name) or BenchmarkKind(name, folders=(), read=lambda place, source: ())


def kind_of_folder(name: str) -> BenchmarkKind | None:
    """The kind of benchmark that a folder or file of this name holds."""
    fitting = [pattern for pattern in _BY_FOLDER if fnmatchcase(name.lower(), pattern)]
    return _BY_FOLDER[max(fitting, key=len)] if fitting else None
