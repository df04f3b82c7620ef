"""Examine a cluster, node by node, before hours are spent on it.

Every node is asked for its packages and code, CPUs, memory, GPUs, compilers, disks and limits,
whether the storage is the same folder there with locks that hold, whether MLflow answers and takes
artifacts, and what time it is. Problems and warnings are named, with what to do about them.

Exit status: 0 if there is no problem, warnings or not; 1 if there is one; 2 if nothing could be
examined, since a flag, the storage or the cluster's address is wrong.

    python sweeps/doctor.py
    python sweeps/doctor.py --address 10.0.0.1:6379 --storage /shared/babysweep
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from analysis.signals import start

    start("sweeps.doctor")

from analysis.command_line import parse
from sweeps.arguments import DoctorArgs


def run_doctor(args: DoctorArgs) -> int:
    """Examine the cluster and say what was found; returns the exit status."""
    from sweeps.running.checkup import run_checkup  # heavy imports: not before --help

    return run_checkup(args)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_doctor(parse(DoctorArgs, argv, __doc__, prog))
