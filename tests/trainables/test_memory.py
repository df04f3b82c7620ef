"""Micro-batches that fit, errors that say what would, and activations computed twice."""

from __future__ import annotations

import pytest
import torch

import models
from sweeps.engine.trial_process import device_failure
from trainables.corpus import Blocks
from trainables.memory import (
    CudaMemory,
    MemoryTaken,
    OutOfMemory,
    even_piece,
    largest_that_fits,
    recompute_activations,
)
from trainables.objectives import NextTokenObjective
from trainables.optim import bytes_to_come
from trainables.trainer import Trainer, TrialData, World


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (1000, 64),
        (740, 64),
        (739, 32),
        (420, 32),
        (419, 22),
        (330, 22),
        (180, 8),
        (110, 1),
        (109, 0),
    ],
)
def test_the_largest_piece_that_fits(room, expected):
    """Of 100 bytes and 10 for each sequence: the whole, else equal pieces of it, else nothing."""
    tried = []

    def need(size):
        tried.append(size)
        return 100 + 10 * size

    assert largest_that_fits(64, need, room) == expected
    assert len(tried) <= 4


def test_more_than_the_first_two_promise_is_found_out():
    """If the need grows faster than between one and two, or no figure comes back, fewer are
    tried."""

    def need(size):
        return None if size > 20 else 100 + 10 * size + 30 * max(0, size - 5)

    assert largest_that_fits(64, need, 500) == 13
    assert largest_that_fits(64, lambda size: None, 500) == 0
    assert largest_that_fits(1, lambda size: 600, 500) == 0


def test_pieces_are_as_equal_as_they_can_be():
    assert [even_piece(64, most) for most in (64, 63, 30, 5, 1)] == [64, 32, 22, 5, 1]


class Bytes:
    """A memory in which only sequences count: `each` of them takes 10, or 4 if computed twice."""

    device_name = "a made-up GPU"
    lost = 0

    def __init__(self, room):
        self.room = room
        self.model = None
        self.sizes = []

    def peak(self, work):
        seen = []

        def watch(module, args, kwargs):
            seen.append(len(kwargs["input_ids"]))

        handle = self.model.base_model.register_forward_pre_hook(watch, with_kwargs=True)
        try:
            work()
        finally:
            handle.remove()
        self.sizes.append(max(seen))
        each = 4 if self.model.is_gradient_checkpointing else 10
        return each * max(seen)

    def held(self):
        return 0

    def tidy(self):
        pass


@pytest.fixture
def make_trainer(tiny_spec, tiny_corpus, monkeypatch):
    """A maker of trainers in a memory of so many bytes, in which parameters cost nothing."""
    blocks = (Blocks(split, tiny_spec.context) for split in (tiny_corpus.train, tiny_corpus.dev))
    data = TrialData(tiny_corpus, *blocks, tiny_corpus.tokenizer(), None)
    original = Trainer._need

    def need(self, size, memory):
        memory.model = self.model
        found = original(self, size, memory)
        return None if found is None else found - bytes_to_come(self.optimizer)

    monkeypatch.setattr(Trainer, "_need", need)

    def make(room, micro_batch="auto", **options):
        memory = Bytes(room)
        return Trainer(tiny_spec, data, World(), micro_batch, memory=memory, **options), memory

    return make


@pytest.mark.parametrize(
    ("room", "micro_batch", "recompute"),
    # A room that the training takes more than half of has to hold a validation, too.
    [(80, 4, False), (79, 2, False), (40, 2, False), (20, 1, False), (19, 2, True), (8, 1, True)],
)
def test_a_trial_takes_what_fits(make_trainer, room, micro_batch, recompute):
    """Of a batch of four: the largest micro-batch, and only below one are activations dropped."""
    trainer, _ = make_trainer(room)
    assert (trainer.micro_batch, trainer.recompute) == (micro_batch, recompute)
    assert trainer.micro_batch * (4 if recompute else 10) <= room


def test_nothing_fits(make_trainer):
    """The error names the room and what to change."""
    with pytest.raises(OutOfMemory, match=r"one sequence .* made-up GPU.*--gpus-per-trial"):
        make_trainer(3)


def test_measuring_changes_nothing(make_trainer):
    """A trial whose micro-batch was measured takes the steps of one that was given it."""
    results = []
    for micro_batch in ("auto", 2):
        trainer, _ = make_trainer(40, micro_batch)
        assert trainer.micro_batch == 2
        results.append([tuple(value.item() for value in trainer.step()) for _ in range(3)])
    assert results[0] == results[1]


def test_out_of_memory_names_what_would_fit(make_trainer, monkeypatch):
    """A given micro-batch that turns out too large is answered by one that is not."""
    trainer, _ = make_trainer(40, micro_batch=4)
    trainer.step()

    def fail(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "_step", fail)
    with pytest.raises(OutOfMemory, match=r"of 4 sequences does not fit.*--micro-batch 2 would"):
        trainer.step()


def test_memory_that_others_took_is_no_fault_of_the_micro_batch(make_trainer, monkeypatch):
    """The trial is tried again, in a fresh process, as after the loss of one; one that is too large
    is not."""
    trainer, memory = make_trainer(40, micro_batch=4)
    memory.lost = 3 * 10**9

    def fail(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "_step", fail)
    with pytest.raises(
        MemoryTaken, match=r"made-up GPU .* other processes have taken 3.0 GB"
    ) as it:
        trainer.step()
    failure = device_failure(it.value)
    assert failure is not None
    assert str(failure).startswith("out of memory: of the 0.0 GB")
    assert not failure.hopeless
    assert device_failure(OutOfMemory("--micro-batch 2 would")).hopeless


@pytest.mark.parametrize(
    ("gpus", "free_then", "held", "free_later", "lost"),
    [
        (0.25, 60, 10, 50, 0),  # neighbours fill their shares
        (0.25, 60, 10, 5, 3),  # 19 of 20 GiB are the trial's, and 5 + 10 + 1 are left of them
        (1.0, 60, 0, 3, 56),  # what others held before was never the trial's
        (1.0, 79, 75, 3, 0),
    ],
)
def test_what_others_took_of_a_share(monkeypatch, gpus, free_then, held, free_later, lost):
    """Of 80 GiB one is set aside for what the process itself takes besides tensors."""
    gib = 2**30
    sizes = {"free": free_then * gib, "held": 0}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (sizes["free"], 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: sizes["held"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a made-up GPU")
    memory = CudaMemory(gpus)
    assert memory.lost == 0
    sizes |= {"free": free_later * gib, "held": held * gib}
    assert memory.lost == lost * gib


def test_auto_on_a_cpu_is_the_whole_share(tiny_spec, make_trainer):
    trainer, _ = make_trainer(40)
    alone = Trainer(tiny_spec, trainer.data, World(), "auto")
    assert alone.micro_batch == tiny_spec.batch_size


@pytest.mark.parametrize("arch", models.architectures())
def test_activations_computed_twice_give_the_same_gradients(arch):
    """With dropout, too, every gradient has the bits that it has otherwise."""
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        config = models.build_config(arch, "mini", vocab_size=64, context=16)
        if arch == "lstm":
            config.dropout = 0.1
        model = models.build_model(config).train()
        if recompute:
            recompute_activations(model)
            assert model.is_gradient_checkpointing
        ids = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(1))
        torch.manual_seed(2)
        NextTokenObjective(model)(ids[:, :-1], ids[:, 1:].contiguous()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name
