"""What is wrong with the nodes of a cluster: what they said, compared with what is here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.addresses import SCRATCH, shown
from analysis.wording import count, in_gb
from sweeps.engine.checkup.asking import SILENCE_SECONDS, Answers, Clock, Node
from sweeps.engine.checkup.bucket import BucketUse
from sweeps.engine.checkup.folder import HELD, TAKEN, FolderUse
from sweeps.engine.checkup.machine import Machine
from sweeps.engine.checkup.software import COMPUTING, Software
from sweeps.engine.checkup.store import HERE, StoreUse
from sweeps.plans.common import PROCESS_BYTES
from sweeps.plans.doctor import BUCKET, MACHINE, SOFTWARE, STORAGE, STORE, TORCH

GIGA = 1e9
_LITTLE, _TOO_LITTLE = 5 * GIGA, 0.2 * GIGA
"""Bytes free in the storage."""
_TEMPORARY = GIGA
_FULL = 0.95
"""Of a disk, from which on Ray writes no objects to it."""
_OPEN_FILES = 4096
_LATE = 1.0
"""Seconds that two clocks may differ by."""
_SLOW_FILES, _SLOW_REQUEST = 1.0, 0.5
"""Seconds for two small files, and for a request to MLflow."""
_NO_IMPORT = ("ModuleNotFoundError", "ImportError", "AttributeError: Can't get attribute")
Said = tuple[bool, str]
"""Whether it is a problem, and not a warning; and a sentence in which "there" is the node."""


@dataclass(frozen=True)
class Examined:
    """A node, or this process, and what it said.

    Attributes:
        node: None for this process.
        returned: why what it wrote to the storage cannot be replaced here, "" if it can.
        clock: None where it is not known.
    """

    node: Node | None
    answers: Answers
    returned: str = ""
    clock: Clock | None = None

    @property
    def name(self) -> str:
        """In sentences."""
        return HERE if self.node is None else self.node.name

    def said_of(self, topic: str) -> Any:
        """Its answer about a topic, None where there is none."""
        return self.answers.found.get(topic)


@dataclass(frozen=True)
class Checkup:
    """A cluster as it was found.

    Attributes:
        storage: that studies will lie in, with `free` bytes.
        uri: of the MLflow store, which is a file or not.
        here: this process.
        nodes: of the cluster.
        lock: what became of this process's lock in the storage, see `SharedFolder`.
        left: what was made for the checkup and could not be removed.
    """

    storage: Path
    uri: str
    is_sqlite: bool
    here: Examined
    nodes: tuple[Examined, ...]
    lock: str
    free: int
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A problem, or a warning.

    Attributes:
        names: of the nodes that have it; none where it is the cluster's.
        text: a sentence.
    """

    is_problem: bool
    text: str
    names: tuple[str, ...] = ()


def find_problems(checkup: Checkup) -> list[Finding]:
    """Everything that is wrong, problems first; what several nodes have in common stands once."""
    where: dict[Said, list[str]] = {said: [] for said in _of_cluster(checkup)}
    for each in (checkup.here, *checkup.nodes):
        for said in _of_node(each, checkup):
            where.setdefault(said, []).append(each.name)
    found = [Finding(*said, tuple(names)) for said, names in where.items()]
    return sorted(found, key=lambda each: not each.is_problem)


def _of_cluster(checkup: Checkup) -> Iterator[Said]:
    """What is wrong whichever node one looks at."""
    if not any(each.node.cpus for each in checkup.nodes if each.node):
        yield True, "Ray hands out no CPU, and no trial would start: give `ray start` --num-cpus"
    if checkup.is_sqlite and len(checkup.nodes) > 1:
        yield (
            True,
            f"MLflow's store is a SQLite file, which does not bear {len(checkup.nodes)} nodes: "
            "start an MLflow server that all of them reach, and set MLFLOW_TRACKING_URI to its "
            "address for the sweep",
        )
    if checkup.lock != TAKEN:
        yield (
            True,
            f"files in {checkup.storage} cannot be locked ({checkup.lock}), and two commands could "
            "train the same trial: mount it with locks (NFS: not `nolock`), or take another "
            "--storage",
        )
    if checkup.free < _LITTLE:
        yield (
            checkup.free < _TOO_LITTLE,
            f"{checkup.storage} has {in_gb(checkup.free)} free: free some space for checkpoints, "
            "or take another --storage",
        )
    for place in checkup.left:
        yield False, f"a file of this checkup could not be removed: remove {place}"


