"""What a trial gets, and how many fit; what it leaves to the next trial of its process."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import pickle
import subprocess
import sys
import weakref

import pytest
import ray
import torch
from ray.tune.search import Searcher
from rich.console import Console

from analysis.schema.ranges import check
from sweeps.arguments import EvaluateArgs, LrSweepArgs
from sweeps.engine import trial_process, tuning
from sweeps.engine.environment import WORKER_ENVIRONMENT
from sweeps.engine.failures import TrialFailure, in_a_line
from sweeps.engine.resources import Resources, count_shares
from sweeps.engine.tuning import Slots
from tests.processes import ROOT, environment
from trainables.memory import OutOfMemory
from trainables.trainer import World


@pytest.mark.parametrize(
    ("gpus", "workers", "runner"),
    [(0, 1, "inline"), (0.25, 1, "inline"), (1, 1, "inline"), (1, 2, "train"), (0, 2, "train")],
)
def test_one_worker_needs_no_ray_train(gpus, workers, runner):
    """auto: the Tune function trains where one worker is all, on a GPU as on a CPU."""
    assert Resources.choose(1, gpus, workers, "auto").runner == runner
    assert Resources.choose(1, gpus, workers, "train").runner == "train"


def test_trials_use_the_nodes_that_join(monkeypatch):
    """And no more than are left when nodes go; both are said, once."""
    cluster = {"CPU": 1.0}
    monkeypatch.setattr(ray, "cluster_resources", lambda: dict(cluster))
    monkeypatch.setattr(tuning, "_LOOK_SECONDS", 0)
    output = io.StringIO()
    fitting = functools.partial(Resources.choose(1, 0, 1, "auto").trials_at_once, limit=3)
    slots = Slots(_Endless(), fitting, cluster, Console(file=output, width=200))
    running: list[str] = []

    def start_all() -> int:
        slots.on_step_begin(0, [])
        while slots.search.suggest(str(len(running))):
            running.append(str(len(running)))
        return len(running)

    assert start_all() == slots.number == 1
    for cpus, trials in ((2.0, 2), (4.0, 3), (4.0, 3), (0.0, 3)):
        cluster["CPU"] = cpus
        assert start_all() == trials
    assert slots.number == 1
    said = [line.split(": ")[1] for line in output.getvalue().splitlines()]
    assert said == ["2 trials at once now", "3 trials at once now", "no node for a trial, waiting"]


class _Endless(Searcher):
    def suggest(self, trial_id: str) -> dict[str, str]:
        return {"trial": trial_id}

    def on_trial_complete(self, trial_id: str, result: object = None, error: bool = False) -> None:
        """Nothing to note."""


def test_nccl_only_where_each_worker_has_a_gpu():
    """Shares of two workers may lie on one GPU, which NCCL refuses."""
    backends = {gpus: Resources.choose(1, gpus, 2, "train").backend for gpus in (0, 0.5, 1, 2)}
    assert backends == {0: "gloo", 0.5: "gloo", 1: "nccl", 2: "nccl"}


@pytest.mark.parametrize(
    ("gpus", "workers", "there", "at_once"),
    [
        (0.25, 1, 1, 4),
        (0.3, 1, 1, 3),
        (0.3, 1, 2, 6),
        (0.3333, 1, 1, 3),
        (0.34, 1, 1, 2),
        (0.1, 1, 1, 10),
        (0.7, 1, 2, 2),
        (1, 1, 4, 4),
        (2, 1, 5, 2),
        (1, 2, 4, 2),
        (0.5, 2, 1, 1),
        (0.3, 2, 2, 3),
    ],
)
def test_shares_of_gpus_are_packed(gpus, workers, there, at_once):
    """A share lies on one GPU: two remainders make none."""
    resources = Resources.choose(1, gpus, workers, "auto")
    assert resources.trials_at_once({"CPU": 64.0, "GPU": float(there)}) == at_once


@pytest.mark.parametrize("gpus", [1e-320, 1e-300, 9e-5])
def test_less_than_ray_counts_is_refused_as_a_flag(gpus):
    """A share below Ray's least one, which a division overflows with; 0 and that one are right."""
    words = "must be 0, or from 0.0001 to 4096, not"
    with pytest.raises(ValueError, match=f"--gpus-per-trial {words}"):
        check(LrSweepArgs(arch=("lstm",), gpus_per_trial=gpus), flags=True)
    with pytest.raises(ValueError, match=f"--gpus {words}"):
        check(EvaluateArgs(model="m", gpus=gpus), flags=True)
    for right in (0.0, 1e-4):
        check(LrSweepArgs(arch=("lstm",), gpus_per_trial=right), flags=True)
        check(EvaluateArgs(model="m", gpus=right), flags=True)
    assert count_shares(1.0, 1e-4) == 10_000


@pytest.mark.parametrize("flag", ["weight_decay", "warmup", "dropout", "grad_clip"])
def test_numbers_that_processors_take_for_zero_are_refused(flag):
    """Of every flag: some trials would compute with them, and others with zero."""
    name = f"--{flag.replace('_', '-')}"
    with pytest.raises(ValueError, match=f"{name} must be .* not 1e-320, which is too small"):
        check(LrSweepArgs(arch=("lstm",), **{flag: 1e-320}), flags=True)
    check(LrSweepArgs(arch=("lstm",), **{flag: 2.3e-308}), flags=True)


