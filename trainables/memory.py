"""The memory of a GPU: a trial's share of it, and the largest micro-batch that fits there."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Protocol

import torch
from transformers import PreTrainedModel

from trainables.device import CONTEXT, share_of_memory
from trainables.step import has_dropout


class OutOfMemory(RuntimeError):
    """A trial does not fit its share of the GPU; the message says what would."""


class MemoryTaken(RuntimeError):
    """A trial had less memory than its share of the GPU: another process took it meanwhile."""


class Memory(Protocol):
    """The memory of a device: how much of it there is, and what work takes.

    Attributes:
        room: bytes that the trial may hold.
        device_name: what to call the device.
    """

    room: int
    device_name: str

    @property
    def lost(self) -> int:
        """Bytes of the room that other processes have taken since."""

    def peak(self, work: Callable[[], object]) -> int | None:
        """Do the work and measure the most bytes held, with those held before; None if too many."""

    def held(self) -> int:
        """Bytes that are held now."""

    def tidy(self) -> None:
        """Give back what nobody needs any more."""


class CudaMemory:
    """The memory of this process's GPU.

    Args:
        gpus: share of the GPU that the trial may use; more than 1 counts as 1.
    """

    def __init__(self, gpus: float) -> None:
        free, total = torch.cuda.mem_get_info()
        mine = torch.cuda.memory_reserved()
        # What other programs hold now is not there to be had, even by a trial that is alone.
        self.room = max(1, min(share_of_memory(total, gpus), free + mine))
        self.device_name = torch.cuda.get_device_name()
        self._fraction = min(1.0, self.room / total)

    def limit(self) -> None:
        """Keep this process to its room: beyond it there is an error here, and none next door."""
        torch.cuda.set_per_process_memory_fraction(self._fraction)

    @property
    def lost(self) -> int:
        free, _ = torch.cuda.mem_get_info()
        # What this process itself holds besides tensors may have grown by what is set aside.
        return max(0, self.room - free - torch.cuda.memory_reserved() - CONTEXT)

    def peak(self, work: Callable[[], object]) -> int | None:
        self.tidy()
        torch.cuda.reset_peak_memory_stats()
        try:
            work()
        except torch.OutOfMemoryError:
            return None
        return torch.cuda.max_memory_reserved()

    def held(self) -> int:
        return torch.cuda.memory_reserved()

    def tidy(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()


def largest_that_fits(most: int, need: Callable[[int], int | None], room: int) -> int:
    """The largest micro-batch of at most `most` sequences that fits, 0 if not even one does.

    All of them at once are tried first. If these do not fit, the memory of one and of two says
    how many might; they are tried, too, and fewer as long as they do not fit.

    Args:
        most: sequences of a worker's share of the batch.
        need: from a number of sequences to the bytes that they need, None if far too many.
        room: bytes that there are.
    """

    def fits(size: int) -> bool:
        found = need(size)
        return found is not None and found <= room

    if fits(most):
        return most
    one = need(1) if most > 1 else None
    if one is None or one > room:
        return 0
    two = need(2) if most > 2 else None
    if two is None or two > room:
        return 1
    size = even_piece(most, min(most - 1, 1 + (room - one) // max(1, two - one)))
    while size > 2 and not fits(size):
        size = even_piece(most, size - 1)
    return size


def even_piece(whole: int, most: int) -> int:
    """The size of the pieces, as equal as possible, if each has at most `most` of the whole."""
    pieces = -(-whole // most)
    return -(-whole // pieces)


def too_large(size: int, fitting: int, memory: Memory) -> OutOfMemory:
    """The error of a micro-batch that does not fit, naming one that would (0: none does)."""
    where = f"{in_gigabytes(memory.room)} of {memory.device_name} beside model and optimizer"
    if fitting:
        return OutOfMemory(
            f"a micro-batch of {size} sequences does not fit {where}; --micro-batch {fitting} would"
        )
    return OutOfMemory(
        f"not even one sequence fits {where}: use more of the GPU (--gpus-per-trial), a smaller "
        "--size, or a shorter --context"
    )


def taken(lost: int, memory: Memory) -> MemoryTaken:
    """The error of a step that ran out of memory below the limit of its trial."""
    return MemoryTaken(
        f"of the {in_gigabytes(memory.room)} of {memory.device_name} that the trial may use other "
        f"processes have taken {in_gigabytes(lost)}"
    )


def memory_of(device: torch.device, gpus: float) -> CudaMemory | None:
    """A GPU's memory, with this process kept to its share; None for the CPU."""
    if device.type != "cuda":
        return None
    gc.collect()  # the process may have had another trial before
    torch.cuda.empty_cache()
    memory = CudaMemory(gpus)
    memory.limit()
    return memory


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep only the inputs of layers, and compute what lies between again in the backward pass.

    (Chen et al. 2016, arXiv 1604.06174.) The gradients stay what they were. Where nothing is drawn
    at random the generator's state is left alone: asking for it would rule out a CUDA graph.
    """
    options = {"use_reentrant": False, "preserve_rng_state": has_dropout(model)}
    if hasattr(model, "activation_checkpointing_enable"):  # the later name
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)


def in_gigabytes(count: int) -> str:
    """Format a number of bytes, e.g. as "19.4 GB" (10^9 bytes)."""
    return f"{count / 1e9:.1f} GB"
