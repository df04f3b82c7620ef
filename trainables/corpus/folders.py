"""The files of a corpus: which train, which validate, which are left out and why."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from trainables.corpus.file_names import HUB_SPLITS, READABLE, FileName, Role, shown
from trainables.corpus.markup import Finding
from trainables.corpus.packing import weight
from trainables.corpus.readers import NO_TEXT, line_boundary, problem, read_lines

HELD_OUT = 0.05
"""Share of a domain that is cut off its end for validation where it has no dev file."""

_STORAGE_FILES = {"mlflow.db", "corpus.json"}
"""A folder with one of these holds what sweeps wrote."""


@dataclass(frozen=True)
class Domain:
    """One training file, with the files or the share of its own text that validate it.

    Attributes:
        dev_files: None where the end of the training file validates.
    """

    stem: str
    train_file: Path
    dev_files: tuple[Path, ...] | None

    @cached_property
    def _cut(self) -> int | None:
        """The place in the training file's text at which its validation text begins."""
        return line_boundary(self.train_file, 1 - HELD_OUT) if self.dev_files is None else None

    def files(self, split: str) -> tuple[Path, ...]:
        """The files of the split "train" or "dev"."""
        if split == "train" or self.dev_files is None:
            return (self.train_file,)
        return self.dev_files

    def lines(self, split: str, file: Path) -> Iterator[str]:
        """The documents of a split in one of its files."""
        if self.dev_files is not None:
            return read_lines(file)
        return read_lines(file, *((0, self._cut) if split == "train" else (self._cut or 0, None)))

    def has_dev_text(self) -> bool:
        """Whether there is something to validate on."""
        return any(next(self.lines("dev", file), None) is not None for file in self.files("dev"))


@dataclass(frozen=True)
class SkippedPath:
    """A file or folder that is not read.

    Attributes:
        reason: why not.
        size: in bytes, unpacked; 0 where nobody would expect it to be read.
    """

    file: Path
    reason: Finding
    size: int = 0


def find_domains(path: Path) -> tuple[list[Domain], list[SkippedPath]]:
    """The domains of a file or folder, in order of their names, and what is left out of a folder.

    Every file of text in a folder, and in its folders, is a domain. Its dev file is `STEM.dev`,
    `STEM.dev.txt` (or another kind of text) beside it, in a `dev` folder there, or in a `dev`
    folder next to its own; or a file of its own name in such a folder. Rows (JSON lines, Parquet)
    are also validated by a file beside them that is named so (`validation-00000.parquet`). Else the
    last 5% of the domain, from the start of a line, are held out; or of files that are all too
    short for that, the last 5% of the files.

    Raises:
        ValueError: there is no text, most of the folder is none, a domain is there twice, or a file
            is damaged.
    """
    if path.is_file():
        _check(path)
        role = FileName.of(path.name).role
        dev_files = None if role in ("dev", "test") else _DevFiles({}).of(path)
        return [_domain(path, dev_files)], []
    if not path.is_dir():
        raise ValueError(f"{path} is neither a file nor a folder: give --corpus one of these")
    train, dev, left_out = _sorted_files(path)
    dev_of, tests = _in_split_folders(train)
    train = [file for file in train if file not in tests and file not in dev_of.values()]
    _refuse_twice(train)
    finder = _DevFiles(dev_of)
    domains = [_domain(file, finder.of(file)) for file in train]
    used = {file.resolve() for domain in domains for file in domain.dev_files or ()}
    left_out += [SkippedPath(file, Finding("a test file")) for file in tests]
    left_out += [
        SkippedPath(file, Finding("validates no file here"))
        for file in dev
        if file.resolve() not in used
    ]
    _refuse_too_little(path, domains, left_out)
    return _with_files_held_out(domains), left_out


def _with_files_held_out(domains: list[Domain]) -> list[Domain]:
    """The domains; if all are too short to be cut, the last 5% of them validate the others."""
    if len(domains) == 1 or any(domain.has_dev_text() for domain in domains):
        return domains
    number = math.ceil(HELD_OUT * len(domains))
    held_out = tuple(domain.train_file for domain in domains[-number:])
    rest = [replace(domain, dev_files=()) for domain in domains[:-number]]
    return [*rest[:-1], replace(rest[-1], dev_files=held_out)]


def _domain(train_file: Path, dev_files: tuple[Path, ...] | None) -> Domain:
    for file in dev_files or ():
        _check(file)
    return Domain(FileName.of(train_file.name).stem, train_file, dev_files)


def _check(file: Path) -> None:
    """Refuse a file that has to be read and cannot be."""
    if found := problem(file):
        if found == NO_TEXT:
            raise ValueError(f"{file} has no text: remove it or fill it")
        raise ValueError(f"{file} cannot be read as text: {found}")


