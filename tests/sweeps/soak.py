"""Kill a sweep at random times and damage its checkpoints, again and again: the result stays.

    make soak                                # 20 kills
    make soak ARGS="--kills 60 --seed 1"
    make soak ARGS="--kills 1000 --minutes 30"

Sweeps are of five kinds in turn: on a cluster of their own, there with two Ray Train workers for
each trial, on a cluster of two nodes, in a bucket, after each kill on another machine, and with a
bucket on S3 and an MLflow server, which are away for a while now and then. Each time a random one
of the processes is killed (or all of them, or a whole node, or a server), and then a random file
of a random checkpoint is cut, emptied, removed, or has one bit flipped. A sweep that comes to its
end must hold, to the bit, what an uninterrupted one holds: every point in MLflow, and the
parameters. Then the next sweep begins.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from analysis.addresses import SCRATCH
from analysis.wording import count
from tests.processes import kill, wait_for
from tests.sweeps.conftest import SweepCommand
from tests.sweeps.ray_nodes import RayNodes, family
from tests.sweeps.servers import MlflowServer, S3Server
from tests.tiny_text import write_tiny_text

_MODEL = "model.safetensors"
FLAGS = ("--epochs", "30", "--checkpoint-minutes", "0")
LONGEST = 12.0
"""Seconds after the first trial's start until the kill."""
LONGEST_ABSENCE = 15.0
"""Seconds for which a server is away."""
KILLS_A_SWEEP = 4
KINDS = ("own cluster", "Train workers", "two nodes", "bucket", "servers")
NAMES = {
    "raylet": "raylet",
    "server": "gcs_server",
    "agent": "Agent",
    "trial": "ImplicitFunc|ResourceTrainable",
    "worker": "RayTrainWorker",
}
"""What the names of Ray's processes match."""


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


class OwnCluster:
    """Sweeps that start a cluster of their own.

    Args:
        flags: of the sweep.
    """

    victims = ("driver", "signal", "group", *NAMES)
    patience = 10.0
    """Most seconds for which a sweep goes on that a death has not ended."""

    def __init__(self, *flags: str) -> None:
        self.own_flags = self.flags = (*FLAGS, *flags)
        self.env: dict[str, str] = {}

    def family(self, driver: psutil.Process) -> list[psutil.Process]:
        """What must end with the driver."""
        return driver.children(recursive=True)

    def kill(self, victim: str, driver: psutil.Process) -> str:
        """Kill one of the victims, or the driver, if there is none of them; returns which."""
        family = driver.children(recursive=True)
        if victim == "group":
            kill(driver, *family)
            return "group"
        return end_one(victim, family, driver)

    def mend(self, sweep: SweepCommand) -> None:
        """Make ready for the next round of a sweep."""

    def fetch(self, sweep: SweepCommand) -> None:
        """Have the checkpoints in the sweep's folder."""

    def put_back(self, sweep: SweepCommand, file: Path) -> None:
        """Have a damage to one of their files where the sweep will look for it."""

    def end(self) -> None:
        """Leave nothing."""


class TwoNodes(OwnCluster):
    """Sweeps on a cluster of two nodes, of which one is lost now and then, and another joins."""

    victims = ("driver", "signal", "trial", "agent", "node")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="r")
        self._cluster: RayNodes | None = None

    @property
    def _nodes(self) -> RayNodes:
        assert self._cluster
        return self._cluster

    def family(self, driver: psutil.Process) -> list[psutil.Process]:
        """What must end with the driver: its trials, wherever they are."""
        below = [each for node in self._nodes.nodes for each in family(node)]
        return [each for each in below if is_a("trial", each)]

    def kill(self, victim: str, driver: psutil.Process) -> str:
        """Kill the second node, a process of it, or the driver; returns which."""
        if victim == "node":
            self._nodes.kill(1)
            return "node"
        return end_one(victim, family(self._nodes.nodes[1]), driver)

    def mend(self, sweep: SweepCommand) -> None:
        """Start the cluster; let another node join in place of one that is lost."""
        if not self._cluster:
            self._cluster = RayNodes(Path(self._folder.name), cpus=1)
            self.flags = (*FLAGS, "--address", self._cluster.address)
            self.env = self._cluster.env
        if len(self._nodes.nodes) > 1 and self._nodes.nodes[1].poll() is not None:
            self._nodes.kill(1)  # of a raylet without its agent nothing may stay
        if len(self._nodes.nodes) == 1:
            self._nodes.join()

    def end(self) -> None:
        """End the cluster."""
        if self._cluster:
            self._cluster.end()
        self._cluster = None


