"""The Triton kernels of trials, compiled once for each node before the trials start.

A pass through the model with fake tensors tells which kernels a trial launches; processes compile
them side by side into Triton's cache, where every trial of the node finds them. No GPU memory is
touched, and no kernel is tuned.
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
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

import models
from analysis.whole_files import write_text
from models.kernels import paths
from models.kernels.gpu.build import build, compiling_for
from models.kernels.gpu.launch import ASSEMBLER, Launch, recording
from trainables.dropout import add_dropout
from trainables.machine_limits import usable_cpus
from trainables.objectives import DistillationObjective, NextTokenObjective
from trainables.spec import TrialSpec
from trainables.trainer import MicroBatch

MOST_PROCESSES = 16
_VISIBLE = "CUDA_VISIBLE_DEVICES"
Say = Callable[[str], None]
"""Tells somebody in a line what is going on."""


def build_kernels(
    specs: Sequence[TrialSpec],
    vocab_size: int,
    micro_batch: MicroBatch,
    progress: Say = lambda _: None,
    *,
    teachers: Sequence[Path] = (),
    capability: tuple[int, int] | None = None,
) -> str:
    """Compile what trials of these specs launch on this node's GPU; says in words what was done.

    One process of a node does it at a time; the others wait, and find it done.

    Args:
        specs: one for each setting; learning rates and seeds do not matter.
        vocab_size: of the corpus's tokenizer.
        micro_batch: sequences in one forward pass; None or "auto" for the whole batch.
        progress: told what is going on.
        teachers: folders of the models that specs with a teacher learn from.
        capability: compute capability to compile for, by default that of the node's first GPU.
    """
    if paths.override() == "torch" or not paths.triton_installed():
        return "no Triton kernels are wanted here"
    started = time.monotonic()
    major, minor = capability or torch.cuda.get_device_capability()
    target = 10 * major + minor
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    wanted = {
        _stamp(cache, target, spec, vocab_size, micro_batch, teachers): spec for spec in specs
    }
    with FileLock(cache / "babysweep.lock"):
        missing = {stamp: spec for stamp, spec in wanted.items() if not stamp.exists()}
        if not missing:
            return "all kernels were built before"
        context = compilers(__name__)  # they import while the kernels are listed
        launches = _record_all(missing.values(), vocab_size, micro_batch, teachers, progress)
        _compile(launches, target, context, progress)
        for stamp, spec in missing.items():
            write_text(stamp, f"{spec.arch} {spec.size}\n")
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


def launches_of(
    spec: TrialSpec, vocab_size: int, micro_batch: MicroBatch, teachers: Sequence[Path] = ()
) -> list[Launch]:
    """Every different launch of a trial's training steps and validation, in their order."""
    share = spec.batch_size
    if isinstance(micro_batch, int):
        share = min(micro_batch, share)
    with FakeTensorMode(), recording() as launches:
        config = models.build_config(
            spec.arch, spec.size, vocab_size=vocab_size, context=spec.context, pad_token_id=0
        )
        model = models.build_model(config)
        if spec.dropout:  # other launches: what a layer adds is seen before the next one reads it
            add_dropout(model, spec.dropout)
        objective = _objective(spec, model, teachers)
        _train(objective, share, spec)
        # Validation is in float32; the benchmarks' sequences are of any length.
        for length in (spec.context, spec.context - 1):
            with torch.no_grad():
                NextTokenObjective(model.eval())(*_batch(share, length))
    return list(dict.fromkeys(launches))


def _objective(
    spec: TrialSpec, model: PreTrainedModel, teachers: Sequence[Path]
) -> torch.nn.Module:
    if not (spec.teacher and teachers):
        return NextTokenObjective(model)
    guides = [models.build_model(models.load_config(folder)) for folder in teachers]
    return DistillationObjective(model, guides, spec.alpha, spec.temperature, spec.reverse_kl)


def _train(objective: torch.nn.Module, share: int, spec: TrialSpec) -> None:
    """Forward and backward of a training step, under autocast as a trial has it."""
    objective.train()
    # The fake tensors are on the CPU, whose autocast stands for the GPU's.
    with torch.autocast("cpu", torch.bfloat16, enabled=spec.precision == "bf16"):
        loss = objective(*_batch(share, spec.context))
    loss.backward()


def _batch(size: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(size, length, dtype=torch.int64)
    return ids, ids.clone()


def _record_all(
    specs: Iterable[TrialSpec],
    vocab_size: int,
    micro_batch: MicroBatch,
    teachers: Sequence[Path],
    progress: Say,
) -> list[Launch]:
    launches: dict[Launch, None] = {}
    for spec in specs:
        progress(f"Listing the kernels of {spec.arch} {spec.size}")
        launches |= dict.fromkeys(launches_of(spec, vocab_size, micro_batch, teachers))
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


def _stamp(
    cache: Path,
    target: int,
    spec: TrialSpec,
    vocab_size: int,
    micro_batch: MicroBatch,
    teachers: Sequence[Path],
) -> Path:
    """A file that says that a spec's kernels are in the cache, named by all that they depend on."""
    distilled = (spec.alpha, spec.temperature, spec.reverse_kl) if spec.teacher else ()
    configs = [(folder / "config.json").read_text() for folder in teachers] if spec.teacher else []
    shape = (spec.arch, spec.size, spec.context, spec.batch_size, spec.precision, *distilled)
    drops = spec.dropout > 0
    assembler = os.environ.get(ASSEMBLER)
    versions = (metadata.version("torch"), metadata.version("triton"), assembler, paths.override())
    words = repr((target, shape, drops, vocab_size, micro_batch, configs, versions, _sources()))
    return cache / f"babysweep-{hashlib.sha256(words.encode()).hexdigest()[:16]}"


def _sources() -> str:
    """Digest of the code that decides what is launched."""
    digest = hashlib.sha256()
    for path in sorted(Path(models.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
