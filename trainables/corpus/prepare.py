"""Build a corpus once, find it ever after."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from transformers import PreTrainedTokenizerFast

from analysis.schema.ranges import LARGEST_SEED, LARGEST_VOCAB, check, within
from analysis.schema.typed import typed
from analysis.whole_files import write_text
from trainables.corpus.blocks import TokenFile, token_dtype
from trainables.corpus.contents import contents
from trainables.corpus.long_words import LongWords
from trainables.corpus.sources import SPLITS, TextSource, open_source
from trainables.corpus.tokenizer import (
    BOS_ID,
    document_encoder,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from trainables.digests import MARK, damage, has_digests, write_digests
from trainables.files import (
    NOT_THERE,
    DamagedFileError,
    damaged_name,
    read_json,
    reading,
    remove_partial,
    tell,
    whole_folder,
)
from trainables.kept import kept, put_folder

FORMAT = 1
"""Part of every corpus hash: raise it when the same text would give other files."""

LINES_AT_ONCE = 4096

_META = "corpus.json"
_REMEDY = "name its text with --corpus, from which it is built again, or restore it from a backup"

Say = Callable[[str], None]
"""Tells somebody in a line what is going on."""


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus on disk: a tokenizer and one token file per split.

    `dev_bytes` counts the UTF-8 bytes of the dev documents, each a line without surrounding
    white space or line break. Summed over all dev targets, a loss in nats divided by
    `dev_bytes * ln 2` is bits per byte; predicting where a document ends is part of that loss.
    """

    name: str
    hash: str
    directory: Path
    vocab_size: int = within(1, LARGEST_VOCAB)
    train_tokens: int = within(1, LARGEST_SEED)
    dev_tokens: int = within(1, LARGEST_SEED)
    train_words: int = within(0, LARGEST_SEED)
    dev_words: int = within(0, LARGEST_SEED)
    train_bytes: int = within(1, LARGEST_SEED)
    dev_bytes: int = within(1, LARGEST_SEED)
    contents: str = field(default="", compare=False)
    """What was read of which files, in a few lines; only where it was prepared just now."""

    def __post_init__(self) -> None:
        check(self)

    @staticmethod
    def open(directory: str | Path) -> Corpus:
        """The corpus in `directory`.

        Raises:
            ValueError: there is none, it is of another format, or a file of it is damaged.
        """
        directory = Path(directory)
        meta_file = directory / _META
        if not meta_file.is_file():
            raise ValueError(f"{directory} is not a prepared corpus: it has no corpus.json")
        meta = read_json(meta_file, dict[str, Any], remedy=_REMEDY)
        if meta.pop("format", None) != FORMAT:
            raise ValueError(f"{directory} was built by another version: prepare it again")
        meta.pop(MARK, None)
        try:
            corpus: Corpus = typed({**meta, "directory": directory}, Corpus)
        except ValueError as error:
            raise DamagedFileError(meta_file, str(error), _REMEDY) from error
        return corpus

    def check_files(self) -> None:
        """Check that the tokens are all there, and the tokenizer.

        Raises:
            DamagedFileError: a file is not as it was built.
            OSError: a file cannot be read now, which is no damage.
        """
        if has_digests(self.directory, marked=_META):  # else of an earlier version
            problem = damage(self.directory, holds=_META, may_lack="", marked=_META)
            if problem:
                raise DamagedFileError(self.directory, problem, _REMEDY)
        _ = self.train, self.dev  # each checks its size
        file = self.directory / "tokenizer.json"
        try:
            with reading(file):
                file.read_bytes()  # the library below tells no unreadable file from a damaged one
                size = len(self.tokenizer())
        except Exception as error:  # the tokenizers' library has no kind of its own
            if _is_unreadable(error):
                raise
            raise DamagedFileError(file, str(error).splitlines()[0], _REMEDY) from error
        if size != self.vocab_size:
            problem = f"it has {size} tokens, not {self.vocab_size}"
            raise DamagedFileError(file, problem, _REMEDY)

    @property
    def train(self) -> TokenFile:
        """The tokens to train on."""
        return self._token_file("train", self.train_tokens)

    @property
    def dev(self) -> TokenFile:
        """The tokens to validate on."""
        return self._token_file("dev", self.dev_tokens)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer, read from the corpus's folder."""
        return load_tokenizer(self.directory)

    def _token_file(self, split: str, num_tokens: int) -> TokenFile:
        dtype = token_dtype(self.vocab_size).name
        return TokenFile(self.directory / f"{split}.bin", split, num_tokens, dtype)


def prepare_corpus(
    source: str,
    *,
    vocab_size: int,
    cache: str | Path,
    seed: int = 0,
    progress: Say | None = None,
) -> Corpus:
    """The corpus that `source` names (see `open_source`), from `cache` or built into it.

    Any number of processes may ask at once, and any may be killed: one builds under a lock, in
    a temporary folder that gets its final name only when complete. `seed` matters to the
    built-in corpus `mini` only. `progress` is called with a line of text at every stage.

    Raises ValueError if the source is unknown, unreadable or empty, or its text supports fewer
    than `vocab_size` tokens.
    """
    report = progress or (lambda line: None)
    text = open_source(source, seed)
    report(f"reading {text.name}")
    found = read_through(text)
    digest = corpus_hash(found.text_hash, vocab_size)
    cache = Path(cache)
    directory = cache / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', text.name)}-{digest[:16]}"
    bring_corpus(directory)
    corpus, problem = _open_whole(directory, digest)
    if corpus is None:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{directory}.lock"):
            corpus, problem = _open_whole(directory, digest)  # another process was faster
            if corpus is None:
                aside = damaged_name(directory) if problem else None
                if aside is not None:
                    tell(f"{problem}: it is built again, and its folder is kept as {aside.name}")
                _build(text, found, digest, vocab_size, directory, aside, report)
                corpus = Corpus.open(directory)
    put_folder(directory, marker=_META)
    return dataclasses.replace(corpus, contents=found.contents)