class InBucket(OwnCluster):
    """Sweeps in a bucket, each command on a machine of its own that has nothing on its disk."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="m")
        self._machines = itertools.count()

    def mend(self, sweep: SweepCommand) -> None:
        """Go to another machine."""
        sweep.storage.mkdir(exist_ok=True)
        self.flags = (*FLAGS, "--storage", f"file://{sweep.storage}")
        self.env = {
            SCRATCH: f"{self._folder.name}/{next(self._machines)}",
            "MLFLOW_TRACKING_URI": _database(sweep),
        }


class WithServers(InBucket):
    """Sweeps in a bucket on S3 that tell an MLflow server their figures; each of the two is away
    for a while now and then."""

    victims = ("driver", "signal", "group", "trial", "MLflow", "S3", "MLflow", "S3")
    patience = 60.0  # often enough the sweep ends, with all that a server has missed

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._servers: tuple[S3Server, MlflowServer] | None = None

    @property
    def _files(self) -> S3Server:
        assert self._servers
        return self._servers[0]

    def kill(self, victim: str, driver: psutil.Process) -> str:
        """Kill a server and start it again, or kill what other sweeps' kinds do."""
        assert self._servers
        if victim not in ("MLflow", "S3"):
            return super().kill(victim, driver)
        server = self._servers[victim == "MLflow"]
        server.kill()
        time.sleep(self._chance.uniform(1, LONGEST_ABSENCE))
        server.start()
        return victim

    def mend(self, sweep: SweepCommand) -> None:
        """Start the servers; go to another machine."""
        super().mend(sweep)
        if self._servers is None:
            self._servers = S3Server(), MlflowServer(sweep.storage / "served", _database(sweep))
        files, figures = self._servers
        self.flags = (*FLAGS, "--storage", f"s3://{files.bucket}")
        self.env |= files.env | figures.env

    def fetch(self, sweep: SweepCommand) -> None:
        """Bring all objects, and nothing else."""
        shutil.rmtree(sweep.storage / "study", ignore_errors=True)
        for name in self._files.objects():
            if name.endswith("/"):  # pyarrow leaves one for a folder
                continue
            file = sweep.storage / name
            file.parent.mkdir(parents=True, exist_ok=True)
            self._files.client().download_file(self._files.bucket, name, str(file))

    def put_back(self, sweep: SweepCommand, file: Path) -> None:
        """Change the object as the file was changed."""
        name = str(file.relative_to(sweep.storage))
        if file.exists():
            self._files.client().upload_file(str(file), self._files.bucket, name)
        else:
            self._files.client().delete_object(Bucket=self._files.bucket, Key=name)

    def end(self) -> None:
        """End the servers; the bucket's contents are lost."""
        for server in self._servers or ():
            server.__exit__()
        self._servers = None


def _database(sweep: SweepCommand) -> str:
    return f"sqlite:///{sweep.storage / 'mlflow.db'}"


def all_kinds(chance: random.Random) -> dict[str, OwnCluster]:
    """The kinds of sweeps, in their order."""
    with_workers = OwnCluster("--workers-per-trial", "2", "--epochs", "15")
    kinds = (OwnCluster(), with_workers, TwoNodes(), InBucket(), WithServers(chance))
    return dict(zip(KINDS, kinds, strict=True))


