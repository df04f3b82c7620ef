"""How pictures are written: as files, and into a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from plot_frames import FIGURES, phenomena, trials

from analysis.plots import axis_figure, heat_map, inline_svg, save
from analysis.plots.style import INK

every_figure = pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)


@pytest.mark.parametrize(
    "figure",
    [
        pytest.param(figure, id=name, marks=[] if name in ("lr", "gain") else [pytest.mark.slow])
        for name, figure in FIGURES.items()
    ],
)
def test_the_same_data_gives_the_same_files(figure: Callable[[], Figure], tmp_path: Path) -> None:
    """Nothing of the day or of chance is in a picture, and writing it changes nothing in it."""
    first = save(figure(), tmp_path / "one", "picture")
    drawn = figure()
    inline = inline_svg(drawn, name="a", alt="x")
    second = save(drawn, tmp_path / "two", "picture")
    assert [path.name for path in first] == ["picture.png", "picture.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert inline == inline_svg(figure(), name="a", alt="x")
    assert pyplot.get_fignums() == []


@every_figure
def test_inline_pictures_stand_by_themselves(figure: Callable[[], Figure]) -> None:
    """Two pictures of the same content share no id, refer to nothing outside themselves, bring no
    style for the page, and have their ink in the page's colour."""
    page = inline_svg(figure(), name="one", alt="x < y & z") + inline_svg(
        figure(), name="two", alt="x"
    )
    for picture in ElementTree.fromstring(f"<div>{page}</div>"):
        ids = [part.get("id") for part in picture.iter() if part.get("id")]
        assert len(set(ids)) == len(ids)
        name = picture.get("aria-labelledby").removesuffix("-title")
        assert all(str(each).startswith(f"{name}-") for each in ids)
        source = ElementTree.tostring(picture, encoding="unicode")
        found = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', source)
        assert {one or other for one, other in found} <= set(ids)
        assert picture.get("role") == "img"
    assert page.count("http") == page.count('xmlns="http://www.w3.org/2000/svg"') == 2
    assert "<title" in page
    assert "x &lt; y &amp; z" in page
    assert "currentColor" in page
    for unwanted in (INK, "<?xml", "<!DOCTYPE", "<style", "<metadata", "<image", "#ffffff; opac"):
        assert unwanted not in page


def test_inline_texts_are_texts() -> None:
    """A reader can select and search the words of an inline picture, in any font."""
    page = inline_svg(heat_map(phenomena()), name="map", alt="x")
    words = [text.text for text in ElementTree.fromstring(page).iter() if _is_text(text)]
    for word in (
        "blimp",
        "anaphor agreement",
        "lstm",
        "61.5",
        "points above chance",
        "+40",
    ):
        assert word in words
    assert "sans-serif" in page


def _is_text(element: ElementTree.Element) -> bool:
    return element.tag.endswith("text")


@pytest.mark.parametrize(("name", "alt"), [("1st", "x"), ("a b", "x"), ("a", " ")])
def test_names_and_alt_texts_are_checked(name: str, alt: str) -> None:
    """A name that cannot begin an id and a picture without an alt text are refused."""
    with pytest.raises(ValueError, match="cannot begin an id|cannot see it"):
        inline_svg(Figure(), name=name, alt=alt)


def test_files_are_dark_on_white(tmp_path: Path) -> None:
    """A picture on disk needs no page behind it."""
    picture = save(axis_figure(trials(["lstm"])), tmp_path, "curve")[1].read_text()
    assert "fill: #ffffff" in picture
    assert INK in picture
    assert to_hex(INK) == INK  # as matplotlib writes it