def _sorted_files(folder: Path) -> tuple[list[Path], list[Path], list[SkippedPath]]:
    """The files to train on, by stem; those that may validate; and what is left out."""
    train, dev, left_out = [], [], []
    for file in _walk(folder):
        name = FileName.of(file.name)
        if reason := _not_meant(file, name):
            left_out.append(SkippedPath(file, Finding(reason)))
        elif name.role == "dev":
            dev.append(file)
        elif found := _not_text(file, name):
            left_out.append(SkippedPath(file, found, weight(file)))
        else:
            train.append(file)
    train.sort(key=lambda file: (FileName.of(file.name).stem, file))
    return train, dev, left_out


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, and the folders that are not looked into; a linked folder once."""

    def stop(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be opened ({error.strerror}): let it be read")

    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=stop):
        here = Path(root)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        closed = [name for name in folders if _not_opened(here / name)]
        folders[:] = sorted(set(folders) - set(closed))
        yield from (here / name for name in sorted([*files, *closed]))


def _not_opened(folder: Path) -> str:
    if folder.name.startswith("."):
        return "hidden"
    if any((folder / name).is_file() for name in _STORAGE_FILES):
        return "what sweeps wrote"
    return ""


def _not_meant(file: Path, name: FileName) -> str:
    """Reason why nobody would expect a file to be read, "" if one would."""
    if file.is_dir():
        return _not_opened(file)
    if file.name.startswith("."):
        return "hidden"
    if not file.is_file():
        return "a link to nothing" if file.is_symlink() else "no ordinary file"
    if file.name.lower() == "readme.md":
        return "describes the data"
    return "a test file" if name.role == "test" else ""


def _not_text(file: Path, name: FileName) -> Finding | None:
    if name.format is None and not name.no_text:
        suffix = file.suffix if file.suffix else "no suffix"
        return Finding(f"{suffix} is not known for text: name it .txt if it is")
    return problem(file)


def _in_split_folders(train: Sequence[Path]) -> tuple[dict[Path, Path], set[Path]]:
    """Files in a `dev` or `test` folder that have a namesake to train on: the dev file of each
    training file, and the test files."""
    by_stem = defaultdict(list)
    for file in train:
        by_stem[FileName.of(file.name).stem].append(file)
    dev_of, tests = {}, set()
    for file in train:
        if (role := _folder_role(file)) in ("dev", "test"):
            for other in by_stem[FileName.of(file.name).stem]:
                near = file.parent.parent in (other.parent, other.parent.parent)
                if near and _folder_role(other) not in ("dev", "test"):
                    if role == "dev":
                        dev_of[other] = file
                    else:
                        tests.add(file)
    return dev_of, tests


def _folder_role(file: Path) -> Role | None:
    return HUB_SPLITS.get(file.parent.name.lower())


class _DevFiles:
    """Finds the dev files of training files; looks into each folder once."""

    def __init__(self, known: dict[Path, Path]) -> None:
        self.known = known
        self.listed: dict[Path, list[Path]] = {}
        self.seen: dict[Path, list[Path]] = {}
        self.given: set[Path] = set()

    def of(self, train_file: Path) -> tuple[Path, ...] | None:
        """The dev files of a training file; none if another file of its folder has them; None if
        there are none."""
        if train_file in self.known:
            return (self.known[train_file],)
        name, folder = FileName.of(train_file.name), train_file.resolve().parent
        for place in self._places(folder):
            for file in self._in(place):
                found = FileName.of(file.name)
                if not found.hub and found.stem == name.stem:
                    return (file,)
        named = tuple(file for file in self._in(folder) if FileName.of(file.name).hub)
        if not named or name.format not in ("json", "parquet"):
            return None
        if folder in self.given:
            return ()
        self.given.add(folder)
        return named

    def _places(self, folder: Path) -> Iterator[Path]:
        """Folders that the dev files of a folder's files may be in; `dev` in capitals, too."""
        yield folder
        for outer in (folder, folder.parent):
            yield from (each for each in self._listed(outer) if each.name.lower() == "dev")

    def _in(self, folder: Path) -> list[Path]:
        if folder not in self.seen:
            self.seen[folder] = [
                file
                for file in self._listed(folder)
                if FileName.of(file.name).role == "dev" and file.is_file()
            ]
        return self.seen[folder]

    def _listed(self, folder: Path) -> list[Path]:
        if folder not in self.listed:
            try:
                self.listed[folder] = sorted(folder.iterdir())
            except OSError:  # a file, or a folder above the corpus that may not be looked into
                self.listed[folder] = []
        return self.listed[folder]


def _refuse_twice(train: Iterable[Path]) -> None:
    """Refuse two files of one stem in a folder, or anywhere if one is called `.train`."""
    by_stem: defaultdict[str, list[Path]] = defaultdict(list)
    for file in train:
        name = FileName.of(file.name)
        for other in by_stem[name.stem]:
            names = (name, FileName.of(other.name))
            marked = any(each.role == "train" and not each.hub for each in names)
            if marked or other.parent == file.parent:
                raise ValueError(
                    f"{other} and {file} are both the training text of domain {name.stem!r}: name "
                    "the folder that holds only one of them, or take one of them away"
                )
        by_stem[name.stem].append(file)


def _refuse_too_little(
    folder: Path, domains: Sequence[Domain], left_out: Sequence[SkippedPath]
) -> None:
    largest = sorted(left_out, key=lambda each: -each.size)
    if domains:
        largest = [each for each in largest if each.size]
    names = "; ".join(f"{shown(each.file, folder)}: {each.reason}" for each in largest[:3])
    if len(largest) > 3:
        names += f"; and {len(largest) - 3:,} more"
    if not domains:
        raise ValueError(
            f"{folder} has no training text: no file in it or its folders is text that ends in "
            f"{READABLE}" + (f" ({names})" if names else "")
        )
    read = {file for domain in domains for s in ("train", "dev") for file in domain.files(s)}
    lost = sum(each.size for each in largest)
    if lost and lost > (size := sum(map(weight, read))):
        raise ValueError(
            f"only {size:,} of the {size + lost:,} bytes (unpacked) in {folder} can be read as "
            f"text ({names}): convert these files, or move them to another folder"
        )
