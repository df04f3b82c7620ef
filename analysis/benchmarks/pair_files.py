"""Files of minimal pairs, in the forms that they are published in for various languages.

`*.jsonl`, `*.csv`, `*.tsv`: the fields `FIELDS`, as in BLiMP and ZhoBLiMP (sentence_good,
sentence_bad), JBLiMP (good_sentence, bad_sentence), RuBLiMP (source_sentence, target_sentence), and
MultiBLiMP (sen, wrong_sen).

`*.txt`: `True<TAB>sentence` and `False<TAB>sentence` in turn, as in CLAMS; or two lines for each
pair, as in Zorro, of which the good one has to be said (`Layout`): both orders are in use.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from analysis.benchmarks.files import SourceRow, read_lines, read_text, text_field
from analysis.schema.choices import Layout

FIELDS = (
    ("sentence_good", "sentence_bad"),
    ("good_sentence", "bad_sentence"),
    ("source_sentence", "target_sentence"),
    ("sen", "wrong_sen"),
)
"""Of the good sentence and of the bad one."""
FORMS = ("*.jsonl", "*.csv", "*.tsv", "*.txt")
"""In a folder with files of several forms those of the first are read."""
_DEEPEST = 4
"""Folders that are looked into, one in another."""
_NO_DATA = ("readme*", "licen[sc]e*", "requirements*", "changelog*", "citation*", "authors*")
"""Texts that lie beside data, and may be called *.txt."""


def pair_files(folder: Path) -> list[Path]:
    """The files of pairs in a folder, in the order of their names."""
    files = sorted(each for each in folder.iterdir() if each.name[0] != "." and each.is_file())
    for form in FORMS:
        fitting = [each for each in files if fnmatchcase(each.name.lower(), form)]
        if form == FORMS[-1]:
            fitting = [each for each in fitting if not _is_no_data(each)]
        if fitting:
            return fitting
    return []


def _is_no_data(file: Path) -> bool:
    return any(fnmatchcase(file.name.lower(), pattern) for pattern in _NO_DATA)


def find_pairs(path: Path) -> Path | None:
    """The folder itself if it holds files of pairs, else the only one below it, at the least depth,
    that does; None if there is none, or there are several."""
    level = [path] if path.is_dir() else []
    for _ in range(_DEEPEST):
        if found := [folder for folder in level if pair_files(folder)]:
            return found[0] if len(found) == 1 else None
        inside = (each for folder in level for each in folder.iterdir())
        level = [each for each in inside if each.name[0] != "." and each.is_dir()]
    return None


def read_pairs(folder: Path, layout: Layout = "auto") -> Iterator[SourceRow]:
    """The rows of a folder's files, each with the fields of a pair.

    Raises:
        ValueError: no file, or one that cannot be understood; file and line are named.
    """
    files = pair_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no {', '.join(FORMS)} file: a benchmark has one or more")
    for file in files:
        yield from _READERS[file.suffix.lower()](file, layout)


def sentences_of(values: Mapping[str, object]) -> tuple[str, str]:
    """The good sentence and the bad one of a row's fields; ValueError if they are not there."""
    for good, bad in FIELDS:
        if good in values or bad in values:
            return text_field(values, good), text_field(values, bad)
    known = " or ".join(" and ".join(names) for names in FIELDS)
    raise ValueError(f"no sentences are called {known}: its fields are {', '.join(values)}")


def _json_lines(file: Path, layout: Layout) -> Iterator[SourceRow]:
    return read_lines(read_text(file), file.stem, str(file))


def _table(separator: str) -> Callable[[Path, Layout], Iterator[SourceRow]]:
    def read(file: Path, layout: Layout) -> Iterator[SourceRow]:
        rows = csv.DictReader(io.StringIO(read_text(file)), delimiter=separator, strict=True)
        is_empty = True
        try:
            for row in rows:
                is_empty = False
                where = f"{file}, line {rows.line_num}"
                if None in row or None in row.values():
                    raise ValueError(f"{where}: other than {len(rows.fieldnames or ())} columns")
                yield SourceRow({name.strip(): row[name] for name in row}, file.stem, where)
        except csv.Error as error:
            raise ValueError(f"{file}, line {rows.line_num + 1}: {error}") from error
        if is_empty:
            raise ValueError(f"{file} is empty: expected a line of names, and one for each pair")

    return read


def _lines(file: Path, layout: Layout) -> Iterator[SourceRow]:
    """Pairs of consecutive lines."""
    numbered = enumerate(map(str.strip, read_text(file).split("\n")), start=1)
    lines = [(number, line) for number, line in numbered if line]
    if not lines or len(lines) % 2:
        raise ValueError(f"{file} has {len(lines)} lines: expected two for each pair")
    for (number, first), (_, second) in zip(lines[::2], lines[1::2], strict=True):
        where = f"{file}, line {number}"
        good, bad = _in_order(first, second, layout, where)
        yield SourceRow(dict(zip(FIELDS[1], (good, bad), strict=True)), file.stem, where)


def _in_order(first: str, second: str, layout: Layout, where: str) -> tuple[str, str]:
    """The good sentence and the bad one of two lines."""
    marks = [line.partition("\t")[0].strip().lower() for line in (first, second)]
    if sorted(marks) == ["false", "true"]:
        sentences = [line.partition("\t")[2] for line in (first, second)]
        return (sentences[0], sentences[1]) if marks[0] == "true" else (sentences[1], sentences[0])
    if "true" in marks or "false" in marks:
        raise ValueError(f"{where}: expected a line of True and one of False, not {marks}")
    if layout == "auto":
        raise ValueError(
            f"{where}: which sentence of two lines is the good one? --layout good-first or "
            "bad-first (as Zorro's own files)"
        )
    return (first, second) if layout == "good-first" else (second, first)


_READERS: dict[str, Callable[[Path, Layout], Iterator[SourceRow]]] = {
    ".jsonl": _json_lines,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".txt": _lines,
}
