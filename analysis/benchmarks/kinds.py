"""All kinds of benchmarks there are; `CONTRIBUTING.md` says how to add one."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from analysis.benchmarks.bear import BEAR
from analysis.benchmarks.ewok import EWOK
from analysis.benchmarks.global_piqa import GLOBAL_PIQA_NONPARALLEL, GLOBAL_PIQA_PARALLEL
from analysis.benchmarks.kind import BenchmarkKind
from analysis.benchmarks.later_tasks import COMPS, ENTITY_TRACKING, WUG, WUG_PAST
from analysis.benchmarks.minimal_pairs import BLIMP, SUPPLEMENT
from analysis.benchmarks.reading import READING

ALL_KINDS = (
    *(BLIMP, SUPPLEMENT, EWOK, BEAR, WUG, WUG_PAST, ENTITY_TRACKING, COMPS, READING),
    *(GLOBAL_PIQA_PARALLEL, GLOBAL_PIQA_NONPARALLEL),
)
_BY_NAME = {kind.name: kind for kind in ALL_KINDS}
_BY_FOLDER = {pattern: kind for kind in ALL_KINDS for pattern in kind.folders}
KINDS = tuple(_BY_NAME)
"""Their names."""
_FIRST_THREE = {kind.name: 1.0 for kind in (BLIMP, SUPPLEMENT, EWOK)}
MACRO_WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "2024": _FIRST_THREE,
    "2025": _FIRST_THREE,
    "2026": {
        **_FIRST_THREE,
        **{kind.name: 1.0 for kind in (ENTITY_TRACKING, COMPS, READING)},
        **{kind.name: 0.5 for kind in (GLOBAL_PIQA_PARALLEL, GLOBAL_PIQA_NONPARALLEL)},
    },
}
"""By protocol: the benchmarks whose weighted mean is the macro figure, and what each counts; the
others stand beside it.

2024 and 2025: the three zero-shot benchmarks that both challenges had, alike. 2026: the "Overall"
of its leaderboard (huggingface.co/spaces/BabyLM-community/BabyLM-Leaderboard-2026, src/leaderboard/
read_evals.py, `to_dict`) is the unweighted mean of nine figures: these seven (both sets of
GlobalPIQA are one, and so are eye tracking and self-paced reading), GLUE, which is fine-tuned, and
the age of acquisition, which takes the checkpoints of a training. The predictions that it takes are
those that babylm-org/babylm-eval collects at a66e05d (`protocols`; strict/evaluation_pipeline/
collate_preds.py). A benchmark that is missing counts as 0 there; here the mean is over those that
are there."""


def macro_weights(protocol: str, names: Collection[str]) -> dict[str, float]:
    """What each of the benchmarks of these names counts in a protocol's macro, in the order of
    `MACRO_WEIGHTS`; empty without any."""
    return {name: weight for name, weight in MACRO_WEIGHTS[protocol].items() if name in names}


def macro_of(figures: Mapping[str, float], protocol: str) -> float | None:
    """The weighted mean of those benchmarks' figures that count in a protocol's macro; None without
    any."""
    weights = macro_weights(protocol, figures)
    total = math.fsum(weight * figures[name] for name, weight in weights.items())
    return total / sum(weights.values()) if weights else None


def macro_in_words(weights: Mapping[str, float]) -> str:
    """What a macro of these weights is the mean of: "blimp, ewok"; what counts less is last."""
    greatest = max(weights.values())
    listed = ", ".join(name for name, weight in weights.items() if weight == greatest)
    less = [name for name, weight in weights.items() if weight < greatest]
    return f"{listed}, and of {' and '.join(less)} by half" if less else listed


def kind_named(name: str) -> BenchmarkKind:
    """The kind of that name; one that nobody listed is a mean of tasks, made in Python only."""
    return _BY_NAME.get(name) or BenchmarkKind(name, folders=(), read=lambda place, source: ())


def kind_of_folder(name: str) -> BenchmarkKind | None:
    """The kind of benchmark that a folder or file of this name holds."""
    fitting = [pattern for pattern in _BY_FOLDER if fnmatchcase(name.lower(), pattern)]
    return _BY_FOLDER[max(fitting, key=len)] if fitting else None
