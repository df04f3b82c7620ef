"""Hardware, software and arithmetic of a trial: recorded beside its spec, never its identity."""

from __future__ import annotations

import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from models.kernels import paths
from trainables.device import arithmetic

_PACKAGES = (
    *("babysweep", "torch", "triton", "ray", "transformers", "flash-linear-attention"),
    *("mamba-ssm", "causal-conv1d", "xlstm", "datasets", "optuna", "mlflow"),
)
_DRIVER = Path("/proc/driver/nvidia/version")


def provenance(device: torch.device, threads: int) -> dict[str, str]:
    """`hardware`, `software` and `arithmetic` in words, as parameters of a run."""
    return {
        "hardware": hardware(device, threads),
        "software": software(device),
        "arithmetic": arithmetic(device),
    }


def kernels() -> str:
    """What was wanted of kernels and which paths those of the trial took so far, as a parameter of
    its run, once it has trained and validated; "" before."""
    taken = paths.taken_in_words()
    return taken and f"{paths.VARIABLE}={paths.override()}: {taken}"


def hardware(device: torch.device, threads: int) -> str:
    """Name a device: "2 threads of AMD EPYC 9554 64-Core Processor", "NVIDIA H100 80GB HBM3"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = f"{threads} {'thread' if threads == 1 else 'threads'}"
    return f"{count} of {cpu_name()}"


def software(device: torch.device | None = None) -> str:
    """The installed versions of what computes and records, e.g. "python 3.11.7, torch 2.13.0".

    For a GPU those of CUDA and of its driver, too.
    """
    versions = [*_installed()]
    if device is not None and device.type == "cuda":
        versions += [f"CUDA {torch.version.cuda}", f"NVIDIA driver {driver_version()}"]
    return ", ".join([f"python {platform.python_version()}", *versions])


@cache
def _installed() -> tuple[str, ...]:
    names = {distribution.metadata["Name"].lower() for distribution in metadata.distributions()}
    return tuple(f"{name} {metadata.version(name)}" for name in _PACKAGES if name in names)


def driver_version() -> str:
    """The version of NVIDIA's driver, or "unknown"."""
    text = _DRIVER.read_text() if _DRIVER.exists() else ""
    # "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build ..."
    found = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", text)
    return found.group(1) if found else "unknown"


def cpu_name() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on most Linux systems
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