@pytest.mark.parametrize(
    ("memory", "workers", "at_once"),
    [(1e9, 1, 5), (1e9, 2, 2), (3e9, 1, 1), (9e9, 1, 1), (0, 1, 8)],
)
def test_no_more_trials_than_the_memory_has_room_for(memory, workers, at_once):
    """Of one alone the figure, which is the least, says nothing."""
    resources = Resources.choose(1, 0, workers, "auto")
    available = {"CPU": 8.0, "memory": 5.5e9}
    assert resources.trials_at_once(available, memory=memory) == at_once


def test_too_much_is_refused_in_words():
    """More than the cluster has, or one and a half GPUs."""
    with pytest.raises(ValueError, match="fraction of one GPU or whole GPUs, not 1.5"):
        Resources.choose(1, 1.5, 1, "auto")
    with pytest.raises(ValueError, match="1 x 2 GPU, the cluster has 1: lower --gpus-per-trial"):
        Resources.choose(1, 2, 1, "auto").trials_at_once({"CPU": 8.0, "GPU": 1.0})
    assert Resources.choose(1, 0, 1, "auto").trials_at_once({"CPU": 8.0, "GPU": 1.0}) == 8


class Held:
    """Something that a trial holds."""


@pytest.mark.parametrize("end", [None, SystemExit, RuntimeError, OutOfMemory])
def test_a_trial_leaves_nothing_behind(monkeypatch, end):
    """However it ends, what its functions held in variables and cycles is free afterwards."""
    seen = []

    def run_trial(spec, place, report, world):
        held = Held()
        held.itself = held
        seen.append(weakref.ref(held))
        if end is not None:
            raise end("over")

    monkeypatch.setattr(trial_process, "run_trial", run_trial)
    gc.disable()
    try:
        with (
            contextlib.nullcontext()
            if end is None
            else pytest.raises(BaseException, match="over") as caught
        ):
            trial_process.run_here(None, None, None, World())
        assert seen[0]() is None  # though the error, and its traceback, are still there
        assert end is None or caught.value is not None
    finally:
        gc.enable()


KEPT = """
import psutil
from sweeps.engine.trial_process import memory_given_back

held = psutil.Process().memory_info
with memory_given_back():
    texts = [b"x" * 65536 for _ in range(3200)]  # 200 MiB
    last = texts.pop()  # above them: what is below it the system does not get back by itself
    texts.clear()
    before = held().rss
print((before - held().rss) // 2**20)
"""
"""How many MiB a process gives back that was told to keep what it frees."""


@pytest.mark.slow
def test_a_trial_gives_back_what_its_process_was_told_to_keep():
    """Processes that take trial after trial do not grow."""
    done = subprocess.run(
        [sys.executable, "-c", KEPT],
        cwd=ROOT,
        env=environment() | WORKER_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) > 150


ADVICE = "a micro-batch of 64 does not fit; --micro-batch 16 would"


@pytest.mark.parametrize(
    ("error", "reason", "hopeless"),
    [
        (OutOfMemory(ADVICE), f"out of memory: {ADVICE}", True),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
            "out of memory: CUDA out of memory. Tried to allocate 2 GiB. "
            "(try a smaller --micro-batch, or auto)",
            True,
        ),
        (
            torch.AcceleratorError("CUDA error: device lost\nCompile with TORCH_USE_CUDA_DSA"),
            "the GPU failed: CUDA error: device lost",
            False,
        ),
        (RuntimeError("No CUDA GPUs are available"), "the GPU failed: No CUDA GPUs", False),
        (RuntimeError("NCCL error in: x.cpp:1"), "the GPU failed: NCCL error in", False),
    ],
)
def test_device_errors_are_told_apart(error, reason, hopeless):
    """Out of memory would come again; what else happens to a GPU may be over. Survives pickling."""
    failure = trial_process.device_failure(error)
    assert str(failure).startswith(reason)
    assert failure.hopeless == hopeless
    failure.notices = ["no C++ compiler"]
    copy = pickle.loads(pickle.dumps(failure))
    assert (type(copy), vars(copy)) == (TrialFailure, vars(failure))
    assert str(copy) == str(failure)


def test_other_errors_are_none_of_the_device():
    """An error of the program keeps its type and traceback."""
    assert trial_process.device_failure(ValueError("corpus changed")) is None
    assert trial_process.device_failure(RuntimeError("shape mismatch")) is None


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((1, 0, 1), "1 CPU"),
        ((2, 0.5, 1), "2 CPUs and 0.5 GPU"),
        ((4, 2, 3), "3 workers of 4 CPUs and 2 GPUs"),
    ],
)
def test_resources_in_words(asked: tuple[int, float, int], words: str) -> None:
    """Singular and plural, workers where there are several."""
    assert Resources.choose(*asked, "auto").in_words == words


@pytest.mark.parametrize(
    ("error", "was_killed", "line"),
    [
        ("trace\nActorDiedError: The actor died unexpectedly", False, "ActorDiedError: The actor"),
        ("trace\nActorDiedError: The actor died unexpectedly", True, "memory was short: run fewer"),
        ("trace\nValueError: no such thing", True, "ValueError: no such thing"),
        ("Task was killed due to the node running low on memory.\nMore", False, "memory was short"),
    ],
)
def test_an_end_for_want_of_memory_is_called_so(error, was_killed, line):
    """Whether the system or Ray killed the process; with what to do."""
    assert line in in_a_line(error, was_killed)
