"""An optimizer step, and its capture in a CUDA graph.

A small model's step on a GPU is bound by the launches of its many small kernels. Its shapes are the
same every time, so the whole of it (forward, loss and backward of all micro-batches, clipping, the
optimizer) is captured once, and then launched as one graph. What differs from step to step goes
into the graph through memory that it reads: tokens, the learning rate, and the seed of dropout. The
latter comes from CUDA's generator, whose seed and offset a graph reads anew at each replay:
`torch.manual_seed` before it gives every step the mask that it would have without a graph.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.batches import Batch

VARIABLE = "BABYSWEEP_CUDA_GRAPH"
WARM_UP = 3
"""Steps before the capture: in them kernels are built, and workspaces and moments made."""

Result = tuple[Tensor, Tensor]
"""A worker's loss, and the norm of the gradient, both scalars on the device."""


class Diverged(Exception):
    """The loss became NaN, infinite, or far worse than knowing nothing."""


class Step:
    """One optimizer step, launched operation by operation.

    Args:
        objective: maps the tensors of a batch to its loss in nats, which over several micro-batches
            is summed.
        parameters: of the model, in the order in which their norms are summed.
        optimizer: of these parameters.
        scale: what the loss is multiplied by before its gradient is taken.
        micro_batch: sequences in one forward pass.
        grad_clip: maximum norm of the gradient; 0 for none.
        bf16: whether to compute under autocast.
    """

    def __init__(
        self,
        objective: nn.Module,
        parameters: Iterable[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        *,
        scale: float,
        micro_batch: int,
        grad_clip: float,
        bf16: bool,
    ) -> None:
        self.objective, self.optimizer = objective, optimizer
        self.micro_batch = micro_batch
        self._scale = scale
        self._grad_clip, self._bf16 = grad_clip, bf16
        self._parameters = list(parameters)

    def __call__(self, batch: tuple[Tensor, ...]) -> Result:
        nats = self.accumulate(batch)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._grad_clip or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return nats, norm

    def accumulate(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Add the gradients of a worker's share of the batch; returns its loss in nats."""
        self.objective.train()
        nats = torch.zeros((), device=batch[0].device)
        pieces = list(zip(*(tensor.split(self.micro_batch) for tensor in batch), strict=True))
        for index, piece in enumerate(pieces):
            is_last = index == len(pieces) - 1
            with self._no_sync(is_last), self._autocast(piece[0].device.type):
                loss = self.objective(*piece)
                (loss * self._scale).backward()
            nats += loss.detach()
        return nats

    def _autocast(self, device_type: str) -> torch.autocast:
        return torch.autocast(device_type, torch.bfloat16, enabled=self._bf16)

    def _no_sync(self, is_last: bool) -> contextlib.AbstractContextManager[object]:
        if isinstance(self.objective, DistributedDataParallel) and not is_last:
            return self.objective.no_sync()
        return contextlib.nullcontext()


class Recorder(Protocol):
    """Records work on a device, to launch it again as one."""

    def warm_up(self, work: Callable[[], Result]) -> Result:
        """Do the work as it will be recorded."""

    def record(self, work: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        """Record the work without doing it.

        Returns:
            What does it, and where it then leaves its results.
        """


class RecordedStep:
    """A step that after a few times is recorded, and from then on replayed.

    Args:
        step: what to record. It must read nothing from the device, and must not change a Python
            value that it depends on.
        recorder: of the device.
        say: told in one line if the step cannot be recorded. It then goes on unrecorded; unless
            memory ran out, of which it will hardly find more without a graph.
    """

    def __init__(
        self, step: Callable[[Batch], Result], recorder: Recorder, say: Callable[[str], None]
    ) -> None:
        self._step, self._recorder, self._say = step, recorder, say
        self._taken = 0
        self._batch: Batch | None = None
        self._replay: Callable[[], None] | None = None
        self._result: Result | None = None
        self.failure = ""

    @property
    def is_recorded(self) -> bool:
        """Whether steps are replayed from now on."""
        return self._replay is not None

    @property
    def is_settled(self) -> bool:
        """Whether it is known if steps are replayed."""
        return self.is_recorded or bool(self.failure)

    def __call__(self, batch: Batch) -> Result:
        if self._taken == WARM_UP and not self.is_settled:
            self._record(batch)
        if self._replay is not None:
            return self._replayed(batch)
        if self.failure:
            return self._step(batch)
        self._taken += 1
        return self._recorder.warm_up(lambda: self._step(batch))

    def _record(self, batch: Batch) -> None:
        mine = batch[0].clone(), batch[1].clone()
        try:
            self._replay, self._result = self._recorder.record(lambda: self._step(mine))
        except Exception as error:  # whatever else it is, the step works without a graph
            if (ran_out := _out_of_memory(error)) is not None:
                raise ran_out from None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.failure = f"{type(error).__name__}: {reason}"
            self._say(f"The step cannot be captured in a CUDA graph, and is slower: {self.failure}")
        else:
            self._batch = mine

    def _replayed(self, batch: Batch) -> Result:
        assert self._batch is not None
        assert self._replay is not None
        assert self._result is not None
        for mine, given in zip(self._batch, batch, strict=True):
            mine.copy_(given)
        self._replay()
        nats, norm = (tensor.clone() for tensor in self._result)  # the next replay overwrites them
        return nats, norm


class CudaRecorder:
    """CUDA graphs, recorded on a stream of their own and replayed on the current one."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._stream = torch.cuda.Stream()
        self._optimizer = optimizer

    def warm_up(self, work: Callable[[], Result]) -> Result:
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            result = work()
        here.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        here = torch.cuda.current_stream()
        try:
            # Other threads of the process, which have their own things to do, do no harm.
            with torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"):
                result = work()
        except BaseException:
            torch.cuda.set_stream(here)  # which a capture that cannot be ended does not do
            self._optimizer.zero_grad(set_to_none=True)
            _clean_up(pool)
            raise
        return graph.replay, result


def _clean_up(pool: tuple[int, int]) -> None:
    """Undo what a failed capture leaves behind: an open memory pool, a generator that waits."""
    torch.cuda.synchronize()
    device = torch.cuda.current_device()
    # Where the allocator knows of no open pool, the graph itself has closed it.
    with contextlib.suppress(RuntimeError, AttributeError):
        torch._C._cuda_endAllocateToPool(device, pool)
        torch._C._cuda_releasePool(device, pool)
    fresh = torch.Generator(device="cuda").manual_seed(torch.cuda.initial_seed())
    torch.cuda.default_generators[device].graphsafe_set_state(fresh.graphsafe_get_state())


def _out_of_memory(error: BaseException | None) -> torch.OutOfMemoryError | None:
    """The want of memory that an error came of: the end of a capture in which memory ran out may
    fail in its turn, in the place of it."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error


def why_no_graph(device: torch.device, workers: int) -> str:
    """Reason why a step is not to be captured; empty if it is.

    Raises:
        ValueError: `BABYSWEEP_CUDA_GRAPH` is neither 0 nor 1.
    """
    value = os.environ.get(VARIABLE) or "1"
    if value not in ("0", "1"):
        raise ValueError(f"{VARIABLE} must be 0 or 1, not {value!r}")
    if device.type != "cuda":
        return "on the CPU"
    if value == "0":
        return f"{VARIABLE}=0"
    # The averaging of gradients runs on streams and in threads of its own.
    return f"{workers} workers" if workers > 1 else ""


def has_dropout(model: nn.Module) -> bool:
    """Whether anything in the model drops activations."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
