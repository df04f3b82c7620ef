"""Distil a teacher into a student, beside the same training without a teacher.

The loss is (1 - alpha) CE + alpha T^2 KL(teacher || student), a mean over tokens. Corpus, size,
epochs, batch and context are the teacher's unless given; so are learning rate, schedule, weight
decay and all else that sweeps vary, of a student of its architecture. With every alpha and
temperature a control is trained that differs in nothing but the teacher: the gain is a paired
difference over seeds. A control that an earlier sweep trained is not trained again.

    python sweeps/promote.py --arch hgrn2
    python sweeps/distill.py --teacher models:/hgrn2@teacher --seeds 0 1 2
    python sweeps/distill.py --teacher models:/hgrn2@teacher --alphas 0.3 0.7 --temperatures 1 2
    python sweeps/distill.py --teacher models:/hgrn2@teacher models:/mamba@teacher --arch lstm
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from analysis.signals import start

    start("sweeps.distill")

from analysis.command_line import parse
from sweeps.arguments import DistillArgs


def run_distillation(args: DistillArgs) -> int:
    """Plan the trials and run them, or print what they would take; returns the exit status."""
    from sweeps.engine.environment import secure_local_cluster  # heavy imports: not before --help

    secure_local_cluster(args.address)
    from sweeps.findings.distill import show_gains
    from sweeps.plans.distill import plan_distillation
    from sweeps.running.trials import run_command

    return run_command(args, plan_distillation, show_gains)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_distillation(parse(DistillArgs, argv, __doc__, prog))
