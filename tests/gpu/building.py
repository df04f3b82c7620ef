"""Building what the checks launch, side by side and ahead of them: a check would build one by one.

A task is what belongs together: all lengths of a kernel at one width in one type, or an
architecture's training and generation at `mini`. Processes list its launches with fake tensors and
compile them into Triton's cache; the check waits for its task only.

`build_all` does it on a machine without a GPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import models
from models.kernels.gpu.build import build, compiling_for
from models.kernels.gpu.launch import Launch, recording
from tests.gpu import checks, kernel_agreement, trainer_checks
from tests.gpu.kernel_cases import CASES, Case
from tests.models.compilation import SHARED_MEMORY
from trainables import kernel_cache
from trainables.launches import TrialWork, launches_of

MOST_PROCESSES = 32
Failures = list[str]


class Builder:
    """Builds for the GPU of this compute capability, e.g. 90, as soon as it is made."""

    def __init__(self, capability: int, cases: Iterable[Case] = CASES) -> None:
        context = kernel_cache.compilers(__name__)
        processes = min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
        self._started = time.monotonic()
        self._pool = ProcessPoolExecutor(processes, mp_context=context)
        groups = dict.fromkeys((group(case), dtype) for case in cases for dtype in case.types)
        # In the order of the checks: first trials, then kernels.
        self._tasks: dict[Any, Future[Failures]] = {
            arch: self._pool.submit(build_steps, arch, capability)
            for arch in models.architectures()
        }
        self._tasks |= {key: self._pool.submit(build_group, *key, capability) for key in groups}

    def wait_for(self, case: Case, dtype: torch.dtype) -> None:
        """Until the case's kernels are built, or cannot be: then the check fails by itself."""
        wait([self._tasks[group(case), dtype]])

    def wait_for_steps(self, arch: str) -> None:
        """Until those of the architecture's steps are built."""
        wait([self._tasks[arch]])

    def finish(self) -> tuple[float, Failures]:
        """Wait for all; returns the seconds since the beginning, and what failed."""
        failures: Failures = []
        for key, task in self._tasks.items():
            try:
                failures += task.result()
            except Exception as error:  # of the process, or of listing the launches
                failures.append(f"{key}: {type(error).__name__}: {error}")
        return time.monotonic() - self._started, failures

    def stop(self) -> None:
        """Leave what has not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def group(case: Case) -> str:
    """The case but for its length."""
    return f"{case.kernel} {case.name.partition(' ')[2]}"


def build_group(name: str, dtype: torch.dtype, capability: int) -> Failures:
    """Build the kernels of a group's cases; returns those that do not compile."""
    cases = [case for case in CASES if group(case) == name]
    return _build(
        capability, lambda: sum((kernel_agreement.record(case, dtype) for case in cases), [])
    )


def build_steps(arch: str, capability: int) -> Failures:
    """Those of an architecture's training and validation, as `trainer_checks` has them, and of its
    generation."""

    def list_launches() -> list[Launch]:
        specs = [trainer_checks.make_spec(arch, precision=each) for each in ("fp32", "bf16")]
        return sum(
            (launches_of(TrialWork(spec, trainer_checks.VOCAB)) for spec in specs),
            generation_launches(arch),
        )

    return _build(capability, list_launches)


def generation_launches(arch: str) -> list[Launch]:
    """What `generate` launches: a prompt that fills a cache, then token by token."""
    with FakeTensorMode(), recording() as launches, torch.no_grad():
        model = checks.build(arch).eval()
        output = model(input_ids=torch.full((2, 70), 2), use_cache=True)
        for _ in range(2):  # the first step reads a prompt's states, the next those of a step
            cache = "cache_params" if "cache_params" in output else "past_key_values"
            step = {"input_ids": torch.full((2, 1), 2), cache: output[cache]}
            output = model(**step, use_cache=True)
    return launches


def _build(capability: int, list_launches: Callable[[], list[Launch]]) -> Failures:
    failures = []
    for launch in dict.fromkeys(launch.kernel for launch in list_launches()):
        try:
            with compiling_for(capability):
                shared = build(launch).metadata.shared
            assert shared <= SHARED_MEMORY.get(capability, shared), f"{shared:,} bytes are shared"
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            failures.append(f"{launch.module}.{launch.name}: {reason}")
    return failures


def build_all(capability: int) -> int:
    """Build everything, and print what does not compile; returns an exit status."""
    builder = Builder(capability)
    try:
        seconds, failures = builder.finish()
    finally:
        builder.stop()
    print("\n".join([*sorted(set(failures)), f"{len(CASES)} cases in {seconds:.0f} s"]))
    return 1 if failures else 0
