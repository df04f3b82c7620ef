"""What a file's name says of the text in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Format = Literal["text", "json", "parquet", "chat"]
Role = Literal["train", "dev", "test"]

FORMATS: dict[str, Format] = {
    **dict.fromkeys((".txt", ".text", ".md", ".markdown", ".rst"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    ".parquet": "parquet",
    ".cha": "chat",
}
ROLES: dict[str, Role] = {".train": "train", ".dev": "dev", ".test": "test"}
PACKINGS = (".gz", ".bz2", ".xz", ".zst")
READABLE = (
    ".train, .txt, .md, .rst, .jsonl, .parquet or .cha, or in one of these packed as .gz, .bz2, "
    ".xz or .zst"
)
"""The suffixes of text, as an error names them."""

HUB_SPLITS: dict[str, Role] = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "dev"),
    "test": "test",
}
"""How files of rows are called that data sets are published as: `train-00000-of-00002.parquet`."""

_NO_TEXT = {
    suffix: what
    for suffixes, what in (
        (".pdf .ps .eps .djvu", "pages, not text: convert it to .txt"),
        (".doc .docx .odt .rtf .epub .mobi .azw3 .fb2", "a document: save it as .txt"),
        (".ppt .pptx .odp", "slides, not text: save them as .txt"),
        (".html .htm .xhtml .xml .tei .sgm .sgml .tmx .xlf", "markup: extract its text to .txt"),
        (".textgrid .eaf .trs .exb", "annotations of a recording: save what is said as .txt"),
        (".csv .tsv .xls .xlsx .ods", "a table: save its texts as .txt or .jsonl"),
        (".conll .conllu .conllx .vrt .vert", "words in columns: save its sentences as .txt"),
        (
            ".srt .vtt .sbv .ass .ssa .lrc .ttml",
            "subtitles with times: save what is said, a line each, as .txt",
        ),
        (".mbox .eml .msg", "mails with headers: save their texts as .txt"),
        (
            ".yaml .yml .toml .ini .ipynb",
            "data or settings: save the texts in it as .txt",
        ),
        (
            ".sql .sqlite .db .h5 .hdf5 .arrow .feather .avro .orc .tfrecord",
            "a database: save its texts as .txt, .jsonl or .parquet",
        ),
        (".npy .npz .pkl .safetensors .gguf", "numbers, not text"),
        (".zip .tar .tgz .tbz2 .txz .7z .rar", "an archive: unpack it"),
        (".lz4 .lzma .lz .lzo .br .z", "packed: unpack it"),
        (".jpg .jpeg .png .gif .svg .tif .tiff .webp .bmp", "an image"),
        (".wav .mp3 .flac .ogg .m4a .mp4 .mov .avi .mkv .webm", "a recording"),
    )
    for suffix in suffixes.split()
}
"""By suffix what a file is known to be instead of text."""


@dataclass(frozen=True)
class FileName:
    """What a file's name says: `STEM[.train|.dev|.test][.txt|.jsonl|...][.gz|...]`.

    Attributes:
        format: None if no text is known to be called so.
        role: None if the name says nothing; it is text to train on then.
        packing: "" or one of `PACKINGS`.
        hub: whether the role is that of a published split, which the name begins with.
        no_text: what the file is known to be instead of text, "" if it is not.
    """

    stem: str
    format: Format | None
    role: Role | None
    packing: str
    hub: bool = False
    no_text: str = ""

    @staticmethod
    def of(name: str) -> FileName:
        """Read a name; capitals do not matter in suffixes."""
        rest, packing = _cut(name, PACKINGS)
        rest, suffix = _cut(rest, FORMATS)
        rest, mark = _cut(rest, ROLES)
        last = Path(rest).suffix.lower()
        no_text = "" if suffix or mark else _NO_TEXT.get(last, "")
        known = FORMATS.get(suffix, "text" if mark or (packing and not no_text) else None)
        if known == "parquet" and packing:
            known, no_text = None, "packed Parquet: unpack it"
        split = re.match(r"[a-z]+(?=$|[-.])", rest.lower())
        if not mark and known in ("json", "parquet") and split and split[0] in HUB_SPLITS:
            return FileName(rest, known, HUB_SPLITS[split[0]], packing, hub=True)
        return FileName(rest, known, ROLES.get(mark), packing, no_text=no_text)


def _cut(name: str, suffixes: Iterable[str]) -> tuple[str, str]:
    """A name without the suffix of these that it ends in, and that suffix in small letters."""
    found = next((each for each in suffixes if name.lower().endswith(each)), "")
    return name[: len(name) - len(found)], found


def shown(file: Path, folder: Path) -> str:
    """A file's name within a folder, as it can be printed."""
    name = str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)
    return "".join(each if each.isprintable() else "\ufffd" for each in name)
