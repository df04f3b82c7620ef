"""Processors, memory, GPUs, compiler and limits of the machine that this runs on."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from trainables.machine_limits import free_memory, memory_limit, usable_cpus

_SHARED_MEMORY = Path("/dev/shm")
_NVIDIA = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_ANSWER_SECONDS = 25.0
"""For a program that is asked about GPUs: a broken driver may let it hang."""
_TORCH = "import torch; print(torch.cuda.device_count(), torch.version.cuda or '-')"


@dataclass(frozen=True)
class Gpu:
    """A GPU, as NVIDIA's driver knows it; `memory` in bytes."""

    name: str
    memory: int
    driver: str


@dataclass(frozen=True)
class Disk:
    """The free and the whole space of a folder's file system, in bytes."""

    folder: str
    free: int
    total: int


@dataclass(frozen=True)
class Machine:
    """What a machine, or a container, lets trials have.

    Attributes:
        cpus: that can be kept busy all the time.
        memory: bytes until processes are killed.
        free_memory: bytes of it that nothing takes now.
        gpus: of the driver.
        compilers: the first C++ and the first C compiler, "" for none.
        kernel_caches: folders of compiled kernels that cannot be written to.
        disks: of temporary files, and of Ray's own.
        shared_memory: size of /dev/shm in bytes, None where there is none.
        open_files: that a process may have.
    """

    cpus: int
    memory: int
    free_memory: int
    gpus: tuple[Gpu, ...]
    compilers: tuple[str, str]
    kernel_caches: tuple[str, ...]
    disks: tuple[Disk, ...]
    shared_memory: int | None
    open_files: int


def look_at_machine(ray_folder: str) -> Machine:
    """Find out what this machine has.

    Args:
        ray_folder: in which Ray keeps its own files here.
    """
    shm = shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.is_dir() else None
    caches = filter(_is_closed, _kernel_caches())
    # Both are often on one file system, which then stands here twice.
    folders = dict.fromkeys(Path(name) for name in (tempfile.gettempdir(), ray_folder))
    return Machine(
        usable_cpus(),
        memory_limit(),
        free_memory(),
        _gpus(),
        (_compiler("CXX", "g++", "clang++", "c++"), _compiler("CC", "gcc", "clang", "cc")),
        tuple(map(str, caches)),
        tuple(_disk(folder) for folder in folders if folder.is_dir()),
        shm,
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def gpus_of_torch() -> tuple[int, str]:
    """How many GPUs PyTorch sees on this machine, and the CUDA version that it was built for.

    Asked in a process of its own: here Ray hides the GPUs.

    Raises:
        OSError: PyTorch cannot be asked; the message says why.
    """
    visible = {name: value for name, value in os.environ.items() if name != _VISIBLE}
    asked = subprocess.run(
        [sys.executable, "-c", _TORCH],
        env=visible,
        capture_output=True,
        text=True,
        timeout=_ANSWER_SECONDS,
    )
    if asked.returncode:
        raise OSError((asked.stderr.strip() or f"status {asked.returncode}").splitlines()[-1])
    number, version = asked.stdout.split()[-2:]
    return int(number), version


def _gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver shows here, whatever Ray gave to this process."""
    if shutil.which(_NVIDIA[0]) is None:
        return ()
    asked = subprocess.run(
        [*_NVIDIA, "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=_ANSWER_SECONDS,
    )
    return gpus_in(asked.stdout) if asked.returncode == 0 else ()


def gpus_in(text: str) -> tuple[Gpu, ...]:
    """The GPUs of nvidia-smi's lines: name, MiB and driver between commas."""
    rows = ([part.strip() for part in line.split(",")] for line in text.splitlines())
    return tuple(
        Gpu(name, int(size) * 2**20 if size.isdigit() else 0, driver)
        for name, size, driver in (row for row in rows if len(row) == 3)
    )


def _compiler(variable: str, *names: str) -> str:
    """A compiler as the kernels look for it."""
    chosen = os.environ.get(variable)
    return next(filter(None, map(shutil.which, [chosen] if chosen else names)), None) or ""


def _kernel_caches() -> list[Path]:
    """The folders of compiled kernels, of C++ and of Triton."""
    home = Path(os.path.expanduser("~"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    triton = os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache"
    return [cache / "babysweep" / "kernels", Path(triton)]


def _is_closed(folder: Path) -> bool:
    """Whether a folder can neither be written to nor made."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return not os.access(there, os.W_OK | os.X_OK)


def _disk(folder: Path) -> Disk:
    usage = shutil.disk_usage(folder)
    return Disk(str(folder), usage.free, usage.total)
