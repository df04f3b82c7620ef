"""Token files without a text: something to train on at any vocabulary, made at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainables.corpus import Blocks, Corpus
from trainables.corpus.blocks import token_dtype
from trainables.trainer import TrialData

FRESH_SHARE = 0.5
"""Share of tokens that are drawn; each of the others is the one before it plus `STRIDE`."""
STRIDE = 7
SMALLEST = 2  # behind the two special tokens


class Vocabulary:
    """Stands for a tokenizer where only its size and its special tokens matter."""

    bos_token_id, eos_token_id, pad_token_id = 0, 0, 1

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def made_tokens(count: int, vocab: int, seed: int) -> np.ndarray:
    """Tokens with frequencies as in a language and half of them predictable: a loss falls fast."""
    chance = np.random.default_rng(seed)
    size = vocab - SMALLEST
    frequencies = 1 / (np.arange(size) + 10.0)
    drawn = chance.choice(size, count, p=frequencies / frequencies.sum())
    fresh = chance.random(count) < FRESH_SHARE
    fresh[0] = True
    origin = np.maximum.accumulate(np.where(fresh, np.arange(count), 0))
    return SMALLEST + (drawn[origin] + STRIDE * (np.arange(count) - origin)) % size


def made_corpus(folder: Path, vocab: int, train_tokens: int, dev_tokens: int) -> Corpus:
    """A corpus's token files in a folder, without a tokenizer."""
    for seed, (split, count) in enumerate({"train": train_tokens, "dev": dev_tokens}.items()):
        tokens = made_tokens(count, vocab, seed)
        tokens.astype(token_dtype(vocab)).tofile(folder / f"{split}.bin")
    sizes = {"train_words": train_tokens, "dev_words": dev_tokens}
    sizes |= {"train_bytes": 4 * train_tokens, "dev_bytes": 4 * dev_tokens}
    return Corpus("made", "made", folder, vocab, train_tokens, dev_tokens, **sizes)


def made_data(folder: Path, *, vocab: int, context: int, blocks: int) -> TrialData:
    """What a trainer reads, with `blocks` training blocks and four of validation."""
    corpus = made_corpus(folder, vocab, blocks * context + 1, 4 * context + 1)
    train, dev = Blocks(corpus.train, context), Blocks(corpus.dev, context)
    return TrialData(corpus, train, dev, tokenizer=Vocabulary(vocab), suite=None)
