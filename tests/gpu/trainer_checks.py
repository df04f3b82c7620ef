"""What is checked of a trial's training on a GPU, as functions of the device.

All train on made tokens, with the schedule of a whole trial: a step that reads an old learning
rate, an old batch or an old seed of dropout gets other losses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast

from tests.made_tokens import made_data
from trainables import memory as gpu_memory
from trainables.checkpoint import TrialFolder
from trainables.spec import TrialSpec
from trainables.step import VARIABLE, WARM_UP
from trainables.trainer import Trainer, TrialData, World, build_model

VOCAB = 512
STEPS = WARM_UP + 5
TOLERANCES = {"fp32": 1e-4, "bf16": 2e-3}
"""Greatest relative error of a loss after a few steps: kernels may sum in another order."""
ROOMY = 64
"""Sequences of a batch that does not fit at once where memory is checked."""


def make_spec(arch: str, **changes: Any) -> TrialSpec:
    """A trial of `STEPS` steps or more."""
    values = {"size": "mini", "context": 64, "batch_size": 4, "lr": 3e-3, "epochs": 1, "seed": 0}
    values |= {"corpus": "made", "corpus_hash": "made", "warmup": 0.2}
    return TrialSpec(arch=arch, **{**values, **changes})


def make_data(spec: TrialSpec, folder: Path, steps: int = STEPS) -> TrialData:
    """So many batches of made tokens."""
    return made_data(folder, vocab=VOCAB, context=spec.context, blocks=steps * spec.batch_size)


def make_trainer(spec: TrialSpec, data: TrialData, device: str, **options: Any) -> Trainer:
    """A trainer on the device; options: `micro_batch`, `memory`, `recompute`."""
    return Trainer(
        spec, data, World(device=torch.device(device)), options.pop("micro_batch", None), **options
    )


def losses_of(trainer: Trainer, steps: int) -> list[float]:
    """In nats per token, of the next steps."""
    tokens = trainer.spec.batch_size * trainer.spec.context
    return [trainer.step()[0].item() / tokens for _ in range(steps)]


def assert_close(got: list[float], want: list[float], tolerance: float) -> None:
    """Relative to each, and none of them NaN."""
    for a, b in zip(got, want, strict=True):
        error = abs(a / b - 1)
        assert error <= tolerance, f"relative error {error:.1e}, more than {tolerance:.0e}"


def assert_learns(losses: list[float]) -> None:
    """Else equal losses would say nothing."""
    assert losses[-1] < losses[0], "it did not learn, so that equal losses say nothing"


def assert_captured(trainer: Trainer, wanted: bool) -> None:
    """Or not, where it should not be."""
    words = trainer.step_in_words or ""
    assert words.startswith("as a CUDA graph") == wanted, words


@contextlib.contextmanager
def graphs(wanted: bool) -> Iterator[None]:
    """Let trainers capture their step, or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(int(wanted)))
        yield


def check_graph(
    arch: str,
    device: str,
    precision: str,
    folder: Path,
    *,
    dropout: float = 0.0,
    has_teacher: bool = False,
) -> None:
    """A captured step has the losses of one that is not, with a validation in between."""
    spec = make_spec(arch, precision=precision)
    data = make_data(spec, folder)
    if has_teacher:
        spec = spec.replace(teacher="made", alpha=0.5, temperature=2.0)
        data = replace(data, teachers=(build_model(spec.replace(seed=1), data.tokenizer),))
    found = []
    for wanted in (True, False):
        with graphs(wanted):
            trainer = make_trainer(spec, data, device)
            _set_dropout(trainer.model, dropout)
            losses = losses_of(trainer, STEPS - 2)
            validation, _ = trainer.validate()
            found.append([*losses, validation, *losses_of(trainer, 2), trainer.validate()[0]])
        assert_captured(trainer, wanted and device != "cpu")
    assert_learns(losses)
    assert_close(found[0], found[1], TOLERANCES[precision])


def _set_dropout(model: nn.Module, p: float) -> None:
    layers = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert layers or not p, "there is no dropout to set"
    for layer in layers:
        layer.p = p


