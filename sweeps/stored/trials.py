"""Where studies are kept, and which trials of them there are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.addresses import address_in, address_of, check_address, copy_of
from analysis.places import check_lasts, resolved, writable_folder
from trainables.bucket import check_reach
from trainables.checkpoint import TrialFolder, look_at_all
from trainables.files import DamagedFileError, tell
from trainables.spec import TrialSpec

ROOT = Path(__file__).resolve().parents[2]
_STRANGE = re.compile("[%?\\x00-\\x1f\\x7f\\ud800-\\udfff]")
"""In a path: what has another meaning in the address of a database, or is no letter."""
_STUDY_NAME = re.compile(r"[\w(@+=,][\w ()@+=,.-]*", re.UNICODE)
_LONGEST_NAME = 200


def resolve_storage(storage: Path | None, *, create: bool = True) -> Path:
    """The storage folder as an absolute path: the flag, `BABYSWEEP_STORAGE`, or `runs/`.

    Args:
        storage: as it was given: a folder, or the address of a bucket, "s3://bucket/folder", whose
            copy on this machine is the folder then.
        create: whether to make the folder; else it must be there.

    Raises:
        ValueError: it is no folder that all nodes can share, that MLflow can be told of, or that
            can be written to; the message names the flag, or the variable.
    """
    given, flag = storage, "--storage"
    if given is None and "BABYSWEEP_STORAGE" in os.environ:
        given, flag = Path(os.environ["BABYSWEEP_STORAGE"]), "BABYSWEEP_STORAGE"
        if not os.environ[flag]:  # its path would be the current folder
            raise ValueError(f"{flag} is empty: give a folder")
    if given is None:
        given = ROOT / "runs"
    if (address := address_in(given)) is not None:
        check_address(address, flag)
        check_reach(address, flag, write=create)
        return copy_of(address)
    path = resolved(given, flag)
    if address_of(path) is not None:  # as an earlier command of the same process resolved it
        return path
    check_lasts(path, flag)
    if strange := _STRANGE.search(str(path)):
        raise ValueError(
            f"{flag} must not have {strange[0]!r} in its path, which the database's address would "
            f"read as something else: {str(path)!r}"
        )
    if create:
        return writable_folder(path, flag)
    if not os.path.isdir(path):  # a name that is too long is none
        raise ValueError(f"there is no storage folder {path}: give the --storage of the sweep")
    return path


def study_name(text: str) -> str:
    """A name of a study that `check_study_name` takes: the text, if that is one."""
    name = re.sub(r"[^\w ()@+=,.-]+", "-", text).lstrip(" .-)")
    while len(name.encode()) > _LONGEST_NAME:
        name = name[:-1]
    return name or "study"


def check_study_name(name: str) -> None:
    """Check that a study's name is that of a folder in the storage.

    Raises:
        ValueError: it would lie elsewhere, or have characters that not all systems take.
    """
    if not _STUDY_NAME.fullmatch(name) or len(name.encode()) > _LONGEST_NAME:
        raise ValueError(
            f"--study must be the name of a folder, of letters, digits, spaces and _-+=,.()@, not "
            f"beginning with a dot or dash, and not longer than {_LONGEST_NAME} bytes: not {name!r}"
        )


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
    """The folders of all trials of a study, begun or ended.

    One whose spec cannot be known is left out, and the person at the command is told: it may be
    none of those that the command works on.
    """
    look_at_all(folder / "trials")
    trials = []
    for path in sorted(path for path in folder.glob("trials/*") if path.is_dir()):
        trial = TrialFolder(path)
        try:
            _ = trial.spec
        except DamagedFileError as damaged:
            if (path / "spec.json").exists() or trial.has_begun:
                tell(f"left out: {damaged}")
        else:
            trials.append(trial)
    return trials
