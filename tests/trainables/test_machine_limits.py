"""What a process may have: CPUs by its affinity and its control groups, and memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.processes import ROOT
from trainables.machine_limits import memory_kills, memory_limit, usable_cpus


@pytest.fixture(autouse=True)
def sixteen_cpus(monkeypatch):
    """The process may run on 16 of the machine's CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))


def machine(folder, membership, files):
    """A machine with these control groups; returns the arguments of `usable_cpus`."""
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (folder / "membership").write_text(membership + "\n")
    return folder / "cgroup", folder / "membership"


@pytest.mark.parametrize(
    ("membership", "files", "cpus"),
    [
        pytest.param("0::/", {}, 16, id="no limit anywhere"),
        pytest.param("0::/", {"cpu.max": "max 100000"}, 16, id="a limit that is none"),
        pytest.param("0::/", {"cpu.max": "400000 100000"}, 4, id="a container"),
        pytest.param("0::/", {"cpu.max": "150000 100000"}, 1, id="a part of a CPU is not one"),
        pytest.param("0::/", {"cpu.max": "20000 100000"}, 1, id="at least one"),
        pytest.param("0::/", {"cpu.max": "6400000 100000"}, 16, id="more than there are"),
        pytest.param(
            "0::/jobs/7/step",
            {"jobs/cpu.max": "800000 100000", "jobs/7/cpu.max": "300000 100000"},
            3,
            id="a job's step, limited with its job",
        ),
        pytest.param(
            "0::/kubepods/pod1/c", {"cpu.max": "200000 100000"}, 2, id="named from outside"
        ),
        pytest.param(
            "5:memory:/a\n4:cpu,cpuacct:/docker/b\n0::/",
            {
                "cpu,cpuacct/docker/b/cpu.cfs_quota_us": "250000",
                "cpu,cpuacct/docker/b/cpu.cfs_period_us": "50000",
                "memory/a/cpu.max": "100000 100000",
            },
            5,
            id="version 1",
        ),
        pytest.param(
            "4:cpu,cpuacct:/docker/b",
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            16,
            id="version 1 without a limit",
        ),
    ],
)
def test_the_smallest_limit_counts(tmp_path, membership, files, cpus):
    """Of the process's own group and those around it."""
    assert usable_cpus(*machine(tmp_path, membership, files)) == cpus


def test_a_system_without_control_groups(tmp_path):
    """Then the affinity is all there is."""
    assert usable_cpus(tmp_path / "none", tmp_path / "neither") == 16


def test_a_process_bound_to_some_cpus():
    """By the system itself: no more are taken than it may run on."""
    code = (
        "import os; from trainables.machine_limits import usable_cpus; "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(usable_cpus())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("membership", "files", "kills"),
    [
        pytest.param("0::/", {}, 7, id="of the system, where no group counts"),
        pytest.param("0::/", {"memory.events": "oom 3\noom_kill 2"}, 2, id="a container"),
        pytest.param(
            "0::/job/step",
            {"job/step/memory.events": "oom_kill 1", "job/memory.events": "oom_kill 5"},
            1,
            id="the process's own group",
        ),
        pytest.param(
            "4:cpu:/b\n5:memory:/a",
            {"memory/a/memory.oom_control": "under_oom 0\noom_kill 4"},
            4,
            id="version 1",
        ),
    ],
)
def test_processes_killed_for_want_of_memory_are_counted(tmp_path, membership, files, kills):
    """By the control group that a command and its trials are in."""
    (tmp_path / "vmstat").write_text("pgfault 9\noom_kill 7\n")
    assert memory_kills(*machine(tmp_path, membership, files), tmp_path / "vmstat") == kills


def test_a_system_that_counts_none(tmp_path):
    """Then none is known of."""
    assert memory_kills(tmp_path, tmp_path / "none", tmp_path / "neither") == 0


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        pytest.param("0::/", {}, None, id="no limit anywhere"),
        pytest.param("0::/", {"memory.max": "max"}, None, id="a limit that is none"),
        pytest.param("0::/a/b", {"a/memory.max": "5000", "a/b/memory.max": "7000"}, 5000, id="2"),
        pytest.param("5:memory:/a", {"memory/a/memory.limit_in_bytes": "6000"}, 6000, id="1"),
        pytest.param(
            "5:memory:/", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, None, id="1, none"
        ),
    ],
)
def test_the_smallest_limit_of_memory(tmp_path, membership, files, limit):
    """In bytes; the machine's own memory where there is no smaller one."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_limit(*machine(tmp_path, membership, files)) == (limit or whole)
