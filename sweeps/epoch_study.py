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
from pathlib import Path

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from analysis.signals import start

    start("sweeps.epoch_study")

from analysis.command_line import parse
from sweeps.arguments import EpochStudyArgs


def run_epoch_study(args: EpochStudyArgs) -> int:
    """Plan the study and run it, or print what it would take; returns the exit status."""
    from sweeps.engine.environment import secure_local_cluster  # heavy imports: not before --help

    secure_local_cluster(args.address)
    from sweeps.findings.epoch_study import show_epochs
    from sweeps.plans.common import Status, SweepPlan
    from sweeps.plans.epoch_study import plan_designs, plan_epochs
    from sweeps.running.trials import run_command

    planned = []

    def planner(args: EpochStudyArgs, status: Status) -> SweepPlan:
        setup, designs = plan_designs(args, status)
        planned.append(designs)
        return plan_epochs(setup, designs)

    return run_command(
        args,
        planner,
        lambda plan, tracker, search, console: show_epochs(plan, planned[0], tracker, console),
    )


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_epoch_study(parse(EpochStudyArgs, argv, __doc__, prog))
