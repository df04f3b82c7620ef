"""The page of a report: one HTML file that opens anywhere, without a network.

A `Page` says what is shown, `render` says how: `template/report.html.j2` with its style and script
put inside. The page asks for nothing outside of itself; what leaves it are links that a reader
follows.
"""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup

from analysis.wording import count

_PARTS = Path(__file__).parent / "template"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# A cell with one of these has nothing to say: it sorts last, and CSV leaves it empty.
MISSING = frozenset({"", "-", "–", "—"})
_WORDS = {"chance": "within chance"}  # of marks that need more than their name
_UNBREAKABLE = re.compile(r"(--[a-z][a-z-]*|[\d.]+e-\d+)")
_LONG = 24  # characters: a column with a longer text is wrapped

Kind = Literal["number", "text", "long"]


@dataclass(frozen=True)
class Cell:
    """One value of a table.

    Attributes:
        text: as it is read.
        value: as it sorts and as CSV has it, in full precision; None, or NaN, where there is none.
        link: http or https address that the text leads to, such as an MLflow run's.
        mark: "best", "chance" (a score that guessing may reach), "diverged", or any short word;
            shown as a word beside the text.
        also: further numbers that the text holds, by name, as (("low", 74.1), ("high", 76.2)): CSV
            has them in columns "<column> low" and so on.

    Raises:
        ValueError: the link is not an http or https address.
    """

    text: str
    value: float | None = None
    link: str = ""
    mark: str = ""
    also: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.link:
            return
        address = urlsplit(self.link)
        if address.scheme not in ("http", "https") or not address.netloc:
            raise ValueError(
                f"the link {self.link!r} of a cell is not an http or https address: "
                "give one, or leave it empty"
            )

    @property
    def has_value(self) -> bool:
        return self.value is not None and not math.isnan(self.value)

    @property
    def word(self) -> str:
        """The mark in words; empty where the text already says it."""
        word = _WORDS.get(self.mark, self.mark)
        return "" if word == self.text else word


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its header.

    Attributes:
        name: stem of its CSV and LaTeX files: letters, digits, _ and -.
        caption: what it shows, in a sentence.
        columns: headers, all different.
        rows: each as long as `columns`.
        note: small print below it.

    Raises:
        ValueError: a name that is no file stem, no column, columns alike, or a row of another
            length.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        _check_name("table", self.name)
        if not self.columns:
            raise ValueError(f"table {self.name!r} has no column: give at least one")
        if twice := _repeated(self.columns):
            raise ValueError(f"table {self.name!r} has columns alike: {twice}; rename them")
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} of table {self.name!r} has {len(row)} cells for "
                    f"{len(self.columns)} columns: give one for each"
                )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kind of each column: number if a cell has a value, or none a text; long if one wraps."""
        return tuple(_kind([row[place] for row in self.rows]) for place in range(len(self.columns)))


@dataclass(frozen=True)
class Picture:
    """A drawing, as the text of an <svg> element that is put into the page as it is.

    Attributes:
        name: letters, digits, _ and -.
        caption: below it.
        alt: what is to be seen, for those who do not see it.
        svg: trusted: it must come from this project's own plots.
        data: the numbers drawn, folded away below it.

    Raises:
        ValueError: a name that is no anchor, or a text that is no <svg> element.
    """

    name: str
    caption: str
    alt: str
    svg: str
    data: Table | None = None

    def __post_init__(self) -> None:
        _check_name("picture", self.name)
        if not self.svg.lstrip().startswith("<svg"):
            raise ValueError(
                f"picture {self.name!r} starts with {self.svg[:20]!r}: give an <svg> element, "
                "without an XML declaration or doctype"
            )


@dataclass(frozen=True)
class Section:
    """One question of a report.

    Attributes:
        name: its anchor: letters, digits, _ and -.
        title: its heading.
        paragraphs: plain text; the first is the answer.
        tables, pictures: what the answer rests on.
        details: tables folded away.
        commands: lines of a shell, shown as they are.

    Raises:
        ValueError: a name that is no anchor.
    """

    name: str
    title: str
    paragraphs: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    details: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name("section", self.name)


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title, subtitle: its head.
        answers: the questions' answers in short, in order.
        warnings: what a reader must know before believing them.
        sections: in order.

    Raises:
        ValueError: two sections, two tables or two pictures have the same name.
    """

    title: str
    subtitle: str
    answers: tuple[str, ...]
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]

    def __post_init__(self) -> None:
        pictures = [picture.name for section in self.sections for picture in section.pictures]
        for kind, names in (
            ("sections", [section.name for section in self.sections]),
            ("tables", [table.name for table in self.tables()]),
            ("pictures", pictures),
        ):
            if twice := _repeated(names):
                raise ValueError(f"{kind} of a page have the same name: {twice}; rename them")

    def tables(self) -> Iterator[Table]:
        """Every table in the order of the page, folded away or not."""
        for section in self.sections:
            yield from section.tables
            yield from (picture.data for picture in section.pictures if picture.data)
            yield from section.details


def render(page: Page) -> str:
    """Write a page as one HTML file that needs nothing else.

    All text is escaped. The page's Content-Security-Policy allows its own script, by hash, inline
    style, pictures in it, and nothing else: whatever might slip in could load or run nothing.

    Returns:
        The text of the file, to be stored as UTF-8.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PARTS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(counted=count, sorting=_sorting, unbroken=_unbroken)
    script = (_PARTS / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        page=page,
        style=(_PARTS / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
    )


def _sorting(value: float) -> str:
    """A number as JavaScript's Number() reads it."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(float(value))


def _unbroken(text: str) -> Markup:
    """Text whose learning rates (1e-3) and flags (--lrs) stay on one line."""
    whole = Markup("<span class='whole'>{}</span>")
    parts = _UNBREAKABLE.split(text)  # every other one is unbreakable
    return Markup("").join(
        whole.format(part) if odd % 2 else part for odd, part in enumerate(parts)
    )


def _kind(cells: list[Cell]) -> Kind:
    if any(cell.has_value for cell in cells) or all(cell.text in MISSING for cell in cells):
        return "number" if cells else "text"
    return "long" if any(len(cell.text) > _LONG for cell in cells) else "text"


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the {kind} name {name!r} is an anchor or a file's: use letters, digits, _ and -"
        )


def _repeated(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name, times in Counter(names).items() if times > 1)
