"""The Triton kernels of trials and scorings, compiled once for each node before these start.

Processes compile what is launched (`trainables.launches`) side by side into Triton's cache, where
every process of the node finds it. No GPU memory is touched, and no kernel is tuned.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch
from filelock import FileLock

import models
from analysis.whole_files import write_text
from models.kernels import paths
from models.kernels.gpu.build import build, compiling_for
from models.kernels.gpu.launch import ASSEMBLER, Launch
from trainables.launches import Work, launches_of
from trainables.machine_limits import usable_cpus

MOST_PROCESSES = 16
_VISIBLE = "CUDA_VISIBLE_DEVICES"
Say = Callable[[str], None]
"""Tells somebody in a line what is going on."""


def build_kernels(
    works: Sequence[Work],
    progress: Say = lambda _: None,
    *,
    capability: tuple[int, int] | None = None,
) -> str:
    """Compile what is launched on this node's GPU; says in words what was done.

    One process of a node does it at a time; the others wait, and find it done.

    Args:
        works: what is going to be done; of those that launch the same one is looked at.
        progress: told what is going on.
        capability: compute capability to compile for, by default that of the node's first GPU.
    """
    if paths.override() == "torch" or not paths.triton_installed():
        return "no Triton kernels are wanted here"
    started = time.monotonic()
    major, minor = capability or torch.cuda.get_device_capability()
    target = 10 * major + minor
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    wanted = {_stamp(cache, target, work): work for work in works}
    with FileLock(cache / "babysweep.lock"):
        missing = {stamp: work for stamp, work in wanted.items() if not stamp.exists()}
        if not missing:
            return "all kernels were built before"
        context = compilers(__name__)  # they import while the kernels are listed
        launches = _record_all(missing.values(), progress)
        _compile(launches, target, context, progress)
        for stamp, work in missing.items():
            write_text(stamp, f"{work.title}\n")
    seconds = time.monotonic() - started
    return f"{len(launches)} kernels built for sm_{target} in {seconds:.0f} s"


def compilers(module: str) -> ForkServerContext:
    """A server of processes that have imported `module`, started now.

    They see no GPU: a library that asks for one while it is imported would initialise CUDA, which
    does not survive a fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    seen = os.environ.get(_VISIBLE)
    os.environ[_VISIBLE] = ""
    try:
        forkserver.ensure_running()
    finally:
        del os.environ[_VISIBLE]
        if seen is not None:
            os.environ[_VISIBLE] = seen
    return context


def cache_folder() -> Path:
    """The folder in which Triton keeps what it compiled."""
    from triton import knobs

    return Path(knobs.cache.dir)


def _record_all(works: Iterable[Work], progress: Say) -> list[Launch]:
    launches: dict[Launch, None] = {}
    for work in works:
        progress(f"Listing the kernels of {work.title}")
        launches |= dict.fromkeys(launch.kernel for launch in launches_of(work))
    return list(launches)


def _compile(
    launches: list[Launch], target: int, context: ForkServerContext, progress: Say
) -> None:
    """Compile in processes of a server that imported the kernels once, and knows no CUDA."""
    processes = max(1, min(usable_cpus(), len(launches), MOST_PROCESSES))
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        tasks = {pool.submit(_build_one, launch, target): launch for launch in launches}
        for done, task in enumerate(as_completed(tasks), 1):
            task.result()
            progress(f"Compiled {done} of {len(launches)} kernels for sm_{target}")


def _build_one(launch: Launch, target: int) -> None:
    with compiling_for(target):
        build(launch)


def _stamp(cache: Path, target: int, work: Work) -> Path:
    """A file that says that a work's kernels are in the cache, named by all that they depend on."""
    assembler = os.environ.get(ASSEMBLER)
    versions = (metadata.version("torch"), metadata.version("triton"), assembler, paths.override())
    words = repr((target, work.key, versions, _sources()))
    return cache / f"babysweep-{hashlib.sha256(words.encode()).hexdigest()[:16]}"


def _sources() -> str:
    """Digest of the code that decides what is launched: models, and what is done with them."""
    digest = hashlib.sha256()
    for folder in (Path(models.__file__).parent, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
