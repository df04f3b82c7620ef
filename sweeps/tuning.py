"""Ray: the cluster, the two runners of a trial, and one Tune run over a searcher.

Ray Tune schedules; each trial keeps its own checkpoints under its spec's hash. So a trial function
that starts again, on whatever process after whatever was killed, goes on where the trial stood, and
running a sweep's command again is how it resumes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeps.environment import WORKER_ENVIRONMENT, is_local
from trainables.device import pick_device
from trainables.spec import TrialSpec
from trainables.trainer import Workplace, World
from trainables.trial import run_trial

ROOT = Path(__file__).resolve().parent.parent
RUNNERS = ("auto", "inline", "train")
SCHEDULERS = ("none", "asha")
MAX_FAILURES = 3
"""Times that one trial is started again after its process died."""


@dataclass(frozen=True)
class Resources:
    """What one trial gets.

    Attributes:
        cpus: CPUs of one worker.
        gpus: GPUs of one worker, fractions allowed.
        workers: workers of one trial.
        runner: "inline" (the Tune function is the trial) or "train" (Ray Train workers).
    """

    cpus: int
    gpus: float
    workers: int
    runner: str

    @classmethod
    def choose(cls, cpus: int, gpus: float, workers: int, runner: str) -> Resources:
        """Resources with "auto" resolved: inline for one CPU worker, else Ray Train.

        Raises:
            ValueError: what was asked for does not go together.
        """
        if runner not in RUNNERS:
            raise ValueError(f"--runner must be one of {', '.join(RUNNERS)}, not {runner!r}")
        if cpus < 1 or gpus < 0 or workers < 1:
            raise ValueError(
                "a trial needs at least 1 CPU, 0 GPUs and 1 worker, "
                f"not {cpus} CPUs, {gpus:g} GPUs, {workers} workers"
            )
        if runner == "inline" and workers > 1:
            raise ValueError(
                f"the inline runner has one worker; use --runner train for {workers} workers"
            )
        if runner == "auto":
            runner = "inline" if workers == 1 and gpus == 0 else "train"
        return cls(cpus, gpus, workers, runner)

    def trials_at_once(self, available: dict[str, float], limit: int | None = None) -> int:
        """How many trials fit the cluster's resources.

        Raises:
            ValueError: not even one fits.
        """
        fits = []
        for kind, need in (("CPU", self.cpus), ("GPU", self.gpus)):
            if need:
                fits.append(_fit(available.get(kind, 0.0), need, self.workers))
                if fits[-1] == 0:
                    raise ValueError(
                        f"one trial needs {self.workers} x {need:g} {kind}, the cluster has "
                        f"{available.get(kind, 0.0):g}: lower --{kind.lower()}s-per-trial or "
                        "--workers-per-trial, or connect to a larger cluster"
                    )
        return min(*fits, limit) if limit else min(fits)


def _fit(available: float, need: float, workers: int) -> int:
    """Trials that fit: a fraction of a GPU cannot be put together from two GPUs."""
    if need < 1:
        return int(available) * int(1 / need) // workers
    return int(available // need) // workers


@contextlib.contextmanager
def ray_cluster(address: str | None, *, dashboard: bool) -> Iterator[dict[str, float]]:
    """A connection to Ray, and the cluster's resources.

    Inside a submitted job, or with `RAY_ADDRESS` or `address` given, that cluster is used;
    otherwise a local one is started, and stopped at the end.
    """
    env = {**WORKER_ENVIRONMENT, "MLFLOW_DISABLE_TELEMETRY": "true"}
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not is_local(address):
        options |= {"address": address or "auto"}
    else:
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        os.environ.update(env)  # inherited by the cluster's processes
        env = {}
        options |= {
            "address": "local",
            "num_cpus": len(os.sched_getaffinity(0)),
            "object_store_memory": 100 * 2**20,
            "include_dashboard": dashboard,
            "dashboard_host": "127.0.0.1",
        }
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(runtime_env={"env_vars": env} if env else None, **options)
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


class DriverCallback(tune.Callback):
    """A callback that lives in the sweep's process only.

    Tune stores a copy of its callbacks beside its own state; nothing is resumed from that.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


