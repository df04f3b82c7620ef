"""The tokenizer: its hash, any size of vocabulary, and any length of words."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import re
import resource
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from analysis.schema.ranges import check
from sweeps.arguments import LrSweepArgs
from trainables.corpus import BOS_TOKEN, PAD_TOKEN, prepare_corpus, tokenizer
from trainables.corpus.builtin.paragraphs import mini_text
from trainables.corpus.long_words import LONGEST_WORD, shortened
from trainables.corpus.tokenizer import (
    SMALLEST_VOCAB,
    load_tokenizer,
    save_tokenizer,
    tokenizer_hash,
    train_tokenizer,
)
from trainables.files import writing

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


VOCABULARIES = [258, 2**24, 2**24 + 1, 10**9, 2**32 + 1, 2**63, 2**64, 10**400, 257, 0, -1]


@pytest.mark.parametrize("size", VOCABULARIES)
def test_any_vocabulary_is_answered(tmp_path, size):
    """A vocabulary is made, or refused with the largest one that works, and never asked of the
    library, which would abort the process."""
    file = tmp_path / "a.txt"
    file.write_text("\n".join(LINES), "utf-8")
    if size == 258:
        assert prepare_corpus(str(file), vocab_size=size, cache=tmp_path).vocab_size == size
        return
    expected = "supports only 293 tokens" if size == 2**24 else f"vocab_size is {size}, but"
    with pytest.raises(ValueError, match=expected):
        prepare_corpus(str(file), vocab_size=size, cache=tmp_path)


@pytest.mark.parametrize("size", [257, *VOCABULARIES[2:8]])
def test_vocabularies_that_no_text_has_are_refused_at_once(size):
    """As the flag's range, before anything is read."""
    with pytest.raises(ValueError, match=f"--vocab-size must be from 258 to {2**24}, not {size}"):
        check(LrSweepArgs(arch=("lstm",), vocab_size=size), flags=True)


def test_room_is_made_for_what_the_text_supports(monkeypatch):
    """The library is never asked for more tokens than a text of that many bytes can have."""
    asked = []
    trainer = trainers.BpeTrainer

    def counted(**options):
        asked.append(options["vocab_size"])
        return trainer(**options)

    monkeypatch.setattr(tokenizer.trainers, "BpeTrainer", counted)
    with pytest.raises(ValueError, match="supports only 293 tokens"):
        train_tokenizer(LINES, 2**24, sum(map(len, LINES)))
    assert asked == [SMALLEST_VOCAB + sum(map(len, LINES))]


WORDS = {
    "letters": "".join(random.Random(0).choices("abcdefgh", k=1_000_000)),
    "one letter": "a" * 1_000_000,
    "digits": "7" * 1_000_000,
    "signs": "=" * 1_000_000,
    "spaces": "a" + " " * 1_000_000 + "b",
    "characters": "語" * 200_000,
}


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.timeout(60)
def test_a_word_of_a_million_characters(tmp_path, kind):
    """It takes a second or two, not hours; the line is named, and the text stays whole."""
    file = tmp_path / "a.txt"
    lines = [*LINES, "", WORDS[kind], *LINES]
    file.write_text("\n".join(lines), "utf-8")
    file.with_suffix(".dev").write_text("the cat runs", "utf-8")
    corpus = prepare_corpus(str(file), vocab_size=270, cache=tmp_path)
    where = f"a.txt, line {len(LINES) + 2}: one of its words has more than 10,000 characters"
    assert where in corpus.contents
    assert corpus.train_bytes == sum(len(line.encode()) for line in lines)


def test_only_what_is_too_long_is_shortened():
    """A line of many words, or of long runs side by side, is learned from whole."""
    longest = "a" * LONGEST_WORD
    for line in ("word " * 10_000, "a1" * 10_000, "a," * 10_000, f"{longest} {longest}", longest):
        assert shortened(line) is line or shortened(line) == line
    assert shortened(f"x {longest}bc, y") == f"x {longest}, y"
    assert shortened(f"{longest}1{longest}b") == f"{longest}1{longest}"
    assert shortened("é" * LONGEST_WORD + "é!") == "é" * LONGEST_WORD + "!"


def test_ordinary_text_has_the_tokenizer_it_had():
    """The tokenizer of a text without such words is the library's, merge for merge."""
    lines = [*mini_text("dev")][:2000]
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[BOS_TOKEN, PAD_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(lines, trainer)
    found = train_tokenizer(lines, 600, 10**6).backend_tokenizer
    assert json.loads(found.to_str())["model"] == json.loads(library.to_str())["model"]


def test_what_is_written_opens_in_earlier_versions_of_transformers(tmp_path):
    """The class is called as in version 4, which adds no token types; the hash is as before."""
    trained = train_tokenizer(LINES, 260, 10**6)
    trained.save_pretrained(tmp_path / "before")  # as checkpoints were written earlier
    save_tokenizer(load_tokenizer(tmp_path / "before"), tmp_path / "now")
    config = json.loads((tmp_path / "now" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert tokenizer_hash(tmp_path / "now") == tokenizer_hash(tmp_path / "before")
    for name in ("before", "now"):
        opened = AutoTokenizer.from_pretrained(tmp_path / name)
        encoded = opened(LINES[0])
        assert encoded["input_ids"] == trained(LINES[0])["input_ids"]
        assert (opened.bos_token, opened.pad_token) == (BOS_TOKEN, PAD_TOKEN)
    assert set(encoded) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("library", ["tokenizers", "safetensors"])
def test_what_cannot_be_written_is_an_error_of_the_system(tmp_path: Path, library: str) -> None:
    """A full disk, for which a limit of files' sizes stands; the libraries' own errors are bare."""
    save = {
        "tokenizers": lambda: save_tokenizer(train_tokenizer(LINES, 262), tmp_path),
        "safetensors": lambda: save_file({"x": torch.zeros(9999)}, tmp_path / "x.safetensors"),
    }[library]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with (
            pytest.raises(OSError, match=re.escape(str(tmp_path))) as raised,
            writing(tmp_path) if library == "safetensors" else contextlib.nullcontext(),
        ):
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.errno == errno.EFBIG
