"""The flags of the commands that read studies, and what `--help` says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from analysis.flag_values import default_is, place
from analysis.schema.choices import ItemPart, SelectionRule


@dataclass(frozen=True, kw_only=True)
class StoreArgs:
    """The store that studies are read from."""

    PANEL = "main"

    storage: Annotated[Path | None, default_is("BABYSWEEP_STORAGE or runs/")] = place(default=None)
    """Folder of the sweeps; its mlflow.db is read unless MLFLOW_TRACKING_URI is set."""


@dataclass(frozen=True, kw_only=True)
class PageArgs(StoreArgs):
    """Place and form of a report."""

    PANEL = "output"

    output: Annotated[Path | None, default_is("<storage>/<study>/report")] = place(default=None)
    """Folder to write to."""
    ui: Annotated[
        str | None,
        default_is("the tracking server, or that of `make ui`, http://127.0.0.1:5000"),
    ] = None
    """Address of MLflow's web pages, for the links."""


@dataclass(frozen=True, kw_only=True)
class ReportArgs(PageArgs):
    """Arguments of a report."""

    PANEL = "main"

    study: Annotated[str | None, default_is("the only one of the store")] = None
    """Name of the study, MLflow's experiment."""
    select: SelectionRule = "val_loss"
    """What learning rate and epoch are chosen by: validation loss, the macro score on a fixed fifth
    of the items that the report then leaves out, or the reported macro itself (optimistic)."""


@dataclass(frozen=True, kw_only=True)
class CompareArgs(StoreArgs):
    """Arguments of a comparison."""

    PANEL = "main"

    first: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_A")]
    """A run: its MLflow id or its trial's hash, the beginning of either, or its name."""
    second: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_B")]
    """The run to compare it with."""
    study: Annotated[str | None, default_is("all studies of the store are searched")] = None
    """Name of the study that both are in."""
    part: ItemPart = "all"
    """Items to compare on: those that no choice looks at, the fifth that `--select selection-split`
    of a report chooses by, or both."""
