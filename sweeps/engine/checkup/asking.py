"""Asks every node of a cluster, be it busy or not, and waits for none that is silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from analysis.errors import without_secret

SILENCE_SECONDS = 30.0
"""For a node to start a process and to answer the first question, and between two answers."""
_ROUNDS = 3
"""Questions for a clock: the quickest answer says most."""
_CLOCK_SECONDS = 5.0
_HEAD = "node:__internal_head__"


@dataclass(frozen=True)
class Node:
    """A living node as Ray knows it.

    Attributes:
        id: Ray's.
        name: its address, with the beginning of its id where several have it.
        cpus, gpus: that Ray hands out.
        memory, object_store: bytes that Ray hands out, and keeps objects in.
        folder: of Ray's own files there.
        is_head: whether the cluster's server runs on it.
    """

    id: str
    name: str
    cpus: float
    gpus: float
    memory: float
    object_store: float
    folder: str
    is_head: bool


@dataclass(frozen=True)
class Question:
    """A function, which the node imports, and its arguments.

    Attributes:
        topic: what it is about, in words.
    """

    topic: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass
class Answers:
    """What a node, or this process, said.

    Attributes:
        found: by topic, the results.
        errors: by topic, why there is none, in a line.
        silent: the topic that it was asked about when it had said nothing for too long.
    """

    found: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    silent: str = ""


@dataclass(frozen=True)
class Clock:
    """How far a node's clock is ahead of this process's, and how wrong that may be, in seconds."""

    ahead: float
    error: float


def living_nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to, the head first."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    addresses = [node["NodeManagerAddress"] for node in alive]
    found = []
    for node, address in zip(alive, addresses, strict=True):
        has = node["Resources"]
        unique = addresses.count(address) == 1
        found.append(
            Node(
                node["NodeID"],
                address if unique else f"{address} ({node['NodeID'][:6]})",
                has.get("CPU", 0.0),
                has.get("GPU", 0.0),
                has.get("memory", 0.0),
                has.get("object_store_memory", 0.0),
                # .../session_.../sockets/plasma_store
                str(Path(node["ObjectStoreSocketName"]).parents[1]),
                _HEAD in has,
            )
        )
    return sorted(found, key=lambda node: (not node.is_head, node.name))


@ray.remote(num_cpus=0, max_restarts=0)
class _Examiner:
    """A process on a node; it takes no CPU from trials."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def time(self) -> float:
        return time.time()


class Examiners:
    """A process on each node, while a `with` block lasts.

    Args:
        nodes: to be asked.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        # An actor class has a type of Ray's own making.
        self._processes: dict[str, Any] = {
            node.id: _Examiner.options(  # type: ignore[attr-defined]
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
            ).remote()
            for node in nodes
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes.values():
            ray.kill(process)

    def ask(
        self,
        questions: Mapping[str, Sequence[Question]],
        told: Callable[[Mapping[str, str]], None] = lambda _: None,
    ) -> dict[str, Answers]:
        """Ask the nodes at the same time, each one question after the other; one that is silent
        for `SILENCE_SECONDS` is waited for no longer.

        Args:
            questions: by node's id.
            told: of what is still waited for: by node's id, the topic.
        """
        answers = {node: Answers() for node in questions}
        waiting = {
            self._processes[node].call.remote(each.function, *each.arguments): (node, each.topic)
            for node, several in questions.items()
            for each in several
        }
        heard = dict.fromkeys(questions, time.monotonic())
        while waiting:
            told(_first_topics(waiting.values()))
            for reference in ray.wait(list(waiting), num_returns=1, timeout=1.0)[0]:
                node, topic = waiting.pop(reference)
                heard[node] = time.monotonic()
                try:
                    answers[node].found[topic] = ray.get(reference)
                except ray.exceptions.RayError as error:
                    answers[node].errors[topic] = in_a_line(error)
            for node, topic in _first_topics(waiting.values()).items():
                if time.monotonic() - heard[node] > SILENCE_SECONDS:
                    answers[node].silent = topic
            waiting = {
                reference: asked
                for reference, asked in waiting.items()
                if not answers[asked[0]].silent
            }
        return answers

    def clock(self, node: str) -> Clock | None:
        """Compare a node's clock with this process's by a round trip; None if it does not answer.

        Args:
            node: its id.
        """
        best = None
        for _ in range(_ROUNDS):
            asked = time.time()
            try:
                there = ray.get(self._processes[node].time.remote(), timeout=_CLOCK_SECONDS)
            except ray.exceptions.RayError:  # its other answers say why, or it is silent
                return best
            answered = time.time()
            error = (answered - asked) / 2
            if best is None or error < best.error:
                best = Clock(there - (asked + answered) / 2, error)
        return best


def ask_here(questions: Sequence[Question]) -> Answers:
    """Answer questions in this process."""
    answers = Answers()
    for each in questions:
        try:
            answers.found[each.topic] = each.function(*each.arguments)
        except Exception as error:  # as on a node
            answers.errors[each.topic] = in_a_line(error)
    return answers


def in_a_line(error: BaseException) -> str:
    """What Ray says that happened on a node: behind the traceback, the last line that names an
    error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    naming = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
    line = (naming or lines or [type(error).__name__])[-1]
    return without_secret(line)[:300]


def _first_topics(waiting: Iterable[tuple[str, str]]) -> dict[str, str]:
    """By node, the first topic that it has not answered."""
    first: dict[str, str] = {}
    for node, topic in waiting:
        first.setdefault(node, topic)
    return first
