"""Building a corpus, finding it again, and surviving neighbours and kills."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.earlier_version import forget_digests
from trainables.corpus import BOS_TOKEN, PAD_TOKEN, Blocks, Corpus, prepare, prepare_corpus
from trainables.corpus.builtin.paragraphs import mini_text
from trainables.corpus.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
TRAIN = [f"The {noun} saw {count} birds ü." for noun in ("cat", "dog") for count in range(100)]
DEV = ["A cat naps.", "Two dogs bark  — at “birds”."]


@pytest.fixture
def source(tmp_path: Path) -> str:
    folder = tmp_path / "pets"
    folder.mkdir()
    (folder / "a.train").write_text("\n".join(TRAIN) + "\n\n \n", "utf-8")
    (folder / "a.dev").write_text("\n" + "\n".join(DEV), "utf-8")
    return str(folder)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def build_script(source: str, cache: Path, before: str = "") -> list[str]:
    code = f"{before}\nfrom trainables.corpus import prepare_corpus\n"
    code += f"print(prepare_corpus({source!r}, vocab_size=300, cache={str(cache)!r}).directory)"
    return [sys.executable, "-c", code]


def test_token_stream(source: str, tmp_path: Path) -> None:
    """The file is <|endoftext|> and the tokens of each non-blank line, for both splits."""
    corpus = prepare_corpus(source, vocab_size=300, cache=tmp_path / "cache")
    tokenizer = corpus.tokenizer()
    for token_file, lines in ((corpus.train, TRAIN), (corpus.dev, DEV)):
        expected = []
        for line in lines:
            expected += [tokenizer.bos_token_id, *tokenizer(line)["input_ids"]]
        assert token_file.tokens.tolist() == expected
        assert token_file.tokens.dtype == np.uint16


def test_counts(source: str, tmp_path: Path) -> None:
    """Tokens, words and UTF-8 bytes count what the token files hold."""
    corpus = prepare_corpus(source, vocab_size=300, cache=tmp_path / "cache")
    assert corpus.name == "pets"
    assert corpus.vocab_size == len(corpus.tokenizer()) == 300
    assert (corpus.train_tokens, corpus.dev_tokens) == (len(corpus.train), len(corpus.dev))
    assert corpus.train_words == sum(len(line.split()) for line in TRAIN)
    assert corpus.dev_bytes == sum(len(line.encode()) for line in DEV)
    assert Corpus.open(corpus.directory) == corpus


def test_tokenizer_round_trip(source: str, tmp_path: Path) -> None:
    """Any text comes back from its tokens, after the leading space that every word has; the
    saved folder opens with AutoTokenizer."""
    corpus = prepare_corpus(source, vocab_size=300, cache=tmp_path / "cache")
    tokenizer = AutoTokenizer.from_pretrained(corpus.directory)
    for text in (*TRAIN[:5], *DEV, "naïve 猫 \t tab", "don't  stop ."):
        ids = tokenizer(text)["input_ids"]
        assert ids == corpus.tokenizer()(text)["input_ids"]
        assert tokenizer.decode(ids) == " " + text
    assert tokenizer.bos_token == tokenizer.eos_token == BOS_TOKEN
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (PAD_TOKEN, 1)
    assert tokenizer("cat")["input_ids"] == tokenizer(" cat")["input_ids"]


def test_special_tokens_in_the_text_are_text(tmp_path: Path) -> None:
    """A document that spells out <|endoftext|> does not end there."""
    file = tmp_path / "a.txt"
    file.write_text("\n".join(f"{line} <|endoftext|> end" for line in TRAIN), "utf-8")
    corpus = prepare_corpus(str(file), vocab_size=300, cache=tmp_path / "cache")
    for token_file in (corpus.train, corpus.dev):
        text = str(corpus.tokenizer().decode(token_file.tokens.tolist()))
        documents = text.count(" end")
        assert documents == text.count(" saw ")
        starts = (token_file.tokens == corpus.tokenizer().bos_token_id).sum()
        assert starts == text.count(" saw ")


def test_second_call_only_reads(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus in the cache is found by its text: no tokenizer runs, whatever the path."""
    first = prepare_corpus(source, vocab_size=300, cache=tmp_path / "cache")

    def fail(*_: object) -> None:
        raise AssertionError("tokenized again")

    monkeypatch.setattr(prepare, "train_tokenizer", fail)
    monkeypatch.setattr(prepare, "_write_tokens", fail)
    assert prepare_corpus(source, vocab_size=300, cache=tmp_path / "cache") == first