def _of_node(each: Examined, checkup: Checkup) -> Iterator[Said]:
    """What is wrong with a node, or with this process."""
    yield from _unanswered(each.answers)
    here, node = checkup.here, each.node
    if (software := each.said_of(SOFTWARE)) and (ours := here.said_of(SOFTWARE)):
        yield from _of_software(software, ours)
    if (machine := each.said_of(MACHINE)) and node is not None:
        yield from _of_machine(machine, node)
        yield from _of_gpus(machine, each.said_of(TORCH), node)
    if use := each.said_of(STORAGE):
        yield from _of_storage(use, here.said_of(STORAGE) or use, each.returned, checkup.storage)
    if bucket := each.said_of(BUCKET):
        yield from _of_bucket(bucket, shown(checkup.storage))
    if answer := each.said_of(STORE):
        ours = here.said_of(STORE)
        yield from _of_store(answer, ours is not None and not ours.problem)
        if (software := each.said_of(SOFTWARE)) is not None:
            yield from _of_versions(answer.server, software.packages.get("mlflow", ""))
    if each.clock and abs(each.clock.ahead) - each.clock.error > _LATE:
        side = "ahead of" if each.clock.ahead > 0 else "behind"
        yield (
            False,
            f"its clock is {abs(each.clock.ahead):.1f} s {side} the one here, and curves over time "
            "will not fit together: let NTP set it",
        )


def _unanswered(answers: Answers) -> Iterator[Said]:
    """What a node did not answer."""
    topics: dict[str, list[str]] = {}
    for topic, reason in answers.errors.items():
        topics.setdefault(reason, []).append(topic)
    for reason, several in topics.items():
        if reason.startswith(_NO_IMPORT):
            advice = "install the project and its packages there as they are here, or share them"
            yield True, f"the project cannot be imported there ({reason}): {advice}"
        else:
            yield (
                True,
                f"{' and '.join(several)} could not be examined there ({reason}): trials may fail "
                "in the same way",
            )
    if answers.silent:
        yield (
            True,
            f"it has said nothing for {SILENCE_SECONDS:.0f} s when asked about {answers.silent}: "
            "look whether that hangs there, and whether Ray can start a process",
        )


def _of_software(there: Software, here: Software) -> Iterator[Said]:
    if there.python != here.python:
        is_problem = there.python.split(".")[:2] != here.python.split(".")[:2]
        yield is_problem, f"Python is {there.python} there, {here.python} here: use the same one"
    paths = sorted({*there.sources, *here.sources})
    other = [path for path in paths if there.sources.get(path) != here.sources.get(path)]
    if other:
        rest = " ..." if other[3:] else ""
        yield (
            True,
            f"the project in {there.root} differs from the one here in {count(len(other), 'file')} "
            f"({', '.join(other[:3])}{rest}), and trials there would run other code: bring both to "
            "the same version",
        )
    for is_problem in (True, False):
        differing = [
            f"{name} {there.packages.get(name) or 'is missing'} (here {version})"
            for name, version in here.packages.items()
            if (name in COMPUTING) == is_problem
            and _release(there.packages.get(name, "")) != _release(version)
        ]
        if differing:
            why = "what trials compute may differ" if is_problem else "what is recorded may differ"
            yield is_problem, f"{', '.join(differing)}: {why}; install the same versions"
    for name in sorted({*there.settings, *here.settings}):
        values = [side.settings.get(name, "not set") for side in (there, here)]
        if values[0] != values[1]:
            yield (
                False,
                f"{name} is {values[0]} there, {values[1]} here, and trials there compute in "
                "another way: set it alike before `ray start`",
            )


