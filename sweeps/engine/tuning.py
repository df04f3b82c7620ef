"""Ray: the cluster, the two runners of a trial, and one Tune run over a searcher.

Ray Tune schedules; each trial keeps its own checkpoints under its spec's hash. So a trial function
that starts again, on whatever process after whatever was killed, goes on where the trial stood, and
running a sweep's command again is how it resumes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher
from rich.console import Console

from analysis.commands import SETTINGS
from analysis.signals import install_handlers
from analysis.terminal import say
from analysis.wording import count
from sweeps.engine.crew import CrewTrial
from sweeps.engine.environment import (
    check_address,
    cluster_address,
    is_local,
    worker_environment,
)
from sweeps.engine.failures import HOPELESS, TrialFailure, hopeless_report
from sweeps.engine.resources import Resources
from sweeps.engine.trial_process import run_here
from sweeps.engine.watch import RayDied, watching_ray
from trainables.device import pick_device
from trainables.machine_limits import usable_cpus
from trainables.spec import TrialSpec
from trainables.trainer import RuntimeConfig, World

ROOT = Path(__file__).resolve().parents[2]
# Tune would send a machine's keys of S3 with the runtime environment, which Ray's logs show.
_SENT: set[str] = getattr(class_cache, "ENV_VARS_TO_PROPAGATE", set())
_SENT.difference_update([name for name in _SENT if name.startswith("AWS_")])
_LEAST_FREE = 200
"""Megabytes for the files of a local Ray."""
MAX_FAILURES = 3
"""Times that one trial is started again after its process died."""
_LOOK_SECONDS = 10.0
"""Between two looks at what the cluster has."""


@contextlib.contextmanager
def ray_cluster(address: str | None, *, dashboard: bool) -> Iterator[dict[str, float]]:
    """A connection to Ray, which is watched over, and the cluster's resources.

    Inside a submitted job, or with `RAY_ADDRESS` or `address` given, that cluster is used;
    otherwise a local one is started, and stopped at the end.

    Raises:
        ValueError: no cluster answers there, or none can be started.
        RayDied: something that it cannot do without is gone.
    """
    env = worker_environment(SETTINGS)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not is_local(address):
        check_address(address)
        options |= {"address": address or "auto"}
    else:
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        os.environ.update(env)  # inherited by the cluster's processes
        env = {}
        options |= {
            "address": "local",
            "num_cpus": usable_cpus(),
            "num_gpus": local_gpus(),  # those of CUDA_VISIBLE_DEVICES, as PyTorch counts them
            "object_store_memory": 100 * 2**20,
            "include_dashboard": dashboard,
            "dashboard_host": "127.0.0.1",
        }
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Whole tracebacks: of a failed trial callbacks say a line and keep the rest, and from the state
    # that Tune could not store nothing is resumed.
    for name in ("execution.tune_controller", "execution.experiment_state", "tune"):
        logging.getLogger(f"ray.tune.{name}").setLevel(logging.CRITICAL)
    _connect(cluster_address(address), runtime_env={"env_vars": env} if env else None, **options)
    try:
        with watching_ray():
            yield ray.cluster_resources()
    except RayDied:
        raise
    except BaseException:
        _disconnect()
        raise
    _disconnect()


def _connect(place: str, **options: Any) -> None:
    """`ray.init`, with its errors as ours."""
    try:
        ray.init(**options)
    except Exception as error:  # Ray has no class of its own for some
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"no Ray cluster can be started or reached ({place}): {reason}{_hint()}"
        ) from error
    except SystemExit as end:  # of Ray's handler of SIGTERM
        raise KeyboardInterrupt from end
    finally:
        install_handlers()


def _hint() -> str:
    """What may be the matter with the folder of Ray's own files."""
    temporary = os.environ.get("RAY_TMPDIR", "")
    if len(temporary) > 40:
        return f"; RAY_TMPDIR={temporary} may be too long a path"
    folder = Path(temporary or tempfile.gettempdir())
    free = shutil.disk_usage(folder).free // 2**20 if folder.is_dir() else _LEAST_FREE
    if free >= _LEAST_FREE:
        return ""
    return f"; {folder} has only {free} MB left: free some space, or set RAY_TMPDIR"


def _disconnect() -> None:
    """`ray.shutdown`, after which a SIGTERM would end the process without a word."""
    ray.shutdown()
    install_handlers()


