"""The device of a process: its share of the memory, its arithmetic (threads, precision, bf16)."""

from __future__ import annotations

import torch

CONTEXT = 2**30
"""Bytes set aside for what CUDA takes in each process besides tensors: the context, kernels as they
are loaded, cuBLAS's and cuDNN's workspaces, graphs that are ready to launch."""
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


def share_of_memory(total: int, gpus: float) -> int:
    """Bytes of a GPU's that tensors of a process may take which was given `gpus` GPUs; more than 1,
    and 0, count as 1."""
    return max(1, int(min(1.0, gpus or 1.0) * total) - CONTEXT)


def set_up_device(threads: int, device: torch.device | None = None, *, gpus: float = 1.0) -> None:
    """Use `threads` CPU threads, and on the device the true float32 products that it has.

    On a GPU the process keeps to its share of the memory, which is that of `gpus` GPUs: beyond it
    there is an error here, and none next door.

    The device is the CPU by default. Its numbers too small for full precision (denormal) become
    zero: many processors compute with them ten times slower, and a saturated network's gradients
    are full of them. The mode is this thread's, Python's own floats included, and that of the
    threads that it starts.

    On a GPU validation and scores are in float32, and so its products are, without TF32, which
    rounds their inputs to 10 bits: PyTorch's by its own default, cuDNN's by a switch. cuDNN does
    not choose its algorithms by timing them, which could differ from run to run.
    """
    torch.set_num_threads(threads)
    if device is None or device.type == "cpu":
        torch.set_flush_denormal(True)  # before the first product starts PyTorch's threads
        _speed_up_cpu_products()
    else:
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(share_of_memory(total, gpus) / total)
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False


def arithmetic(device: torch.device) -> str:
    """Describe the arithmetic that `set_up_device` chose, to record with a run."""
    if device.type == "cpu":
        return f"float32 products {torch.get_float32_matmul_precision()}"
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    timed = torch.backends.cudnn.benchmark
    return (
        f"TF32 {_on(tf32[0])}, in cuDNN {_on(tf32[1])}; cuDNN's algorithms "
        f"{'chosen by timing' if timed else 'its own choice'}"
    )


def _on(switch: bool) -> str:
    return "on" if switch else "off"


def _speed_up_cpu_products() -> None:
    """Take the faster of the CPU's true float32 matrix products.

    PyTorch's "medium" sends products to oneDNN, which is more than twice as fast as MKL on AMD. On
    a CPU with AMX it would round the inputs to bf16, so it is kept only if a product stays exact.
    For a GPU the setting means TF32.
    """
    if torch.get_float32_matmul_precision() == "medium":
        return
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator)
    exact = left.double() @ right.double()
    torch.set_float32_matmul_precision("medium")
    error = ((left @ right).double() - exact).abs().max() / exact.abs().max()
    if error > 1e-5:
        torch.set_float32_matmul_precision("highest")
