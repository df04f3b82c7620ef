"""Write the report of a study: which architecture, which learning rate, how many epochs, does
distillation help, and how sure are we.

Everything is read from MLflow: the study may be finished, half finished, or on a server. The report
is one HTML file that opens offline, beside its tables (CSV, LaTeX) and pictures (PNG, SVG).

    python analysis/report.py                          # the only study of the storage
    python analysis/report.py --study mini-mini --select selection-split
    MLFLOW_TRACKING_URI=http://server:5000 python analysis/report.py --study babylm
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


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


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = tyro.cli(ReportArgs, args=argv, description=__doc__)
    from analysis.reporting import run_report  # heavy imports: not before --help

    return run_report(args)


if __name__ == "__main__":
    from analysis.report import main as imported_main  # one module, also for types

    sys.exit(imported_main())
