"""Kernels are built on the nodes before the trials, and what the nodes tell is told."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from rich.console import Console

from analysis import terminal
from sweeps.engine import kernel_builds
from sweeps.engine.kernel_builds import KernelBuild, _build, start_building
from trainables import kernel_cache

NODE = "10.0.0.1"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The generator of a node's task, which builds nothing; fails for a model called bad."""

    def build_kernels(works, progress):
        progress(f"{len(works)} models")
        progress("37 kernels")
        if "bad" in works:
            raise RuntimeError("no nvcc")
        return "built"

    monkeypatch.setattr(kernel_cache, "build_kernels", build_kernels)
    return lambda *works: _build._function(works or ("good", "good"))


def test_kernels_are_built_with_their_progress(built: Any) -> None:
    """A node's task yields what is going on as it comes, then what was done; or raises."""
    assert list(built()) == ["2 models", "37 kernels", "built"]
    with pytest.raises(RuntimeError, match="no nvcc"):
        list(built("bad"))


def test_ray_may_send_to_the_task(built: Any) -> None:
    """It sends a value with every step, which a generator takes and an iterator within does not."""
    task = built()
    assert [next(task), task.send("sent"), task.send("sent")] == ["2 models", "37 kernels", "built"]
    with pytest.raises(StopIteration):
        task.send("sent")


def test_a_plan_for_the_cpu_builds_none() -> None:
    """Without GPUs asked for, Ray is not even asked for nodes."""
    assert start_building(["work"], gpus=0).tasks == {}


# ---- what a person sees


class FakeRay:
    """Hands on the messages of one node, each after some seconds, on a clock of its own.

    A message that is an error is raised.
    """

    exceptions = ray.exceptions

    def __init__(self, messages: list[tuple[float, str | Exception]]) -> None:
        self.now = 0.0
        self._next = messages[0][0]
        self._messages = messages

    def task(self) -> Iterator[str | Exception]:
        for index, (_, message) in enumerate(self._messages, 1):
            self._next += self._messages[index][0] if index < len(self._messages) else 0
            yield message

    def wait(self, tasks: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], Any]:
        if self._next > self.now + timeout:
            self.now += timeout
            return [], tasks
        self.now = max(self.now, self._next)
        return tasks, []

    def get(self, message: Any) -> str:
        if isinstance(message, Exception):
            raise message
        return message


def said(
    monkeypatch: pytest.MonkeyPatch,
    messages: list[tuple[float, str | Exception]],
    is_terminal: bool = False,
) -> list[str]:
    """The lines that a console is told, without their clock."""
    fake = FakeRay(messages)
    monkeypatch.setattr(kernel_builds, "ray", fake)
    clock = SimpleNamespace(monotonic=lambda: fake.now, strftime=lambda _: "12:00:00")
    monkeypatch.setattr(terminal, "time", clock)
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=40)
    KernelBuild({NODE: fake.task()}).wait(console)
    return console.file.getvalue().replace("12:00:00  ", "").splitlines()


def compiled(number: int) -> str:
    return f"Compiled {number} of 90 kernels for sm_90"


def test_a_log_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel a second: a line every ten seconds, whole however narrow the console is."""
    steps = [(1.0, compiled(number)) for number in range(1, 91)]
    lines = said(monkeypatch, [*steps, (0.0, "90 kernels built")])
    told = [f"Building kernels on node {NODE}: {compiled(n)}" for n in range(10, 91, 10)]
    assert lines == [*told, f"Node {NODE}: 90 kernels built"]


def test_a_log_is_told_of_a_node_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: it may wait for a process that builds the same."""
    lines = said(monkeypatch, [(95.0, "Listing the kernels"), (5.0, "built before")])
    building = f"Building kernels on node {NODE}"
    assert lines == [
        f"{building}: starting",
        f"{building}: Listing the kernels",
        f"Node {NODE}: built before",
    ]


def test_what_takes_no_time_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, [(2.0, "ready")]) == [f"Node {NODE}: ready"]


def test_a_node_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last line of the reason; the trials go on without."""
    error = ray.exceptions.RayError("traceback\nRuntimeError: no [nvcc]")
    lines = said(monkeypatch, [(1.0, compiled(1)), (1.0, error), (0.0, "never told")])
    reason = "kernels are built by the trials (RuntimeError: no [nvcc])"
    assert lines == [f"Node {NODE}: {reason}"]


def test_a_terminal_shows_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of lines, of which only what was done stays."""
    lines = said(monkeypatch, [(20.0, compiled(1)), (20.0, "built")], is_terminal=True)
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in lines]
    assert f"Node {NODE}: built" in plain
    assert f"Building kernels on node {NODE}: {compiled(1)}" not in plain
