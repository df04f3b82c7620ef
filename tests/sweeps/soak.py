"""Kill a sweep at random times and damage its checkpoints, again and again: the result stays.

    make soak                                # 20 kills
    make soak ARGS="--kills 60 --seed 1"

Each time a random one of the sweep's processes is killed, and then a random file of a random
checkpoint is cut, emptied, removed, or has one bit flipped. A sweep that comes to its end must
hold, to the bit, what an uninterrupted one holds: every point in MLflow, and the parameters. Then
the next sweep begins.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.processes import wait_for
from tests.sweeps.conftest import SweepCommand
from tests.tiny_text import write_tiny_text

FLAGS = ("--epochs", "30", "--checkpoint-minutes", "0")
LONGEST = 12.0
"""Seconds after the first trial's start until the kill."""


def cut(file: Path, chance: random.Random) -> None:
    """Keep a part of the file, or nothing."""
    with file.open("r+b") as content:
        content.truncate(chance.randrange(file.stat().st_size))


def flip(file: Path, chance: random.Random) -> None:
    """Change one bit."""
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def remove(file: Path, chance: random.Random) -> None:
    """Take the file away."""
    file.unlink()


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (cut, flip, remove)


@dataclass
class Soak:
    """Kills and damages, and what was seen."""

    folder: Path
    chance: random.Random
    whole: Any = None
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def run(self, kills: int) -> None:
        """Kill so many times; every sweep is brought to its end."""
        write_tiny_text(self._text)
        reference = self._sweep("whole")
        reference.run(*FLAGS)
        self.whole = everything(reference)
        number = done = 0
        while done < kills:
            number += 1
            sweep = self._sweep(f"sweep-{number}")
            while done < kills and self._round(sweep):
                done += 1
                print(f"{done} kills: {dict(self.counts)}", flush=True)
            sweep.run(*FLAGS)
            self._compare(sweep, number)
            shutil.rmtree(sweep.storage)

    @property
    def _text(self) -> Path:
        path = self.folder / "text"
        path.mkdir(exist_ok=True)
        return path

    def _sweep(self, name: str) -> SweepCommand:
        return SweepCommand(self._text, self.folder / name)

    def _round(self, sweep: SweepCommand) -> bool:
        """Start, kill and damage; False if the sweep came to its end before."""
        process = sweep.start(*FLAGS)
        with contextlib.suppress(AssertionError):  # it had nothing to start any more
            wait_for(process, "started")
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
            time.sleep(self.chance.uniform(0, LONGEST))
            if process.poll() is None:
                self._kill(psutil.Process(process.pid))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self.chance.uniform(3, 10))
        if process.poll() is None:  # it outlived the death of a trial
            process.kill()
        is_over = process.wait() == 0
        self._see_that_all_end(family)
        assert process.stdout is not None
        process.stdout.close()
        if not is_over:
            self._damage(sweep)
        return not is_over

    def _see_that_all_end(self, family: list[psutil.Process]) -> None:
        _, alive = psutil.wait_procs(family, timeout=20)
        for each in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                if "Agent" not in each.name():  # Ray's own look for their raylet for two minutes
                    self.failures.append(f"left running: {each}")
                each.kill()

    def _kill(self, driver: psutil.Process) -> None:
        family = {each.name(): each for each in driver.children(recursive=True)}
        trials = [name for name in family if "Implicit" in name]
        victims = ["driver", "signal", "raylet", "gcs_server", *trials[:1]]
        victim = self.chance.choice(victims)
        if victim == "signal":
            driver.send_signal(self.chance.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))
        else:
            family.get(victim, driver).kill()
        self.counts["killed trial" if victim in trials else f"killed {victim}"] += 1

    def _damage(self, sweep: SweepCommand) -> None:
        files = [
            file
            for file in sorted(sweep.storage.glob("study/trials/*/checkpoints/step-*/*"))
            if not (file.parents[2] / "outcome.json").exists() and file.stat().st_size
        ]
        if files:
            damage = self.chance.choice(DAMAGES)
            damage(self.chance.choice(files), self.chance)
            self.counts[f"checkpoint: {damage.__name__}"] += 1

    def _compare(self, sweep: SweepCommand, number: int) -> None:
        found = everything(sweep)
        if found != self.whole:
            self.failures.append(f"sweep {number} differs: {sweep.storage}")
        running = [run.info.run_id for run in sweep.runs() if run.info.status == "RUNNING"]
        if running:
            self.failures.append(f"sweep {number} left runs running: {running}")
        self.counts["sweeps compared"] += 1


def everything(sweep: SweepCommand) -> dict[str, Any]:
    """What a sweep found, by trial: all points but for times, and digests of the parameters."""
    found: dict[str, Any] = {}
    for run in sweep.runs():
        key = run.data.tags["babysweep.spec_hash"]
        names = [name for name in run.data.metrics if "second" not in name]
        points = {name: [(p.step, p.value) for p in sweep.history(run, name)] for name in names}
        models = sweep.storage.glob(f"study/trials/{key}/checkpoints/step-*/model.safetensors")
        digests = [hashlib.sha256(model.read_bytes()).hexdigest() for model in sorted(models)]
        found[key] = (points, digests, run.data.tags["babysweep.outcome"])
    return found


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), random.Random(args.seed))
        soak.run(args.kills)
    print(f"{args.kills} kills, seed {args.seed}: {dict(soak.counts)}")
    for failure in soak.failures:
        print(failure)
    print("every sweep ended as an uninterrupted one" if not soak.failures else "FAILED")
    return bool(soak.failures)


if __name__ == "__main__":
    sys.exit(main())
