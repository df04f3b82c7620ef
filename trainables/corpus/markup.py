"""What a file that is called text holds instead, by how it begins and by what its lines look like.

A share of the lines decides, so that text may quote any of this. Each share lies far above that of
prose, verse, dialogue with speakers' names, Markdown and source text, and below that of the format.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_FIRST_BYTES = {
    b"%PDF": "a PDF, whatever its name: convert it to .txt",
    b"%!PS": "PostScript, whatever its name: convert it to .txt",
    b"PK\x03\x04": "a zip archive, whatever its name: unpack it",
    b"{\\rtf": "rich text, whatever its name: save it as .txt",
    b"\x1f\x8b": "packed by gzip: name it .gz",
    b"\x28\xb5\x2f\xfd": "packed by zstd: name it .zst",
    b"BZh": "packed by bzip2: name it .bz2",
    b"\xfd7zXZ": "packed by xz: name it .xz",
    b"PAR1": "Parquet: name it .parquet",
}
_JSON = "JSON, whatever its name: name it .jsonl"
_CHAT = "a CHAT transcript, whatever its name: name it .cha"
_MARKUP = "markup, whatever its name: extract its text to .txt"
_SUBTITLES = "subtitles with times, whatever its name: save what is said, a line each, as .txt"
_TABLE = "a table, whatever its name: save its texts as .txt or .jsonl"

_DAY = "(Mon|Tue|Wed|Thu|Fri|Sat|Sun) (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_FIRST_LINES = {
    r'\[?\s*\{\s*"[^"\n]*"\s*:': _JSON,
    r"@((UTF8|Begin)\b|(Font|Languages|Participants|Options|PID|ID|Window|Color words):)": _CHAT,
    r"(?i)<(!doctype|html|\?xml)\b": _MARKUP,
    r"WEBVTT\b|\[Script Info\]": _SUBTITLES,
    rf"From \S+ +{_DAY} ": "a mailbox, whatever its name: save the texts of its mails as .txt",
}
"""By pattern of how a file that is called text begins, what it is instead."""

_TAG = r"<[A-Za-z][\w:.-]*(?:\s+[\w:.-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))+\s*/?>"
_OPENING = re.compile(rf"(?:{_TAG}|<([A-Za-z][\w:.-]*)>)\s*(?:<|$)")
_IN_MARKDOWN = re.compile(
    r"(?i)</?(a|b|big|blockquote|br|center|code|dd|del|details|div|dl|dt|em|figure|font|h[1-6]|hr|i|"
    r"iframe|img|ins|kbd|li|ol|p|picture|pre|q|section|small|source|span|strong|sub|summary|sup|svg|"
    r"table|tbody|td|th|thead|tr|tt|u|ul|var|video)\b"
)
"""Tags of HTML that Markdown begins with as well."""

_MAIN_TIER = re.compile(r"\*[A-Z][A-Z0-9_-]*:\s")
_SPEAKER = re.compile(r"(\*?[^\t:]{1,40}:|\(?\w{1,4}[.)]|[•*·–-])\t+")
"""What stands before a line's text and a tab: a name, or the sign or number in a list."""
_NO_SIGN = re.compile(r"<\|[^|<>]*\|>|&#?\w+;")
"""Special tokens and escaped characters: their signs part no cells."""
_SENTENCE_MARK = re.compile(r"</?(s|unk|pad|bos|eos)>", re.IGNORECASE)
"""What corpora of language models mark sentences and rare words with; no markup."""


@dataclass(frozen=True)
class Finding:
    """What a file is instead of text, with what to do.

    Attributes:
        line: the line that shows it, "" if none does.
    """

    what: str
    line: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({self.line})" if self.line else self.what


@dataclass(frozen=True)
class _Kind:
    """Lines of a format: at least two, and this share of all, make a file of it.

    Attributes:
        beside: what some line has to look like as well.
    """

    what: str
    pattern: re.Pattern[str]
    share: float
    beside: re.Pattern[str] = re.compile("")


_KINDS = (
    _Kind(
        _CHAT,
        re.compile(
            # With tabs: BabyLM's text of CHILDES has lines `*MOT: well.` and `%int: softly`.
            r"@(UTF8|Begin|End|New Episode)\s*$|@[A-Z][A-Za-z0-9 ]*:\t|%[a-z]{3,}\d?:\t|"
            r"%x?(mor|gra|pho|mod|trn|grt|wor):\s|.*\x15\d+_\d+\x15"
        ),
        0.05,
        beside=_MAIN_TIER,
    ),
    _Kind(
        _SUBTITLES,
        re.compile(
            r"(\d+:)?\d+:\d\d[.,]\d+\s*-->|Dialogue: ?\d+,\d+:\d\d|\{\d+\}\{\d+\}|\[\d+:\d\d\.\d+\]"
        ),
        0.1,
    ),
    _Kind(_MARKUP, re.compile(r"(?i)<doc\s[^<>=]*=[^<>]*>\s*$|</doc>\s*$"), 0.01),
    _Kind(
        _JSON,
        re.compile(r"\[?\s*\{\s*(\"[^\"]*\"|'\w*')\s*:.*\}[\],]*\s*$|\[\s*\".*\"\s*\],?\s*$"),
        0.5,
    ),
    _Kind(
        _MARKUP,
        re.compile(rf".*?(</[A-Za-z][\w:.-]*\s*>|{_TAG}|<[A-Za-z][^<>]*/>|<!--)"),
        0.7,
    ),
)


