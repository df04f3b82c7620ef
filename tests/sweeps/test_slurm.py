"""The batch script for SLURM: its nodes, its signals, and what it leaves; with SLURM's own daemons
where they are installed, else with what stands in for its commands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.processes import ROOT
from tests.sweeps.conftest import SweepCommand
from tests.sweeps.slurm import SCRIPT, Daemons, StandIn, slurm, there_are_daemons, wait_until
from tests.tiny_text import write_tiny_text


@pytest.fixture(params=[StandIn, Daemons])
def cluster(request: pytest.FixtureRequest, tmp_path: Path):
    """SLURM with two nodes."""
    if request.param is Daemons and not there_are_daemons():
        pytest.skip("SLURM's daemons are not installed, or this is not root")
    (tmp_path / "slurm").mkdir()
    with slurm(request.param, tmp_path / "slurm") as there:
        yield there
    assert not list(Path("/tmp").glob(f"babysweep-{there.job}-*"))


@pytest.mark.slow
def test_a_command_has_all_nodes_and_leaves_none(cluster: StandIn | Daemons) -> None:
    """It runs when they have joined; its status is the job's, and then Ray is gone."""
    code = "import ray; ray.init(); print('CPUs:', ray.cluster_resources()['CPU'])"
    cluster.submit(2, "python", "-c", code)
    wait_until(lambda: "CPUs:" in cluster.log or not cluster.is_running)
    wait_until(lambda: not cluster.is_running)
    assert "2 of 2 nodes with 2 CPUs and 0 GPUs" in cluster.log
    assert "CPUs: 2.0" in cluster.log
    assert not cluster.was_queued_again


@pytest.mark.slow
def test_before_the_time_is_over_the_job_is_queued_again_and_goes_on(
    cluster: StandIn | Daemons, tmp_path: Path
) -> None:
    """SIGUSR1: the trial writes a checkpoint, and goes on from there in the next job."""
    text = tmp_path / "text"
    text.mkdir()
    write_tiny_text(text)
    sweep = SweepCommand(text, tmp_path / "runs")
    words = sweep.line("--epochs", "200", "--lrs", "1e-3", "--max-concurrent", "1", python="python")
    cluster.submit(1, *words)
    wait_until(lambda: "epoch 1/200" in cluster.log)
    cluster.announce_the_end()
    wait_until(lambda: cluster.was_queued_again)
    assert "1 trial will go on from a checkpoint" in cluster.log
    assert "The time is over: the job is queued again" in cluster.log
    if isinstance(cluster, StandIn):
        wait_until(lambda: not cluster.is_running)
        cluster.submit(1, *words)
    wait_until(lambda: re.search(r"started from step \d", cluster.log))


def test_without_a_command_the_script_says_so(tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "error: no command to run, as python sweeps/lr_sweep.py" in done.stderr
