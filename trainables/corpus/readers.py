"""Files of text: whether a file is one, and the lines that it holds."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import re
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from trainables.corpus.chat import utterances
from trainables.corpus.file_names import FileName, Format

_FIRST_BYTES = {
    b"%PDF": "a PDF, whatever its name: convert it to .txt",
    b"PK\x03\x04": "a zip archive, whatever its name: unpack it",
    b"{\\rtf": "rich text, whatever its name: save it as .txt",
    b"\x1f\x8b": "packed by gzip: name it .gz",
    b"\x28\xb5\x2f\xfd": "packed by zstd: name it .zst",
    b"BZh": "packed by bzip2: name it .bz2",
    b"\xfd7zXZ": "packed by xz: name it .xz",
    b"PAR1": "Parquet: name it .parquet",
}
_FIRST_LINES = {
    rb'\[?\s*\{\s*"[^"\n]*"\s*:': "JSON, whatever its name: name it .jsonl",
    rb"@(UTF8|Begin)\b": "a CHAT transcript, whatever its name: name it .cha",
    rb"(?i)<(!doctype|html|\?xml)\b": "markup, whatever its name: extract its text to .txt",
}
"""By pattern of how a file that is called text begins, what it is instead."""
_SNIFFED = 65536

NO_TEXT = "no text in it"
"""What `problem` says of a file without a word."""


def problem(file: Path) -> str:
    """Reason why a file is no text that is read here, in a few words; "" if it is one.

    Raises:
        ValueError: it is text, but damaged or not UTF-8.
    """
    name = FileName.of(file.name)
    if name.no_text:
        return name.no_text
    with _reading(file), _unpacked(file) as stream:
        head = stream.read(_SNIFFED)
    if name.format != "parquet" and (found := _found_instead(head, _format(file) == "text")):
        return found
    try:
        return "" if next(read_lines(file), None) is not None else NO_TEXT
    except _OtherRowsError as error:
        return str(error)


def _found_instead(head: bytes, is_plain: bool) -> str:
    """What a file called text, plain or in rows, is by its first bytes instead; "" if nothing."""
    for begin, what in _FIRST_BYTES.items():
        if head.startswith(begin):
            return what
    utf16 = head.startswith((b"\xff\xfe", b"\xfe\xff"))  # not binary: it is said how to read it
    if b"\0" in head and not utf16:
        return "binary data: it holds NUL bytes"
    first_words = head.removeprefix(b"\xef\xbb\xbf").lstrip() if is_plain else b""
    for pattern, what in _FIRST_LINES.items():
        if re.match(pattern, first_words):
            return what
    return ""


class _OtherRowsError(ValueError):
    """A file of rows whose first one shows that they are not texts."""


def read_lines(file: Path, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """The non-blank, stripped lines of a file's text that begin in bytes [start, stop) of it.

    Bytes are those of the unpacked file, of rows (JSON, Parquet) and utterances (CHAT) those of
    their texts as lines.

    Raises:
        ValueError: with file and line, and for plain text the byte's offset, at the first thing
            that is not UTF-8 or no text.
    """
    if _format(file) == "text":
        yield from _plain_lines(file, start, stop)
        return
    offset = 0
    for _, size, line in _row_lines(file):
        if stop is not None and offset >= stop:
            return
        if offset >= start and (stripped := line.strip()):
            yield stripped
        offset += size


def line_boundary(file: Path, share: float) -> int:
    """The byte offset of the first line that begins at or after `share` of a file's text."""
    if _format(file) == "text":
        with _reading(file):
            target = int(_text_size(file) * share)
            with _unpacked(file, skip := max(target - 1, 0)) as stream:
                return skip + len(stream.readline())
    sizes = array("q", (size for _, size, _ in _row_lines(file)))
    target, offset = int(sum(sizes) * share), 0
    for size in sizes:
        if offset >= target:
            break
        offset += size
    return offset


def line_number(file: Path, wanted: str) -> int:
    """The number, from 1, of the first line or row that is read as `wanted`; 0 if there is none."""
    if _format(file) == "text":
        with _reading(file), _unpacked(file) as stream:
            for number, raw in enumerate(stream, 1):
                if _stripped(raw.decode("utf-8", "replace")) == wanted:
                    return number
        return 0
    return next((row for row, _, line in _row_lines(file) if line.strip() == wanted), 0)


def _plain_lines(file: Path, start: int, stop: int | None) -> Iterator[str]:
    with _reading(file), _unpacked(file, start) as stream:
        offset = start
        for raw in stream:
            if stop is not None and offset >= stop:
                return
            if b"\0" in raw and not raw.startswith((b"\xff", b"\xfe")):
                position = offset + raw.index(b"\0")
                raise ValueError(
                    f"{file} holds a NUL byte at offset {position} (line "
                    f"{_line_at(file, position)}), which text does not: it is binary, or damaged"
                )
            try:
                line = _stripped(raw.decode("utf-8"))
            except UnicodeDecodeError as error:
                position = offset + error.start
                raise ValueError(
                    f"{file} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {position} "
                    f"(line {_line_at(file, position)}); convert the file to UTF-8"
                ) from error
            offset += len(raw)
            if line:
                yield line


