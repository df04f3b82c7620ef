"""CPUs that this process may use: the machine's, less what affinity or a container takes away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cpus(groups: Path = _GROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Number of CPUs that can be kept busy all the time, at least one.

    The fewest of the process's affinity and of the quotas of its control groups, by which
    containers, Kubernetes and batch systems limit the time on all CPUs together (`docker run
    --cpus 1.5`); part of a CPU is not counted.

    Args:
        groups: where control groups are mounted (Linux's cgroups(7), versions 1 and 2).
        membership: the file of the process's groups.
    """
    quotas = [quota for folder in _folders(groups, membership) if (quota := _quota(folder))]
    return max(1, int(min(len(os.sched_getaffinity(0)), *quotas, float("inf"))))


def _folders(groups: Path, membership: Path) -> Iterator[Path]:
    """The process's groups that may limit its CPUs, from the innermost to the outermost.

    In a container the file may name them as they are seen outside, where `groups` begins further
    in; what is not there is passed over.
    """
    lines = membership.read_text().splitlines() if membership.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups / controllers  # "" in version 2
        inner = top / path.lstrip("/")
        yield from (each for each in (inner, *inner.parents) if each.is_relative_to(top))


def _quota(folder: Path) -> float | None:
    """CPUs' worth of time of a group, None for no limit."""
    try:
        if (file := folder / "cpu.max").is_file():
            quota, period = file.read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such group, "max", or nothing we know
        return None