def found_in_bytes(head: bytes) -> Finding | None:
    """What a file is by its first bytes instead of text, plain or in rows; None if nothing."""
    for begin, what in _FIRST_BYTES.items():
        if head.removeprefix(b"\xef\xbb\xbf").startswith(begin):
            return Finding(what)
    utf16 = head.startswith((b"\xff\xfe", b"\xfe\xff"))  # not binary: it is said how to read it
    if b"\0" in head and not utf16:
        return Finding("binary data: it holds NUL bytes")
    return None


def found_in_lines(head: Sequence[str], others: Sequence[str]) -> Finding | None:
    """What a file that is called plain text is by its lines instead; None if it looks like text.

    Args:
        head: the lines that it begins with.
        others: lines from other places in it.
    """
    numbered = [*enumerate(head, 1), *((0, line) for line in others)]
    numbered = [(number, _SENTENCE_MARK.sub("", line)) for number, line in numbered]
    lines = [(number, line.lstrip()) for number, line in numbered if line.strip()]
    if not lines:
        return None
    no_comment = next((at for at, (_, line) in enumerate(lines) if line[0] != "#"), 0)
    for at, (pattern, what) in itertools.product((0, no_comment), _FIRST_LINES.items()):
        if re.match(pattern, "\n".join(line for _, line in lines[at : at + 2])):
            return _finding(what, lines[at])
    if _is_opening(lines[0][1], [line for _, line in lines]):
        return _finding(_MARKUP, lines[0])
    for kind in _KINDS:
        alike = [each for each in lines if kind.pattern.match(each[1])]
        enough = len(alike) >= max(2, kind.share * len(lines))
        if enough and any(kind.beside.match(line) for _, line in lines):
            return _finding(kind.what, alike[0])
    row = _row_between_tabs(lines) or _row_between_signs(head)
    return _finding(_TABLE, row) if row else None


def _finding(what: str, numbered: tuple[int, str]) -> Finding:
    number, line = numbered
    line = " ".join(line.split())
    line = line if len(line) <= 40 else line[:39] + "…"
    line = "".join(each if each.isprintable() else "\ufffd" for each in line)
    return Finding(what, f"line {number}: {line}" if number else f"as in: {line}")


def _is_opening(first: str, lines: Sequence[str]) -> bool:
    """Whether a file begins with an element of XML that is none of HTML's."""
    found = _OPENING.match(first)
    if not found or _IN_MARKDOWN.match(first):
        return False
    # A name alone in brackets may be a speaker's: what he says has no end tag.
    return not found[1] or any(line.startswith(f"</{found[1]}>") for line in lines)


def _row_between_tabs(lines: Sequence[tuple[int, str]]) -> tuple[int, str] | None:
    """The first row if most lines have as many tabs, but for comments and speakers' names."""
    rows = [each for each in lines if not each[1].startswith("#")]
    tabs = [_tabs(line) for _, line in rows]
    number, times = max(
        Counter(filter(None, tabs)).items(), key=lambda item: item[1], default=(0, 0)
    )
    return rows[tabs.index(number)] if times >= max(3, 0.8 * len(rows)) else None


def _tabs(line: str) -> int:
    line = line.rstrip("\r\n")
    if speaker := _SPEAKER.match(line):
        line = line[speaker.end() :]
    return line.count("\t") if "\t" in line.strip() else 0


def _row_between_signs(head: Sequence[str]) -> tuple[int, str] | None:
    """The first row if nearly all lines have as many cells; in prose a space follows the comma."""
    numbered = [(n, _NO_SIGN.sub("", line.replace("\r", ""))) for n, line in enumerate(head, 1)]
    numbered = [each for each in numbered if each[1].strip() and each[1][0] != "#"]
    for sign in ",;|":
        rows = [row for row in csv.reader([line for _, line in numbered], delimiter=sign) if row]
        if len(rows) < 3 or len(rows[0]) < 2 or not all(map(str.strip, rows[0][1:])):
            continue
        alike = [row for row in rows if len(row) == len(rows[0]) and any(map(str.strip, row[1:]))]
        spaced = sum(any(cell.startswith((" ", "\t")) for cell in row[1:]) for row in alike)
        if len(alike) < 0.9 * len(rows) or spaced > 0.2 * len(alike):
            continue
        # Commas and semicolons without spaces are usual in Chinese verse, say, but there no column
        # holds numbers or has a name; two words on a line may be anything.
        is_headed = len(rows[0]) > 2 and _is_named(rows[0])
        has_numbers = any(map(_is_numeric, zip(*alike[1:], strict=True)))
        if sign == "|" or is_headed or has_numbers:
            return numbered[0]
    return None


def _is_named(row: Sequence[str]) -> bool:
    return all(re.fullmatch(r"([A-Za-z_][\w .()/-]{0,39})?", cell, re.ASCII) for cell in row)


def _is_numeric(column: Sequence[str]) -> bool:
    return sum(re.fullmatch(r"-?\d+(\.\d+)?", cell) is not None for cell in column) >= 0.9 * len(
        column
    )
