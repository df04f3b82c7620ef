"""Where studies are kept, and which trials of them there are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from trainables.checkpoint import TrialFolder
from trainables.spec import TrialSpec

ROOT = Path(__file__).resolve().parents[2]


def resolve_storage(storage: Path | None) -> Path:
    """The storage folder as an absolute path: the flag, `BABYSWEEP_STORAGE`, or `runs/`.

    Raises:
        ValueError: none was given inside a submitted job, or it is not a path.
    """
    if storage is None and "BABYSWEEP_STORAGE" in os.environ:
        storage = Path(os.environ["BABYSWEEP_STORAGE"])
    if storage is None:
        if "working_dir_files" in ROOT.parts or "working_dir_files" in str(ROOT):
            raise ValueError(
                "a submitted job's working folder is temporary: pass --storage with an absolute "
                "path that all nodes share"
            )
        storage = ROOT / "runs"
    if "://" in str(storage) or ":/" in str(storage):
        raise ValueError(
            f"--storage must be a folder that all nodes share, not {storage}: mount the bucket, or "
            "use a network file system"
        )
    storage = storage.expanduser().resolve()
    storage.mkdir(parents=True, exist_ok=True)
    return storage


def earlier_trials(
    folder: Path, base: TrialSpec, axes: Sequence[str] = ("lr",)
) -> dict[TrialSpec, float | None]:
    """Trials in the study's folder that differ from `base` in these axes and the seed only.

    Returns:
        Their best validation bits per byte: infinite if diverged, None while unfinished.
    """
    found: dict[TrialSpec, float | None] = {}
    for trial in study_trials(folder):
        spec, outcome = trial.spec, trial.outcome
        if spec.without(axes) == base.without(axes):
            values = {name: getattr(spec, name) for name in (*axes, "seed")}
            found[base.replace(**values)] = None if outcome is None else outcome.score
    return found


def scored(trials: Mapping[TrialSpec, float | None]) -> dict[TrialSpec, float]:
    """The ended ones of `earlier_trials`."""
    return {spec: score for spec, score in trials.items() if score is not None}


def ended_frame(trials: Iterable[TrialFolder]) -> pd.DataFrame:
    """The trials that have an outcome as in the frame of `runs.trials`, without benchmark scores.

    Columns: those of the spec, `spec_hash`, `outcome` and `bits_per_byte`.
    """
    rows = [
        {
            **trial.spec.to_dict(),
            "spec_hash": trial.spec.hash,
            "outcome": outcome.kind,
            "bits_per_byte": outcome.score,
        }
        for trial in trials
        if (outcome := trial.outcome) is not None
    ]
    return pd.DataFrame(rows)


def study_trials(folder: Path) -> list[TrialFolder]:
    """The folders of all trials of a study, begun or ended."""
    return [TrialFolder(path.parent) for path in sorted(folder.glob("trials/*/spec.json"))]
