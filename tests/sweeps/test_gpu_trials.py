"""Sweeps for GPUs that are not there: shares, failures, Ray Train. On the CPU, with Ray."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.processes import wait_for
from tests.sweeps.test_lr_sweep import assert_clean

pytestmark = pytest.mark.slow

FAULTS = Path(__file__).with_name("faults")


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """The file that trials note their GPUs in."""
    path = [str(FAULTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("BABYSWEEP_TEST_SEEN", str(tmp_path / "seen"))
    return tmp_path / "seen"


def noted(seen):
    """(GPUs promised, GPUs visible, process) of each start of a trial."""
    return [tuple(line.split(", ")) for line in seen.read_text().splitlines()]


@pytest.mark.parametrize(("gpus", "visible"), [("0.25", "0"), ("0", "")])
def test_a_process_sees_the_gpu_that_it_was_given(sweep, monkeypatch, seen, gpus, visible):
    """A share of a GPU shows this GPU; none shows none, though the machine has one."""
    monkeypatch.setenv("BABYSWEEP_TEST_GPUS", "1")
    flags = ["--gpus-per-trial", gpus, "--epochs", "1", "--precision", "fp32"]
    output = sweep.run(*flags, "--lrs", "1e-3", "2e-3", "3e-3")
    assert_clean(sweep, trials=3)
    assert [line[:2] for line in noted(seen)] == 3 * [(gpus, visible)]
    assert len({process for _, _, process in noted(seen)}) <= 2  # the third takes over a process
    # There is no GPU to build kernels for: said in a line, and no reason to stop.
    reasons = re.findall(r"kernels are built by the trials \((.*)\)", output)
    assert [bool(re.search("CUDA|NVIDIA", reason)) for reason in reasons] == (gpus != "0") * [True]


@pytest.mark.parametrize("runner", ["inline", "train"])
def test_out_of_memory_is_not_tried_again(sweep, monkeypatch, seen, runner):
    """The trial fails at once, with its reason; the others go on, in other processes."""
    monkeypatch.setenv("BABYSWEEP_TEST_FAULT", "1e-3:memory")
    flags = ["--runner", runner, "--epochs", "1", "--max-concurrent", "1"]
    output = sweep.run(*flags, status=1)
    assert "will be started again" not in output
    assert "failed for good: sweeps.engine.failures.TrialFailure: out of memory" in output
    assert "--micro-batch" in output
    outcomes = {run.data.params["lr"]: run.info.status for run in sweep.runs()}
    assert outcomes == {"0.001": "FAILED", "0.003": "FINISHED"}
    assert len({process for _, _, process in noted(seen)}) == 2


@pytest.mark.parametrize("runner", ["inline", "train"])
def test_what_processes_lack_is_said_at_the_command(sweep, monkeypatch, runner):
    """In one line of the whole sweep, which goes on."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    output = sweep.run("--runner", runner)
    (line,) = [line for line in output.splitlines() if "no C++ compiler" in line]
    assert "lstm" in line
    assert "(no-such-compiler); the kernels compute in PyTorch" in line
    assert_clean(sweep, trials=2)


@pytest.mark.parametrize("runner", ["inline", "train"])
def test_a_gpu_that_fails_is_tried_again_in_a_fresh_process(sweep, monkeypatch, seen, runner):
    """A few times; then the trial fails with the reason, and the sweep goes on."""
    monkeypatch.setenv("BABYSWEEP_TEST_FAULT", "1e-3:device")
    output = sweep.run("--runner", runner, "--epochs", "1", "--max-concurrent", "1", status=1)
    reason = "TrialFailure: the GPU failed: CUDA error: uncorrectable ECC error encountered"
    assert output.count("will be started again") == 3
    assert output.count(reason) == 4
    statuses = Counter(run.info.status for run in sweep.runs())
    assert statuses == {"FAILED": 1, "FINISHED": 1}
    starts = Counter(process for _, _, process in noted(seen))
    assert len(starts) >= 4


def test_two_workers_share_a_gpu(sweep, monkeypatch, seen):
    """Ray Train with two halves of a GPU: both workers see it, and exchange gradients by gloo."""
    monkeypatch.setenv("BABYSWEEP_TEST_GPUS", "1")
    flags = ["--gpus-per-trial", "0.5", "--workers-per-trial", "2", "--epochs", "1"]
    sweep.run(*flags, "--precision", "fp32")
    assert_clean(sweep, trials=2)
    # One crew of two workers took both trials.
    assert [line[:2] for line in noted(seen)] == 2 * [("0.5", "0")]


def test_asha_stops_a_trial_and_its_workers_go_on(sweep, seen):
    """A trial stopped by the scheduler leaves its workers to the next one."""
    flags = ["--scheduler", "asha", "--lrs", "1e-9", "3e-3", "--seeds", "0", "1"]
    sweep.run(*flags, "--max-concurrent", "1", "--runner", "train")
    outcomes = {
        (run.data.params["lr"], run.data.params["seed"]): run.data.tags["babysweep.outcome"]
        for run in sweep.runs()
    }
    assert outcomes["0.003", "0"] == "finished"
    assert outcomes["1e-09", "1"] == "stopped"
    assert_clean(sweep, trials=4)
    assert len(noted(seen)) == 1


# A Tune actor at work has another name than an idle one.
@pytest.mark.parametrize(
    "victim", ["ResourceTrainable|CrewTrial", "TrainController", "RayTrainWorker"]
)
def test_a_killed_process_of_ray_train_is_replaced(sweep, whole_sweep, victim):
    """kill -9 of any of them: the trial is started again, and ends as if nothing had been."""
    process = sweep.start("--runner", "train")
    wait_for(process, r"epoch 1/3")
    killed = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.cmdline() and re.search(victim, child.cmdline()[0])
    ]
    killed[0].send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "started again" in output
    assert_clean(sweep, trials=2)
    reference = whole_sweep.results()
    for trial, result in sweep.results().items():
        assert result[0] == reference[trial][0]
        for ours, theirs in zip(result[1:], reference[trial][1:], strict=True):
            assert ours == pytest.approx(theirs)
