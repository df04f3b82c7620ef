"""Ray Train workers that stay: orders and reports, without Ray; a whole sweep, with it."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from analysis.store import PATIENCE_SECONDS
from sweeps.engine import crew as crews
from sweeps.engine import trial_process
from sweeps.engine.crew import (
    PEERS_SECONDS,
    Crew,
    KeyValueStore,
    _failure,
    crew_worker,
    take_orders,
)
from sweeps.engine.failures import HOPELESS, TrialFailure
from sweeps.engine.notices import NOTICES
from sweeps.engine.resources import Resources
from trainables.spec import TrialSpec
from trainables.trainer import World

SPEC = TrialSpec(
    **dict.fromkeys(("arch", "corpus", "corpus_hash", "benchmarks_hash"), "x"),
    **{"size": "mini", "protocol": "2024", "context": 8, "batch_size": 2, "lr": 1e-3},
    **{"epochs": 3, "seed": 0, "revision": 1},
)


class Failed(Exception):
    """What Ray Train raises, as far as it is looked at."""

    def __init__(self, worker_failures):
        self.worker_failures = worker_failures


class ThreadCrew(Crew):
    """A crew whose workers are threads of this process."""

    def __init__(self, workers):
        self.errors = {}
        super().__init__(b"", Resources(1, 0, workers, "train"), "")

    def _run(self):
        threads = [
            threading.Thread(target=self._work, args=(rank,), daemon=True)
            for rank in range(self._resources.workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            self._error = Failed(self.errors)

    def _work(self, rank):
        orders = KeyValueStore(self._orders.address)
        orders.put("ready", True)
        try:
            take_orders(orders, None, World(rank, self._resources.workers))
        except Exception as error:
            self.errors[rank] = error


@pytest.fixture
def ran(monkeypatch):
    """Trials of three reports each; returns the reports that workers got through, by rank."""
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    done = []

    def run_trial(spec, place, report, world):
        if spec.lr == 666:
            if world.rank == 1:
                raise RuntimeError("Connection closed by peer")
            logging.getLogger("models").warning("no C++ compiler")
            raise trial_process.OutOfMemory("no room; --micro-batch 4 would fit")
        if spec.lr == 667:
            raise RuntimeError("CUDA error: unspecified launch failure\nCompile with ...")
        for epoch in (1, 2, 3):
            if world.rank == 0 and spec.lr == 668 and epoch > 1:
                logging.getLogger("models.kernels.gpu").warning("%s is\nbroken", "mamba-ssm")
                logging.getLogger("trainables.files").info("as usual")
            report({"epoch": epoch, "ended": int(epoch == 3)})
            done.append((world.rank, spec.lr, epoch))

    monkeypatch.setattr(trial_process, "run_trial", run_trial)
    return done


@pytest.fixture
def crew(ran, request):
    """A crew of two workers."""
    crew = ThreadCrew(workers=2)
    crew.start()
    yield crew
    crew.dismiss()


def order(crew, lr):
    crew.begin(SPEC.replace(lr=lr).to_dict())


def test_workers_take_trial_after_trial(crew, ran):
    """Every report arrives once and in order, and every worker goes the same way."""
    for lr in (0.1, 0.2):
        order(crew, lr)
        assert [crew.next_report()["epoch"] for _ in range(3)] == [1, 2, 3]
    crew.dismiss()
    assert not crew._thread.is_alive()
    assert sorted(ran) == [(r, lr, e) for r in (0, 1) for lr in (0.1, 0.2) for e in (1, 2, 3)]


def test_a_trial_waits_at_its_report_and_may_be_stopped_there(crew, ran):
    """No worker passes a report before the scheduler has answered; a stop holds for all."""
    order(crew, 0.1)
    assert crew.next_report()["epoch"] == 1
    time.sleep(0.1)
    assert ran == []
    assert crew.next_report()["epoch"] == 2
    order(crew, 0.2)
    assert crew.next_report()["epoch"] == 1
    crew.dismiss()
    assert not crew._thread.is_alive()
    assert sorted(ran) == [(0, 0.1, 1), (1, 0.1, 1)]


@pytest.mark.parametrize(("lr", "hopeless"), [(666, True), (667, False)])
def test_a_failure_is_told_in_one_line(crew, lr, hopeless):
    """Out of memory is announced as final first; a CUDA error is an error at once."""
    order(crew, lr)
    if hopeless:
        report = crew.next_report()
        assert report[HOPELESS] == "out of memory: no room; --micro-batch 4 would fit"
        assert report[NOTICES] == ["no C++ compiler"]  # it may be why
    with pytest.raises(TrialFailure) as failure:
        crew.next_report()
    assert failure.value.hopeless == hopeless
    assert "\n" not in str(failure.value)


def test_a_warning_of_the_process_comes_with_the_next_report(crew, ran, caplog):
    """Once for each report, in a line; a report without one, and the process's log, are as ever."""
    for lr in (668, 0.1):
        order(crew, lr)
        found = [crew.next_report().get(NOTICES) for _ in range(3)]
        said = lr == 668 and ["mamba-ssm is broken"]
        assert found == [None, said or None, said or None]
    crew.dismiss()  # the last trial is left, too
    assert caplog.messages == 2 * ["mamba-ssm is\nbroken"]
    assert logging.getLogger("models").handlers == []