def inline_trial(config: dict[str, Any], place: Workplace, gpus: float) -> None:
    """A trial in the Tune function itself."""
    world = World(device=pick_device(gpus))
    run_trial(TrialSpec.from_dict(config["spec"]), place, tune.report, world)


def train_trial(config: dict[str, Any], place: Workplace, resources: Resources) -> None:
    """A trial on Ray Train workers, driven by the Tune function."""
    # Train polls its workers every two seconds by default; every report waits for that.
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.25"
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    spec = TrialSpec.from_dict(config["spec"])
    per_worker = {"CPU": float(resources.cpus)}
    if resources.gpus:
        per_worker["GPU"] = resources.gpus
    TorchTrainer(
        train_worker,
        train_loop_config={"spec": config["spec"], "place": place, "gpus": resources.gpus},
        scaling_config=train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker=per_worker,
        ),
        torch_config=TorchConfig(backend="nccl" if resources.gpus >= 1 else "gloo"),
        run_config=train.RunConfig(
            name=spec.hash,
            storage_path=str(place.study / "ray-train"),
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
            failure_config=train.FailureConfig(max_failures=0),  # Tune starts it again
        ),
    ).fit()


def train_worker(config: dict[str, Any]) -> None:
    """One Ray Train worker of a trial."""
    from ray import train

    context = train.get_context()
    device = pick_device(config["gpus"])
    world = World(context.get_world_rank(), context.get_world_size(), device)
    run_trial(TrialSpec.from_dict(config["spec"]), config["place"], train.report, world)


def build_scheduler(name: str, epochs: int) -> TrialScheduler:
    """The trial scheduler: "none", or "asha" (Li et al. 2020, arXiv 1810.05934).

    ASHA compares validation bits per byte after 1, 3, 9, ... epochs; the best third goes on.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"--scheduler must be one of {', '.join(SCHEDULERS)}, not {name!r}")
    if name == "none":
        return FIFOScheduler()
    # A trial that reaches max_t counts as stopped early: one more than there are.
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric="bits_per_byte",
        mode="min",
        grace_period=1,
        reduction_factor=3,
        max_t=epochs + 2,
    )


def run_tune(
    search: Searcher,
    place: Workplace,
    resources: Resources,
    scheduler: TrialScheduler,
    callbacks: list[tune.Callback],
    max_concurrent: int,
) -> None:
    """Run trials until the searcher has no more, whatever happens to single ones.

    Ctrl-C ends it as well; the callbacks and the trials' folders tell what was reached.
    """
    if resources.runner == "inline":
        function = tune.with_parameters(inline_trial, place=place, gpus=resources.gpus)
        needs: dict[str, float] = {"cpu": resources.cpus, "gpu": resources.gpus}
    else:
        function = tune.with_parameters(train_trial, place=place, resources=resources)
        # The driver of a trial only waits: any CPU for it would be missing for its workers.
        needs = {"cpu": 0, "node:__internal_head__": 0.001}
    # Tune's own state: nothing is resumed from it.
    prefix = f"tune-{min(place.tracker.parents)}-"
    for leftover in place.study.glob(f"{prefix}*"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=prefix, dir=place.study, ignore_cleanup_errors=True
    ) as scratch:
        tune.Tuner(
            tune.with_resources(function, needs),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=max_concurrent,
                reuse_actors=resources.runner == "inline",
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=callbacks,
            ),
        ).fit()


def _trial_name(trial: Any) -> str:
    spec = TrialSpec.from_dict(trial.config["spec"])
    return f"{spec.arch}-{spec.hash}-{trial.trial_id}"


def local_gpus() -> int:
    """GPUs that this process sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
