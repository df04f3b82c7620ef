"""Find the best learning rate of a language-model architecture on a corpus.

Every trial is recorded in MLflow. Running the same command again continues where it stopped;
finished trials are not run again, and further --lrs or --seeds add trials to the same study.

    python sweeps/lr_sweep.py --arch mamba
    python sweeps/lr_sweep.py --arch all --seeds 0 1 2
    python sweeps/lr_sweep.py --arch hgrn2 --corpus my_texts/ --benchmarks evaluation_data/
    python sweeps/lr_sweep.py --arch lstm --search optuna --lr-range 1e-4 1e-1 --num-samples 8
    python sweeps/lr_sweep.py --preset paper --arch study --dry-run
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from analysis.signals import start

    start("sweeps.lr_sweep")

from analysis.command_line import parse
from sweeps.arguments import LrSweepArgs


def run_lr_sweep(args: LrSweepArgs) -> int:
    """Plan the sweep and run it, or print what it would take; returns the exit status."""
    from sweeps.engine.environment import secure_local_cluster  # heavy imports: not before --help

    secure_local_cluster(args.address)
    from sweeps.findings.lr_sweep import show_results
    from sweeps.plans.lr_sweep import plan_sweep
    from sweeps.running.trials import run_command

    return run_command(args, plan_sweep, show_results, args.scheduler)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_lr_sweep(parse(LrSweepArgs, argv, __doc__, prog))
