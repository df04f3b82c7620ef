"""EWoK: which of two targets is more probable after a context that makes one of them true?

Ivanova et al. 2024, arXiv 2405.09605. A row asks one question: log P(" " + Target1 | Context1)
against log P(" " + Target2 | Context1), or, under the protocol of 2026, against
log P(" " + Target1 | Context2) (babylm-org/babylm-eval at a66e05d, see `protocols`,
strict/evaluation_pipeline/sentence_zero_shot/read_files.py, `decode_ewok`); the public pipeline's
files hold each item a second time with both pairs swapped. On the hub an item is one row, and asked
both ways here. Tasks are the 11 domains.

The authors ask that the items never appear as plain text where a crawler could find them: they are
read from a zip file in memory, and no message here shows one.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from analysis.benchmarks.files import (
    UTF_8,
    SourceRow,
    hub_rows,
    is_json_lines,
    is_zip,
    json_lines_files,
    read_folder,
    read_lines,
    text_field,
)
from analysis.benchmarks.items import Item
from analysis.benchmarks.kind import BenchmarkKind
from analysis.errors import SECRET_FLAGS

HUB_ID = "ewok-core/ewok-core-1.0"
PASSWORD_VARIABLE = SECRET_FLAGS["ewok-password"]


def password(given: str | None) -> str | None:
    """The password of EWoK's zip file, if one is known."""
    return given or os.environ.get(PASSWORD_VARIABLE)


def find(path: Path) -> Path | None:
    """Find EWoK in `path`: a folder with *.jsonl files, or a zip file itself or in it.

    Raises:
        ValueError: several zip files.
    """
    if not path.is_dir():
        return path if is_zip(path) and path.is_file() else None
    if json_lines_files(path):
        return path
    zips = sorted(file for file in path.iterdir() if is_zip(file) and file.name[0] != ".")
    if len(zips) > 1:
        listed = ", ".join(file.name for file in zips)
        raise ValueError(f"{path} holds several zip files ({listed}): give one of them a folder")
    return zips[0] if zips else None


def read_ewok(place: Path, password: str | None = None, protocol: str = "2024") -> tuple[Item, ...]:
    """The questions of a folder of *.jsonl files, or of a zip file of them.

    Raises:
        ValueError: a wrong or missing password, a file that is no zip, or a bad row.
    """
    rows = read_zip(place, password) if is_zip(place) else read_folder(place)
    return tuple(row.parse(_question_of(protocol)) for row in rows)


def read_zip(file: Path, password: str | None) -> Iterator[SourceRow]:
    """The rows of the *.jsonl files in a zip file, read in memory; errors as for `read_ewok`."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = sorted(name for name in archive.namelist() if is_json_lines(Path(name).name))
            if not names:
                raise ValueError(f"{file} holds no *.jsonl file")
            for name in names:
                text = _read_member(archive, name, file, password)
                yield from read_lines(text, Path(name).stem, f"{file}, {name}")
    except zipfile.BadZipFile as error:
        raise ValueError(f"{file} is not a sound zip file ({error})") from None


def _read_member(archive: zipfile.ZipFile, name: str, file: Path, password: str | None) -> str:
    encrypted = archive.getinfo(name).flag_bits & 1
    if encrypted and not password:
        raise ValueError(
            f"{file} needs a password: give --ewok-password, or set {PASSWORD_VARIABLE}"
        )
    try:
        with archive.open(name, pwd=password.encode() if password else None) as member:
            return io.TextIOWrapper(member, encoding=UTF_8).read()
    except NotImplementedError as error:
        raise ValueError(
            f"{file}, {name} is packed in a way that is not read here ({error}): unpack it to a "
            "folder of that name"
        ) from None
    except (RuntimeError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError) as error:
        # The check of a password is one byte long: a wrong one may also show up as a bad stream.
        if not encrypted:
            raise ValueError(f"{file}, {name} is damaged ({error})") from None
        raise ValueError(f"wrong password for {file}: it does not open {name}") from None


def _question_of(protocol: str) -> Callable[[dict[str, object], str], Item]:
    return _which_context if protocol == "2026" else _which_target


def _which_target(values: dict[str, object], source: str) -> Item:
    return Item(
        task=str(values.get("Domain") or source),
        options=(" " + text_field(values, "Target1"), " " + text_field(values, "Target2")),
        context=text_field(values, "Context1"),
        cluster=_pair(values),
    )


def _which_context(values: dict[str, object], source: str) -> Item:
    target = " " + text_field(values, "Target1")
    return replace(
        _which_target(values, source),
        options=(target, target),
        context=(text_field(values, "Context1"), text_field(values, "Context2")),
    )


def _pair(values: dict[str, object]) -> str:
    """Hash that an item shares with the one with both pairs swapped: a text could be printed."""
    sides = [f"{values.get(f'Context{n}')} {values.get(f'Target{n}')}" for n in (1, 2)]
    return hashlib.sha256("\0".join(sorted(sides)).encode()).hexdigest()[:16]


def _both_ways(rows: Iterable[SourceRow], protocol: str) -> Iterator[Item]:
    question = _question_of(protocol)
    for row in rows:
        yield row.parse(question)
        values = row.values
        swapped = {
            f"{name}{3 - number}": values.get(f"{name}{number}")
            for name in ("Context", "Target")
            for number in (1, 2)
        }
        yield SourceRow({**values, **swapped}, row.source, row.place).parse(question)


EWOK = BenchmarkKind(
    "ewok",
    ("ewok*",),
    read=lambda place, source: read_ewok(place, password(source.ewok_password), source.protocol),
    expects="*.jsonl files with the fields Domain, Context1, Target1 and Target2, or a zip of them",
    find=find,
    from_hub=lambda source: tuple(_both_ways(hub_rows(HUB_ID), source.protocol)),
    hub_id=HUB_ID,
    submission="ewok",
    listed_as="domain",
)
