"""The flags of the commands that read studies, and what `--help` says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class ReportArgs:
    """Arguments of a report."""

    study: str | None = None
    """Name of the study, MLflow's experiment; default: the only one of the store."""
    select: Literal["val_loss", "selection-split", "macro"] = "val_loss"
    """What learning rate and epoch are chosen by: validation loss, the macro score on a fixed fifth
    of the items that the report then leaves out, or the reported macro itself (optimistic)."""
    storage: Path | None = None
    """Folder of the sweeps, by default $BABYSWEEP_STORAGE or runs; its mlflow.db is read unless
    MLFLOW_TRACKING_URI is set."""
    output: Path | None = None
    """Folder to write to; default: <storage>/<study>/report."""
    ui: str | None = None
    """Address of MLflow's web pages, for the links; default: the tracking server, or that of
    `make ui`, http://127.0.0.1:5000."""


@dataclass(frozen=True, kw_only=True)
class CompareArgs:
    """Arguments of a comparison."""

    first: Annotated[str, tyro.conf.Positional]
    """A run: its MLflow id, the beginning of it, or its name."""
    second: Annotated[str, tyro.conf.Positional]
    """The run to compare it with."""
    study: str | None = None
    """Name of the study that both are in; default: all studies of the store are searched."""
    storage: Path | None = None
    """Folder of the sweeps, by default $BABYSWEEP_STORAGE or runs; its mlflow.db is read unless
    MLFLOW_TRACKING_URI is set."""
    part: Literal["held_out", "selection", "all"] = "all"
    """Items to compare on: those that no choice looks at, the fifth that `--select selection-split`
    of a report chooses by, or both."""
