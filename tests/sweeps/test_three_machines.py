"""Three machines with disks of their own, one cluster, no folder that they share."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.addresses import SCRATCH
from tests.processes import ROOT, wait_for
from tests.sweeps.conftest import SweepCommand
from tests.sweeps.ray_nodes import RayNodes
from tests.sweeps.test_lr_sweep import assert_clean

RATES = ("1e-3", "3e-3", "5e-4", "7e-4", "2e-3", "4e-3", "6e-3", "8e-3", "1e-2")
LONG = ("--epochs", "25")
"""The start of a process is a small part of a trial."""
OWN_DISK = (
    *("unshare", "--mount", "sh", "-c"),
    f'mount -t tmpfs -o mode=700 none "${SCRATCH}" && exec "$0" "$@"',
)
"""Runs a command with an empty disk of its own where the copies of buckets lie."""


def _may_mount() -> bool:
    if os.geteuid() or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _may_mount(), reason="only root may give a process its own disk"),
]


@pytest.fixture(scope="module")
def reference(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple]:
    """What some of the trials find on one machine, in a folder."""
    alone = SweepCommand(tiny_text, tmp_path_factory.mktemp("alone") / "storage")
    alone.run(*LONG)
    return alone.results()


@pytest.fixture
def head(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """A cluster of one node, of one CPU; each that joins has one, too."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    nodes = RayNodes(tmp_path_factory.mktemp("r"), cpus=1, variables={SCRATCH: str(scratch)})
    try:
        yield nodes
    finally:
        nodes.end()


@pytest.fixture
def machines(head: RayNodes) -> RayNodes:
    """A head and two nodes."""
    for _ in range(2):
        head.join(*OWN_DISK)
    return head


def start(
    sweep: SweepCommand, machines: RayNodes, scratch: Path, *flags: str
) -> subprocess.Popen[str]:
    """Start a sweep on the machines, from one more."""
    sweep.storage.mkdir()
    places = ("--storage", f"file://{sweep.storage}", "--address", machines.address)
    variables = {
        SCRATCH: str(scratch),
        "MLFLOW_TRACKING_URI": f"sqlite:///{sweep.storage / 'mlflow.db'}",
    }
    return subprocess.Popen(
        [*OWN_DISK, *sweep.line(*places, "--lrs", *RATES, *flags)],
        cwd=ROOT,
        env=machines.env | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def on_disk(machines: RayNodes, number: int, scratch: Path, pattern: str) -> list[Path]:
    """Folders in the copy on one of the machines' disks."""
    disk = Path(f"/proc/{machines.nodes[number].pid}/root{scratch}")
    return [path for path in disk.glob(f"kept=*/{pattern}") if path.is_dir()]


def test_every_machine_trains_and_fetches_the_corpus_itself(
    sweep: SweepCommand, reference: dict[str, tuple], machines: RayNodes, tmp_path: Path
) -> None:
    """All are used, none waits for long, and the figures are those of a single machine."""
    scratch = tmp_path / "scratch"
    with start(sweep, machines, scratch, *LONG) as process:
        output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    for number in range(3):
        assert on_disk(machines, number, scratch, "study/trials/*"), output
        assert len(on_disk(machines, number, scratch, "corpora/text-*")) == 1, number
    check(sweep, reference)

    runs = sorted(sweep.runs(), key=lambda run: run.info.start_time)
    seconds = [(run.info.end_time - run.info.start_time) / 1000 for run in runs]
    begun = (runs[2].info.start_time - runs[0].info.start_time) / 1000
    wall = (max(r.info.end_time for r in runs) - runs[0].info.start_time) / 1000
    print(f"{wall:.1f} s for {sum(seconds):.1f} s of trials, the third machine after {begun:.1f} s")
    assert wall <= 1.15 * sum(seconds) / 3 + begun


def check(sweep: SweepCommand, reference: dict[str, tuple]) -> None:
    """Each trial is there once and whole, with the figures of a single machine."""
    assert_clean(sweep, trials=len(RATES))
    found = sweep.results()
    assert len(reference) == 2
    assert {trial: found[trial] for trial in reference} == reference


def test_a_machine_is_lost_and_another_joins(
    sweep: SweepCommand, reference: dict[str, tuple], machines: RayNodes, tmp_path: Path
) -> None:
    """Its trial goes on elsewhere, from what the bucket has of it; nothing is doubled."""
    scratch = tmp_path / "scratch"
    with start(sweep, machines, scratch, *LONG) as process:
        assert process.stdout is not None
        output = ""
        checkpoints: set[Path] = set()
        while len(checkpoints) < 3:
            checkpoints.update(on_disk(machines, 1, scratch, "study/trials/*/checkpoints/step-*"))
            line = process.stdout.readline()
            assert line, output
            output += line
        machines.kill(1)
        machines.join(*OWN_DISK)
        output += process.communicate(timeout=900)[0]
    assert process.returncode == 0, output
    assert on_disk(machines, 2, scratch, "study/trials/*"), output
    assert "started again from step" in output
    check(sweep, reference)


def test_machines_that_join_train_short_trials_too(
    sweep: SweepCommand, whole_sweep: SweepCommand, head: RayNodes, tmp_path: Path
) -> None:
    """Trials end more often than a process starts on a machine that has joined."""
    scratch = tmp_path / "scratch"
    with start(sweep, head, scratch, "--seeds", "0", "1", "2", "3", "4") as process:
        output = wait_for(process, "finished")
        for _ in range(2):
            head.join(*OWN_DISK)
        output += process.communicate(timeout=900)[0]
    assert process.returncode == 0, output
    assert "1 trial at once, each on 1 CPU" in output
    assert "The cluster has changed: 3 trials at once now" in output
    for number in range(3):
        assert on_disk(head, number, scratch, "study/trials/*"), output
    assert_clean(sweep, trials=5 * len(RATES))
    found, expected = sweep.results(), whole_sweep.results()
    assert {trial: found[trial] for trial in expected} == expected
