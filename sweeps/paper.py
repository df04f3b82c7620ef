"""The whole study in one command: sweeps, epochs, teacher, distillation, final scores.

    sweep     the learning rates of the architectures
    epochs    how many epochs the teacher's architecture wants, at its best learning rate
    promote   its best run becomes the registered teacher
    distill   the teacher is distilled into students, beside controls without it
    final     the best checkpoint of each architecture, and of students and controls, on all tasks
    report    what it all says, in one HTML file

A stage whose inputs have not changed is not run again, and every stage continues where it was
stopped: run the same command again after a kill. `--preset paper` is BabyHGRN's study; look at what
it takes with --dry-run first.

    python sweeps/paper.py
    python sweeps/paper.py --status
    python sweeps/paper.py --preset paper --corpus babylm-strict-small --benchmarks data/ --dry-run
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from analysis.signals import start

    start("sweeps.paper")

from analysis.command_line import parse
from sweeps.arguments import PaperArgs


def run_paper(args: PaperArgs) -> int:
    """Run the study, or say what it would take, or where it stands; returns the exit status."""
    from sweeps.engine.environment import secure_local_cluster  # heavy imports: not before --help

    secure_local_cluster(args.address)
    from sweeps.distill import run_distillation
    from sweeps.epoch_study import run_epoch_study
    from sweeps.evaluate import run_evaluation
    from sweeps.lr_sweep import run_lr_sweep
    from sweeps.promote import run_promotion
    from sweeps.running.stages import Commands, run_study

    run = Commands(run_lr_sweep, run_epoch_study, run_promotion, run_distillation, run_evaluation)
    return run_study(args, run)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_paper(parse(PaperArgs, argv, __doc__, prog))