def test_the_cause_is_told_not_its_consequences():
    """Of two workers' errors that of the GPU counts, whichever rank it has."""
    lost = RuntimeError("Connection closed by peer\nmore")
    errors = Failed({0: lost, 1: TrialFailure("the GPU failed: ...")})
    assert str(_failure(errors)) == "the GPU failed: ..."
    assert str(_failure(Failed({0: lost}))) == "RuntimeError: Connection closed by peer"
    full = TrialFailure("out of memory: ...", hopeless=True)
    assert _failure(Failed({0: TrialFailure("the GPU failed: NCCL"), 1: full})) is full


def test_workers_wait_longer_for_each_other_than_one_may_wait_for_mlflow(ran, monkeypatch):
    """The first scores alone, sends what waits, and records the end: an hour each."""
    made = []

    def trainer(worker, **options):
        made.append(options)
        return SimpleNamespace(fit=lambda: None)

    monkeypatch.setattr("sweeps.engine.crew._trainer_class", lambda: trainer)
    crew = Crew(b"", Resources(1, 0, 2, "train"), "/tmp/x")
    crew._run()
    assert crew._error is None
    assert made[0]["torch_config"].timeout_s <= 1800  # to meet takes no time
    assert PEERS_SECONDS > 3 * PATIENCE_SECONDS


@pytest.fixture
def limit():
    """Reads the time limit of this process's group, whose only worker it is, from gloo itself."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    backend = dist.group.WORLD._get_backend(torch.device("cpu"))
    yield lambda: backend.options._timeout.total_seconds()
    dist.destroy_process_group()


def test_workers_wait_long_only_once_they_have_met(limit, monkeypatch):
    """Where they cannot reach each other the crew fails within PyTorch's own limit."""
    seen = []

    def least(world, value):
        seen.append(("meet", limit()))
        return value

    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 2)
    orders = SimpleNamespace(put=lambda key, value: seen.append((key, limit())))
    monkeypatch.setattr("ray.train.get_context", lambda: context)
    monkeypatch.setattr(World, "least", least)
    monkeypatch.setattr(crews, "KeyValueStore", lambda address: orders)
    monkeypatch.setattr(crews, "take_orders", lambda *_: None)
    crew_worker({"orders": None, "runtime": pickle.dumps(None), "gpus": 0})
    assert seen == [("meet", 1800), ("ready", PEERS_SECONDS)]


def test_orders_need_the_secret(monkeypatch):
    """Who knows host and port only neither reads nor writes the crew's keys."""
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    orders = KeyValueStore.serve()
    orders.put("trial/1", {"lr": 1.0})
    host, port, _ = orders.address
    assert KeyValueStore(orders.address).get("trial/1") == {"lr": 1.0}
    assert not KeyValueStore((host, port, "guess")).has("trial/1")
