"""Score a language model on BLiMP, its supplement, EWoK, BEAR, GLUE, and later BabyLM tasks.

The model may be a checkpoint of a sweep, any causal language model on the Hugging Face hub or in a
folder, or one of the MLflow registry. GLUE tasks are fine-tuned, as Ray trials; running the same
command again continues them.

    python sweeps/evaluate.py --model runs/.../checkpoints/step-00000774 --benchmarks data/
    python sweeps/evaluate.py --model models:/hgrn2@teacher --benchmarks data/ --tasks blimp bear
    python sweeps/evaluate.py --model gpt2 --benchmarks hub --tasks blimp ewok
    python sweeps/evaluate.py --model gpt2 --benchmarks data/ --tasks rte wsc mrpc
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from analysis.signals import start

    start("sweeps.evaluate")

from analysis.command_line import parse
from sweeps.arguments import EvaluateArgs


def run_evaluation(args: EvaluateArgs) -> int:
    """Evaluate, write, record and print; returns the exit status."""
    from sweeps.engine.environment import secure_local_cluster  # heavy imports: not before --help

    secure_local_cluster(args.address)
    from ray.exceptions import RayError

    from analysis.commands import say_how_to_continue
    from analysis.errors import EXIT_FAILED, say_error
    from analysis.signals import EXIT_INTERRUPTED, ending_on_signals
    from analysis.terminal import open_console, showing
    from sweeps.engine.watch import RayDied
    from sweeps.plans.evaluate import plan_evaluation
    from sweeps.running.evaluation import evaluate

    console = open_console()
    try:
        with ending_on_signals():
            with showing(console, "Preparing"):
                plan = plan_evaluation(args)
            is_whole = evaluate(plan, console)
    except (ValueError, OSError) as error:
        return say_error(error)
    except (RayError, RayDied) as error:
        status = say_error(error, EXIT_FAILED)
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    else:
        return 0 if is_whole else EXIT_FAILED
    return say_how_to_continue(console, status)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_evaluation(parse(EvaluateArgs, argv, __doc__, prog))
