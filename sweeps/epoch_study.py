"""Find out after how many epochs a language model is at its best.

The learning rate is the best one of the study's sweep, unless --lr gives another. Three designs:

    trajectory   one trial of the longest horizon, read after each epoch
    independent  one trial for each horizon, with its whole schedule
    branch       the same with warm-up, stable phase and decay, where the shorter trials go on from
                 checkpoints of the longest one: all answers for about the cost of the longest

Running the same command again continues where it stopped; further --horizons, --seeds or --designs
join the same study.

    python sweeps/epoch_study.py --arch hgrn2 --seeds 0 1 2
    python sweeps/epoch_study.py --arch hgrn2 --designs independent branch --horizons 1 2 4 8
    python sweeps/epoch_study.py --arch hgrn2 --milestones 1M 2M 4M
    python sweeps/epoch_study.py --arch hgrn2 --preset paper --epochs 10 --dry-run
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.arguments import TrainingArgs


@dataclass(frozen=True, kw_only=True)
class EpochStudyArgs(TrainingArgs):
    """Arguments of the epoch study."""

    arch: tuple[str, ...] = ("hgrn2",)
    """Architecture: transformer, lstm, xlstm, mamba or hgrn2."""
    designs: tuple[str, ...] = ("branch",)
    """One or more of trajectory, independent, branch."""
    horizons: tuple[int, ...] = ()
    """Numbers of epochs to compare; default: 1 to --epochs."""
    lr: float | None = None
    """Peak learning rate; default: the best of this architecture in the study."""
    decay: float = 0.3
    """Fraction of the steps in the final decay of the schedule wsd, which branches have. A longer
    one ends nearer to a whole linear decay, and shares fewer steps between the lengths."""
    milestones: tuple[str, ...] = ()
    """Score also after so many words: 1000000, or 1M. A branch leaves those before it began to the
    longest trial."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = tyro.cli(EpochStudyArgs, args=argv, description=__doc__)
    from sweeps.engine.environment import secure_local_cluster

    secure_local_cluster(args.address)
    from sweeps.plans.epoch_study import run_epoch_study  # heavy imports: not before --help

    return run_epoch_study(args)


if __name__ == "__main__":
    from sweeps.epoch_study import main as imported_main  # one module, also for pickles and types

    sys.exit(imported_main())