def _release(version: str) -> str:
    """A version without what names its build: a login node's torch is for CPUs."""
    return version.partition("+")[0]


def _of_machine(machine: Machine, node: Node) -> Iterator[Said]:
    if node.cpus > machine.cpus:
        yield (
            False,
            f"Ray hands out {node.cpus:g} CPUs there, and {machine.cpus} can be used, so trials "
            f"take them from each other: give `ray start` --num-cpus={machine.cpus}",
        )
    if node.memory > machine.memory:
        yield (
            False,
            f"Ray hands out {in_gb(node.memory)} of memory there, and processes are killed above "
            f"{in_gb(machine.memory)}: give `ray start` --memory",
        )
    if not node.gpus and machine.free_memory < PROCESS_BYTES * node.cpus:
        yield (
            False,
            f"{in_gb(machine.free_memory)} of memory are free for trials on {node.cpus:g} CPUs, "
            f"and each takes {in_gb(PROCESS_BYTES)} or more: fewer than there are CPUs can run at "
            "once",
        )
    for disk in machine.disks:
        if disk.free < _TEMPORARY or disk.free < (1 - _FULL) * disk.total:
            used = 1 - disk.free / disk.total if disk.total else 1.0
            yield (
                False,
                f"{disk.folder} has {in_gb(disk.free)} free ({used:.0%} used), and Ray stops "
                f"writing at {_FULL:.0%}: free some space, or give `ray start` another --temp-dir",
            )
    if machine.shared_memory is not None and machine.shared_memory < node.object_store:
        yield (
            False,
            f"/dev/shm has {in_gb(machine.shared_memory)}, and Ray's objects may take "
            f"{in_gb(node.object_store)}: make it larger (docker run --shm-size), or give `ray "
            "start` --object-store-memory",
        )
    if machine.open_files < _OPEN_FILES:
        yield (
            False,
            f"a process may have {count(machine.open_files, 'file')} open, and Ray wants more: "
            "`ulimit -n 65536` before `ray start`",
        )
    if machine.kernel_caches:
        yield (
            False,
            f"compiled kernels cannot be kept in {' and '.join(machine.kernel_caches)}, which is "
            "not writable: set XDG_CACHE_HOME and TRITON_CACHE_DIR before `ray start`",
        )
    if not machine.compilers[0] and not node.gpus:
        yield (
            False,
            "there is no C++ compiler, and kernels compute in PyTorch, which is slower: install "
            "g++ 12 or newer",
        )


def _of_gpus(machine: Machine, torch: tuple[int, str] | None, node: Node) -> Iterator[Said]:
    shown = len(machine.gpus)
    if shown and not node.gpus:
        yield (
            False,
            f"the driver shows {count(shown, 'GPU')} there, and Ray hands out none: install a "
            "PyTorch for CUDA, or give `ray start` --num-gpus",
        )
    if shown and node.gpus > shown:
        yield (
            True,
            f"Ray hands out {node.gpus:g} GPUs there, and the driver shows {shown}: give `ray "
            f"start` --num-gpus={shown}",
        )
    elif torch is not None and torch[0] < node.gpus:
        built = "no CUDA" if torch[1] == "-" else f"CUDA {torch[1]}"
        driver = f"driver {machine.gpus[0].driver}" if machine.gpus else "no nvidia-smi"
        yield (
            True,
            f"Ray hands out {node.gpus:g} GPUs there, and PyTorch sees {torch[0]} (it was built "
            f"for {built}; {driver}): install a PyTorch that fits the driver",
        )
    if node.gpus and not machine.compilers[1]:
        yield True, "there is no C compiler, which Triton's kernels need: install gcc"


