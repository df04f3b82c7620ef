"""How every picture looks, and how it is written."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.lines import Line2D

HEAT = "cividis"
"""Colours of heat maps. Its lightness grows evenly, so that it reads the same in grey and for all
kinds of colour vision (Nunez, Anderton & Renslow 2018, PLoS ONE 13(7): e0199239)."""
INK = "#16181d"
"""Axes, labels and marks; `inline_svg` makes it the text colour of the page."""

RC: dict[Any, Any] = {
    **dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "grid.color"], INK),
    **dict.fromkeys(["xtick.color", "ytick.color", "hatch.color", "patch.edgecolor"], INK),
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # of nearly the same width
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # shows a whole period of the dashes
    "svg.fonttype": "path",
    "svg.hashsalt": "babysweep",  # the same drawing gives the same file
    "text.parse_math": False,  # a study may have a dollar sign in its name
}
"""Settings to draw and to write in: matplotlib makes some artists only when it writes."""


class LineStyle(NamedTuple):
    """Colour, marker and dashes: any one of them tells the lines of a picture apart."""

    color: str
    marker: str
    dashes: Any = "-"

    @property
    def line(self) -> dict[str, Any]:
        """Keywords for `Axes.plot`; the rim keeps pale colours visible on white."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.dashes,
            "markeredgecolor": INK,
            "markeredgewidth": 0.6,
        }


# Okabe & Ito's palette for all kinds of colour vision (https://jfly.uni-koeln.de/color, 2008).
ARCH_STYLES = {
    "transformer": LineStyle("#0072B2", "o"),
    "lstm": LineStyle("#D55E00", "s", (0, (6, 2))),
    "xlstm": LineStyle("#009E73", "^", (0, (1.5, 1.5))),
    "mamba": LineStyle("#CC79A7", "D", (0, (6, 2, 1.5, 2))),
    "hgrn2": LineStyle("#E69F00", "v", (0, (3, 1.5))),
    "gated_deltanet": LineStyle("#F0E442", "p", (0, (6, 2, 1.5, 2, 1.5, 2))),
}
DESIGN_STYLES = {
    "trajectory": LineStyle("#0072B2", "o"),
    "independent": LineStyle("#D55E00", "s", (0, (6, 2))),
    "branch": LineStyle("#E69F00", "v", (0, (1.5, 1.5))),
}
STYLES = {arch: (style.color, style.marker) for arch, style in ARCH_STYLES.items()}
"""Colour and marker of the architectures of this project."""

_OTHER_STYLES = [
    LineStyle(color, marker, dashes)
    for marker, dashes in (("P", "-"), ("X", (0, (4, 1))), ("*", (0, (1, 1))), ("h", "-."))
    for color in ("#56B4E9", "#7F7F7F", INK)
]
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def line_styles(
    names: Iterable[str], known: Mapping[str, LineStyle] = ARCH_STYLES
) -> dict[str, LineStyle]:
    """The style of each name, the known ones in their order before any others in the alphabet's.

    Another name has a style by its checksum, so that it looks alike in every picture; only where
    two of a picture fall on the same does the later one take the next.
    """
    present = set(names)
    found = {name: style for name, style in known.items() if name in present}
    for name in sorted(present - set(known)):
        first = zlib.crc32(name.encode()) % len(_OTHER_STYLES)
        order = _OTHER_STYLES[first:] + _OTHER_STYLES[:first]
        found[name] = next((style for style in order if style not in found.values()), order[0])
    return found


def line_sign(label: str, style: LineStyle) -> Line2D:
    """The legend's sign for a line."""
    return Line2D([], [], label=label, **style.line)


def ink_sign(label: str, **style: Any) -> Line2D:
    """The legend's sign for something that has no colour of its own."""
    return Line2D([], [], label=label, **{"color": INK, "linestyle": "none", **style})


