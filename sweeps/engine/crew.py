"""Ray Train workers that take trial after trial, so that only the first one waits for their start.

A Tune actor (`CrewTrial`) keeps a crew: one run of a `TorchTrainer`, whose workers ask for the next
trial when one has ended. Starting them anew takes five processes, one after the other, that import
everything; a trial after the first costs none of it. Orders and reports go through a key-value
store of PyTorch's in the Tune actor:

    ready            from the first worker: it has imported what it needs
    trial/<n>        the spec of the crew's n-th trial; null: there is none any more
    report/<n>/<i>   the i-th report of its first worker
    answer/<n>/<i>   "go", or "stop" from the scheduler, to that report; all workers wait for it

A worker that fails ends the whole crew: Train stops the others, and Tune the actor.

This module imports neither PyTorch nor models: the processes that only wait need not, either.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import secrets
import socket
import threading
import time
from datetime import timedelta
from typing import Any

import ray
from ray import tune

from sweeps.engine.failures import TrialFailure, hopeless_report
from sweeps.engine.resources import Resources

GO, STOP = "go", "stop"
POLL_SECONDS = 0.01
"""Between two looks into the store: 30 us each."""
DISMISS_SECONDS = 30.0
PEERS_SECONDS = 24 * 3600
"""Time limit of what workers do together, once they have met; half an hour by default.

The others wait at a barrier, or for the gradients of their next step, while the first one scores
alone, and while it waits for MLflow or a bucket: an hour for each of several calls
(`analysis.store.PATIENCE_SECONDS`). A worker that is lost is not noticed by this limit: Train sees
that its process is gone, within a second.
"""

_TRAIN_ENVIRONMENT = {
    # A failed worker is noticed at the next poll, every two seconds by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # Its process, one for each run, watches for announced ends of nodes: of no use to us, who write
    # checkpoints anyway.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # On a shared cluster others may hold the resources.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
}
_START_TRIES = 10


class CrewTrial(tune.Trainable):
    """A trial on Ray Train workers, as Tune sees it: a step is a report."""

    def setup(self, config: dict[str, Any], **crew: Any) -> None:
        """Start the crew and, once its workers stand by, its first trial.

        Args:
            config: holds the spec.
            **crew: arguments of `Crew`.
        """
        self._crew = Crew(**crew)
        self._crew.start()
        self._crew.begin(config["spec"])

    def step(self) -> dict[str, Any]:
        """The trial's next report."""
        report = self._crew.next_report()
        return {**report, "done": bool(report["ended"])}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on with another trial."""
        self._crew.begin(new_config["spec"])
        return True

    def cleanup(self) -> None:
        """Let the workers go, and with them what they hold of the cluster."""
        self._crew.dismiss()


class Crew:
    """The workers of one slot, and the orders that they get.

    Args:
        runtime: the pickled `RuntimeConfig` of the trials: to open it is to import models.
        resources: of each trial.
        scratch: folder for Train's own state.
    """

    def __init__(self, runtime: bytes, resources: Resources, scratch: str) -> None:
        self._runtime, self._resources, self._scratch = runtime, resources, scratch
        self._orders = KeyValueStore.serve()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: BaseException | None = None
        self._failure: TrialFailure | None = None
        self._trial = self._report = 0
        self._is_busy = self._is_waiting = False

    def start(self) -> None:
        """Start the workers, and wait until they stand by.

        Raises:
            TrialFailure: they could not be started.
        """
        self._thread.start()
        if not self._arrives("ready"):
            raise _failure(self._error) from self._error

    def begin(self, spec: dict[str, Any]) -> None:
        """Order the next trial; one that still goes on ends at its report."""
        self._answer(STOP)
        self._trial, self._report, self._is_busy = self._trial + 1, 0, True
        self._orders.put(f"trial/{self._trial}", spec)

    def next_report(self) -> dict[str, Any]:
        """Let the trial go on to its next report.

        Raises:
            TrialFailure: the workers failed.
        """
        if self._failure:
            raise self._failure from self._error
        self._answer(GO)
        key = f"report/{self._trial}/{self._report}"
        if not self._arrives(key):
            return self._fail()
        report: dict[str, Any] = self._orders.get(key)
        self._is_busy = self._is_waiting = not report["ended"]
        return report

    def dismiss(self) -> None:
        """End the workers. In the middle of an epoch they do not listen: they die with us then."""
        self._answer(STOP)
        self._orders.put(f"trial/{self._trial + 1}", None)
        self._thread.join(0 if self._is_busy else DISMISS_SECONDS)

    def _arrives(self, key: str) -> bool:
        """Wait for the workers to set a key; False if they ended before."""
        while not self._orders.has(key):
            if not self._thread.is_alive():
                return self._orders.has(key)
            time.sleep(POLL_SECONDS)
        return True

    def _answer(self, answer: str) -> None:
        if self._is_waiting:
            self._is_busy, self._is_waiting = answer == GO, False
            self._orders.put(f"answer/{self._trial}/{self._report}", answer)
            self._report += 1

    def _fail(self) -> dict[str, Any]:
        """The last report of a trial that would only fail again, else an error at once."""
        self._failure = _failure(self._error)
        if self._failure.hopeless:
            return hopeless_report(self._failure)
        raise self._failure from self._error

    def _run(self) -> None:
        """Run the workers to their end, in a thread of its own."""
        try:
            os.environ.update(_TRAIN_ENVIRONMENT)
            from ray import train
            from ray.train.torch import TorchConfig

            resources = self._resources
            per_worker = {"CPU": float(resources.cpus)}
            if resources.gpus:
                per_worker["GPU"] = resources.gpus
            config = {
                "orders": self._orders.address,
                "runtime": self._runtime,
                "gpus": resources.gpus,
            }
            _trainer_class()(
                crew_worker,
                train_loop_config=config,
                scaling_config=train.ScalingConfig(
                    num_workers=resources.workers,
                    use_gpu=resources.gpus > 0,
                    resources_per_worker=per_worker,
                ),
                torch_config=TorchConfig(backend=resources.backend),
                run_config=train.RunConfig(
                    name=f"crew-{secrets.token_hex(4)}",
                    storage_path=self._scratch,
                    failure_config=train.FailureConfig(
                        max_failures=0,  # Tune starts the trial again
                        controller_failure_limit=_START_TRIES,  # type: ignore[call-arg]
                    ),
                ),
            ).fit()
        except BaseException as error:  # for the thread that waits for reports
            self._error = error


def _trainer_class() -> type[Any]:
    """`TorchTrainer` without the process that would hand out Ray's data sets: there are none."""
    from ray.train.torch import TorchTrainer

    class CrewTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [each for each in callbacks if type(each).__name__ != "DatasetsCallback"]

    return CrewTrainer


