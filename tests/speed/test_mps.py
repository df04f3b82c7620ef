"""Trials under MPS: its daemon is started, found and ended, by a stand-in on the CPU."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.ends import assert_gone, python_that, runs, until
from tests.speed import gpu_parts, gpu_speed, mps
from tests.speed.gpu_parts import Part

PART = Part(kind="together", size="mini", arch="lstm", device="cpu", steps=1)
STAND_IN = f"""#!{sys.executable}
import os, pathlib, subprocess, sys, time
pipe = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
assert pathlib.Path(os.environ["CUDA_MPS_LOG_DIRECTORY"]).is_dir()
how = os.environ["HOW"]
if sys.argv[1:] == ["-f"]:
    if how == "refuses":
        sys.exit("starting\\nthe GPU is not supported")
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pathlib.Path(os.environ["NOTE"]).write_text(f"{{os.getpid()}} {{server.pid}}")
    (pipe / "control").touch()
    while how == "stubborn" or not (pipe / "quit").exists():
        time.sleep(0.05)
    server.kill()
else:
    if how == "silent" or not (pipe / "control").exists():
        sys.exit("Cannot find MPS control daemon process")
    command = sys.stdin.read().strip()
    assert command in ("get_server_list", "quit"), command
    if command == "quit":
        (pipe / "quit").touch()
"""
"""In place of `nvidia-cuda-mps-control`: with a server, and as HOW says."""


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the stand-in notes the processes of daemon and server."""
    file = tmp_path / mps.CONTROL
    file.write_text(STAND_IN)
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("HOW", "works")
    monkeypatch.setenv("NOTE", str(tmp_path / "note"))
    return tmp_path / "note"


def test_the_daemon_runs_meanwhile(control: Path) -> None:
    with mps.daemon() as variables:
        assert variables.keys() == {"CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"}
        assert all(map(runs, map(int, control.read_text().split())))
    assert_gone(control)
    assert not any(Path(folder).exists() for folder in variables.values())


@pytest.mark.parametrize("how", ["works", "stubborn"])
def test_the_daemon_ends_in_any_case(
    how: str, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what it serves fails, and where it does not hear."""
    monkeypatch.setenv("HOW", how)
    monkeypatch.setattr(mps, "QUIT_SECONDS", 0.5)
    with pytest.raises(ZeroDivisionError), mps.daemon():
        raise ZeroDivisionError
    assert_gone(control)


def test_no_daemon_is_told(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that refuses, one that never answers, and none at all."""
    monkeypatch.setattr(mps, "START_SECONDS", 1.0)
    reasons = {"refuses": "the GPU is not supported", "silent": "does not answer after 1 s"}
    for how, reason in reasons.items():
        monkeypatch.setenv("HOW", how)
        with pytest.raises(mps.NotStarted, match=reason), mps.daemon():
            pass
    assert_gone(control)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(mps.NotStarted, match="not installed"), mps.daemon():
        pass


class FakeTrial:
    """Knows its environment, and takes a second alone; fails under a broken MPS."""

    seen: list[str] = []
    broken = False

    def __init__(self, part: Part, variables: dict[str, str], ends: float | None) -> None:
        self.has_mps = "CUDA_MPS_PIPE_DIRECTORY" in variables
        assert (ends is not None) == self.has_mps
        self.seen.append("MPS" if self.has_mps else "none")

    def wait_for(self, what: str) -> None:
        if self.has_mps and self.broken:
            raise RuntimeError("a trial ended before it was warm")

    @staticmethod
    def train(trials: list[Any]) -> float:
        return 1.0 if trials[0].has_mps else float(len(trials))

    def stop(self) -> None:
        self.seen.append("stopped")


def together(monkeypatch: pytest.MonkeyPatch, broken: bool = False) -> list[gpu_parts.Row]:
    """The part's rows, with such trials."""
    monkeypatch.setattr(gpu_parts, "_Trial", FakeTrial)
    monkeypatch.setattr(FakeTrial, "seen", [])
    monkeypatch.setattr(FakeTrial, "broken", broken)
    return list(gpu_parts.run(PART))


def test_trials_at_once_are_measured_without_and_with(
    control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all processes are stopped, those without it before those with it begin."""
    without, with_mps = together(monkeypatch)
    assert (without["mps"], without["ratio"]) == (False, 1.0)
    assert (with_mps["mps"], with_mps["ratio"], with_mps["alone"]) == (True, 0.25, 4.0)
    stopped = 4 * ["stopped"]
    assert FakeTrial.seen == [*4 * ["none"], *stopped, *4 * ["MPS"], *stopped]
    assert_gone(control)


def test_an_mps_that_cannot_be_used_is_told(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the row, which is no failure: the daemon refuses, or its clients do not start."""
    monkeypatch.setenv("HOW", "refuses")
    _, with_mps = together(monkeypatch)
    assert with_mps["problem"].startswith("no MPS: nvidia-cuda-mps-control: the GPU is not")
    assert with_mps["skipped"]
    monkeypatch.setenv("HOW", "works")
    _, with_mps = together(monkeypatch, broken=True)
    assert with_mps["problem"] == "no MPS: a trial ended before it was warm"
    assert FakeTrial.seen.count("stopped") == 8
    assert_gone(control)


WARM = f"""print({gpu_parts.MARK!r} + '{{"what": "warm"}}', flush=True)"""


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("time.sleep(60)", "a trial was not warm in time"),
        (f"{WARM}; time.sleep(60)", "a trial was not trained in time"),
        (f"os.close(0); {WARM}", "a trial ended before it was trained"),  # a broken pipe
    ],
)
def test_trials_that_hang_under_mps_are_told(
    lines: str, reason: str, control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or that end when they are asked to train; it is no failure either."""
    trials = tmp_path / "trials"
    trials.mkdir()
    monkeypatch.setattr(gpu_parts, "MPS_TIMEOUT", 6.0)
    monkeypatch.setattr(sys, "executable", python_that(lines, trials))
    row = gpu_parts._with_mps(PART, alone=4.0)
    assert row == {"problem": f"no MPS: {reason}", "skipped": True}
    assert_gone(control)


def test_a_daemon_that_cannot_be_run_is_told(
    control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / mps.CONTROL).write_text("#!/no/such/interpreter")
    assert gpu_parts._with_mps(PART, alone=4.0)["skipped"]


def test_a_part_that_is_stopped_stops_its_daemon(control: Path, tmp_path: Path) -> None:
    """As when it has reached its limit."""
    code = """
import signal, sys, time
from tests.speed import gpu_parts, mps
def slow(part):
    with mps.daemon():
        yield {"what": "begun"}
        time.sleep(60)
gpu_parts.KINDS["cold"] = slow
gpu_parts.main()
"""
    part = dataclasses.replace(PART, kind="cold", cache=str(tmp_path))
    command = [sys.executable, "-c", code, part.to_json()]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=gpu_parts.ROOT, text=True, **pipes) as process:
        try:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            until(control.exists)
            process.terminate()
            assert process.wait(gpu_speed.GRACE) == 128 + signal.SIGTERM
        finally:
            process.kill()
    assert_gone(control)
