"""The batches of a trial: which blocks each step reads, and their way to the device.

A batch is a pure function of seed and step, so that a resumed run needs no state. For a GPU the
next one is on its way while the device works on this one: it is copied from pinned memory, on a
stream of its own, and nobody waits for the device.
"""

from __future__ import annotations

import functools
from typing import Protocol

import torch
from torch import Tensor

from trainables.corpus import Blocks, block_order

Batch = tuple[Tensor, Tensor]
"""Inputs and targets, both (sequences, context)."""

_order_of_epoch = functools.lru_cache(maxsize=1)(block_order)
"""The order of the current epoch: a permutation of all blocks is not drawn anew every step."""


class Upload(Protocol):
    """A way to the device on which one batch can be sent ahead."""

    def send(self, batch: Batch) -> None:
        """Let a batch set out. What was received before is not read any more from here on."""

    def receive(self) -> Batch:
        """The batch that was sent; what is computed from here on finds it there."""


class Batches:
    """One worker's share of every batch.

    Args:
        blocks: of the training split.
        seed: of their order.
        batch_size: blocks in a step, over all workers.
        rank, workers: which share.
        device: where the batches are wanted.
        upload: the way there; by default `PinnedUpload` for a GPU, none for the CPU.
    """

    def __init__(
        self,
        blocks: Blocks,
        seed: int,
        batch_size: int,
        rank: int = 0,
        workers: int = 1,
        device: torch.device | None = None,
        upload: Upload | None = None,
    ) -> None:
        self._blocks, self._seed, self._batch_size = blocks, seed, batch_size
        self._rank, self._workers = rank, workers
        self._steps_per_epoch = len(blocks) // batch_size
        if upload is None and device is not None and device.type == "cuda":
            upload = PinnedUpload(device)
        self._upload = upload
        self._sent: int | None = None

    def read(self, step: int) -> Batch:
        """The share of optimizer step `step` (0-based), on the host."""
        epoch, position = divmod(step, self._steps_per_epoch)
        order = _order_of_epoch(len(self._blocks), self._seed, epoch)
        first = position * self._batch_size
        whole = order[first : first + self._batch_size]
        return self._blocks.batch(whole[self._rank :: self._workers])

    def take(self, step: int) -> Batch:
        """The share of a step on the device, valid until the next call of `send_ahead`."""
        if self._upload is None:
            return self.read(step)
        if self._sent != step:
            self._upload.send(self.read(step))
        self._sent = None
        return self._upload.receive()

    def send_ahead(self, step: int) -> None:
        """Let the batch of a step set out. Call it when the step before it has been launched."""
        if self._upload is not None:
            self._upload.send(self.read(step))
            self._sent = step


class PinnedUpload:
    """Copies from pinned memory on a stream of its own, into two places in turn."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._places: list[_DeviceBatch] = []
        self._turn = 0

    def send(self, batch: Batch) -> None:
        here = torch.cuda.current_stream(self._device)
        if not self._places:
            self._places = [_DeviceBatch(batch, self._device) for _ in range(2)]
            self._stream.wait_stream(here)  # the memory may have served others until now
        # The other place's last readers are launched by now, those of this one a batch ago.
        self._places[self._turn].read.record(here)
        self._turn = 1 - self._turn
        place = self._places[self._turn]
        self._stream.wait_event(place.read)
        with torch.cuda.stream(self._stream):
            for there, tensor in zip(place.batch, batch, strict=True):
                # The allocator of pinned memory keeps it until the copy is over.
                there.copy_(tensor.pin_memory(), non_blocking=True)
            place.written.record(self._stream)

    def receive(self) -> Batch:
        place = self._places[self._turn]
        torch.cuda.current_stream(self._device).wait_event(place.written)
        return place.batch


class _DeviceBatch:
    """Memory for a batch on the device, and the events after which it is written and read."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        inputs, targets = batch
        self.batch = (
            torch.empty_like(inputs, device=device),
            torch.empty_like(targets, device=device),
        )
        self.written, self.read = torch.cuda.Event(), torch.cuda.Event()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device, without waiting for what the device is doing."""
    if device.type != "cuda":
        return batch[0].to(device), batch[1].to(device)
    inputs, targets = (tensor.pin_memory().to(device, non_blocking=True) for tensor in batch)
    return inputs, targets
