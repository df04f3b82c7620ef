"""Where text comes from: the built-in grammar, local files, or a dataset on the hub.

Whatever the source, a document is one non-blank line without its surrounding white space.
Files are read as a stream, a line at a time, so a corpus never has to fit in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.corpus.builtin.paragraphs import mini_text

HUB_IDS = {
    "babylm-strict-small": "BabyLM-community/BabyLM-2026-Strict-Small",
    "babylm-strict": "BabyLM-community/BabyLM-2026-Strict",
    "pile-10m": "PatrickHaller/pile-10M-words",
    "pile-100m": "PatrickHaller/pile-100M-words",
}
"""Short names of datasets on the Hugging Face hub."""

BABYLM_DEV = "BabyLM-community/BabyLM-dev"
"""The development text that belongs to every BabyLM training set."""

HELD_OUT = 0.05
"""Share of a domain that is cut off its end for validation where it has no dev file."""

TRAIN_SUFFIXES = (".train", ".train.txt", ".txt")
DEV_SUFFIXES = (".dev", ".dev.txt")
OTHER_SUFFIXES = (".test", ".test.txt")


@dataclass(frozen=True)
class TextSource:
    """A corpus as text. `train` and `dev` start a fresh pass over their documents each."""

    name: str
    train: Callable[[], Iterator[str]]
    dev: Callable[[], Iterator[str]]


def open_source(source: str, seed: int = 0) -> TextSource:
    """The text that `source` names: `mini`, a file or folder, a short name, or a hub id.

    An existing path wins over a hub id; `mini` and the short names win over a path of that
    name (write `./mini` for the folder). `seed` matters to `mini` only. Raises ValueError if
    `source` is none of these, or holds no usable text.
    """
    if source == "mini":
        return TextSource(
            "mini", train=lambda: mini_text("train", seed), dev=lambda: mini_text("dev", seed)
        )
    if source in HUB_IDS:
        return hub_source(HUB_IDS[source], name=source)
    path = Path(source).expanduser()
    if path.exists():
        return path_source(path)
    if re.fullmatch(r"[A-Za-z0-9_][\w.-]*/[\w.-]+", source) and not source.endswith(TRAIN_SUFFIXES):
        return hub_source(source, name=source.replace("/", "-"))
    raise ValueError(
        f"unknown corpus {source!r}: no such file or folder, nor a hub id like owner/name; "
        f"the short names are {', '.join(['mini', *HUB_IDS])}"
    )


@dataclass(frozen=True)
class Domain:
    """One training file, with the file or the share of its own bytes that validates it."""

    stem: str
    train_file: Path
    dev_file: Path | None

    def lines(self, split: str) -> Iterator[str]:
        if self.dev_file is None:
            cut = _line_boundary(self.train_file, 1 - HELD_OUT)
            start, stop = (0, cut) if split == "train" else (cut, None)
            yield from read_lines(self.train_file, start, stop)
        else:
            yield from read_lines(self.train_file if split == "train" else self.dev_file)


def path_source(path: Path) -> TextSource:
    """A text file, or a folder whose `*.train`, `*.train.txt` and `*.txt` files are domains.

    A folder is searched with its direct subfolders. A domain's dev file is `STEM.dev` or
    `STEM.dev.txt` beside it, in a `dev` folder there, or in a `dev` folder next to its own;
    without one, the last 5% of the domain, from the start of a line, are held out.
    """
    domains = [_domain(path)] if path.is_file() else _domains(path)
    for domain in domains:
        for file in filter(None, (domain.train_file, domain.dev_file)):
            if next(read_lines(file), None) is None:
                raise ValueError(f"{file} has no text: remove it or fill it")
    if all(next(domain.lines("dev"), None) is None for domain in domains):
        raise ValueError(
            f"{path} leaves no text for validation: its last 5% hold no whole line. Put line "
            f"breaks between documents, or add a file {domains[0].stem}.dev"
        )
    return TextSource(
        name=_stem(path.name, TRAIN_SUFFIXES) if path.is_file() else path.resolve().name,
        train=lambda: (line for domain in domains for line in domain.lines("train")),
        dev=lambda: (line for domain in domains for line in domain.lines("dev")),
    )


def _domains(folder: Path) -> list[Domain]:
    by_stem: dict[str, Domain] = {}
    for file in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        is_train = file.name.endswith(TRAIN_SUFFIXES)
        if not file.is_file() or not is_train or file.name.endswith(DEV_SUFFIXES + OTHER_SUFFIXES):
            continue
        domain = _domain(file)
        if domain.stem in by_stem:
            raise ValueError(
                f"{by_stem[domain.stem].train_file} and {file} are both the training text of "
                f"domain {domain.stem!r}: name the folder that holds only one of them"
            )
        by_stem[domain.stem] = domain
    if not by_stem:
        raise ValueError(
            f"{folder} has no training text: no file in it or its subfolders ends in "
            f"{', '.join(TRAIN_SUFFIXES)}"
        )
    return [by_stem[stem] for stem in sorted(by_stem)]


def _domain(train_file: Path) -> Domain:
    stem = _stem(train_file.name, TRAIN_SUFFIXES)
    folder = train_file.resolve().parent
    candidates = [
        place / (stem + suffix)
        for place in (folder, folder / "dev", folder.parent / "dev")
        for suffix in DEV_SUFFIXES
    ]
    return Domain(stem, train_file, next((file for file in candidates if file.is_file()), None))


def _stem(name: str, suffixes: tuple[str, ...]) -> str:
    longest_first = sorted(suffixes, key=len, reverse=True)
    suffix = next((suffix for suffix in longest_first if name.endswith(suffix)), "")
    return name.removesuffix(suffix)


def _line_boundary(file: Path, share: float) -> int:
    """The byte offset of the first line that begins at or after `share` of the file."""
    with file.open("rb") as stream:
        stream.seek(max(int(file.stat().st_size * share) - 1, 0))
        stream.readline()
        return stream.tell()


def read_lines(file: Path, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """The non-blank, stripped lines of a UTF-8 file that begin in bytes [start, stop).

    Raises ValueError with file, byte offset and line number at the first undecodable byte.
    """
    with file.open("rb") as stream:
        stream.seek(start)
        offset = start
        for raw in stream:
            if stop is not None and offset >= stop:
                return
            try:
                line = raw.decode("utf-8").removeprefix("\ufeff").strip()
            except UnicodeDecodeError as error:
                position = offset + error.start
                raise ValueError(
                    f"{file} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {position} "
                    f"(line {_line_number(file, position)}); convert the file to UTF-8"
                ) from error
            offset += len(raw)
            if line:
                yield line


def _line_number(file: Path, offset: int) -> int:
    with file.open("rb") as stream:
        return 1 + stream.read(offset).count(b"\n")


def hub_source(hub_id: str, *, name: str) -> TextSource:
    """A dataset of the Hugging Face hub: split `train`, column `text`.

    Validation text is `BABYLM_DEV` for the BabyLM training sets, else the dataset's split
    `validation`, else the last 5% of its rows. Raises ValueError if it cannot be loaded.
    """
    train = _load(hub_id, "train")
    if hub_id.startswith("BabyLM-community/"):
        dev = _load(BABYLM_DEV, None)
    elif "validation" in (whole := _load(hub_id, None)):
        dev = {"validation": whole["validation"]}
    else:
        cut = int(len(train) * (1 - HELD_OUT))
        dev = {"held out": train.select(range(cut, len(train)))}
        train = train.select(range(cut))
    for part in (train, *dev.values()):
        if "text" not in part.column_names:
            raise ValueError(f"{hub_id} has no column 'text', only {part.column_names}")
        if len(part) == 0:
            raise ValueError(f"{hub_id} has too few rows to train and validate on")
    return TextSource(
        name=name,
        train=lambda: _row_lines(train),
        dev=lambda: (line for part in dev.values() for line in _row_lines(part)),
    )


def _load(hub_id: str, split: str | None) -> Any:
    """A Dataset, or all splits of it in a mapping if `split` is None."""
    import datasets

    try:
        return datasets.load_dataset(hub_id, split=split)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load {hub_id!r} from the Hugging Face hub, and no file or folder has that "
            f"name: {error}. Without a connection, download it elsewhere and give its local path"
        ) from error


def _row_lines(rows: Any) -> Iterator[str]:
    for batch in rows.iter(batch_size=1000):
        for text in batch["text"]:
            yield from filter(None, (line.strip() for line in text.split("\n")))
