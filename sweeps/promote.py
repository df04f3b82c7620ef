"""Promote the best run of a study: register its checkpoint in MLflow and move an alias to it.

The checkpoint becomes a version of a registered model, tagged with where it comes from. Promoting
what already has the alias changes nothing; what is worse or cannot be compared needs --force.

    python sweeps/promote.py --arch hgrn2 --study mini-mini
    python sweeps/promote.py --arch hgrn2 --run-id 0123... --force
    python sweeps/evaluate.py --model models:/hgrn2@teacher --benchmarks data/
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from analysis.signals import start

    start("sweeps.promote")

from analysis.command_line import parse
from sweeps.arguments import PromoteArgs


def run_promotion(args: PromoteArgs) -> int:
    """Promote and say what changed; returns the exit status."""
    from analysis.errors import say_error  # heavy imports: not before --help
    from analysis.signals import ending_on_signals
    from analysis.terminal import open_console
    from sweeps.findings.promote import show_promotion
    from sweeps.plans.promote import plan_promotion
    from sweeps.running.promotion import promote

    console = open_console()
    try:
        with ending_on_signals():
            plan = plan_promotion(args)
            promotion = promote(plan)
    except (ValueError, OSError) as error:
        return say_error(error)
    show_promotion(promotion, args.alias, plan.storage, console)
    return 0


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_promotion(parse(PromoteArgs, argv, __doc__, prog))
