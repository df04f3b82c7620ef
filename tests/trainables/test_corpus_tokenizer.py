"""The hash of a tokenizer: equal exactly where texts get the same tokens."""

from __future__ import annotations

import pytest

from trainables.corpus.tokenizer import load_tokenizer, tokenizer_hash, train_tokenizer

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
