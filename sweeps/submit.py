"""Make a submission to the BabyLM challenge: a model's predictions, and what is missing of them.

It is the challenge of 2026, or that of 2025 with --protocol 2025. The trial's best model is scored
on full_eval/ and fine-tuned on GLUE; the models that it kept on the way (--milestones babylm) are
scored on fast_eval/, and all of them say when they learned which word. The files lie as the
challenge's pipeline leaves them, in DIR/NAME/main/ and DIR/NAME/chck_1M/ ..., from which its
`collate_preds` makes the file to hand in. They hold the benchmarks' texts, EWoK's too: keep them
off the public web.

    python sweeps/lr_sweep.py --arch hgrn2 --lrs 1e-2 --milestones babylm --study submission ...
    python sweeps/submit.py 0123456789abcdef results/ --benchmarks evaluation_data
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from analysis.signals import start

    start("sweeps.submit")

from analysis.command_line import parse
from sweeps.arguments import SubmitArgs


def run_submission(args: SubmitArgs) -> int:
    """Make what is not there, and say what is missing; returns the exit status."""
    from sweeps.engine.environment import secure_local_cluster  # heavy imports: not before --help

    secure_local_cluster(args.address)
    from sweeps.evaluate import run_evaluation
    from sweeps.running.submission import submit

    return submit(args, run_evaluation)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_submission(parse(SubmitArgs, argv, __doc__, prog))