def _of_storage(use: FolderUse, here: FolderUse, returned: str, storage: Path) -> Iterator[Said]:
    whose = f"user {use.user} with umask {use.umask:03o} there, {here.user} with {here.umask:03o}"
    if not use.is_there and not use.refused:
        yield True, f"there is no folder {storage}: mount it there, or take another --storage"
    elif not use.is_same and not use.refused:
        yield (
            True,
            f"{storage} is another folder there than here, and trials would not find each other's "
            "files: mount the same one on all nodes, or take another --storage",
        )
    elif use.refused:
        yield (
            True,
            f"{storage} cannot be used there ({use.refused}; {whose} here): make it, and what this "
            "user writes to it, writable for the user that Ray runs as",
        )
    if returned:
        yield (
            True,
            f"what is written to {storage} there cannot be replaced here ({returned}; {whose} "
            "here): run Ray and the commands as one user, or with one group and umask 002",
        )
    if use.umask != here.umask:
        yield (
            False,
            f"files get other permissions there (umask {use.umask:03o}, here {here.umask:03o}), "
            "and not everyone may read all of a study: set the same umask before `ray start`",
        )
    if use.lock not in ("", HELD):
        what = "a lock held here is free there" if use.lock == TAKEN else f"no locks: {use.lock}"
        yield (
            True,
            f"locks in {storage} do not hold across nodes ({what}), and a trial could be trained "
            "twice at the same time: mount it with locks (NFS: not `nolock`; Lustre: `flock`)",
        )
    if use.seconds > _SLOW_FILES:
        yield (
            False,
            f"two small files took {use.seconds:.1f} s to be written to {storage}: checkpoints "
            "will be slow; take a faster --storage",
        )


def _of_bucket(use: BucketUse, address: str) -> Iterator[Said]:
    if use.refused:
        yield (
            True,
            f"{address} cannot be used there ({use.refused}): give the node its credentials, and "
            f"for S3 AWS_ENDPOINT_URL and AWS_REGION, before `ray start`, and a {SCRATCH} that can "
            "be written to",
        )
    elif not use.is_same:
        yield (
            True,
            f"{address} is another bucket there than here: give the node the same "
            "AWS_ENDPOINT_URL before `ray start`",
        )
    if use.seconds > _SLOW_FILES:
        yield (
            False,
            f"an object took {use.seconds:.1f} s to be put into {address}: checkpoints will be "
            "slow; have the bucket nearer",
        )


def _of_store(answer: StoreUse, answers_here: bool) -> Iterator[Said]:
    if answer.problem:
        advice = (
            "; it answers here: look at the node's network, its proxy (no_proxy), and "
            "MLFLOW_TRACKING_USERNAME, PASSWORD or TOKEN before `ray start`"
        )
        yield True, f"{answer.problem}{advice if answers_here else ''}"
    if answer.seconds > _SLOW_REQUEST:
        yield (
            False,
            f"MLflow takes {answer.seconds:.1f} s for a request: have the server nearer, or on a "
            "machine with less to do",
        )
    if answer.artifacts:
        yield (
            True,
            f"MLflow's artifacts cannot be written and read back ({answer.artifacts}): let the "
            "server pass them on (--serve-artifacts), or give every node access to their place",
        )
    if answer.left:
        yield False, f"an artifact of this checkup could not be removed: remove {answer.left}"


def _of_versions(server: str, client: str) -> Iterator[Said]:
    """MLflow's server should not be older than who asks it."""
    numbers = [tuple(map(int, re.findall(r"\d+", version)[:2])) for version in (server, client)]
    if server and client and numbers[0] < numbers[1]:
        yield (
            False,
            f"MLflow's server is {server}, and older than its client, {client}: it may not know "
            "what it is asked; install the same version",
        )


def where(names: Iterable[str], nodes: Iterable[str]) -> str:
    """The nodes of a finding in words, "" where it is the cluster's.

    Args:
        names: of those that have it.
        nodes: names of all nodes.
    """
    names, nodes = [*names], [*nodes]
    some = [name for name in names if name != HERE]
    is_here = HERE in names
    if some == nodes and len(nodes) > 1:
        return "everywhere" if is_here else "every node"
    shown = [*some[:3], f"{len(some) - 3} more"] if len(some) > 4 else some
    both = [HERE] * is_here + shown
    text = " and ".join(filter(None, [", ".join(both[:-1]), *both[-1:]]))
    return f"{'node ' if len(some) == 1 and not is_here else ''}{text}"
