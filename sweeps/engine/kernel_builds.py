"""Kernels of models, built once on each node with GPUs before trials, scorings or tasks start.

Processes that start together would build the same kernels side by side, each for itself; what they
find in the node's cache they load.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.markup import escape

from analysis.terminal import say, showing
from sweeps.engine.progress import QUIET_SECONDS
from trainables.launches import Work

_CPUS = 1
"""Reserved on a node: trials are not running yet, and may not fit beside all of its CPUs."""


@dataclass
class KernelBuild:
    """Kernels being built on some nodes.

    Attributes:
        tasks: by node, its task's messages.
        users: who needs the kernels: "trials".
    """

    tasks: dict[str, Any]
    users: str = "trials"

    def wait(self, console: Console) -> None:
        """Show what the nodes tell until the last one is ready.

        A node that fails is named: its users build the kernels that they need when they need them.
        """
        if not self.tasks:
            return
        waiting = {task: node for node, task in self.tasks.items()}
        said = dict.fromkeys(self.tasks, "starting")
        # In a pipe the first line comes after a while: what was built before takes no time.
        with showing(console, "", pause=QUIET_SECONDS) as show:
            while waiting:
                text = "; ".join(f"node {node}: {said[node]}" for node in waiting.values())
                show(escape(f"Building kernels on {text}"))
                ready: Any = ray.wait(list(waiting), num_returns=1, timeout=QUIET_SECONDS)[0]
                for task in ready:
                    node = waiting[task]
                    try:
                        said[node] = str(ray.get(next(task)))
                        continue
                    except StopIteration:
                        line = said[node]
                    except ray.exceptions.RayError as error:
                        line = f"kernels are built by the {self.users} ({_last_line(error)})"
                    del waiting[task]
                    say(console, escape(f"Node {node}: {line}"))


def start_building(works: Sequence[Work], gpus: float, users: str = "trials") -> KernelBuild:
    """Start to build kernels on the cluster's GPU nodes; on none for work without GPUs.

    Args:
        works: as for `build_kernels`.
        gpus: of a worker.
        users: see `KernelBuild`.
    """
    tasks = {}
    for node in ray.nodes() if works and gpus else []:
        if node["Alive"] and node["Resources"].get("GPU"):
            tasks[node["NodeManagerAddress"]] = _build.options(
                num_cpus=_CPUS,
                num_gpus=min(1.0, gpus),
                num_returns="streaming",
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(works)
    return KernelBuild(tasks, users)


@ray.remote(max_retries=0, max_calls=1)  # a process that stayed would keep memory of the GPU
def _build(works: Sequence[Work]) -> Iterator[str]:
    """Build kernels on this node; yields what is going on, and last what was done."""
    from trainables.kernel_cache import build_kernels

    messages: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    ended: list[str | BaseException] = []

    def build() -> None:
        try:
            ended.append(build_kernels(works, messages.put))
        except BaseException as error:  # for the thread that hands the messages on
            ended.append(error)
        messages.put(None)

    threading.Thread(target=build, daemon=True).start()
    # Not `yield from` a queue's iterator: Ray sends values, which it would pass on.
    while (message := messages.get()) is not None:
        yield message
    if isinstance(ended[0], BaseException):
        raise ended[0]
    yield ended[0]


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1][:300]
