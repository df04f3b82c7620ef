"""Kinds of files: each gives the same documents as the plain text of it, or says why not."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from trainables.corpus.file_names import FileName
from trainables.corpus.prepare import read_through
from trainables.corpus.readers import read_lines
from trainables.corpus.sources import open_source

LINES = [f"Zeile {number} über “{number * 7}”  mit Leerzeichen" for number in range(500)]
TEXT = "\n".join(LINES) + "\n"


def zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


def rows(texts: list[str | None]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()


def as_parquet(file: Path, **columns: list[object]) -> Path:
    parquet.write_table(pyarrow.table(columns), file, row_group_size=64)
    return file


def content_hash(file: Path) -> str:
    return read_through(open_source(str(file))).text_hash


@pytest.fixture
def plain_hash(tmp_path: Path) -> str:
    file = tmp_path / "plain" / "a.txt"
    file.parent.mkdir()
    file.write_text(TEXT, "utf-8")
    return content_hash(file)


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("capitals", [False, True])
def test_packed_text_is_its_text(
    tmp_path: Path, plain_hash: str, packing: str, capitals: bool
) -> None:
    """A packed copy has the documents, split and hash of the file that was packed, even where it
    was packed in two pieces."""
    name = f"b.txt.{packing}"
    file = tmp_path / (name.upper() if capitals else name)
    pack, data = PACKERS[packing], TEXT.encode()
    file.write_bytes(pack(data[:5000]) + pack(data[5000:]))
    assert content_hash(file) == plain_hash


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.JSON", "rows.ndjson", "rows.jsonl.gz"])
def test_json_lines(tmp_path: Path, plain_hash: str, name: str) -> None:
    """Rows with a field `text` are their texts, a line a document; null, blank lines and a byte
    order mark are nothing."""
    texts = [None, "\n".join(LINES[:3]), *LINES[3:400], "\n".join(LINES[400:])]
    data = b"\xef\xbb\xbf" + rows(texts).replace(b"\n", b"\r\n\n", 1)
    file = tmp_path / name
    file.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert content_hash(file) == plain_hash


def test_parquet(tmp_path: Path, plain_hash: str) -> None:
    """A column `text` of Parquet is its texts, beside other columns."""
    texts: list[object] = [None, *LINES[:-2], "\n".join(LINES[-2:])]
    file = as_parquet(tmp_path / "a.parquet", id=list(range(len(texts))), text=texts)
    assert content_hash(file) == plain_hash


def test_rows_are_streamed(tmp_path: Path) -> None:
    """The first document of a file is there before its damaged end is reached."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(rows([*LINES]) + b"{")
    lines = read_lines(file)
    assert next(lines) == LINES[0]
    with pytest.raises(ValueError, match=r"a\.jsonl, row 501, is no JSON"):
        list(lines)


NOT_TEXT = {
    "a.pdf": (b"%PDF-1.7 x", "pages, not text"),
    "a.PDF": (b"%PDF-1.7 x", "pages, not text"),
    "a.docx": (b"PK\x03\x04", "a document"),
    "a.html": (b"<p>Hello</p>", "markup"),
    "a.csv": (b"id,text\n1,Hello\n", "a table"),
    "a.csv.gz": (gzip.compress(b"id,text\n"), "a table"),
    "a.tar.gz": (gzip.compress(b"x"), "an archive"),
    "a.zip": (b"PK\x03\x04", "an archive"),
    "a.png": (b"\x89PNG", "an image"),
    "pdf.txt": (b"%PDF-1.7 x", "a PDF, whatever its name"),
    "zip.train": (b"PK\x03\x04", "a zip archive, whatever its name"),
    "packed.txt": (gzip.compress(b"Hello\n"), r"packed by gzip: name it \.gz"),
    "nul.txt": (b"Hello\n\0\0\0\n", "NUL bytes"),
    "nul.txt.gz": (gzip.compress(b"Hello\0"), "NUL bytes"),
    "rows.txt": (b'{"text": "a"}\n', r"JSON, whatever its name: name it \.jsonl"),
    "rows.gz": (gzip.compress(b'\xef\xbb\xbf\n{"id": 1,\n'), "JSON, whatever its name"),
    "array": (b'[ {"text": "' + b"a" * 100_000, "JSON, whatever its name"),
    "talk.train": (b"@UTF8\r\n*CHI:\tyes .\n", "a CHAT transcript, whatever its name"),
    "page.md": (b"<!DOCTYPE html><p>Hello</p>", "markup, whatever its name"),
    "a.txt.lz4": (b"Hello", "packed: unpack it"),
    "pairs.jsonl": (
        b'{"sentence_good": "a", "sentence_bad": "b"}\n',
        "only sentence_good, sentence_b",
    ),
    "numbers.jsonl": (b"1\n2\n", "rows without a field text"),
    "array.json": (b'[\n{"text": "a"}\n]\n', "not JSON lines"),
    "deep.json": (b"[" * 100_000, "not JSON lines"),
    "headers.cha": (b"@UTF8\n@Begin\n%mor:\tn|cat\n@End\n", "no text"),
}


@pytest.mark.parametrize("name", NOT_TEXT)
def test_no_text(tmp_path: Path, name: str) -> None:
    """What is known to be no text is refused by name, and left out of a folder with the reason."""
    data, reason = NOT_TEXT[name]
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}.*{reason}"):
        open_source(str(file))
    (tmp_path / "good.txt").write_text(TEXT * 20, "utf-8")
    source = open_source(str(tmp_path))
    assert [each.file.name for each in source.left_out] == [name]
    assert next(source.train()) == LINES[0]


