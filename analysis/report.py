"""Write the report of a study: which architecture, which learning rate, how many epochs, does
distillation help, and how sure are we.

Everything is read from MLflow: the study may be finished, half finished, or on a server. The report
is one HTML file that opens offline, beside its tables (CSV, LaTeX) and pictures (PNG, SVG).

    python analysis/report.py                          # the only study of the storage
    python analysis/report.py --study mini-mini --select selection-split
    MLFLOW_TRACKING_URI=http://server:5000 python analysis/report.py --study babylm
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.markup import escape

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
    storage: Path = Path(os.environ.get("BABYSWEEP_STORAGE", "runs"))
    """Folder of the sweeps; its mlflow.db is read unless MLFLOW_TRACKING_URI is set."""
    output: Path | None = None
    """Folder to write to; default: <storage>/<study>/report."""
    ui: str | None = None
    """Address of MLflow's web pages, for the links; default: the tracking server, or that of
    `make ui`, http://127.0.0.1:5000."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = tyro.cli(ReportArgs, args=argv, description=__doc__)
    from analysis.reporting import write_report  # heavy imports: not before --help

    console = Console() if sys.stdout.isatty() else Console(width=120)
    started = datetime.now(UTC)
    try:
        with console.status("Reading the study") as status:
            page, path = write_report(args, started, lambda text: status.update(text))
    except (ValueError, OSError) as error:
        text = f"[bold red]error:[/] {escape(str(error))}"
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)
        return 2
    for answer in page.answers:
        console.print(f"- {escape(answer)}", highlight=False, soft_wrap=True)
    for warning in page.warnings:
        console.print(f"[yellow]- {escape(warning)}[/]", highlight=False, soft_wrap=True)
    console.print(f"\nReport      {escape(str(path))}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    from analysis.report import main as imported_main  # one module, also for types

    sys.exit(imported_main())
