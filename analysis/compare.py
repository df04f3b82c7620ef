"""Compare two runs: what they were trained as, and how their scores differ.

Each is read at its epoch of least validation loss, and scored on the same items: the intervals are
over these items. Two runs are two seeds: what other seeds would do, they do not tell.

    python analysis/compare.py 1f0c3e6b 8d92aa10          # ids of MLflow runs, or their beginnings
    python analysis/compare.py "mamba lr=1e-2 seed=0" "hgrn2 lr=1e-2 seed=0" --study mini-mini
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from analysis.signals import start

    start("analysis.compare")


from analysis.arguments import CompareArgs
from analysis.command_line import parse


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parse(CompareArgs, argv, __doc__, prog)
    from analysis.comparison import run_comparison  # heavy imports: not before --help

    return run_comparison(args)