class DriverCallback(tune.Callback):
    """A callback that lives in the sweep's process only.

    Tune stores a copy of its callbacks beside its own state; nothing is resumed from that.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


def inline_trial(config: dict[str, Any], runtime: RuntimeConfig, gpus: float) -> None:
    """A trial in the Tune function itself; Tune lets the same process take the next one."""
    spec, world = TrialSpec.from_dict(config["spec"]), World(device=pick_device(gpus))
    try:
        run_here(spec, runtime, tune.report, world)
    except TrialFailure as failure:
        if failure.hopeless:
            tune.report(hopeless_report(failure))
        raise


class NoRetry(DriverCallback):
    """Lets a trial fail for good that says it would only fail again."""

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: object,
    ) -> None:
        """Allow a trial that reports a hopeless failure no further failures."""
        if HOPELESS in result:
            trial.max_failures = 0


class OwnSignals(DriverCallback):
    """Takes SIGUSR1 back from Tune, which always has it end in the middle, as if all were done."""

    def setup(self, *args: object, **info: object) -> None:
        """Install our handlers, when Tune has installed its own."""
        install_handlers()


class Slots(DriverCallback):
    """Places for trials: as many as fit the cluster, whose nodes come and go.

    Args:
        search: who hands out the trials.
        fitting: how many trials fit such resources, by Ray's names for them; raises ValueError if
            none does.
        available: the cluster's resources at the start.
        console: is told of a change.

    Attributes:
        search: hands out no trial while all places are taken.
    """

    def __init__(
        self,
        search: Searcher,
        fitting: Callable[[dict[str, float]], int],
        available: dict[str, float],
        console: Console,
    ) -> None:
        self._fitting, self._console = fitting, console
        self._said = fitting(available)
        self.search = ConcurrencyLimiter(search, max_concurrent=self._said)
        self._looked = time.monotonic()

    @property
    def number(self) -> int:
        """How many trials run at once."""
        return int(self.search.max_concurrent)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Look at the cluster now and then."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            now = self._fitting(ray.cluster_resources())
        except ValueError:
            now = 0
        self.search.max_concurrent = max(1, now)  # a trial that waits asks Ray for a node
        if now != self._said:
            self._said = now
            text = f"{count(now, 'trial')} at once now" if now else "no node for a trial, waiting"
            say(self._console, f"The cluster has changed: {text}")


def build_scheduler(name: str, epochs: int) -> TrialScheduler:
    """The trial scheduler: "none", or "asha" (Li et al. 2020, arXiv 1810.05934).

    ASHA compares validation bits per byte after 1, 3, 9, ... epochs; the best third goes on.
    """
    if name == "none":
        return _Fifo()  # type: ignore[no-untyped-call]
    # A trial that reaches max_t counts as stopped early: one more than there are.
    return _Asha(
        time_attr="epoch",
        metric="bits_per_byte",
        mode="min",
        grace_period=1,
        reduction_factor=3,
        max_t=epochs + 2,
    )


class _InTurn:
    """Lets a process that has become free take the next trial, not one that waits for its own.

    By default the process that is being started for the latter would be given up. Where trials end
    more often than a process takes to start, a node that joins would never come to train.
    """

    def choose_trial_to_run(self, tune_controller: object) -> None:
        """Leave all trials to Tune's own order."""


class _Fifo(_InTurn, FIFOScheduler):
    """In the order of the searcher."""


class _Asha(_InTurn, AsyncHyperBandScheduler):
    """In the order of the searcher, with early ends."""


def run_tune(
    runtime: RuntimeConfig,
    resources: Resources,
    scheduler: TrialScheduler,
    callbacks: list[tune.Callback],
    slots: Slots,
) -> None:
    """Run trials until the searcher has no more, whatever happens to single ones.

    Ctrl-C ends it as well; the callbacks and the trials' folders tell what was reached.
    """
    # Tune asks for no more processes at a time than could run at first, unless it is told.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(10**6)
    # Tune's own state: nothing is resumed from it.
    prefix = f"tune-{min(runtime.tracker.parents)}-"
    for leftover in runtime.study.glob(f"{prefix}*"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=prefix, dir=runtime.study, ignore_cleanup_errors=True
    ) as scratch:
        tune.Tuner(
            _trainable(runtime, resources, scratch),
            tune_config=tune.TuneConfig(
                search_alg=slots.search,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # our own are
                callbacks=[OwnSignals(), NoRetry(), slots, *callbacks],
            ),
        ).fit()


def _trainable(runtime: RuntimeConfig, resources: Resources, scratch: str) -> Any:
    """Tune's trainable, with its resources: the trial itself, or what waits for its workers."""
    if resources.runner == "inline":
        function = tune.with_parameters(inline_trial, runtime=runtime, gpus=resources.gpus)
        return tune.with_resources(function, {"cpu": resources.cpus, "gpu": resources.gpus})
    crew = tune.with_parameters(
        CrewTrial, runtime=pickle.dumps(runtime), resources=resources, scratch=scratch
    )
    # Any CPU for what only waits would be missing for its workers.
    return tune.with_resources(crew, {"cpu": 0, "node:__internal_head__": 0.001})


def _trial_name(trial: Trial) -> str:
    spec = TrialSpec.from_dict(trial.config["spec"])
    return f"{spec.arch}-{spec.hash}-{trial.trial_id}"


def local_gpus() -> int:
    """GPUs that this process sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
