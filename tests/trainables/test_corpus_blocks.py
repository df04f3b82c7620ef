"""Token files and blocks."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.corpus.blocks import IGNORED, Blocks, TokenFile, block_order, token_dtype


def token_file(folder: Path, num_tokens: int, split: str = "train", dtype: str = "uint16"):
    """A file of the tokens 10, 11, 12, ..."""
    path = folder / f"{split}.bin"
    np.arange(10, 10 + num_tokens).astype(dtype).tofile(path)
    return TokenFile(path, split, num_tokens, dtype)


@pytest.mark.parametrize("num_tokens", [2, 8, 9, 10, 16, 17, 18, 100])
@pytest.mark.parametrize("context", [1, 8])
def test_dev_targets_are_every_token_once(tmp_path: Path, num_tokens: int, context: int) -> None:
    """The targets of all dev blocks, end to end, are the dev tokens but the first; the rest of
    the last block is padding that is not scored."""
    blocks = Blocks(token_file(tmp_path, num_tokens, "dev"), context)
    inputs, targets = blocks.batch(np.arange(len(blocks)))
    assert inputs.shape == targets.shape == (len(blocks), context)
    scored = targets.flatten() != IGNORED
    assert targets.flatten()[scored].tolist() == list(range(11, 10 + num_tokens))
    assert inputs.flatten()[scored].tolist() == list(range(10, 9 + num_tokens))
    assert (~scored).sum() < context


@pytest.mark.parametrize("num_tokens", [9, 16, 17, 100])
def test_train_blocks_are_whole(tmp_path: Path, num_tokens: int) -> None:
    """A training block i is tokens[8 i : 8 i + 9]; an incomplete one is left out."""
    blocks = Blocks(token_file(tmp_path, num_tokens), 8)
    assert len(blocks) == (num_tokens - 1) // 8
    inputs, targets = blocks.batch(np.arange(len(blocks)))
    for i in range(len(blocks)):
        assert inputs[i].tolist() == list(range(10 + 8 * i, 18 + 8 * i))
        assert targets[i].tolist() == list(range(11 + 8 * i, 19 + 8 * i))


def test_batch_takes_any_order(tmp_path: Path) -> None:
    """A batch holds the blocks asked for, in that order, as int64 tensors of their own."""
    blocks = Blocks(token_file(tmp_path, 100, dtype="uint32"), 8)
    inputs, targets = blocks.batch(np.array([5, 0, 5]))
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs[:, 0].tolist() == [50, 10, 50]
    inputs[0, 0] = -1
    assert targets.min() > 0
    assert blocks.batch(np.array([5]))[0][0, 0] == 50


def test_batch_refuses_foreign_indices(tmp_path: Path) -> None:
    """An index past the end does not wrap around."""
    blocks = Blocks(token_file(tmp_path, 100), 8)
    for index in (-1, len(blocks)):
        with pytest.raises(IndexError, match="must lie in"):
            blocks.batch(np.array([index]))


def test_too_short_for_a_block(tmp_path: Path) -> None:
    """The error gives the number of tokens there are, and what to change."""
    with pytest.raises(ValueError, match=r"train split has 8 tokens, fewer than one block of 8"):
        Blocks(token_file(tmp_path, 8), 8)


def test_damaged_file(tmp_path: Path) -> None:
    """A cut-off or missing token file is found on opening, not in the middle of a run."""
    file = token_file(tmp_path, 100)
    file.path.write_bytes(file.path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train\.bin has 199 bytes, 200 expected"):
        TokenFile(file.path, "train", 100, "uint16")


def test_pickled_token_file_carries_no_tokens(tmp_path: Path) -> None:
    """A worker process gets a path, and maps the file itself."""
    file = token_file(tmp_path, 50_000)
    assert file.tokens[0] == 10
    data = pickle.dumps(file)
    assert len(data) < 1000
    assert np.array_equal(pickle.loads(data).tokens, file.tokens)


def test_token_dtype() -> None:
    """Two bytes hold 65,536 ids."""
    assert token_dtype(65_536) == np.uint16
    assert token_dtype(65_537) == np.uint32


@pytest.mark.parametrize("num_blocks", [1, 2, 1000])
def test_block_order_is_a_permutation(num_blocks: int) -> None:
    """Every block once, the same for the same seed and epoch."""
    order = block_order(num_blocks, seed=3, epoch=2)
    assert sorted(order) == list(range(num_blocks))
    assert np.array_equal(order, block_order(num_blocks, seed=3, epoch=2))


def test_block_order_depends_on_seed_and_epoch() -> None:
    """No two of nine (seed, epoch) pairs share an order: (1, 2) is not (2, 1)."""
    orders = {tuple(block_order(100, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
