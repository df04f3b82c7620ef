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
from pathlib import Path

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from analysis.signals import start

    start("analysis.report")


from analysis.arguments import ReportArgs
from analysis.command_line import parse


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parse(ReportArgs, argv, __doc__, prog)
    from analysis.reporting.writing import run_report  # heavy imports: not before --help

    return run_report(args)
