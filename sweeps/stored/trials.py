"""Where studies are kept, and which trials of them there are."""

from __future__ import annotations

import os
from pathlib import Path

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


def earlier_trials(folder: Path, base: TrialSpec) -> dict[tuple[float, int], float | None]:
    """Trials in the study's folder that lie on the curve of `base`, by (lr, seed).

    Returns:
        Their best validation bits per byte: infinite if diverged, None while unfinished.
    """
    found: dict[tuple[float, int], float | None] = {}
    for trial in study_trials(folder):
        spec, outcome = trial.spec, trial.outcome
        if spec.setting == base.setting:
            found[spec.lr, spec.seed] = None if outcome is None else outcome.score
    return found


def study_trials(folder: Path) -> list[TrialFolder]:
    """The folders of all trials of a study, begun or ended."""
    return [TrialFolder(path.parent) for path in sorted(folder.glob("trials/*/spec.json"))]