@pytest.mark.parametrize("change", ["train", "dev", "vocab_size"])
def test_any_change_is_another_corpus(source: str, tmp_path: Path, change: str) -> None:
    """Another line in either split, or another vocabulary, has another hash and folder."""
    first = prepare_corpus(source, vocab_size=300, cache=tmp_path / "cache")
    if change != "vocab_size":
        with Path(source, f"a.{change}").open("a", encoding="utf-8") as file:
            file.write("\nOne more cat.")
    size = 299 if change == "vocab_size" else 300
    second = prepare_corpus(source, vocab_size=size, cache=tmp_path / "cache")
    assert second.hash != first.hash
    assert second.directory != first.directory


def test_two_builds_give_identical_files(source: str, tmp_path: Path) -> None:
    """Tokenizer training and tokenization are deterministic, byte for byte."""
    first = prepare_corpus(source, vocab_size=300, cache=tmp_path / "one")
    second = prepare_corpus(source, vocab_size=300, cache=tmp_path / "two")
    assert files(first.directory) == files(second.directory)


def test_tokenizer_of_the_built_in_corpus_is_deterministic() -> None:
    """Many merges tie on real amounts of text, and still fall the same way twice."""
    lines = list(mini_text("dev"))
    first, second = (train_tokenizer(lines, 1000).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


def test_two_processes_at_once(source: str, tmp_path: Path) -> None:
    """Two processes that ask for the same corpus both get it, complete and built once."""
    command = build_script(source, tmp_path / "cache")
    runs = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    found = {run.communicate(timeout=120)[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(found) == 1
    corpus = Corpus.open(found.pop())
    assert [path for path in corpus.directory.parent.iterdir() if path.is_dir()] == [
        corpus.directory
    ]
    clean = prepare_corpus(source, vocab_size=300, cache=tmp_path / "clean")
    assert files(corpus.directory) == files(clean.directory)


def test_killed_builder_leaves_nothing_in_the_way(source: str, tmp_path: Path) -> None:
    """A builder killed with the tokenizer written and the token files not is made good by the
    next one, which removes what the dead one left."""
    cache = tmp_path / "cache"
    kill_self = (
        "import os, signal\nfrom trainables.corpus import prepare\n"
        "prepare._write_tokens = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = build_script(source, cache, kill_self)
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    leftovers = [path for path in cache.iterdir() if path.is_dir()]
    assert len(leftovers) == 1
    assert leftovers[0].name.startswith(".partial-pets-")
    assert os.listdir(leftovers[0])
    corpus = prepare_corpus(source, vocab_size=300, cache=cache)
    assert [path for path in cache.iterdir() if path.is_dir()] == [corpus.directory]
    assert len(Blocks(corpus.train, 8)) > 0


def test_failed_build_cleans_up(source: str, tmp_path: Path) -> None:
    """A vocabulary beyond the text's is refused with the size that would do, and that size
    does; nothing half built stays behind."""
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"supports only (\d+) tokens") as error:
        prepare_corpus(source, vocab_size=5000, cache=cache)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    largest = int(str(error.value).split("supports only ")[1].split()[0])
    assert prepare_corpus(source, vocab_size=largest, cache=cache).vocab_size == largest


def test_vocabulary_below_the_bytes(source: str, tmp_path: Path) -> None:
    """A byte-level vocabulary cannot be smaller than the bytes and the special tokens."""
    with pytest.raises(ValueError, match="vocab_size is 257.*at least 258"):
        prepare_corpus(source, vocab_size=257, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["corpus.json", "train.bin", "tokenizer.json"])
def test_a_damaged_corpus_keeps_its_name_until_it_is_built_again(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Another command's trials read it; its files are kept."""
    cache = tmp_path / "cache"
    corpus = prepare_corpus(source, vocab_size=300, cache=cache)
    whole = files(corpus.directory)
    (corpus.directory / name).write_bytes(b"")
    damaged = files(corpus.directory)
    original, seen = prepare.train_tokenizer, []

    def looking(*args: Any) -> Any:
        seen.append(files(corpus.directory))
        return original(*args)

    monkeypatch.setattr(prepare, "train_tokenizer", looking)
    assert prepare_corpus(source, vocab_size=300, cache=cache) == corpus
    assert seen == [damaged]
    assert files(corpus.directory) == whole
    (aside,) = cache.glob("damaged-*")
    assert files(aside) == damaged


@pytest.mark.parametrize("name", ["corpus.json", "train.bin", "tokenizer.json"])
@pytest.mark.parametrize("error", [errno.EMFILE, errno.ESTALE, errno.EACCES, None])
def test_a_corpus_that_cannot_be_read_now_is_not_damaged(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: int | None
) -> None:
    """It is not built again: the error names the file."""
    cache = tmp_path / "cache"
    corpus = prepare_corpus(source, vocab_size=300, cache=cache)
    original = Path.open

    def refuse(self: Path, *args: Any, **options: Any) -> IO[Any]:
        if self.name == name:
            raise MemoryError if error is None else OSError(error, os.strerror(error))
        return original(self, *args, **options)

    for digests in (True, False):  # those of an earlier version have none
        if not digests:
            forget_digests(corpus.directory)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)
            if digests or name != "train.bin":  # of which the size is looked at
                with pytest.raises(OSError, match=re.escape(str(corpus.directory / name))):
                    prepare_corpus(source, vocab_size=300, cache=cache)
        assert prepare_corpus(source, vocab_size=300, cache=cache) == corpus
    assert not list(cache.glob("damaged-*"))


def test_a_corpus_that_lost_its_digests_is_built_again(source: str, tmp_path: Path) -> None:
    """A flipped bit of the tokens would not be noticed in it."""
    corpus = prepare_corpus(source, vocab_size=300, cache=tmp_path)
    tokens = (corpus.directory / "train.bin").read_bytes()
    (corpus.directory / "train.bin").write_bytes(bytes([tokens[0] ^ 1]) + tokens[1:])
    (corpus.directory / "digests.json").unlink()
    assert prepare_corpus(source, vocab_size=300, cache=tmp_path) == corpus
    assert (corpus.directory / "train.bin").read_bytes() == tokens
    assert len(list(tmp_path.glob("damaged-*"))) == 1


@pytest.mark.parametrize("damage", [{"dev_bytes": 0}, {"train_tokens": -1}, {"dev_words": 10**99}])
def test_a_corpus_of_wrong_figures_is_built_again(
    source: str, tmp_path: Path, damage: dict[str, int]
) -> None:
    """Of an earlier version, too, which has no digests: bits are divided by its bytes."""
    corpus = prepare_corpus(source, vocab_size=300, cache=tmp_path)
    forget_digests(corpus.directory)
    file = corpus.directory / "corpus.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    with pytest.raises(ValueError, match=rf"corpus\.json is damaged \({min(damage)} .*\): "):
        Corpus.open(corpus.directory)
    assert prepare_corpus(source, vocab_size=300, cache=tmp_path) == corpus
    assert len(list(tmp_path.glob("damaged-*"))) == 1


def test_progress(source: str, tmp_path: Path) -> None:
    """The caller hears of every stage of a build, and only of the reading after it."""
    lines: list[str] = []
    for _ in range(2):
        prepare_corpus(source, vocab_size=300, cache=tmp_path / "cache", progress=lines.append)
    assert lines == [
        "reading pets",
        "training a tokenizer of 300 tokens",
        "tokenizing the train text",
        "tokenizing the dev text",
        "reading pets",
    ]


def test_open_refuses_other_folders(tmp_path: Path) -> None:
    """A folder without metadata, or of another format, is not taken for a corpus."""
    with pytest.raises(ValueError, match=r"no corpus\.json"):
        Corpus.open(tmp_path)
    (tmp_path / "corpus.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="another version"):
        Corpus.open(tmp_path)


def test_built_in_corpus(mini_corpora: Path) -> None:
    """`mini` needs no file and no network, and each seed is a corpus of its own."""
    corpus = prepare_corpus("mini", vocab_size=2048, cache=mini_corpora)
    assert corpus.train_words > 400_000
    assert corpus.dev_words > 20_000
    assert corpus.train_tokens < 1.4 * corpus.train_words
    texts = [prepare.read_through(prepare.open_source("mini", seed)).text_hash for seed in (0, 1)]
    assert prepare.corpus_hash(texts[0], 2048) == corpus.hash
    assert prepare.corpus_hash(texts[1], 2048) != corpus.hash
