"""Byte-level BPE, trained on the training text of one corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from analysis.schema.ranges import LARGEST_VOCAB
from trainables.corpus.long_words import shortened
from trainables.files import read_json, write_json, writing

BOS_TOKEN = "<|endoftext|>"
"""Opens every document; also the end-of-text token, as in GPT-2."""
PAD_TOKEN = "<|pad|>"
BOS_ID = 0
PAD_ID = 1
SMALLEST_VOCAB = 258
"""The 256 byte symbols and the two special tokens."""


def train_tokenizer(
    lines: Iterable[str], vocab_size: int, text_bytes: int | None = None
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with exactly `vocab_size` entries, the two special tokens included.

    Every word, the first of a text too, is encoded with a leading space, so a word has the
    same tokens wherever it stands. No special token is added on encoding. Of words longer than
    `LONGEST_WORD` only the beginning is learned from. `text_bytes`, the size of the lines, bounds
    what is made room for: a merge needs a byte of text.

    Raises ValueError if `vocab_size` is too small for the bytes, or larger than the number of
    merges the text can support.
    """
    if vocab_size < SMALLEST_VOCAB:
        raise ValueError(
            f"vocab_size is {vocab_size}, but a byte-level tokenizer needs at least "
            f"{SMALLEST_VOCAB}: 256 bytes and 2 special tokens"
        )
    if vocab_size > LARGEST_VOCAB:
        raise ValueError(
            f"vocab_size is {vocab_size}, but it can be at most {LARGEST_VOCAB}: the largest "
            "vocabularies in use have 262,144 tokens"
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    # The library allocates for the whole vocabulary at once, and aborts the process if it cannot.
    room = vocab_size if text_bytes is None else min(vocab_size, SMALLEST_VOCAB + text_bytes)
    trainer = trainers.BpeTrainer(
        vocab_size=room,
        special_tokens=[BOS_TOKEN, PAD_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(map(shortened, lines), trainer)
    if bpe.get_vocab_size() < vocab_size:
        raise ValueError(
            f"a vocabulary (vocab_size) of {vocab_size} tokens was asked for, but the training "
            f"text supports only {bpe.get_vocab_size()} tokens: then every word is a single one. "
            f"Set vocab_size to {bpe.get_vocab_size()} or less, or add text"
        )
    assert (bpe.token_to_id(BOS_TOKEN), bpe.token_to_id(PAD_TOKEN)) == (BOS_ID, PAD_ID)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS_TOKEN,
        eos_token=BOS_TOKEN,
        pad_token=PAD_TOKEN,
        add_prefix_space=True,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Save a tokenizer so that transformers opens it from version 4 on.

    Version 5 writes a name of its class that 4 does not know; 4 would also add token types, which
    no model here takes.

    Raises:
        OSError: it cannot be written, for want of space, for example.
    """
    with writing(directory):
        tokenizer.save_pretrained(directory)
    file = directory / "tokenizer_config.json"
    config = read_json(file, dict[str, Any])
    if config["tokenizer_class"] == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["model_input_names"] = ["input_ids", "attention_mask"]
    write_json(file, config)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved in `directory`, read without the network."""
    return PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)


def tokenizer_hash(folder: Path) -> str:
    """Hash of the tokenizer.json in a corpus's or a checkpoint's folder: equal for equal tokens.

    Raises ValueError if there is none.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ValueError(f"no tokenizer in {folder}: expected a tokenizer.json")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def document_encoder(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A tokenizer for corpus text, where a written-out special token is ordinary text."""
    encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    encoder.encode_special_tokens = True
    return encoder