class KeyValueStore:
    """A key-value store between the processes of a crew; values are JSON.

    Keys carry a secret: the port is open to whoever can reach it.

    Args:
        address: host, port and secret.
        is_server: whether the store lives in this process.
    """

    def __init__(self, address: tuple[str, int, str], *, is_server: bool = False) -> None:
        from torch.distributed import PrefixStore, TCPStore

        host, port, secret = address
        listening = None
        if is_server:  # or PyTorch would listen on all of the node's addresses
            listener = socket.create_server((host, port))
            port = listener.getsockname()[1]
            listening = listener.detach()  # the store closes it
        store = TCPStore(
            host, port, is_master=is_server, wait_for_workers=False, master_listen_fd=listening
        )
        self.address = (host, store.port, secret)
        self._store = PrefixStore(secret, store)

    @classmethod
    def serve(cls) -> KeyValueStore:
        """A store of this process, on a free port."""
        host = ray.util.get_node_ip_address()
        return cls((host, 0, secrets.token_hex(16)), is_server=True)

    def put(self, key: str, value: object) -> None:
        """Set a value."""
        self._store.set(key, json.dumps(value))

    def has(self, key: str) -> bool:
        """Whether there is a value."""
        return bool(self._store.check([key]))

    def get(self, key: str) -> Any:
        """A value, waiting for it as long as it takes.

        Not by the store's own wait, which has a time limit and warns on the terminal.
        """
        while not self.has(key):
            time.sleep(POLL_SECONDS)
        return json.loads(self._store.get(key))


def crew_worker(config: dict[str, Any]) -> None:
    """One Ray Train worker: trial after trial, until there is none any more."""
    from ray import train

    from trainables.device import pick_device
    from trainables.trainer import World

    context, device = train.get_context(), pick_device(config["gpus"])
    if device.type == "cuda":
        # Train shows a worker the GPUs of all workers on its node: its own may not be the first.
        device = train.torch.get_device()
    world = World(context.get_world_rank(), context.get_world_size(), device)
    orders, runtime = KeyValueStore(config["orders"]), pickle.loads(config["runtime"])
    meet(world)
    if world.rank == 0:
        orders.put("ready", True)
    take_orders(orders, runtime, world)


def meet(world: Any) -> None:
    """The first thing that workers do together; only then their limit for each other is raised.

    Where they cannot reach each other, as with a firewall between two nodes, the crew would else be
    silent for a day before it fails. NCCL connects at the first call; the wait for that has the
    limit of the group's store, which is never raised: the first worker must not be late for it.
    """
    from torch.distributed.distributed_c10d import _set_pg_timeout

    if world.size > 1:
        world.least(0)
        _set_pg_timeout(timedelta(seconds=PEERS_SECONDS))  # of NCCL as well as of gloo


def take_orders(orders: KeyValueStore, runtime: Any, world: Any) -> None:
    """Run the trials that are ordered, one after the other."""
    from sweeps.engine.trial_process import run_here
    from trainables.spec import TrialSpec

    for number in itertools.count(1):
        spec = orders.get(f"trial/{number}")
        if spec is None:
            return
        line = _ReportLine(orders, number, is_first=world.rank == 0)
        try:
            run_here(TrialSpec.from_dict(spec), runtime, line.report, world)
        except _Stopped:
            continue


class _ReportLine:
    """One worker's side of a trial's reports."""

    def __init__(self, orders: KeyValueStore, trial: int, is_first: bool) -> None:
        self._orders, self._trial, self._is_first = orders, trial, is_first
        self._report = 0

    def report(self, metrics: dict[str, Any]) -> None:
        """Hand in a report, if this is the first worker, and wait until the trial may go on."""
        place = f"{self._trial}/{self._report}"
        self._report += 1
        if self._is_first:
            self._orders.put(f"report/{place}", metrics)
        if not metrics["ended"] and self._orders.get(f"answer/{place}") == STOP:
            raise _Stopped


class _Stopped(Exception):
    """The scheduler stopped the trial: all workers learn of it at the same report."""


def _failure(error: BaseException | None) -> TrialFailure:
    """The one of the workers' errors that says most: the others failed because one did."""
    failures = getattr(error, "worker_failures", {})
    causes = [getattr(each, "_base_exc", each) for _, each in sorted(failures.items())] or [error]
    told = [cause for cause in causes if isinstance(cause, TrialFailure)]
    if told:
        return min(told, key=lambda failure: not failure.hopeless)
    lines = str(causes[0]).strip().splitlines() or [""]
    return TrialFailure(f"{type(causes[0]).__name__}: {lines[0]}")
