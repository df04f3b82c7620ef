"""What a sweep costs beside its trials: `make speed-sweep`.

Runs a default sweep of a mini model as a process of its own and prints, from what MLflow recorded,

- the longest time between the end of one trial and the first step of the next on the same slot,
- the wall time against 1.2 x (sum of trial times / trials at once) + 20 s,
- the peak memory of all its processes (proportional set size, so shared pages count once),

with the check that every trial came to its end. Ends with status 1 if a bound does not hold.
"""

from __future__ import annotations

import argparse
import heapq
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parents[2]
MAX_GAP_SECONDS = 2.0
MAX_MEMORY_GB = 5.0


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="lstm")
    parser.add_argument("--epochs", default="1", help="epochs of each trial")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as storage:
        command = [sys.executable, "sweeps/lr_sweep.py", "--arch", args.arch, "--no-extend"]
        command += ["--epochs", args.epochs, "--storage", storage, "--study", "speed"]
        started = time.time()
        with subprocess.Popen(command, cwd=ROOT) as process:
            memory = PeakMemory(process.pid)
            status = process.wait()
        wall = time.time() - started
        runs = ended_runs(storage)
        first_steps = [first_step_time(storage, run) for run in runs]
    if status or len(runs) != 4:
        print(f"the sweep ended with status {status} and {len(runs)} trials: nothing to report")
        return 1
    begins = [run.info.start_time / 1000 for run in runs]
    ends = [run.info.end_time / 1000 for run in runs]
    at_once = max(sum(b <= t < e for b, e in zip(begins, ends, strict=True)) for t in begins)
    gap = max(slot_gaps(first_steps, ends, at_once))
    work = sum(end - begin for begin, end in zip(begins, ends, strict=True)) / at_once
    bound = 1.2 * work + 20
    print(f"\n{platform.processor() or platform.machine()}, {psutil.cpu_count()} CPUs")
    print(f"between a trial's end and the next first step: {gap:.2f} s (<= {MAX_GAP_SECONDS} s)")
    print(f"sweep {wall:.1f} s, trials / {at_once} at once {work:.1f} s (bound {bound:.1f} s)")
    print(f"peak memory of all processes: {memory.gigabytes:.2f} GB (<= {MAX_MEMORY_GB} GB)")
    fits = gap <= MAX_GAP_SECONDS and wall <= bound and memory.gigabytes <= MAX_MEMORY_GB
    return 0 if fits else 1


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
