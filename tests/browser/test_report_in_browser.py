"""The page of a report as Chromium shows it, on a phone and on a desk, light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import plots
from analysis.reporting.page import Cell, Page, Picture, Section, Table, render

ARCHS = ("transformer", "lstm", "xlstm", "mamba", "hgrn2")
LRS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
MACROS = {"transformer": 71.4, "lstm": 50.3, "xlstm": 71.4, "mamba": math.nan, "hgrn2": 75.31}
MARKS = {"lstm": "chance", "mamba": "diverged", "hgrn2": "best"}
RUNS = "http://127.0.0.1:5000/#/experiments/1/runs/"


def leaderboard() -> Table:
    """Words, numbers and long sentences; ties, marks and values that are missing."""
    columns = ("architecture", "macro, %", "95 % interval", "bits/byte", "tokens", "in words")
    return Table(
        "leaderboard",
        "Architectures at their best learning rate, each trained on the same tokens in the same "
        "order, scored on the items that no choice looked at",
        columns,
        tuple(standing(arch, macro) for arch, macro in MACROS.items()),
        note="Mean of 3 seeds; the interval is over seeds and items.",
    )


def standing(arch: str, macro: float) -> tuple[Cell, ...]:
    if math.isnan(macro):
        score, interval, words = "diverged", Cell("—"), "—"
    else:
        score, interval = f"{macro:.1f}", Cell(f"{macro - 1.2:.1f} to {macro + 1.2:.1f}", macro - 1)
        words = f"{arch} is ahead of guessing by {macro - 50:.1f} points, more than its interval."
    return (
        Cell(arch),
        Cell(score, macro, RUNS + arch, MARKS.get(arch, "")),
        interval,
        Cell("0.8123", 0.8123),
        Cell("19,700,000", 19_700_000),
        Cell(words),
    )


def lr_picture() -> Picture:
    """A drawing of the project's own, with its numbers."""
    rows = [
        {"arch": arch, "lr": lr, "seed": seed, "outcome": "finished"}
        | {"bits_per_byte": 0.9 + 0.05 * (place - 2) ** 2 + 0.01 * seed + 0.02 * number}
        | {"macro": 72.0 - 4 * (place - 2) ** 2 + seed - number}
        for number, arch in enumerate(ARCHS)
        for place, lr in enumerate(LRS)
        for seed in range(3)
    ]
    figure = plots.axis_figure(pd.DataFrame(rows))
    alt = "Loss falls to 3e-3 and rises again."
    cells = tuple(
        (Cell(str(row["arch"])), Cell(f"{row['lr']:g}"), Cell(f"{row['macro']:.1f}"))
        for row in rows
    )
    return Picture(
        "lr-curve",
        "Validation loss and macro by peak learning rate; bands reach from the worst seed to the "
        "best.",
        alt,
        plots.inline_svg(figure, name="lr-curve", alt=alt),
        Table("lr-data", "Every trial", ("arch", "learning rate", "macro"), cells),
    )


def sections() -> tuple[Section, ...]:
    answer = (
        "hgrn2 scores best: macro 75.3 (95 % interval 74.1 to 76.5); it beats mamba, xlstm, lstm "
        "and transformer."
    )
    rule = (
        "Learning rate and epoch were chosen by validation loss; the figures are of the items that "
        "no choice looked at."
    )
    inside = "The best rate of each architecture lies inside the grid."
    command = "python sweeps/lr_sweep.py --arch " + " ".join(ARCHS) + " --seeds 0 1 2 --preset mini"
    diverged = Table("diverged", "Diverged trials", ("arch", "learning rate"), ())
    return (
        Section("architectures", "Which architecture", (answer, rule), (leaderboard(),)),
        Section(
            "learning-rate",
            "Which learning rate",
            (inside,),
            pictures=(lr_picture(),),
            details=(diverged,),
        ),
        Section(
            "reproduce",
            "How to run this again",
            ("On a clean checkout of the commit below.", "corpus " + "0123456789abcdef" * 8),
            commands=("make test", command),
        ),
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it, as a file."""
    page = Page(
        "Study mini-mini",
        "75 trials of 5 architectures, 22 November 2026",
        ("hgrn2 scores best.", "The best learning rate is 3e-3 for all five architectures."),
        ("One trial of mamba diverged; its figures are of two seeds.",),
        sections(),
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(page), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        pytest.param(390, False, id="390-light"),
        pytest.param(390, True, id="390-dark", marks=pytest.mark.slow),
        pytest.param(1280, False, id="1280-light", marks=pytest.mark.slow),
        pytest.param(1280, True, id="1280-dark"),
    ],
)
def test_the_page_opens_whole_and_alone(
    width: int, dark: bool, report: Path, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    """No error, no request but the file's, each picture has a size, and nothing sticks out."""
    opened = open_page(report, width=width, dark=dark)
    page = opened.page
    for summary in page.locator("summary").all():
        summary.click()
    page.screenshot(path=tmp_path / f"report-{width}.png", full_page=True)
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [report.as_uri()]
    pictures = [picture.bounding_box() for picture in page.locator("svg, img").all()]
    assert len(pictures) == 1
    assert all(box["width"] > 100 and box["height"] > 100 for box in pictures)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, paper.removeprefix("rgb(").strip(")").split(","))) < 100) == dark


def test_a_wide_table_scrolls_in_its_own_box(report: Path, open_page: Callable[..., Any]) -> None:
    """On a phone all of a table is reached by scrolling it, while its caption stays in view."""
    page = open_page(report, width=390).page
    box = page.locator(".scroll").first
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    box.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
    last = box.locator("th[scope=col]").last.bounding_box()
    assert last["x"] + last["width"] <= 390
    caption = box.locator("caption span").bounding_box()
    assert caption["x"] >= 0
    assert caption["x"] + caption["width"] <= 390


@pytest.mark.parametrize("by", ["click", "Enter", "Space"])
def test_tables_sort_both_ways(by: str, report: Path, open_page: Callable[..., Any]) -> None:
    """A header sorts upwards, then downwards; missing values stay last and ties in their order."""
    page = open_page(report).page
    upwards = ["lstm", "transformer", "xlstm", "hgrn2", "mamba"]
    assert press(page, "macro, %", by) == ("ascending", upwards)
    downwards = ["hgrn2", "transformer", "xlstm", "lstm", "mamba"]
    assert press(page, "macro, %", by) == ("descending", downwards)
    assert press(page, "architecture", by) == ("ascending", sorted(ARCHS))
    others = page.get_by_role("columnheader", name="macro, %").first
    assert others.get_attribute("aria-sort") == "none"
    by_words = ["hgrn2", "lstm", "transformer", "xlstm", "mamba"]
    assert press(page, "in words", by) == ("ascending", by_words)
    by_words = ["xlstm", "transformer", "lstm", "hgrn2", "mamba"]
    assert press(page, "in words", by) == ("descending", by_words)


def press(page: Any, column: str, by: str) -> tuple[str | None, list[str]]:
    """How the leaderboard is sorted, and its first column, after a header was pressed."""
    table = page.locator("table").first
    header = table.get_by_role("columnheader", name=column)
    button = header.get_by_role("button")
    if by == "click":
        button.click()
    else:
        button.focus()
        page.keyboard.press(by)
    return header.get_attribute("aria-sort"), table.locator("tbody th").all_inner_texts()


def test_without_a_script_all_is_there(report: Path, browser: Any) -> None:
    """A reader who lets no script run sees every table, without buttons that do nothing."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("table").count() == 3
    assert page.locator("button").count() == 0
    assert page.get_by_text("hgrn2 scores best.", exact=True).is_visible()
    context.close()
