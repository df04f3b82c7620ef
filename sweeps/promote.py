"""Promote the best run of a study: register its checkpoint in MLflow and move an alias to it.

The checkpoint becomes a version of a registered model, tagged with where it comes from. Promoting
what already has the alias changes nothing; what is worse or cannot be compared needs --force.

    python sweeps/promote.py --arch hgrn2 --study mini-mini
    python sweeps/promote.py --arch hgrn2 --run-id 0123... --force
    python analysis/evaluate.py --model models:/hgrn2@teacher --benchmarks data/
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


@dataclass(frozen=True)
class PromoteArgs:
    """Arguments of a promotion."""

    arch: str = "hgrn2"
    """Architecture: transformer, lstm, xlstm, mamba or hgrn2."""
    study: str | None = None
    """Name of the study; default: that of --run-id, or the only one there is."""
    name: str | None = None
    """Name of the registered model; default: the architecture."""
    alias: str = "teacher"
    """Alias that is moved to the promoted version."""
    run_id: str | None = None
    """MLflow run to promote in place of the study's best."""
    force: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Promote although what has the alias is better, or was validated on another corpus."""
    storage: Path | None = None
    """Folder of checkpoints and the MLflow store; default: BABYSWEEP_STORAGE or runs/."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = tyro.cli(PromoteArgs, args=argv, description=__doc__)
    from sweeps.stored.promotion import run_promotion  # heavy imports: not before --help

    return run_promotion(args)


if __name__ == "__main__":
    sys.exit(main())