def check_pieces(arch: str, device: str, folder: Path) -> None:
    """A batch in micro-batches, and with its activations computed twice, has the same losses."""
    spec = make_spec(arch)
    data = make_data(spec, folder)
    whole = losses_of(make_trainer(spec, data, device), STEPS)
    for options in ({"micro_batch": 1}, {"micro_batch": 2, "recompute": True}):
        assert_close(
            losses_of(make_trainer(spec, data, device, **options), STEPS),
            whole,
            TOLERANCES["fp32"],
        )


def check_resumed(arch: str, device: str, precision: str, folder: Path) -> float:
    """Stopped and resumed from its checkpoint a trial has the losses of one that was not.

    Returns the largest relative error: 0 where the two are bitwise equal.
    """
    spec = make_spec(arch, precision=precision)
    data = make_data(spec, folder)
    whole = losses_of(make_trainer(spec, data, device), STEPS)
    assert_learns(whole)
    half = STEPS // 2
    first = make_trainer(spec, data, device)
    before = losses_of(first, half)
    trial = TrialFolder.of(folder, spec)
    trial.save(first.model, tokenizer(), first.optimizer, spec, first.progress)
    second = make_trainer(spec, data, device)
    newest = trial.newest()
    assert newest is not None
    path, second.progress = newest
    trial.load_into(path, second.model, second.optimizer)
    resumed = [*before, *losses_of(second, STEPS - half)]
    assert_close(resumed, whole, TOLERANCES[precision])
    return max(abs(a / b - 1) for a, b in zip(resumed, whole, strict=True))


def tokenizer() -> PreTrainedTokenizerFast:
    """Of two words: a checkpoint holds one."""
    words = WordLevel({"<s>": 0, "<pad>": 1}, unk_token="<s>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))


def check_automatic_micro_batch(device: str, folder: Path) -> None:
    """With room for a part of the batch, a part is chosen, and whole steps keep within the room."""
    spec = _roomy_spec()
    data = make_data(spec, folder, STEPS)
    with _room_for_a_part(spec, data, device) as memory:
        trainer = make_trainer(spec, data, device, micro_batch="auto", memory=memory)
        assert 1 <= trainer.micro_batch < ROOMY
        assert_learns(losses_of(trainer, STEPS))
        trainer.validate()


def check_out_of_memory(device: str, folder: Path) -> None:
    """A batch that does not fit is answered by the micro-batch that would, which then does."""
    spec = _roomy_spec()
    data = make_data(spec, folder, STEPS)
    with _room_for_a_part(spec, data, device) as memory:
        trainer = make_trainer(spec, data, device, memory=memory)
        with pytest.raises(gpu_memory.OutOfMemory, match="--micro-batch") as caught:
            losses_of(trainer, STEPS)
        fitting = int(str(caught.value).split("--micro-batch ")[1].split()[0])
        del trainer, caught
        memory.tidy()
        trainer = make_trainer(spec, data, device, memory=memory, micro_batch=fitting)
        assert_learns(losses_of(trainer, STEPS))


def check_share(device: str) -> None:
    """A process that was given a quarter of the GPU gets an error beyond it, and none below."""
    memory = gpu_memory.CudaMemory(0.25)
    try:
        memory.limit()
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(memory.room + 2**30, dtype=torch.uint8, device=device)
        torch.empty(memory.room // 2, dtype=torch.uint8, device=device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        memory.tidy()


def _roomy_spec() -> TrialSpec:
    return make_spec(
        "transformer", size="small", context=256, batch_size=ROOMY, precision="bf16", lr=1e-3
    )


@contextlib.contextmanager
def _room_for_a_part(spec: TrialSpec, data: TrialData, device: str) -> Iterator[Any]:
    """The GPU's memory with room for about half of the batch, and no more for this process."""
    memory = gpu_memory.CudaMemory(1.0)
    whole, one = (_need(spec, data, device, memory, size) for size in (ROOMY, 1))
    memory.room = (whole + one) // 2
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(memory.room / total)
    try:
        yield memory
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        memory.tidy()


def _need(spec: TrialSpec, data: TrialData, device: str, memory: Any, micro_batch: int) -> int:
    """Bytes that steps with this micro-batch reserve, captured and all."""

    def train() -> None:
        losses_of(make_trainer(spec, data, device, micro_batch=micro_batch), WARM_UP + 1)

    memory.tidy()
    need = memory.peak(train)
    assert need is not None, "the GPU is too full for this check"
    return need
