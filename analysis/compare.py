"""Compare two runs: what they were trained as, and how their scores differ.

Each is read at its epoch of least validation loss, and scored on the same items: the intervals are
over these items. Two runs are two seeds: what other seeds would do, they do not tell.

    python analysis/compare.py 1f0c3e6b 8d92aa10          # ids of MLflow runs, or their beginnings
    python analysis/compare.py "mamba lr=1e-2 seed=0" "hgrn2 lr=1e-2 seed=0" --study mini-mini
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


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


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = tyro.cli(CompareArgs, args=argv, description=__doc__)
    from analysis.comparison import run_comparison  # heavy imports: not before --help

    return run_comparison(args)


if __name__ == "__main__":
    from analysis.compare import main as imported_main  # one module, also for types

    sys.exit(imported_main())
