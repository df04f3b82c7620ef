"""What a trial finds while MLflow is away is kept on disk, and told in order when it is back."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from analysis import store
from tests.made_study import MadeStudy, base_spec
from trainables import outbox as outboxes
from trainables.outbox import Outbox
from trainables.progress import EpochReport, TrialOutcome
from trainables.tracking import Tracker

AWAY = MlflowException("API request to http://x failed: connection refused")


class Mlflow:
    """Takes messages, unless it is away."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.is_away = False

    def send(self, message: Any) -> None:
        """Take a message."""
        if self.is_away:
            raise AWAY
        self.got.append(message)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which only waiting moves."""
    now = [0.0]
    for module in (store, outboxes):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(store.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    return now


def test_messages_wait_on_disk_and_keep_their_order(tmp_path: Path, clock: list[float]) -> None:
    """Without an outage no file is written; after one there is none left."""
    mlflow, path = Mlflow(), tmp_path / "unsent.jsonl"
    outbox = Outbox(path, mlflow.send)
    outbox.post({"n": 0})
    assert not path.exists()
    mlflow.is_away = True
    for number in (1, 2, 3):
        outbox.post({"n": number})
    assert [each["n"] for each in outbox.waiting] == [1, 2, 3]
    mlflow.is_away = False
    outbox.post({"n": 4})  # too soon after the last try
    assert [each["n"] for each in mlflow.got] == [0]
    clock[0] += store.LONGEST_PAUSE
    outbox.post({"n": 5})
    assert [each["n"] for each in mlflow.got] == [0, 1, 2, 3, 4, 5]
    assert not path.exists()


def test_the_next_process_sends_what_is_left(tmp_path: Path) -> None:
    """A line that a kill cut is none; what comes after it is whole."""
    mlflow, path = Mlflow(), tmp_path / "unsent.jsonl"
    mlflow.is_away = True
    Outbox(path, mlflow.send).post({"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2')
    following = Outbox(path, mlflow.send)
    assert following.waiting == [{"n": 1}]
    following.post({"n": 3})
    mlflow.is_away = False
    following.drain()
    assert mlflow.got == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize("damage", [b"{]\n", b"\xff\xfe\n", b"7\n", b"[1]\n", b"\n"])
def test_damaged_lines_are_set_aside(tmp_path: Path, damage: bytes) -> None:
    """What is whole is told; the file as it was is kept."""
    mlflow, path = Mlflow(), tmp_path / "unsent.jsonl"
    path.write_bytes(b'{"n": 1}\n' + damage + b'{"n": 2}\n')
    Outbox(path, mlflow.send).drain()
    assert mlflow.got == [{"n": 1}, {"n": 2}]
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith("damaged-unsent")
    assert damage in aside.read_bytes()


def test_what_waits_for_another_run_is_not_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another store every epoch is recorded, though the last one waits for the first store."""
    spec = base_spec(epochs=3)
    first = MadeStudy(tmp_path / "first", suite=None).tracker([spec])
    run = first.trial(spec, {}, tmp_path)
    run.log_epoch(_epoch(1))
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", _flaky(MlflowClient.log_batch, _Always()))
        run.log_epoch(_epoch(2))
    second = MadeStudy(tmp_path / "second", suite=None).tracker([spec])
    again = second.trial(spec, {}, tmp_path)
    for number in (1, 2):
        again.log_epoch(_epoch(number))
    assert [step for step, _ in _all_of(second)[0]["val/loss"]] == [1, 2]
    first.trial(spec, {}, tmp_path).finish(TrialOutcome("finished", (_epoch(1),), None), None)
    assert [step for step, _ in _all_of(first)[0]["val/loss"]] == [1, 2]


class _Always(random.Random):
    def random(self) -> float:
        return 0.0


def test_an_end_after_another_one_has_its_own_best(tmp_path: Path) -> None:
    """A trial that was stopped, and then trained on, is as good as it became."""
    spec = base_spec(epochs=3)
    tracker = MadeStudy(tmp_path, suite=None).tracker([spec])
    for number, kind in ((1, "stopped"), (3, "finished")):
        history = tuple(_epoch(each) for each in range(1, number + 1))
        tracker.trial(spec, {}, tmp_path).finish(TrialOutcome(kind, history, None), None)
    (run,) = tracker.trial_runs()
    assert run.data.metrics["best/epoch"] == 3
    assert run.data.metrics["best/bits_per_byte"] == pytest.approx(1 / 3)


def test_what_is_refused_for_good_is_an_error(tmp_path: Path) -> None:
    """It is not kept for later."""

    def refuse(message: Any) -> None:
        raise MlflowException.invalid_parameter_value("changed parameter")

    with pytest.raises(MlflowException, match="changed"):
        Outbox(tmp_path / "unsent.jsonl", refuse).post({"n": 1})
    assert not [*tmp_path.iterdir()]


def test_a_run_with_outages_and_kills_is_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every point once, with its value: MLflow is away at random, and processes are killed."""
    whole = _record(tmp_path / "whole", None)
    chance = random.Random(0)
    for name in ("log_batch", "log_dict"):
        monkeypatch.setattr(MlflowClient, name, _flaky(getattr(MlflowClient, name), chance))
    assert _record(tmp_path / "flaky", chance) == whole


def _flaky(call: Any, chance: random.Random) -> Any:
    def sometimes(*args: Any, **named: Any) -> Any:
        if chance.random() < 0.5:
            raise AWAY
        result = call(*args, **named)
        if chance.random() < 0.2:  # the answer is lost
            raise AWAY
        return result

    return sometimes


def _record(folder: Path, kills: random.Random | None) -> Any:
    """Record a trial of 60 steps; a process that is killed goes on from step 20 or 40."""
    study, spec = MadeStudy(folder, suite=None), base_spec(epochs=3)
    tracker = study.tracker([spec])
    checkpoint = 0
    while True:
        run = tracker.trial(spec, {"params": 7}, folder)
        history = [_epoch(e) for e in (1, 2, 3) if 20 * e <= checkpoint]
        for report in history:
            run.log_epoch(report)
        for step in range(checkpoint + 1, 61):
            run.log_step(step, {"loss": 5 - step / 20, "grad_norm": 1.0})
            if kills and kills.random() < 0.02:
                break
            if step % 20 == 0:
                run.flush()
                checkpoint = step
                history.append(_epoch(step // 20))
                run.log_epoch(history[-1])
        else:
            run.log_fact("step", "whole")
            run.finish(TrialOutcome("finished", tuple(history), None), None)
            assert not [*folder.glob("unsent*")]
            return _all_of(tracker)


def _epoch(number: int) -> EpochReport:
    scores = {"benchmarks": {"blimp": 50.0 + number}, "macro": 50.0 + number}
    return EpochReport(number, 20 * number, 100, 1.5, 2.0 / number, 1.0 / number, 1.0, 1.0, scores)


def _all_of(tracker: Tracker) -> Any:
    (run,) = tracker.trial_runs()
    client, run_id = tracker.client, run.info.run_id
    points = {
        name: sorted((p.step, p.value) for p in client.get_metric_history(run_id, name))
        for name in run.data.metrics
    }
    files = sorted(file.path for file in client.list_artifacts(run_id, "scores"))
    tags = {name: run.data.tags[name] for name in run.data.tags if name.startswith("babysweep")}
    return points, files, tags, run.data.params, run.info.status
