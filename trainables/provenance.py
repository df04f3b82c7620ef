"""On what a trial ran: recorded beside its spec, never part of its identity."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import torch

_PACKAGES = (
    *("babysweep", "torch", "ray", "transformers", "flash-linear-attention", "mamba-ssm", "xlstm"),
    *("datasets", "optuna", "mlflow"),
)


def provenance(device: torch.device, threads: int) -> dict[str, str]:
    """`hardware` and `software` in words, as parameters of a run."""
    return {"hardware": hardware(device, threads), "software": software()}


def hardware(device: torch.device, threads: int) -> str:
    """E.g. "2 threads of AMD EPYC 9554 64-Core Processor" or "NVIDIA H100 80GB HBM3"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = f"{threads} thread{'s' if threads > 1 else ''}"
    return f"{count} of {cpu_name()}"


def software() -> str:
    """The installed versions of what computes and records, e.g. "python 3.11.7, torch 2.13.0"."""
    installed = {distribution.metadata["Name"].lower() for distribution in metadata.distributions()}
    versions = [f"{name} {metadata.version(name)}" for name in _PACKAGES if name in installed]
    return ", ".join([f"python {platform.python_version()}", *versions])


def cpu_name() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on most Linux systems
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
