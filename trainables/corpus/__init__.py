"""From text to training sequences: source -> tokenizer -> token files -> blocks.

A prepared corpus is a folder that never changes, named after a hash of its text and its
tokenizer settings, so every process that asks for the same corpus finds the same folder.
"""

from __future__ import annotations

from trainables.corpus.blocks import IGNORED, Blocks, TokenFile, block_order
from trainables.corpus.builtin.mini_suite import mini_benchmark
from trainables.corpus.prepare import Corpus, bring_corpus, prepare_corpus
from trainables.corpus.tokenizer import BOS_TOKEN, PAD_TOKEN

__all__ = [
    "BOS_TOKEN",
    "IGNORED",
    "PAD_TOKEN",
    "Blocks",
    "Corpus",
    "TokenFile",
    "block_order",
    "bring_corpus",
    "mini_benchmark",
    "prepare_corpus",
]