def bring_corpus(directory: Path) -> None:
    """Bring a corpus from the bucket that it is kept in, if it is, once for each machine.

    Raises:
        OSError: the bucket does not answer.
    """
    if (of_bucket := kept(directory, marker=_META)) is not None:
        of_bucket.bring_once()


def _open_whole(directory: Path, digest: str) -> tuple[Corpus | None, str]:
    """The corpus in a folder if it is there and whole, else None and what is wrong with it.

    Raises:
        OSError: it is there and cannot be read now.
    """
    if not directory.exists():
        return None, ""
    try:
        corpus = Corpus.open(directory)
        corpus.check_files()
    except ValueError as error:
        return None, str(error).partition(": ")[0]
    is_right = corpus.hash == digest
    return (corpus, "") if is_right else (None, f"{directory} holds another corpus")


def _is_unreadable(error: Exception) -> bool:
    """Whether an error is of the system, and tells nothing of what is in a file."""
    of_system = isinstance(error, OSError) and error.errno is not None
    return of_system and not isinstance(error, NOT_THERE)


def corpus_hash(text_hash: str, vocab_size: int) -> str:
    """Hash of the documents of both splits, the tokenizer settings and the file format."""
    settings = {"format": FORMAT, "text": text_hash, "vocab_size": vocab_size}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class CorpusSummary:
    """Hash, size and table of a corpus's text, from one pass over it.

    Attributes:
        text_hash: SHA-256 of the documents; the same for a file, its copy, and a dataset of its
            lines.
        train_bytes: UTF-8 bytes of the training documents.
        contents: a table of the files; "" if there are none.
    """

    text_hash: str
    train_bytes: int
    contents: str


def read_through(text: TextSource) -> CorpusSummary:
    """Read all documents once."""
    digest = hashlib.sha256()
    words: dict[Path, int] = {}
    split_words = dict.fromkeys(SPLITS, 0)
    split_bytes = dict.fromkeys(SPLITS, 0)
    long_words = LongWords()
    for split in SPLITS:
        digest.update(f"<{split}>\n".encode())
        for part in text.parts[split]:
            for chunk in _chunks(part.lines()):
                encoded = ("\n".join(chunk) + "\n").encode()
                digest.update(encoded)
                count = sum(len(line.split()) for line in chunk)
                split_bytes[split] += len(encoded) - len(chunk)
                split_words[split] += count
                if part.file is not None:
                    words[part.file] = words.get(part.file, 0) + count
                    long_words.look(part.file, chunk)
    table = ""
    if text.folder is not None:
        warnings = long_words.warnings(text.folder)
        table = contents(text.folder, words, split_words["dev"], text.left_out, warnings)
    return CorpusSummary(digest.hexdigest(), split_bytes["train"], table)


def _build(
    text: TextSource,
    found: CorpusSummary,
    digest: str,
    vocab_size: int,
    directory: Path,
    aside: Path | None,
    report: Say,
) -> None:
    # We hold the lock of this corpus, so whatever is half built belongs to a dead process.
    remove_partial(directory.parent, directory.name)
    with whole_folder(directory, aside=aside) as partial:
        report(f"training a tokenizer of {vocab_size:,} tokens")
        tokenizer = train_tokenizer(text.train(), vocab_size, found.train_bytes)
        save_tokenizer(tokenizer, partial)
        meta: dict[str, Any] = {"format": FORMAT, "name": text.name, "hash": digest}
        meta["vocab_size"] = vocab_size
        for split, lines in (("train", text.train()), ("dev", text.dev())):
            report(f"tokenizing the {split} text")
            counts = _write_tokens(lines, tokenizer, partial / f"{split}.bin")
            meta |= {f"{split}_{unit}": count for unit, count in counts.items()}
        write_text(partial / _META, json.dumps(meta, indent=2) + "\n")
        write_digests(partial, marked=_META)


def _write_tokens(
    lines: Iterable[str], tokenizer: PreTrainedTokenizerFast, path: Path
) -> dict[str, int]:
    """Write the token stream of `lines`; count its tokens, and the words and bytes of text."""
    encoder = document_encoder(tokenizer)
    dtype = token_dtype(len(tokenizer))
    counts = {"tokens": 0, "words": 0, "bytes": 0}
    with path.open("wb") as file:
        for chunk in _chunks(lines):
            ids: list[int] = []
            for encoding in encoder.encode_batch_fast(chunk, add_special_tokens=False):
                ids.append(BOS_ID)
                ids.extend(encoding.ids)
            np.array(ids, dtype=dtype).tofile(file)
            counts["tokens"] += len(ids)
            counts["words"] += sum(len(line.split()) for line in chunk)
            counts["bytes"] += sum(len(line.encode()) for line in chunk)
    return counts


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(lines)
    while chunk := list(itertools.islice(iterator, LINES_AT_ONCE)):
        yield chunk
