"""What a sweep needs is gone for a while, or for good: MLflow's server, Ray's processes."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from mlflow.exceptions import MlflowException
from rich.console import Console

from sweeps.engine import contact as contacts
from sweeps.engine import watch as watches
from sweeps.engine.contact import Contact
from sweeps.engine.watch import RayDied, watching_ray
from tests.processes import free_port, serve_mlflow, wait_for
from tests.sweeps.conftest import SweepCommand


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still."""
    now = [0.0]
    monkeypatch.setattr(contacts.time, "monotonic", lambda: now[0])
    return now


def test_an_outage_is_told_once_and_not_waited_for(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is asked again for seconds; the end of the outage is told as well."""
    contact, asked = Contact("http://bob:hunter2@mlflow:5000", Console(width=200)), []

    def away() -> None:
        asked.append(clock[0])
        raise MlflowException("API request failed: Caused by X('host: Connection refused')")

    for second in range(60):
        clock[0] = second
        assert not contact.reaches(away)
    assert 3 < len(asked) < 10
    clock[0] = 100
    assert contact.reaches(lambda: None)
    assert contact.reaches(lambda: None)
    output = capsys.readouterr().out
    assert output.count("MLflow does not answer") == 1
    assert "http://mlflow:5000: host: Connection refused" in output
    assert output.count("answers again, after 100 s") == 1


def test_what_mlflow_refuses_is_no_outage() -> None:
    """It is an error at once."""

    def refused() -> None:
        raise MlflowException.invalid_parameter_value("no")

    with pytest.raises(MlflowException, match="no"):
        Contact("sqlite:///x", Console()).reaches(refused)


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_the_death_of_ray_interrupts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is told by name, within a second, whatever the main thread waits for."""
    needed = {each: _Process(each) for each in ("raylet", "gcs_server", "log_monitor")}
    parent = SimpleNamespace(children=lambda: [*needed.values()])
    monkeypatch.setattr(watches.psutil, "Process", lambda: parent)
    monkeypatch.setattr(watches, "LOOK_SECONDS", 0.01)
    needed["log_monitor"].is_alive = False  # Ray goes on without it
    needed[name].is_alive = False
    with pytest.raises(RayDied, match=f"Ray's process {name}"), watching_ray():
        time.sleep(30)  # until the interrupt


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """While Ray lives."""
    parent = SimpleNamespace(children=lambda: [_Process("raylet")])
    monkeypatch.setattr(watches.psutil, "Process", lambda: parent)
    with pytest.raises(KeyError), watching_ray():
        raise KeyError


class _Process:
    def __init__(self, name: str) -> None:
        self._name, self.is_alive = name, True

    def name(self) -> str:
        return self._name

    def is_running(self) -> bool:
        return self.is_alive

    def status(self) -> str:
        return psutil.STATUS_RUNNING


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_ray_is_killed(sweep: SweepCommand, whole_sweep: SweepCommand, name: str) -> None:
    """The command ends soon, says what happened and how to go on, and leaves nothing running; the
    same command gives the result of an uninterrupted sweep."""
    process = sweep.start()
    wait_for(process, r"epoch 1/3")
    children = psutil.Process(process.pid).children(recursive=True)
    next(child for child in children if child.name() == name).kill()
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 1, output
    assert f"Ray's process {name}" in output
    assert "To continue, run it again" in output
    assert "Traceback" not in output
    assert {run.info.status for run in [*sweep.runs(), *sweep.runs("sweep")]} <= {"KILLED"}
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    sweep.run()
    assert sweep.results() == whole_sweep.results()


@pytest.mark.slow
def test_the_server_is_away_for_a_while(sweep: SweepCommand, whole_sweep: SweepCommand) -> None:
    """It is killed in the middle and comes back: the sweep says so and ends as it would have."""
    port = free_port()
    with serve_mlflow(sweep.storage, port) as address:
        process = sweep.start(MLFLOW_TRACKING_URI=address)
        before = wait_for(process, r"epoch 1/3")
    assert "does not answer" not in before
    meanwhile = wait_for(process, "MLflow does not answer")
    with serve_mlflow(sweep.storage, port):
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "answers again" in output
    assert "failed" not in before + meanwhile + output
    assert sweep.results() == whole_sweep.results()
    assert not [*sweep.storage.rglob("unsent.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://none.invalid:5000"])
def test_a_server_that_never_was_is_said_before_anything_starts(
    sweep: SweepCommand, address: str, tmp_path: Path
) -> None:
    """In a line, with status 2."""
    with sweep.start(MLFLOW_TRACKING_URI=address) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert "cannot be used" in output
    assert len(output.splitlines()) == 1
