"""SLURM for tests: its daemons on this machine, with two nodes, or a stand-in for its commands."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.processes import ROOT, environment, free_ports

SCRIPT = ROOT / "sweeps" / "cluster" / "slurm.sbatch"
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
CPUS = 1
"""Of a node."""
LONGEST = 300.0
_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmctldPort={controller}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
FirstJobId={job}
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
SchedulerParameters=batch_sched_delay=1,sched_interval=2
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs={cpus} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=n[1-2] Default=YES State=UP
"""
_SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do
    [[ $1 == --ntasks=* ]] && tasks=${1#*=}
    shift
done
echo $$ > "$SCONTROL_CALLS.srun"
trap 'kill -TERM $(jobs -p)' TERM
for ((node = 0; node < tasks; node++)); do SLURM_NODEID=$node "$@" & done
while [ -n "$(jobs -pr)" ]; do wait; done
"""
_SCONTROL = """#!/usr/bin/env bash
echo "$@" >> "$SCONTROL_CALLS"
"""
_SCANCEL = """#!/usr/bin/env bash
kill -TERM "$(cat "$SCONTROL_CALLS.srun")"
"""


class StandIn:
    """The batch script as SLURM would run it, with commands of ours in the place of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "scontrol"
        for name, text in (("srun", _SRUN), ("scontrol", _SCONTROL), ("scancel", _SCANCEL)):
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        self.job = str(_any_number())
        self._process: subprocess.Popen[str] | None = None

    def submit(self, nodes: int, *words: str) -> None:
        """Begin a job."""
        env = environment() | {
            "PATH": f"{self.folder / 'bin'}:{_path()}",
            "SCONTROL_CALLS": str(self.calls),
            "SLURM_JOB_ID": self.job,
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_CPUS_PER_TASK": str(CPUS),
        }
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                ["bash", str(SCRIPT), *words],
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def announce_the_end(self) -> None:
        """Send the job's script what SLURM sends before the time is over."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)

    @property
    def log(self) -> str:
        """All that the job has said."""
        return (self.folder / "log").read_text()

    @property
    def is_running(self) -> bool:
        """Whether the job has not ended."""
        assert self._process is not None
        return self._process.poll() is None

    @property
    def was_queued_again(self) -> bool:
        """Whether the job asked for it."""
        return self.calls.is_file() and self.calls.read_text().startswith("requeue ")

    def end(self) -> None:
        """Let nothing live on."""
        if self._process is not None and self.is_running:
            self._process.terminate()
            self._process.wait(timeout=60)


class Daemons:
    """SLURM's own daemons, on loopback; only root can start them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = ""
        controller, first, second = free_ports(3)
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge.key").chmod(0o400)
        config = folder / "slurm.conf"
        config.write_text(
            _CONFIG.format(
                host=socket.gethostname().partition(".")[0],
                folder=folder,
                controller=controller,
                first=first,
                second=second,
                cpus=CPUS,
                job=_any_number(),
            )
        )
        self._env = environment() | {"SLURM_CONF": str(config), "PATH": _path()}
        munge = [f"--{name}={folder}/munge.{end}" for name, end in _MUNGE.items()]
        self._daemons = [self._start("munged", "--foreground", "--force", *munge)]
        wait_until(lambda: (folder / "munge.sock").exists())
        self._daemons.append(self._start("slurmctld", "-D"))
        self._daemons += [self._start("slurmd", "-D", "-N", name) for name in ("n1", "n2")]
        wait_until(lambda: "2/0/2" not in self._ask("sinfo", "-h", "-o", "%A") and self._is_idle)

    @property
    def _is_idle(self) -> bool:
        return self._ask("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2"

    def submit(self, nodes: int, *words: str) -> None:
        """Queue a job."""
        flags = [f"--nodes={nodes}", f"--cpus-per-task={CPUS}", f"--output={self.folder / 'log'}"]
        flags += ["--time=10", "--parsable"]
        self.job = self._ask("sbatch", *flags, str(SCRIPT), *words).strip()

    def announce_the_end(self) -> None:
        """Send the job's script what SLURM sends before the time is over."""
        self._ask("scancel", "--batch", "--signal=USR1", self.job)

    @property
    def log(self) -> str:
        """All that the job has said."""
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    @property
    def is_running(self) -> bool:
        """Whether the job, or one that goes on with it, has not ended."""
        return bool(self._ask("squeue", "-h", "-j", self.job, "-t", "R,PD,CG", "-o", "%T").strip())

    @property
    def was_queued_again(self) -> bool:
        """Whether the job waits, or runs, a second time."""
        return "Restarts=1" in self._ask("scontrol", "show", "job", self.job)

    def end(self) -> None:
        """End the job, and SLURM."""
        if self.job:
            self._ask("scancel", "--state=PENDING", self.job)
            self._ask("scancel", "--batch", "--signal=TERM", self.job)
            wait_until(lambda: not self.is_running)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(timeout=30)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{words[0]}-{words[-1].rpartition('/')[2]}.log").open("w") as log:
            return subprocess.Popen([*words], env=self._env, stdout=log, stderr=log)

    def _ask(self, *words: str) -> str:
        done = subprocess.run(words, env=self._env, cwd=ROOT, capture_output=True, text=True)
        return done.stdout


_MUNGE = {
    "socket": "sock",
    "key-file": "key",
    "pid-file": "pid",
    "log-file": "log",
    "seed-file": "seed",
}


def there_are_daemons() -> bool:
    """Whether SLURM is installed, and can be started."""
    return os.geteuid() == 0 and all(shutil.which(name, path=_path()) for name in DAEMONS)


def wait_until(condition: object, seconds: float = LONGEST) -> None:
    """Look again and again; an AssertionError where it takes too long."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.2)


@contextlib.contextmanager
def slurm(kind: type[StandIn] | type[Daemons], folder: Path) -> Iterator[StandIn | Daemons]:
    """SLURM, or what stands in for it, in an empty folder."""
    there = kind(folder)
    try:
        yield there
    finally:
        there.end()


def _any_number() -> int:
    """Of a job: its files have others than those of jobs beside it."""
    return secrets.randbelow(10**6) + 10**6


def _path() -> str:
    """Where commands are looked for: this environment's, and what only root's shells have."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
