"""Batches: a pure function of seed and step, on their way ahead of time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainables.batches import Batches
from trainables.corpus import Blocks

BATCH_SIZE = 4


class Post:
    """An upload that keeps one batch, and forgets what was received when the next is sent."""

    def __init__(self):
        self.sent = None
        self.log = []

    def send(self, batch):
        self.sent = tuple(tensor.clone() for tensor in batch)
        self.log.append("send")

    def receive(self):
        self.log.append("receive")
        return self.sent


@pytest.fixture
def blocks(tiny_corpus):
    return Blocks(tiny_corpus.train, 32)


def assert_equal(left, right):
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_workers_share_every_batch(blocks):
    """Two workers read the blocks of one, every other of them."""
    alone = Batches(blocks, 0, BATCH_SIZE)
    shares = [Batches(blocks, 0, BATCH_SIZE, rank, 2) for rank in range(2)]
    inputs, targets = alone.read(3)
    assert inputs.shape == targets.shape == (BATCH_SIZE, 32)
    for rank, share in enumerate(shares):
        assert_equal(share.read(3), (inputs[rank::2], targets[rank::2]))


def test_an_epoch_reads_every_block_once(blocks):
    """Within an epoch no block comes twice, and the next epoch has another order."""
    batches = Batches(blocks, 0, BATCH_SIZE)
    steps = len(blocks) // BATCH_SIZE
    every = blocks.batch(np.arange(len(blocks)))[0].tolist()
    first = [row for step in range(steps) for row in batches.read(step)[0].tolist()]
    left = list(every)
    for row in first:
        left.remove(row)  # ValueError if it is not there any more
    assert len(left) == len(blocks) % BATCH_SIZE
    assert not torch.equal(batches.read(0)[0], batches.read(steps)[0])


def test_batches_sent_ahead_are_those_that_are_read(blocks):
    """Sent ahead or not, and after a jump as of a resumed run, a step finds its own batch."""
    post = Post()
    batches, reference = Batches(blocks, 0, BATCH_SIZE, upload=post), Batches(blocks, 0, BATCH_SIZE)
    for step in (0, 1, 2):
        assert_equal(batches.take(step), reference.read(step))
        batches.send_ahead(step + 1)
    assert post.log == ["send", "receive"] + ["send", "receive"] * 2 + ["send"]
    assert_equal(batches.take(7), reference.read(7))  # 3 was on its way
    assert_equal(batches.take(7), reference.read(7))  # and again


def test_the_cpu_sends_nothing_ahead(blocks):
    """Without an upload sending ahead does nothing."""
    batches = Batches(blocks, 0, BATCH_SIZE, device=torch.device("cpu"))
    batches.send_ahead(1)
    assert_equal(batches.take(0), batches.read(0))
