"""The device of a trial and its arithmetic: threads, matrix-product precision, bf16."""

from __future__ import annotations

import torch

BF16_MIN_WIDTH = 256
"""Below this hidden size bf16 autocast gains nothing on a CPU: casts cost what products save."""


def pick_device(gpus: float) -> torch.device:
    """The device of a trial that was given `gpus` GPUs (Ray shows a worker only its own)."""
    return torch.device("cuda" if gpus > 0 else "cpu")


def default_precision(gpus: float, width: int) -> str:
    """ "bf16" where the device multiplies it faster than float32, else "fp32".

    Args:
        gpus: GPUs given to a trial.
        width: hidden size of the model.
    """
    if gpus > 0:  # whatever the machine that plans the sweep has itself
        return "bf16"
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 and width >= BF16_MIN_WIDTH else "fp32"


def set_up_cpu(threads: int, device: torch.device | None = None) -> None:
    """Use `threads` threads, and the faster of the CPU's true float32 matrix products.

    The latter only if `device` is the CPU, as by default: for a GPU the setting means TF32.
    PyTorch's "medium" sends products to oneDNN, which is more than twice as fast as MKL on AMD. On
    a CPU with AMX it would round the inputs to bf16, so it is kept only if a product stays exact.
    """
    torch.set_num_threads(threads)
    is_cpu = device is None or device.type == "cpu"
    if not is_cpu or torch.get_float32_matmul_precision() == "medium":
        return
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator)
    exact = left.double() @ right.double()
    torch.set_float32_matmul_precision("medium")
    error = ((left @ right).double() - exact).abs().max() / exact.abs().max()
    if error > 1e-5:
        torch.set_float32_matmul_precision("highest")
