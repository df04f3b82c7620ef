"""The tables of a report as files: CSV to compute with, LaTeX to publish."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.reporting.page import MISSING, Cell, Kind, Page, Table
from analysis.whole_files import write_text

_PAGE_ROWS = 40  # a longer table goes over several pages
_PACKAGES = "% needs \\usepackage{booktabs} and, for a table over several pages, {longtable}\n"

# What TeX takes as a command, or its default fonts lack. Brackets and stars mean something after
# the end of a row.
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",
        "]": "{]}",
        "*": "{*}",
        "−": r"\ensuremath{-}",
        "±": r"\ensuremath{\pm}",
        "×": r"\ensuremath{\times}",
        "·": r"\ensuremath{\cdot}",
        "≤": r"\ensuremath{\leq}",
        "≥": r"\ensuremath{\geq}",
        "≈": r"\ensuremath{\approx}",
        "∞": r"\ensuremath{\infty}",
        "→": r"\ensuremath{\rightarrow}",
        "α": r"\ensuremath{\alpha}",
        "τ": r"\ensuremath{\tau}",
        "…": r"\ldots{}",
    }
)


def write_tables(page: Page, folder: Path | str) -> list[Path]:
    """Write every table of a page as <name>.csv and <name>.tex.

    CSV (UTF-8) has a cell's value in full precision where it has one, else its text, and nothing
    for a dash. Further numbers, marks and links of a column's cells stand beside it, in columns
    such as "<column> low", "<column> mark" and "<column> run". LaTeX has the text, the best in
    bold, in booktabs' form with the label tab:<name>.

    Args:
        folder: made if it is not there.

    Returns:
        The files written, CSV before LaTeX for each table in the order of the page.

    Raises:
        ValueError: a table has a column of a name that is needed beside another.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for table in page.tables():
        csv, tex = folder / f"{table.name}.csv", folder / f"{table.name}.tex"
        write_text(csv, _frame(table).to_csv(index=False, lineterminator="\n"))
        write_text(tex, _latex(table))
        paths += [csv, tex]
    return paths


def _frame(table: Table) -> pd.DataFrame:
    """A table's values, each column followed by what else its cells hold."""
    columns: dict[str, list[object]] = {}
    for place, name in enumerate(table.columns):
        cells = [row[place] for row in table.rows]
        columns[name] = [_value(cell) for cell in cells]
        for header, values in _beside(name, cells).items():
            if header in table.columns:
                raise ValueError(
                    f"table {table.name!r} has a column {header!r}, which {name!r} needs for what "
                    "else its cells hold: rename it"
                )
            columns[header] = values
    return pd.DataFrame(columns)


def _beside(name: str, cells: list[Cell]) -> dict[str, list[object]]:
    """Columns of a column's further numbers, marks and links, as far as it has any."""
    numbers = dict.fromkeys(further for cell in cells for further, _ in cell.also)
    columns: dict[str, list[object]] = {
        f"{name} {further}": [dict(cell.also).get(further) for cell in cells] for further in numbers
    }
    if any(cell.mark for cell in cells):
        columns[f"{name} mark"] = [cell.mark or None for cell in cells]
    if any(cell.link for cell in cells):
        columns[f"{name} run"] = [cell.link or None for cell in cells]
    return columns


def _value(cell: Cell) -> object:
    if cell.has_value:
        return cell.value
    return None if cell.text in MISSING else cell.text


def _latex(table: Table) -> str:
    frame = pd.DataFrame(
        [[_latex_cell(cell) for cell in row] for row in table.rows],
        columns=[_escape(column) for column in table.columns],
    )
    caption = _escape(table.caption)
    is_long = len(frame) > _PAGE_ROWS
    latex: str = frame.to_latex(
        index=False,
        escape=False,
        column_format=_column_format(table.kinds),
        caption=(f"{caption.rstrip('.')}. {_escape(table.note)}", caption)
        if table.note
        else caption,
        label=f"tab:{table.name}",
        position=None if is_long else "htbp",
        longtable=is_long,
    )
    return _PACKAGES + latex


def _column_format(kinds: tuple[Kind, ...]) -> str:
    """Numbers to the right, short texts to the left, and long ones share most of a line."""
    share = 0.8 / (kinds.count("long") + 1)
    formats = {"number": "r", "text": "l", "long": rf"p{{{share:.2f}\linewidth}}"}
    return "".join(formats[kind] for kind in kinds)


def _latex_cell(cell: Cell) -> str:
    text = _escape(cell.text)
    if cell.mark == "best":
        return rf"\textbf{{{text}}}"
    return f"{text} ({_escape(cell.word)})" if cell.word else text


def _escape(text: str) -> str:
    """Text as LaTeX prints it, on one line."""
    return " ".join(text.split()).translate(_LATEX)
