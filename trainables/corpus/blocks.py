"""Token files on disk, and the training sequences ("blocks") cut from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from trainables.corpus.tokenizer import PAD_ID

IGNORED = -100
"""Target where there is nothing to predict; the default `ignore_index` of torch's losses."""


def token_dtype(vocab_size: int) -> np.dtype:
    """The narrowest of uint16 and uint32 that holds every token id."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


@dataclass(frozen=True)
class TokenFile:
    """One split as a flat file of token ids, memory-mapped on first use.

    The pages are shared by all processes of a node, and a pickled TokenFile carries no tokens.
    """

    path: Path
    split: str
    num_tokens: int
    dtype: str

    def __post_init__(self) -> None:
        expected = self.num_tokens * np.dtype(self.dtype).itemsize
        found = self.path.stat().st_size if self.path.exists() else 0
        if found != expected:
            raise ValueError(
                f"{self.path} has {found:,} bytes, {expected:,} expected: the file is damaged; "
                f"delete {self.path.parent} and build the corpus again"
            )

    def __len__(self) -> int:
        return self.num_tokens

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "tokens"}

    @cached_property
    def tokens(self) -> np.ndarray:
        """All token ids, read-only, of shape (num_tokens,)."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.num_tokens,))


class Blocks:
    """The sequences of one split: block i covers `tokens[i * context : (i + 1) * context + 1]`.

    Neighbouring blocks share one token, the last target of the one and the first input of the
    next, so every token but the first of the file is a target once. Training drops the
    incomplete block at the end; the dev split keeps it, padded, with target -100 in the padding.

    Raises ValueError if the split is shorter than one block.
    """

    def __init__(self, token_file: TokenFile, context: int) -> None:
        if context < 1:
            raise ValueError(f"context is {context}; a block needs at least one token")
        self.token_file = token_file
        self.context = context
        num_targets = max(len(token_file) - 1, 0)
        self.num_targets = num_targets
        if token_file.split == "dev":
            self.num_blocks = -(-num_targets // context)
        else:
            self.num_blocks = num_targets // context
        if self.num_blocks == 0:
            raise ValueError(
                f"the {token_file.split} split has {len(token_file):,} tokens, fewer than one "
                f"block of {context:,} + 1: use a smaller context or more text"
            )

    def __len__(self) -> int:
        return self.num_blocks

    def batch(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of the blocks `indices`, two LongTensors of (n, context)."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"block indices must lie in [0, {len(self)}), got {indices}")
        # (n, context + 1): positions in the file of every token of every block
        positions = indices[:, None] * self.context + np.arange(self.context + 1)
        beyond = positions > self.num_targets
        padded = beyond.any()
        if padded:
            positions = np.minimum(positions, self.num_targets)
        tokens = torch.from_numpy(self.token_file.tokens[positions].astype(np.int64))
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        if padded:
            outside = torch.from_numpy(beyond[:, 1:])
            inputs = inputs.masked_fill(torch.from_numpy(beyond[:, :-1]), PAD_ID)
            targets = targets.masked_fill(outside, IGNORED)
        return inputs.contiguous(), targets.contiguous()


def block_order(num_blocks: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which `epoch` visits the blocks: a permutation, a pure function of its
    arguments, so that a resumed run needs no saved state."""
    return np.random.default_rng((seed, epoch)).permutation(num_blocks)