@pytest.mark.parametrize("line", ["{braces} and", "[1] Hello", '{"quoted"} she', "@home we", "<s>"])
def test_text_that_looks_like_something_else(tmp_path: Path, line: str) -> None:
    """What begins with a sign of JSON, CHAT or markup, and goes on as text, is text."""
    (tmp_path / "a.txt").write_text(f"{line}\n" + TEXT, "utf-8")
    assert next(open_source(str(tmp_path)).train()) == line


def test_other_columns(tmp_path: Path) -> None:
    """Parquet without a column `text` names those that it has; a column of numbers is refused."""
    file = as_parquet(tmp_path / "a.parquet", sentence=["a"], label=[1])
    with pytest.raises(ValueError, match=r"without a column text, only sentence, label"):
        open_source(str(file))
    with pytest.raises(ValueError, match=r"b\.parquet, row 1, has no text"):
        open_source(str(as_parquet(tmp_path / "b.parquet", text=[1, 2])))


GOOD = rows(["fine"])
DAMAGED = {
    "cut.txt.gz": (gzip.compress(TEXT.encode())[:-900], "cannot be read"),
    "flipped.txt.gz": (gzip.compress(b"a\n" * 9)[:-8] + bytes(8), "cannot be read"),
    "cut.txt.zst": (zstd(TEXT.encode())[:-9], "cannot be read"),
    "no.txt.zst": (b"Hello", "cannot be read"),
    "no.txt.xz": (b"Hello", "cannot be read"),
    "no.parquet": (b"Hello", "no Parquet, or damaged"),
    "half.jsonl": (GOOD + b'{"text": "a\\ud83d b"}\n', "row 2, holds half of a surrogate pair"),
    "other.jsonl": (GOOD + b'\n{"txt": "a"}\n', "row 3, has no field text"),
    "number.jsonl": (GOOD + b'{"text": 5}\n', "row 2, has no field text that is a text"),
    "list.jsonl": (GOOD + b"[]\n", "row 2, has no field text"),
    "latin.jsonl": (GOOD + b'{"text": "\xe9"}\n', "not UTF-8: byte 0xe9 in line 2"),
    "latin.cha": (b"*CHI:\tyes .\n*CHI:\t\xe9t\xe9 .\n", "not UTF-8: byte 0xe9 in line 2"),
    "utf16.txt": ("Hello\nyou".encode("utf-16"), "not UTF-8: byte 0xff at offset 0"),
    "tail.txt": (TEXT.encode() * 4 + bytes(5) + TEXT.encode(), "NUL byte at offset .*line 2001"),
    "tail.txt.gz": (gzip.compress(TEXT.encode() * 4 + b"\xff"), "byte 0xff at offset .*line 2001"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged(tmp_path: Path, name: str) -> None:
    """Text that is damaged is never read in part: the error names the file and the place."""
    (tmp_path / name).write_bytes(DAMAGED[name][0])
    with pytest.raises(ValueError, match=rf"{name}.*{DAMAGED[name][1]}") as error:
        read_through(open_source(str(tmp_path / name)))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["corpus", "book.log", "poem.tex", "a.dev", "notes.md", "a.TXT"])
def test_a_named_file_is_taken_at_its_word(tmp_path: Path, plain_hash: str, name: str) -> None:
    """A file that a person names, and that holds text, is read whatever its suffix."""
    (tmp_path / name).write_text(TEXT, "utf-8")
    assert content_hash(tmp_path / name) == plain_hash


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.train", ("a", "text", "train", "")),
        ("a.train.txt", ("a", "text", "train", "")),
        ("a.b.TXT.GZ", ("a.b", "text", None, ".gz")),
        ("a.dev.txt", ("a", "text", "dev", "")),
        ("a.DEV.jsonl.zst", ("a", "json", "dev", ".zst")),
        ("a.test", ("a", "text", "test", "")),
        ("train-00000-of-00002.parquet", ("train-00000-of-00002", "parquet", "train", "")),
        ("validation.jsonl", ("validation", "json", "dev", "")),
        ("training.jsonl", ("training", "json", None, "")),
        ("dev.txt", ("dev", "text", None, "")),
        ("wiki.gz", ("wiki", "text", None, ".gz")),
        ("wiki", ("wiki", None, None, "")),
        ("a.xyz", ("a.xyz", None, None, "")),
        ("a.parquet.gz", ("a", None, None, ".gz")),
    ],
)
def test_names(name: str, expected: tuple[str, str | None, str | None, str]) -> None:
    """Stem, format, split and packing of a name."""
    found = FileName.of(name)
    assert (found.stem, found.format, found.role, found.packing) == expected
