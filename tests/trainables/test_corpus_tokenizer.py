"""The hash of a tokenizer: equal exactly where texts get the same tokens."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from trainables.corpus.tokenizer import (
    BOS_TOKEN,
    PAD_TOKEN,
    load_tokenizer,
    save_tokenizer,
    tokenizer_hash,
    train_tokenizer,
)

LINES = ["the old cat sees the small dog", "a dog runs here now", "the cat likes a cat"] * 20


def test_hash_tells_tokenizers_apart(tmp_path):
    """A tokenizer opened, used and saved again keeps its hash; one with other merges does not."""
    for size in (260, 264):
        train_tokenizer(LINES, size).save_pretrained(tmp_path / str(size))
    copy = load_tokenizer(tmp_path / "260")
    copy(LINES[:2])
    copy.save_pretrained(tmp_path / "copy")
    hashes = {name: tokenizer_hash(tmp_path / name) for name in ("260", "264", "copy")}
    assert hashes["260"] == hashes["copy"] != hashes["264"]


def test_folder_without_a_tokenizer_is_refused(tmp_path):
    """The error names the folder and the file that it lacks."""
    with pytest.raises(ValueError, match=r"no tokenizer in .*expected a tokenizer\.json"):
        tokenizer_hash(tmp_path)


def test_what_is_written_opens_in_earlier_versions_of_transformers(tmp_path):
    """The class is called as in version 4, which adds no token types; the hash is as before."""
    tokenizer = train_tokenizer(LINES, 260)
    tokenizer.save_pretrained(tmp_path / "before")  # as checkpoints were written earlier
    save_tokenizer(load_tokenizer(tmp_path / "before"), tmp_path / "now")
    config = json.loads((tmp_path / "now" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert tokenizer_hash(tmp_path / "now") == tokenizer_hash(tmp_path / "before")
    for name in ("before", "now"):
        opened = AutoTokenizer.from_pretrained(tmp_path / name)
        encoded = opened(LINES[0])
        assert encoded["input_ids"] == tokenizer(LINES[0])["input_ids"]
        assert (opened.bos_token, opened.pad_token) == (BOS_TOKEN, PAD_TOKEN)
    assert set(encoded) == {"input_ids", "attention_mask"}
