"""Where text comes from: the built-in grammar, local files, or a dataset on the hub.

Whatever the source, a document is one non-blank line without its surrounding white space.
Files are read as a stream, a line or row at a time, so a corpus never has to fit in memory.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainables.corpus.builtin.paragraphs import mini_text
from trainables.corpus.file_names import FileName
from trainables.corpus.folders import HELD_OUT, SkippedPath, find_domains

HUB_IDS = {
    "babylm-strict-small": "BabyLM-community/BabyLM-2026-Strict-Small",
    "babylm-strict": "BabyLM-community/BabyLM-2026-Strict",
    "babylm-eng": "BabyLM-community/babylm-eng",
    "babylm-nld": "BabyLM-community/babylm-nld",
    "babylm-zho": "BabyLM-community/babylm-zho",
    "pile-10m": "PatrickHaller/pile-10M-words",
    "pile-100m": "PatrickHaller/pile-100M-words",
}
"""Short names of datasets on the Hugging Face hub; the BabyLM challenge's are those of the tracks
strict-small and strict, and BabyBabelLM's languages of the multilingual track."""

BABYLM_DEV = "BabyLM-community/BabyLM-dev"
"""The development text of the tracks strict-small and strict, which is English."""
_HAS_BABYLM_DEV = re.compile(r"BabyLM-community/BabyLM-\d{4}-Strict(-Small)?")

Split = Literal["train", "dev"]
SPLITS: tuple[Split, ...] = ("train", "dev")


@dataclass(frozen=True)
class SplitDocuments:
    """The documents of one split in one file, or in no file (`file` is None).

    `lines` starts a fresh pass over them.
    """

    file: Path | None
    lines: Callable[[], Iterator[str]]


@dataclass(frozen=True)
class TextSource:
    """A corpus as text. `train` and `dev` start a fresh pass over their documents each.

    Attributes:
        folder: which the files are in; None if there are none.
        left_out: the files in it that are not read.
    """

    name: str
    parts: Mapping[Split, Sequence[SplitDocuments]]
    folder: Path | None = None
    left_out: Sequence[SkippedPath] = ()

    def train(self) -> Iterator[str]:
        """The documents to train on."""
        return itertools.chain.from_iterable(part.lines() for part in self.parts["train"])

    def dev(self) -> Iterator[str]:
        """The documents to validate on."""
        return itertools.chain.from_iterable(part.lines() for part in self.parts["dev"])


def open_source(source: str, seed: int = 0) -> TextSource:
    """The text that `source` names: `mini`, a file or folder, a short name, or a hub id.

    An existing path wins over a hub id; `mini` and the short names win over a path of that
    name (write `./mini` for the folder). `seed` matters to `mini` only. Raises ValueError if
    `source` is none of these, or holds no usable text.
    """
    if source == "mini":
        return _no_files("mini", lambda: mini_text("train", seed), lambda: mini_text("dev", seed))
    if source in HUB_IDS:
        return hub_source(HUB_IDS[source], name=source)
    path = Path(os.path.expanduser(source))
    if path.exists():
        return path_source(path)
    if re.fullmatch(r"[A-Za-z0-9_][\w.-]*/[\w.-]+", source) and not _named_as_file(source):
        return hub_source(source, name=source.replace("/", "-"))
    raise ValueError(
        f"unknown corpus {source!r}: no such file or folder, nor a hub id like owner/name; "
        f"the short names are {', '.join(['mini', *HUB_IDS])}"
    )


def _named_as_file(source: str) -> bool:
    name = FileName.of(source)
    return name.format is not None or name.no_text != ""


def _no_files(
    name: str, train: Callable[[], Iterator[str]], dev: Callable[[], Iterator[str]]
) -> TextSource:
    return TextSource(
        name, {"train": [SplitDocuments(None, train)], "dev": [SplitDocuments(None, dev)]}
    )


def path_source(path: Path) -> TextSource:
    """A file of text, or a folder of them; `find_domains` says which are read.

    Raises ValueError if there is no text, or none is left for validation.
    """
    domains, left_out = find_domains(path)
    parts: dict[Split, list[SplitDocuments]] = {
        split: [
            SplitDocuments(file, functools.partial(domain.lines, split, file))
            for domain in domains
            for file in domain.files(split)
        ]
        for split in SPLITS
    }
    if not any(domain.has_dev_text() for domain in domains):
        raise ValueError(
            f"{path} leaves no text for validation: its last 5% hold no whole line. Put line "
            f"breaks between documents, or add a file {domains[0].stem}.dev"
        )
    if path.is_dir():
        return TextSource(path.resolve().name, parts, path, left_out)
    # Files have been named so in studies, whatever else is read today.
    name = next(filter(path.name.endswith, (".train.txt", ".train", ".txt")), "")
    return TextSource(path.name.removesuffix(name), parts, path.parent)


def hub_source(hub_id: str, *, name: str) -> TextSource:
    """A dataset of the Hugging Face hub: split `train`, column `text`.

    Validation text is `BABYLM_DEV` for what it belongs to, else the dataset's split `validation`,
    else the last 5% of its rows. Raises ValueError if it cannot be loaded.
    """
    train = _load(hub_id, "train")
    if _HAS_BABYLM_DEV.fullmatch(hub_id):
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
    return _no_files(
        name,
        lambda: _row_lines(train),
        lambda: (line for part in dev.values() for line in _row_lines(part)),
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
        for text in filter(None, batch["text"]):  # a row may have none
            yield from filter(None, (line.strip() for line in text.split("\n")))
