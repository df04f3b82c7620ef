"""What a sweep needs is gone for a while, or for good: MLflow's server, Ray's processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from mlflow.exceptions import MlflowException
from rich.console import Console

from analysis.signals import ending_on_signals
from sweeps.engine import contact as contacts
from sweeps.engine import watch as watches
from sweeps.engine.contact import MlflowContact
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
    contact, asked = MlflowContact("http://bob:hunter2@mlflow:5000", Console(width=200)), []

    def away() -> None:
        asked.append(clock[0])
        raise MlflowException("API request failed: Caused by X('host: Connection refused')")

    for second in range(60):
        clock[0] = second
        assert not contact.try_once(away)
    assert 3 < len(asked) < 10
    clock[0] = 100
    assert contact.try_once(lambda: None)
    assert contact.try_once(lambda: None)
    output = capsys.readouterr().out
    assert output.count("MLflow does not answer") == 1
    assert "http://mlflow:5000: host: Connection refused" in output
    assert output.count("answers again, after 100 s") == 1


def test_what_must_be_told_is_told(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    """Also right after an outage was noticed, and with all the time that MLflow takes; not for
    longer than an hour."""
    monkeypatch.setattr(contacts.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))
    contact, left = MlflowContact("http://mlflow:5000", Console(width=200)), [4]

    def away() -> None:
        left[0] -= 1
        assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ or left[0] == 3
        if left[0] >= 0:
            raise MlflowException("API request failed")

    assert not contact.try_once(away)
    assert contact.retry(away)
    left[0] = 10**6
    with pytest.raises(MlflowException):
        contact.retry(away)
    assert 3600 < clock[0] < 3800


def test_what_is_needed_is_asked_for_in_seconds_first(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """So that a person is told early; then it is waited for."""
    monkeypatch.setattr(contacts.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))
    contact, impatient = MlflowContact("http://mlflow:5000", Console(width=200)), []

    def ask() -> str:
        impatient.append("MLFLOW_HTTP_REQUEST_MAX_RETRIES" in os.environ)
        if len(impatient) < 3:
            raise MlflowException("API request failed")
        return "here"

    assert contact.result_of(ask) == "here"
    assert impatient == [True, False, False]
    assert "answers again" in capsys.readouterr().out


def test_what_mlflow_refuses_is_no_outage() -> None:
    """It is an error at once."""

    def refused() -> None:
        raise MlflowException.invalid_parameter_value("no")

    with pytest.raises(MlflowException, match="no"):
        MlflowContact("sqlite:///x", Console()).try_once(refused)


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_the_death_of_ray_interrupts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is told by name, within a second, whatever the main thread waits for."""
    needed = {each: _Process(each) for each in ("raylet", "gcs_server", "log_monitor")}
    parent = SimpleNamespace(children=lambda: [*needed.values()])
    monkeypatch.setattr(watches.psutil, "Process", lambda: parent)
    monkeypatch.setattr(watches, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watches.atexit, "register", lambda leave: None)
    needed["log_monitor"].looks = needed[name].looks = 3  # Ray goes on without the first
    with pytest.raises(RayDied, match=f"Ray's process {name}"), watching_ray():
        time.sleep(30)  # until the interrupt
    assert not any(needed[each].is_alive for each in ("raylet", "gcs_server"))


def test_a_command_at_its_end_gets_no_second_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stops everything at once stops Ray, too: what the command still records is recorded."""
    raylet = _Process("raylet")
    parent = SimpleNamespace(children=lambda: [raylet])
    monkeypatch.setattr(watches.psutil, "Process", lambda: parent)
    monkeypatch.setattr(watches, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watches.atexit, "register", lambda leave: None)
    with ending_on_signals():
        watch = watches.RayWatch()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raylet.is_alive = False
        watch.start()
        watch.join(timeout=10)  # a second signal would have ended this process
        assert watch.death


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """While Ray lives."""
    parent = SimpleNamespace(children=lambda: [_Process("raylet")])
    monkeypatch.setattr(watches.psutil, "Process", lambda: parent)
    with pytest.raises(KeyError), watching_ray():
        raise KeyError


class _Process:
    """A process that ends by itself after so many looks at it."""

    def __init__(self, name: str, looks: int = 10**9) -> None:
        self._name, self.is_alive, self.looks = name, True, looks

    def name(self) -> str:
        return self._name

    def is_running(self) -> bool:
        self.looks -= 1
        return self.is_alive and self.looks > 0

    def status(self) -> str:
        return psutil.STATUS_RUNNING

    def children(self, recursive: bool) -> list[_Process]:
        return []

    def kill(self) -> None:
        self.is_alive = False


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
    sweep.storage.mkdir()
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
    assert not [*sweep.storage.rglob("unsent*")]


@pytest.mark.slow
@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://none.invalid:5000"])
def test_a_server_that_never_was_is_said_before_anything_starts(
    sweep: SweepCommand, address: str, tmp_path: Path
) -> None:
    """In its last line, with status 2."""
    with sweep.start(MLFLOW_TRACKING_URI=address) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    said = [line for line in output.splitlines() if line.startswith("error: ")]
    assert said == output.splitlines()[-1:]
    assert f"the MLflow store {address} cannot be used" in said[0]


@pytest.mark.slow
def test_what_cannot_be_written_at_the_end_is_said(sweep: SweepCommand) -> None:
    """A folder is in the way of the picture: in a line, with how to go on."""
    picture = sweep.storage / "study" / "lr_curve.png"
    picture.mkdir(parents=True)
    output = sweep.run(status=1)
    assert "Traceback" not in output
    assert f"Is a directory: '{picture}'" in " ".join(output.split())
    assert "To continue, run it again" in output
    picture.rmdir()
    sweep.run()
    assert picture.is_file()
