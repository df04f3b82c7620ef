"""Files of text: whether a file is one, and the lines that it holds."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.corpus.chat import utterances
from trainables.corpus.file_names import FileName, Format
from trainables.corpus.markup import Finding, found_in_bytes, found_in_lines
from trainables.corpus.packing import reading, skip_ahead, unpacked, unpacked_size

_SNIFFED = 65536
"""Bytes at the beginning of a file that are looked through for what no text holds."""
_PIECE = 16384
"""Bytes in each of four places of a file of plain text whose lines are looked at."""

NO_TEXT = Finding("no text in it")
"""What `problem` says of a file without a word."""


def problem(file: Path) -> Finding | None:
    """Why a file is no text that is read here; None if it is one.

    Raises:
        ValueError: it is text, but damaged or not UTF-8.
    """
    name = FileName.of(file.name)
    if name.no_text:
        return Finding(name.no_text)
    is_plain = _format(file) == "text"
    with reading(file), unpacked(file) as stream:
        head = stream.read(_SNIFFED)
        others = _pieces_after(file, stream) if is_plain else []
    if name.format != "parquet" and (found := found_in_bytes(head)):
        return found
    if is_plain and (found := found_in_lines(_lines(head[:_PIECE], head), others)):
        return found
    try:
        return None if next(read_lines(file), None) is not None else NO_TEXT
    except _OtherRowsError as error:
        return Finding(str(error))


def _lines(piece: bytes, all_of_it: bytes) -> list[str]:
    """The lines at the beginning of a text, but for one that does not end in the piece."""
    lines = piece.decode("utf-8-sig", "replace").split("\n")
    return lines[:-1] if len(lines) > 1 and len(piece) < len(all_of_it) else lines


def _pieces_after(file: Path, stream: Any) -> list[str]:
    """Whole lines in three places after the first `_SNIFFED` bytes, apart as a file's size allows.

    A packed file is read no farther than some megabytes for them.
    """
    quarter = file.stat().st_size // 4
    apart = max(0, (min(quarter, 1 << 20) if FileName.of(file.name).packing else quarter) - _PIECE)
    lines = []
    for _ in range(3):
        skip_ahead(file, stream, apart)
        piece = stream.read(_PIECE)
        lines += piece.decode("utf-8", "replace").split("\n")[1:-1]
    return lines


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
        with reading(file):
            target = int(unpacked_size(file) * share)
            with unpacked(file, skip := max(target - 1, 0)) as stream:
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
        with reading(file), unpacked(file) as stream:
            for number, raw in enumerate(stream, 1):
                if _stripped(raw.decode("utf-8", "replace")) == wanted:
                    return number
        return 0
    return next((row for row, _, line in _row_lines(file) if line.strip() == wanted), 0)


def _plain_lines(file: Path, start: int, stop: int | None) -> Iterator[str]:
    with reading(file), unpacked(file, start) as stream:
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
    with unpacked(file) as stream:
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
    with reading(file):
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
    with unpacked(file) as stream:
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
