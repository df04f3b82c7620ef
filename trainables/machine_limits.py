"""What the machine, or a container, lets this process have: CPUs, and memory until it is killed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_EVENTS = Path("/proc/vmstat")
_KILLS = ("memory.events", "memory.oom_control")
"""Files of a memory group that count kills, in versions 2 and 1."""


def usable_cpus(groups: Path = _GROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Number of CPUs that can be kept busy all the time, at least one.

    The fewest of the process's affinity and of the quotas of its control groups, by which
    containers, Kubernetes and batch systems limit the time on all CPUs together (`docker run
    --cpus 1.5`); part of a CPU is not counted.

    Args:
        groups: where control groups are mounted (Linux's cgroups(7), versions 1 and 2).
        membership: the file of the process's groups.
    """
    folders = _folders("cpu", groups, membership)
    quotas = [quota for folder in folders if (quota := _quota(folder))]
    return max(1, int(min(len(os.sched_getaffinity(0)), *quotas, float("inf"))))


def memory_limit(groups: Path = _GROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Bytes of memory that processes can take together until one is killed.

    The least of the machine's memory and the limits of the process's control groups; arguments as
    for `usable_cpus`.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _folders("memory", groups, membership):
        for name in ("memory.max", "memory.limit_in_bytes"):  # of versions 2 and 1
            with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                limits.append(int((folder / name).read_text()))
    return min(limits)


def free_memory() -> int:
    """Bytes of memory that this machine, or container, has for further processes."""
    return min(memory_limit(), psutil.virtual_memory().available)


def memory_kills(
    groups: Path = _GROUPS, membership: Path = _MEMBERSHIP, events: Path = _EVENTS
) -> int:
    """Number of processes that Linux has killed so far because memory was short.

    Those of this process's own control group, to which what it starts belongs; of the whole system
    where groups do not count them.

    Args:
        groups, membership: as for `usable_cpus`.
        events: the file of the system's counts.
    """
    for folder in _folders("memory", groups, membership):
        for name in _KILLS:
            if (kills := _kills(folder / name)) is not None:
                return kills
    return _kills(events) or 0


def _folders(controller: str, groups: Path, membership: Path) -> Iterator[Path]:
    """The process's groups of a controller, from the innermost to the outermost.

    In a container the file may name them as they are seen outside, where `groups` begins further
    in; what is not there is passed over.
    """
    lines = membership.read_text().splitlines() if membership.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
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


def _kills(file: Path) -> int | None:
    try:
        found = re.search(r"^oom_kill (\d+)$", file.read_text(), re.M)
    except OSError:  # not there, or not for this process
        return None
    return int(found[1]) if found else None