def is_a(victim: str, process: psutil.Process) -> bool:
    """Whether a process is one of Ray's of this sort."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return victim in NAMES and bool(re.search(NAMES[victim], process.name()))
    return False


def end_one(victim: str, family: list[psutil.Process], driver: psutil.Process) -> str:
    """Kill the first of its sort, else the driver; returns which."""
    for each in family:
        if is_a(victim, each):
            kill(each)
            return victim
    kill(driver)
    return "driver"


@dataclass
class Soak:
    """Kills and damages, and what was seen."""

    folder: Path
    chance: random.Random
    kinds: Sequence[str]
    wholes: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def run(self, kills: int, minutes: float) -> None:
        """Kill so many times, or for so many minutes; every sweep is brought to its end."""
        write_tiny_text(self._text)
        last = time.monotonic() + 60 * minutes
        kinds = {name: kind for name, kind in all_kinds(self.chance).items() if name in self.kinds}
        for number, (name, kind) in enumerate(itertools.cycle(kinds.items()), 1):
            try:
                kills -= self._sweep_of(kind, min(KILLS_A_SWEEP, kills), number, name)
            finally:
                kind.end()
            if not kills or time.monotonic() > last:
                return

    def _sweep_of(self, kind: OwnCluster, kills: int, number: int, kind_name: str) -> int:
        """Kill a sweep at most so many times, bring it to its end, compare; returns how many."""
        whole, name, done = self._whole(kind), f"{number} ({kind_name})", 0
        # Never twice the same folder: MLflow keeps a database open, also one that was removed.
        sweep = SweepCommand(self._text, self.folder / f"sweep-{number}")
        while done < kills and self._round(sweep, kind):
            done += 1
            print(f"sweep {name}, kill {done}: {dict(self.counts)}", flush=True)
        kind.mend(sweep)
        sweep.run(*kind.flags, **kind.env)
        kind.fetch(sweep)
        self.compare(sweep, name, whole)
        shutil.rmtree(sweep.storage)
        return done

    def _whole(self, kind: OwnCluster) -> dict[str, Any]:
        """What an uninterrupted sweep holds: a cluster makes no difference, but workers do."""
        flags = kind.own_flags
        if flags not in self.wholes:
            sweep = SweepCommand(self._text, self.folder / f"whole-{len(self.wholes)}")
            sweep.run(*flags)
            self.wholes[flags] = everything(sweep)
        return self.wholes[flags]

    @property
    def _text(self) -> Path:
        path = self.folder / "text"
        path.mkdir(exist_ok=True)
        return path

    def _round(self, sweep: SweepCommand, kind: OwnCluster) -> bool:
        """Start, kill and damage; False if the sweep came to its end before."""
        kind.mend(sweep)
        process = sweep.start(*kind.flags, **kind.env)
        with contextlib.suppress(AssertionError):  # it had nothing to start any more
            wait_for(process, "started")
        members: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            driver = psutil.Process(process.pid)
            time.sleep(self.chance.uniform(0, LONGEST))
            members = kind.family(driver)
            if process.poll() is None:
                self._kill(kind, driver)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self.chance.uniform(3, kind.patience))
        if process.poll() is None:  # it outlived the death of a trial
            process.kill()
        is_over = process.wait() == 0
        self._see_that_all_end(members)
        assert process.stdout is not None
        process.stdout.close()
        if not is_over:
            self._damage(sweep, kind)
        return not is_over

    def _see_that_all_end(self, family: list[psutil.Process]) -> None:
        agents = [each for each in family if is_a("agent", each)]
        _, alive = psutil.wait_procs([each for each in family if each not in agents], timeout=20)
        for each in alive:
            self._fail(f"left running: {each}")
        kill(*alive, *agents)  # these look for their raylet for two minutes

    def _kill(self, kind: OwnCluster, driver: psutil.Process) -> None:
        victim = self.chance.choice(kind.victims)
        if victim == "signal":
            driver.send_signal(self.chance.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))
        else:
            victim = kind.kill(victim, driver)
        self.counts[f"killed {victim}"] += 1

    def _damage(self, sweep: SweepCommand, kind: OwnCluster) -> None:
        kind.fetch(sweep)
        files = [
            file
            for file in sorted(sweep.storage.glob("study/trials/*/checkpoints/step-*/*"))
            if not (file.parents[2] / "outcome.json").exists() and file.stat().st_size
        ]
        if files:
            damage, file = self.chance.choice(DAMAGES), self.chance.choice(files)
            damage(file, self.chance)
            kind.put_back(sweep, file)
            self.counts[f"checkpoint: {damage.__name__}"] += 1

    def compare(self, sweep: SweepCommand, name: str, whole: dict[str, Any]) -> None:
        """Note in what a sweep is another than the uninterrupted one."""
        found = everything(sweep)
        for trial in whole.keys() | found.keys():
            if problem := difference(whole.get(trial), found.get(trial)):
                self._fail(f"sweep {name}, trial {trial}: {problem}")
        running = [run.info.run_id for run in sweep.runs() if run.info.status == "RUNNING"]
        if running:
            self._fail(f"sweep {name} left runs running: {running}")
        self.counts["sweeps compared"] += 1

    def _fail(self, what: str) -> None:
        print(f"FAILED: {what}", flush=True)  # also if the soak itself breaks off
        self.failures.append(what)


def everything(sweep: SweepCommand) -> dict[str, Any]:
    """What a sweep found, by trial: all points but for times, and digests of the parameters; and
    digests of the models that MLflow was given."""
    in_mlflow = [file for file in sweep.storage.rglob(_MODEL) if "checkpoints" not in file.parts]
    found: dict[str, Any] = {"models in MLflow": ({}, sorted(map(_digest, in_mlflow)), "")}
    for run in sweep.runs():
        key = run.data.tags["babysweep.spec_hash"]
        if key in found:
            key += f", again in run {run.info.run_id}"
        names = [name for name in run.data.metrics if "second" not in name]
        points = {name: [(p.step, p.value) for p in sweep.history(run, name)] for name in names}
        models = sweep.storage.glob(f"study/trials/{key}/checkpoints/step-*/{_MODEL}")
        digests = [*map(_digest, sorted(models))]
        found[key] = (points, digests, run.data.tags["babysweep.outcome"])
    return found


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def difference(whole: Any, found: Any) -> str:
    """How a trial is another than in the uninterrupted sweep, "" if it is not."""
    if whole is None or found is None:
        return "is in one sweep only"
    (points, digests, outcome), (other_points, other_digests, other_outcome) = whole, found
    names = [n for n in {**points, **other_points} if points.get(n) != other_points.get(n)]
    lines = [f"{n}: {points.get(n)} and {other_points.get(n)}" for n in names]
    lines += [f"parameters: {digests} and {other_digests}"] if digests != other_digests else []
    lines += [f"outcome: {outcome} and {other_outcome}"] if outcome != other_outcome else []
    return "; ".join(lines)


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="how many (default: 20)")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="after which no sweep begins any more"
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS, help="of sweeps (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the chances (default: 0)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the nodes end in any case
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), random.Random(args.seed), args.kinds)
        soak.run(args.kills, args.minutes)
    kills = sum(count for what, count in soak.counts.items() if what.startswith("killed"))
    print(f"{kills} kills, seed {args.seed}: {dict(soak.counts)}")
    failures = count(len(soak.failures), "failure")
    print(failures if soak.failures else "every sweep ended as an uninterrupted one")
    return bool(soak.failures)


if __name__ == "__main__":
    sys.exit(main())