def _stripped(line: str) -> str:
    return line.removeprefix("\ufeff").strip()


def _line_at(file: Path, offset: int) -> int:
    with _unpacked(file) as stream:
        return 1 + stream.read(offset).count(b"\n")


def _format(file: Path) -> Format:
    return FileName.of(file.name).format or "text"  # a file that was named is taken at its word


def _row_lines(file: Path) -> Iterator[tuple[int, int, str]]:
    """The row's number, the size in bytes with a line break, and the text of each line in rows."""
    for number, text in _rows(file):
        for line in text.split("\n"):
            try:
                size = len(line.encode()) + 1
            except UnicodeEncodeError as error:
                raise _bad_row(file, number, "holds half of a surrogate pair") from error
            yield number, size, line


def _rows(file: Path) -> Iterator[tuple[int, str]]:
    """The number, from 1, and the text of each row of a file that is not plain text."""
    readers = {"json": _json_rows, "parquet": _parquet_rows, "chat": _chat_rows}
    with _reading(file):
        yield from readers[_format(file)](file)


def _json_rows(file: Path) -> Iterator[tuple[int, str]]:
    first = True
    for number, line in _decoded(file):
        if not (line := line.strip()):
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if first:
                raise _OtherRowsError(
                    "not JSON lines: one object with a field text a line"
                ) from error
            raise _bad_row(file, number, f"is no JSON ({error})") from error
        if first and not (isinstance(row, dict) and "text" in row):
            raise _OtherRowsError(_no_field("field", row))
        text = row.get("text", 0) if isinstance(row, dict) else 0
        if text is not None:  # null: a row without a text
            if not isinstance(text, str):
                raise _bad_row(file, number, "has no field text that is a text")
            yield number, text
        first = False


def _parquet_rows(file: Path) -> Iterator[tuple[int, str]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(file) as table:
            if "text" not in table.schema_arrow.names:
                raise _OtherRowsError(_no_field("column", dict.fromkeys(table.schema_arrow.names)))
            for batch in table.iter_batches(batch_size=1024, columns=["text"]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    if isinstance(text, str):
                        yield number, text
                    elif text is not None:
                        raise _bad_row(file, number, "has no text in its column text")
    except ArrowException as error:
        raise ValueError(f"{file} is no Parquet, or damaged ({error}): get it again") from error


def _no_field(what: str, row: object) -> str:
    names = ", ".join(list(row)[:4]) if isinstance(row, dict) else ""
    return f"rows without a {what} text" + (f", only {names}" if names else "")


def _chat_rows(file: Path) -> Iterator[tuple[int, str]]:
    return utterances(line for _, line in _decoded(file))


def _decoded(file: Path) -> Iterator[tuple[int, str]]:
    with _unpacked(file) as stream:
        for number, raw in enumerate(stream, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file} is not UTF-8: byte 0x{raw[error.start]:02x} in line {number}; "
                    "convert the file to UTF-8"
                ) from error
            yield number, line.removeprefix("\ufeff") if number == 1 else line


def _bad_row(file: Path, number: int, what: str) -> ValueError:
    return ValueError(f"{file}, row {number}, {what}: mend it or remove it")


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Names a file that cannot be opened or unpacked."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{file} cannot be read ({reason}): mend it, or get it again") from error


def _text_size(file: Path) -> int:
    """The bytes of a file of plain text, unpacked."""
    if not FileName.of(file.name).packing:
        return file.stat().st_size
    with _unpacked(file) as stream:
        return sum(map(len, _pieces(stream)))


def _unpacked(file: Path, skip: int = 0) -> BinaryIO:
    """A file's bytes from the `skip`-th on, without its packing."""
    packing = FileName.of(file.name).packing
    stream = _OPENERS[packing](file)
    if not packing:
        stream.seek(skip)
    else:
        for _ in _pieces(stream, skip):
            pass
    return cast(BinaryIO, stream)


def _pieces(stream: Any, size: int = sys.maxsize) -> Iterator[bytes]:
    """The next `size` bytes of a stream."""
    while size > 0 and (piece := stream.read(min(size, 1 << 20))):
        size -= len(piece)
        yield piece


def _open_zstd(file: Path) -> io.BufferedReader:
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(file)), "zstd"))


_OPENERS: dict[str, Callable[[Path], Any]] = {
    "": lambda file: file.open("rb"),
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}