def say(axes: Axes, text: str) -> None:
    """Write into an empty panel why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", alpha=0.75)


def in_units(number: float) -> str:
    """Shorten a number: 2500000 -> 2.5M."""
    for sign, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:g}{sign}"
    return f"{number:g}"


def check(frame: pd.DataFrame, columns: Sequence[str], picture: str) -> None:
    """Check that there is something to draw.

    Raises:
        ValueError: the frame lacks a column or has no rows.
    """
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(
            f"{picture} needs the columns {', '.join(columns)}: the frame lacks "
            f"{', '.join(missing)}"
        )
    if frame.empty:
        raise ValueError(f"{picture} needs at least one row: there is nothing to draw")


def readable_on(face: np.ndarray) -> str:
    """Black or white, whichever has the greater contrast (WCAG 2.1, relative luminance).

    The black is named, for matplotlib leaves pure black to the page.
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in face[:3]]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "#010101" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"


@rc_context(RC)
def write(figure: Figure, path: Path | str) -> Path:
    """Write a figure on white, without the date, so that the same figure gives the same bytes.

    Args:
        figure: what one of this package's functions returned.
        path: file to write; its ending chooses the format (.png, .svg, .pdf).
    """
    path = Path(path)
    _lay_out(figure)
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(path, dpi=150, metadata=dates.get(path.suffix.lower()))
    return path


def save(figure: Figure, folder: Path | str, stem: str) -> tuple[Path, Path]:
    """Write a figure as PNG (150 dots per inch) and SVG (text as outlines, as on every machine).

    Returns:
        Paths of the PNG and the SVG: `stem` with these endings, in `folder`, which is made.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return write(figure, folder / f"{stem}.png"), write(figure, folder / f"{stem}.svg")


@rc_context({**RC, "svg.fonttype": "none"})
def inline_svg(figure: Figure, *, name: str, alt: str) -> str:
    """A figure as an SVG element to stand in an HTML page.

    It refers to nothing outside itself, has no background, and draws its ink in the page's text
    colour, so that it follows light and dark mode. Its texts are texts.

    Args:
        figure: what one of this package's functions returned.
        name: unique on the page; all ids within the element begin with it.
        alt: what the picture shows, for who cannot see it.

    Raises:
        ValueError: `name` cannot begin an id, or there is no `alt`.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot begin an id: use a letter, then letters, digits, hyphens or "
            "underscores"
        )
    if not alt.strip():
        raise ValueError(f"the picture {name} needs a text for who cannot see it: pass alt")
    _lay_out(figure)
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    drawn = ElementTree.fromstring(written.getvalue())
    title = ElementTree.Element("title", {"id": f"{name}-title"})
    title.text = alt
    width = float(drawn.attrib["viewBox"].split()[2])
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": drawn.attrib["viewBox"],
            "width": "100%",
            "role": "img",
            "aria-labelledby": f"{name}-title",
            # Matplotlib's own style sheet would hold for the whole page.
            "style": f"max-width: {width:g}pt; stroke-linejoin: round; stroke-linecap: butt",
        },
    )
    root.append(title)
    content = [part for part in drawn if _tag(part) != "metadata" and not _is_sheet(part)]
    root.extend(content)
    _make_part_of_page(content, name)
    return ElementTree.tostring(root, encoding="unicode")


def _lay_out(figure: Figure) -> None:
    """Place everything once: each further time would move it by a hair, from file to file."""
    if not isinstance(figure.get_layout_engine(), (NoneType, PlaceHolderLayoutEngine)):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _is_sheet(element: ElementTree.Element) -> bool:
    return _tag(element) == "defs" and any(_tag(part) == "style" for part in element)


def _make_part_of_page(content: list[ElementTree.Element], name: str) -> None:
    """Drop what only a file needs, in place: namespaces, ids to which nothing refers, own ink."""
    elements = [element for part in content for element in part.iter()]
    used = {
        found
        for element in elements
        for value in element.attrib.values()
        for found in re.findall(r"^#(.+)$|url\(#([^)]+)\)", value)
    }
    ids = {one or other for one, other in used}
    for element in elements:
        element.tag = _tag(element)
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        own = attributes.pop("id", None)
        if own in ids:
            attributes["id"] = f"{name}-{own}"
        if (target := attributes.get("href", "")).startswith("#"):
            attributes["href"] = f"#{name}-{target[1:]}"
        element.attrib.clear()
        for key, value in attributes.items():
            value = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", value)
            element.set(key, value.replace(INK, "currentColor"))
