"""Files as bytes, without the packing that their name tells of."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from trainables.corpus.file_names import FileName

MEASURED = 1 << 22
"""Bytes of a packed file's text that are counted; from there on its size is estimated."""

_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What opening or unpacking a file can raise."""


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Names a file that cannot be opened or unpacked.

    Raises:
        ValueError: with the file, and why it cannot be read.
    """
    try:
        yield
    except _ERRORS as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{file} cannot be read ({reason}): mend it, or get it again") from error


def unpacked(file: Path, skip: int = 0) -> BinaryIO:
    """A file's bytes from the `skip`-th on, without its packing."""
    stream = _OPENERS[FileName.of(file.name).packing](file)
    skip_ahead(file, stream, skip)
    return cast(BinaryIO, stream)


def skip_ahead(file: Path, stream: Any, size: int) -> None:
    """Leave out the next `size` bytes of a file's stream."""
    if not FileName.of(file.name).packing:
        stream.seek(size, io.SEEK_CUR)
        return
    for _ in _pieces(stream, size):
        pass


def unpacked_size(file: Path) -> int:
    """The bytes of a file, unpacked."""
    if not FileName.of(file.name).packing:
        return file.stat().st_size
    with unpacked(file) as stream:
        return sum(map(len, _pieces(stream)))


def weight(file: Path) -> int:
    """About as many bytes as a file has unpacked, at little cost however large it is.

    A packed file whose beginning cannot be unpacked weighs what it has on disk.
    """
    size = file.stat().st_size
    packing = FileName.of(file.name).packing
    if file.suffix.lower() == ".parquet":
        return _parquet_weight(file)
    if not packing:
        return size
    with _SmallReads(str(file)) as packed:
        counted = 0
        try:
            with _OPENERS[packing](packed) as stream:
                for piece in _pieces(stream, MEASURED):
                    counted += len(piece)
                taken = packed.tell()
        except _ERRORS:  # of a file that is read this is told when it is
            return size
    return counted if counted < MEASURED else max(counted, counted * size // taken)


def _parquet_weight(file: Path) -> int:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        found = read_metadata(file)
    except (ArrowException, OSError):  # as above
        return file.stat().st_size
    return sum(found.row_group(number).total_byte_size for number in range(found.num_row_groups))


class _SmallReads(io.FileIO):
    """A file that is read in small pieces, so that its place tells what was needed so far."""

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes, at most 4,096."""
        return super().read(4096 if size is None or size < 0 else min(size, 4096)) or b""


def _pieces(stream: Any, size: int = sys.maxsize) -> Iterator[bytes]:
    """The next `size` bytes of a stream."""
    while size > 0 and (piece := stream.read(min(size, 1 << 20))):
        size -= len(piece)
        yield piece


def _open_zstd(file: Path | io.FileIO) -> io.BufferedReader:
    import pyarrow

    raw = pyarrow.OSFile(str(file)) if isinstance(file, Path) else pyarrow.PythonFile(file, "r")
    return io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"))


_OPENERS: dict[str, Callable[[Any], Any]] = {
    "": lambda file: file.open("rb"),
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}
