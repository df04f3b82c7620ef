"""Find the best learning rate of a language-model architecture on a corpus.

Every trial is recorded in MLflow. Running the same command again continues where it stopped;
finished trials are not run again, and further --lrs or --seeds add trials to the same study.

    python sweeps/lr_sweep.py --arch mamba
    python sweeps/lr_sweep.py --arch all --seeds 0 1 2
    python sweeps/lr_sweep.py --arch hgrn2 --corpus my_texts/ --benchmarks evaluation_data/
    python sweeps/lr_sweep.py --arch lstm --search optuna --lr-range 1e-4 1e-1 --num-samples 8
    python sweeps/lr_sweep.py --preset paper --arch all --dry-run
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
class LrSweepArgs(TrainingArgs):
    """Arguments of the sweep."""

    lrs: tuple[float, ...] = ()
    """The grid of learning rates."""
    extend: bool = True
    """Add up to three points beyond the grid while its best learning rate lies on the edge."""
    search: str = "grid"
    """grid, or optuna within --lr-range."""
    lr_range: tuple[float, float] | None = None
    """Lowest and highest learning rate for optuna."""
    num_samples: int = 8
    """Learning rates that optuna tries."""
    sampler: str = "gp"
    """Optuna's sampler: gp (Gaussian process) or tpe."""
    scheduler: str = "none"
    """asha stops the worse two thirds of the trials early; none runs all to the end."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = tyro.cli(LrSweepArgs, args=argv, description=__doc__)
    from sweeps.engine.environment import secure_local_cluster

    secure_local_cluster(args.address)
    from sweeps.running import run_lr_sweep  # heavy imports: not before --help

    return run_lr_sweep(args)


if __name__ == "__main__":
    from sweeps.lr_sweep import main as imported_main  # one module, also for pickles and types

    sys.exit(imported_main())
