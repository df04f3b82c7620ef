"""One notation in all texts for people: rules, and what a report or a terminal shows as texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from analysis.reporting.page import Page, Table

_THINGS = "trials|seeds|words|tokens|items|steps|epochs|students|controls|runs|points|pairs|texts"
FORBIDDEN = {
    "bits/byte is the unit of a loss": re.compile(r"bits[ -]per[ -]byte|\bbpb\b", re.IGNORECASE),
    "a learning rate is 3e-2": re.compile(r"\b(rates?|lrs?)\b[ =:]+(of |is )?0\.\d", re.IGNORECASE),
    "one of a thing is no plural": re.compile(rf"(?<![\d.,e-])1 (\w+ )?({_THINGS})\b"),
    "a plural is written out": re.compile(r"\w\(s\)"),
}
_OVER = re.compile(r"\bover (other )?(seeds|items)\b")


def faults(texts: Iterable[str]) -> list[tuple[str, str]]:
    """The rules that texts break, with the text: a sentence, or a table with all around it."""
    found = []
    for text in texts:
        found += [(rule, text) for rule, pattern in FORBIDDEN.items() if pattern.search(text)]
        if "±" in text and not _OVER.search(text):
            found.append(("beside ± stands what it is over", text))
    return found


def texts_of_page(page: Page) -> Iterator[str]:
    """All that a report shows but for commands, which are as somebody typed them."""
    yield from (page.title, page.subtitle, *page.answers, *page.warnings)
    for section in page.sections:
        yield from (section.title, *section.paragraphs)
        yield from map(_text_of, (*section.tables, *section.details))
        for picture in section.pictures:
            yield from (picture.caption, picture.alt)
            yield from re.findall(r"<text[^>]*>([^<]*)</text>", picture.svg)


def _text_of(table: Table) -> str:
    rows = [
        f"{column}: {cell.text}; {cell.mark}"
        for row in table.rows
        for column, cell in zip(table.columns, row, strict=True)
    ]
    return "\n".join([table.caption, *rows, table.note])


def texts_of_output(output: str) -> Iterator[str]:
    """The lines of a terminal, those of a table with the caption below it in one."""
    table: list[str] = []
    for line in output.splitlines():
        is_inside = line.startswith(("┏", "┃", "┡", "│", "├", "└"))
        if is_inside or table:
            table.append(line)
        if table and not is_inside:
            yield "\n".join(table)
            table = []
        elif not is_inside:
            yield line
    if table:
        yield "\n".join(table)
