"""Building, before the checks, what they launch: side by side, where a check builds one by one."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import models
from models.kernels.gpu.launch import Launch
from tests.gpu import kernels, trainer_checks
from tests.gpu.kernel_cases import CASES
from trainables import kernel_cache

MOST_PROCESSES = 16  # half of the cores: what starts meanwhile is timed


def all_launches() -> list[Launch]:
    """Of all cases, and of the models in training at `mini`."""
    launches = [
        launch for case in CASES for dtype in case.types for launch in kernels.record(case, dtype)
    ]
    for arch in models.architectures():
        for precision in ("fp32", "bf16"):
            spec = trainer_checks.make_spec(arch, precision=precision)
            launches += kernel_cache.launches_of(spec, trainer_checks.VOCAB, None)
    return list(dict.fromkeys(_compiled_as(launch) for launch in launches))


def _compiled_as(launch: Launch) -> Launch:
    """The launch with numbers that stand for all that Triton compiles alike."""
    return replace(launch, arguments=tuple(map(_kind, launch.arguments)))


def _kind(argument: Any) -> Any:
    """Triton tells apart 1, multiples of 16 and other numbers, and their width."""
    if type(argument) is not int or argument == 1 or abs(argument) >= 2**31:
        return argument
    return 16 if argument % 16 == 0 else 3


def build_all(launches: Iterable[Launch], capability: int) -> list[str]:
    """Compile launches into Triton's cache; returns what failed, one line each.

    A kernel that does not compile fails its own check, too, and is no reason to stop here.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainables.kernel_cache"])
    processes = max(1, min(len(os.sched_getaffinity(0)) // 2, MOST_PROCESSES))
    failures = []
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        tasks = {
            pool.submit(kernel_cache._build_one, launch, capability): launch for launch in launches
        }
        for task, launch in tasks.items():
            error = task.exception()
            if error is not None:
                reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
                failures.append(f"{launch.module}.{launch.name}: {reason}")
    return failures
