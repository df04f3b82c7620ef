"""What a sweep costs beside its trials: `make speed-sweep`.

Runs a default sweep of a mini model as a process of its own, with each of Ray's two runners in
turn, and prints, from what MLflow recorded,

- the seconds from the command to the first step,
- the longest time between the end of one trial and the first step of the next on the same slot,
- the wall time against 1.2 x (sum of trial times / trials at once) + 20 s,
- the peak memory of all its processes (proportional set size, so shared pages count once),
- what a trial on Ray Train costs more than the same trial inline, with all that is started for it,

with the check that every trial came to its end. Ends with status 1 if a bound does not hold.
"""

from __future__ import annotations

import argparse
import heapq
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 4
MAX_GAP_SECONDS = 2.0
MAX_MEMORY_GB = {"inline": 5.0, "train": 8.0}
MAX_EXTRA_SECONDS = 8.0


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="lstm")
    parser.add_argument("--epochs", default="1", help="epochs of each trial")
    parser.add_argument("--runners", nargs="+", default=["inline", "train"])
    parser.add_argument("--rounds", type=int, default=1, help="sweeps of each runner, in turns")
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} CPUs")
    sweeps: dict[str, list[Sweep]] = {runner: [] for runner in args.runners}
    for _ in range(args.rounds):
        for runner, measured in sweeps.items():
            sweep = run_sweep(args.arch, args.epochs, runner)
            if sweep is None:
                return 1
            measured.append(sweep)
    holds = [sweep.show(runner) for runner, measured in sweeps.items() for sweep in measured]
    if {"inline", "train"} <= sweeps.keys():
        extra = statistics.median(
            train.seconds_a_trial - inline.seconds_a_trial
            for inline, train in zip(sweeps["inline"], sweeps["train"], strict=True)
        )
        print(f"a trial on Ray Train costs {extra:.1f} s more (<= {MAX_EXTRA_SECONDS} s)")
        holds.append(extra <= MAX_EXTRA_SECONDS)
    return 0 if all(holds) else 1


@dataclass
class Sweep:
    """What was seen of a sweep.

    Attributes:
        started: when the command was started, in seconds.
        wall: seconds that it took.
        gigabytes: peak memory.
        begins, first_steps, ends: of its trials, in seconds.
    """

    started: float
    wall: float
    gigabytes: float
    begins: list[float]
    first_steps: list[float]
    ends: list[float]

    @property
    def at_once(self) -> int:
        """Most trials that ran at the same time."""
        pairs = list(zip(self.begins, self.ends, strict=True))
        return max(sum(begin <= time < end for begin, end in pairs) for time in self.begins)

    @property
    def seconds_a_trial(self) -> float:
        """Seconds of the whole command for each trial that a slot took."""
        return self.wall * self.at_once / len(self.ends)

    def show(self, runner: str) -> bool:
        """Print the figures; returns whether the bounds hold."""
        gap = max(slot_gaps(self.first_steps, self.ends, self.at_once))
        pairs = zip(self.begins, self.ends, strict=True)
        work = sum(end - begin for begin, end in pairs) / self.at_once
        bound, memory = 1.2 * work + 20, MAX_MEMORY_GB[runner]
        print(
            f"\n{runner}: first step after {min(self.first_steps) - self.started:.1f} s\n"
            f"between a trial's end and the next first step: {gap:.2f} s (<= {MAX_GAP_SECONDS} s)\n"
            f"sweep {self.wall:.1f} s, trials / {self.at_once} at once {work:.1f} s "
            f"(bound {bound:.1f} s)\n"
            f"peak memory of all processes: {self.gigabytes:.2f} GB (<= {memory} GB)"
        )
        # Starting Ray Train is in its bound for a trial.
        fits = self.wall <= bound or runner == "train"
        return fits and gap <= MAX_GAP_SECONDS and self.gigabytes <= memory


def run_sweep(arch: str, epochs: str, runner: str) -> Sweep | None:
    """Run a default sweep of four trials; None, in words, if they did not come to their ends."""
    with tempfile.TemporaryDirectory() as storage:
        command = [sys.executable, "sweeps/lr_sweep.py", "--arch", arch, "--no-extend"]
        command += ["--epochs", epochs, "--runner", runner, "--gpus-per-trial", "0"]
        command += ["--storage", storage, "--study", "speed"]
        started = time.time()
        with subprocess.Popen(command, cwd=ROOT) as process:
            memory = PeakMemory(process.pid)
            status = process.wait()
        wall = time.time() - started
        runs = ended_runs(storage)
        first_steps = [first_step_time(storage, run) for run in runs]
    if status or len(runs) != TRIALS:
        print(f"the sweep ended with status {status} and {len(runs)} trials: nothing to report")
        return None
    begins = [run.info.start_time / 1000 for run in runs]
    ends = [run.info.end_time / 1000 for run in runs]
    return Sweep(started, wall, memory.gigabytes, begins, first_steps, ends)


def ended_runs(storage: str) -> list:
    """The sweep's trial runs that came to an end, in the order of their start."""
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("speed")
    condition = "tags.`babysweep.kind` = 'trial' and tags.`babysweep.outcome` = 'finished'"
    runs = client.search_runs([experiment.experiment_id], condition)
    return sorted(runs, key=lambda run: run.info.start_time)


def first_step_time(storage: str, run) -> float:
    """When the run's first optimizer step was recorded, in seconds."""
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    points = client.get_metric_history(run.info.run_id, "train/loss")
    return min(point.timestamp for point in points) / 1000


def slot_gaps(first_steps: list[float], ends: list[float], at_once: int) -> list[float]:
    """Seconds from each freed slot to the first step of the trial that took it."""
    slots: list[float] = []
    gaps = []
    for first, end in sorted(zip(first_steps, ends, strict=True)):
        if len(slots) == at_once:
            gaps.append(first - heapq.heappop(slots))
        heapq.heappush(slots, end)
    return gaps


class PeakMemory:
    """The greatest memory of a process and all below it, polled until it ends."""

    def __init__(self, pid: int) -> None:
        self.gigabytes = 0.0
        self._process = psutil.Process(pid)
        threading.Thread(target=self._poll, daemon=True).start()

    def _poll(self) -> None:
        while self._process.is_running():
            total = 0
            for process in [self._process, *_children(self._process)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:  # it ended in between
                    continue
            self.gigabytes = max(self.gigabytes, total / 2**30)
            time.sleep(2.0)  # reading the maps of all processes takes time from the trials


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:  # it ended in between
        return []


if __name__ == "__main__":
    sys.exit(main())
