"""Distil a teacher into a student, beside the same training without a teacher.

The loss is (1 - alpha) CE + alpha T^2 KL(teacher || student), a mean over tokens. Corpus, size,
learning rate, epochs, batch and context are the teacher's unless given. With every alpha and
temperature a control is trained that differs in nothing but the teacher: the gain is a paired
difference over seeds. A control that an earlier sweep trained is not trained again.

    python sweeps/promote.py --arch hgrn2
    python sweeps/distill.py --teacher models:/hgrn2@teacher --seeds 0 1 2
    python sweeps/distill.py --teacher models:/hgrn2@teacher --alphas 0.3 0.7 --temperatures 1 2
    python sweeps/distill.py --teacher models:/hgrn2@teacher models:/mamba@teacher --arch lstm
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.arguments import TrainingArgs


@dataclass(frozen=True, kw_only=True)
class DistillArgs(TrainingArgs):
    """Arguments of a distillation."""

    arch: tuple[str, ...] = ()
    """The student's architecture; default: the teacher's."""
    teacher: tuple[str, ...]
    """models:/NAME@ALIAS, models:/NAME/VERSION or a checkpoint's folder. Of several, the mean of
    their probabilities counts."""
    alphas: tuple[float, ...] = (0.5,)
    """Weights of the divergence from the teacher, above 0 and up to 1."""
    temperatures: tuple[float, ...] = (1.0,)
    """Temperatures of the probabilities in the divergence."""
    reverse_kl: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """KL(student || teacher), which seeks the teacher's modes, in place of KL(teacher || student).
    """
    lrs: tuple[float, ...] = ()
    """Learning rates of the student; default: the teacher's."""
    student_init: Literal["scratch", "teacher"] = "scratch"
    """Start from random weights, or from the (first) teacher's."""
    control: bool = True
    """Also train without a teacher, which the gain is measured against."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = tyro.cli(DistillArgs, args=argv, description=__doc__)
    from sweeps.engine.environment import secure_local_cluster

    secure_local_cluster(args.address)
    from sweeps.plans.distill import run_distillation  # heavy imports: not before --help

    return run_distillation(args)


if __name__ == "__main__":
    from sweeps.distill import main as imported_main  # one module, also for pickles and types

    sys.exit(imported_main())
