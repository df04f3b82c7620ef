"""The page of a report, as a browser would parse it, and its tables as files."""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections import Counter
from hashlib import sha256
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from analysis.reporting.page import Cell, Page, Picture, Section, Table, render
from analysis.reporting.tables import write_tables

HOSTILE = """<script>alert("1")</script>'"><img src=x onerror=alert(2)> & {{ 7 * 7 }} </style>"""
SPECIAL = r"a_b & 50% of #1 {x} ~ ^ \end $"
RUN = "http://127.0.0.1:5000/#/experiments/1/runs/abc?a=1&b=2"
SVG = '<svg role="img" viewBox="0 0 4 3"><title>t</title><path d="M0 0L4 3"/></svg>'
VOID = {"meta", "link"}


class Parsed(HTMLParser):
    """Every element with its attributes and all text inside of it, in the order of the file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {[self.elements[i][0] for i in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.elements[place][2].append(data)

    def texts(self, tag: str) -> list[str]:
        return ["".join(texts).strip() for name, _, texts in self.elements if name == tag]

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]


def table(name: str = "scores", text: str = "text") -> Table:
    """One of each kind of column and cell."""
    return Table(
        name,
        f"Scores {text}",
        ("arch", "macro", "sentence"),
        (
            (Cell("hgrn2"), Cell("75.3", 75.312345678901234, RUN, "best"), Cell("A long " * 9)),
            (Cell(text, link=RUN), Cell("50.1", 50.1, mark="chance"), Cell("—")),
            (Cell("lstm"), Cell("diverged", mark="diverged"), Cell(text)),
            (Cell("mamba"), Cell("—"), Cell("")),
            (Cell("xlstm"), Cell("∞", math.inf), Cell("")),
        ),
        note=f"Note {text}",
    )


def page(text: str = "text") -> Page:
    """Everything that a page may have."""
    picture = Picture("curve", f"Curve {text}", f"Falls {text}", SVG, table("curve-data", text))
    sections = (
        Section("scores", f"Scores {text}", (f"A {text}", "More"), (table(text=text),), (picture,)),
        Section("more", text, (text,), details=(table("folded", text),), commands=(text, "make")),
    )
    return Page(f"Study {text}", f"5 runs {text}", (f"hgrn2 {text}",), (f"one {text}",), sections)


def test_whatever_a_name_says_it_stays_text() -> None:
    """Hostile text in every field adds no element and no attribute, and is read as it was given."""
    harmless, hostile = Parsed(render(page())), Parsed(render(page(HOSTILE)))
    shape = [(tag, sorted(attributes)) for tag, attributes, _ in harmless.elements]
    assert [(tag, sorted(attributes)) for tag, attributes, _ in hostile.elements] == shape
    assert hostile.texts("h1") == [f"Study {HOSTILE}"]
    assert hostile.attributes("div")[-1].get("onerror") is None
    labels = [attributes.get("aria-label") for attributes in hostile.attributes("div")]
    assert f"Falls {HOSTILE}" in labels
    read = ["".join(parsed.elements[0][2]) for parsed in (hostile, harmless)]
    assert read[0].count(HOSTILE) > 20
    assert read[0].replace(HOSTILE, "text") == read[1]


def test_no_request_leaves_the_page() -> None:
    """Nothing in the file makes a browser load anything; its policy forbids it besides."""
    parsed = Parsed(render(page()))
    loading = {"src", "srcset", "data", "poster", "background", "action", "ping", "style"}
    for tag, attributes, _ in parsed.elements:
        assert not loading & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        if "href" in attributes and tag != "a":
            assert (tag, attributes["href"]) == ("link", "data:,")
    assert not re.search(r"url\(|@import|@font-face", "".join(parsed.texts("style")))
    assert not re.search(r"fetch|XMLHttp|import|https?:|eval", "".join(parsed.texts("script")))
    policies = [meta["content"] for meta in parsed.attributes("meta") if "http-equiv" in meta]
    assert len(policies) == 1
    assert "default-src 'none'" in policies[0]


def test_the_policy_lets_the_own_script_run() -> None:
    """The hash in the policy is that of the script as the file has it, so the tables do sort."""
    text = render(page())
    script = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(script) == 1
    digest = b64encode(sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in Parsed(text).attributes("meta")[1]["content"]


@pytest.mark.parametrize(
    "link",
    ["javascript:alert(1)", " JavaScript:alert(1)", "java\nscript:alert(1)", "data:text/html,x"]
    + ["file:///etc/passwd", "//host/run", "run/1", "https:"],
)
def test_a_link_leads_to_a_web_address_or_is_refused(link: str) -> None:
    """Only http and https addresses become links."""
    with pytest.raises(ValueError, match="not an http or https address"):
        Cell("75.3", link=link)


def test_links_go_where_they_were_sent() -> None:
    """A number leads to its run, whose page gets no handle on the report."""
    runs = [a for a in Parsed(render(page())).attributes("a") if a["href"].startswith("http")]
    assert runs
    assert {(run["href"], run["rel"]) for run in runs} == {(RUN, "noopener")}


def test_headings_are_in_order_and_anchors_lead_somewhere() -> None:
    """One h1, no level skipped, ids unique, and each reference within the page has its target."""
    parsed = Parsed(render(page()))
    levels = [int(tag[1]) for tag, _, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in zip(levels, levels[1:], strict=False))
    ids = Counter(attributes["id"] for _, attributes, _ in parsed.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    for _, attributes, _ in parsed.elements:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        assert attributes.get("aria-labelledby", "page.main") in ids
    assert [html["lang"] for html in parsed.attributes("html")] == ["en"]
    assert parsed.attributes("nav")


def test_tables_have_captions_and_headers_of_columns_and_rows() -> None:
    """Each table says what it is; each column and each row has a header that says so."""
    text = render(page())
    tables = re.findall("<table>.*?</table>", text, flags=re.DOTALL)
    assert len(tables) == 3
    for one in map(Parsed, tables):
        assert one.texts("caption") == ["Scores text"]
        scopes = [header["scope"] for header in one.attributes("th")]
        assert scopes == ["col"] * 3 + ["row"] * 5
        assert one.texts("th")[:4] == ["arch", "macro", "sentence", "hgrn2"]
    kinds = [header["class"] for header in Parsed(tables[0]).attributes("th")[:3]]
    assert kinds == ["text", "number", "long"]
    numbers = [cell for cell in Parsed(tables[0]).attributes("td") if cell["class"] == "number"]
    values = [cell.get("data-value") for cell in numbers]
    assert values == ["75.31234567890124", "50.1", None, None, "Infinity"]


def test_a_mark_is_a_word() -> None:
    """Best, within chance and diverged are read, not only seen; none is said twice."""
    cells = [" ".join(text.split()) for text in Parsed(render(page())).texts("td")]
    assert cells[0] == "best 75.3"
    assert cells[2] == "within chance 50.1"
    assert cells[4] == "diverged"


def test_rates_and_flags_stay_on_one_line() -> None:
    """A browser would end a line after a hyphen: 1e-3 and --lrs are kept from that, and the text is
    as it was."""
    text = "Best at 1e-3 or 3.3e-4; add --extra-lrs <b>."
    parsed = Parsed(render(Page("Study", "", (text,), (text,), ())))
    assert parsed.texts("li") == [text, text]
    assert parsed.texts("span") == ["1e-3", "3.3e-4", "--extra-lrs"] * 2


def test_a_page_of_nothing_says_so() -> None:
    """A study without results and a table without rows are said to have nothing."""
    empty = Parsed(render(Page("Study", "", (), (), ())))
    assert any("nothing to report" in text for text in empty.texts("p"))
    assert not empty.attributes("nav")
    bare = Table("bare", "No scores", ("arch", "macro"), ())
    cells = Parsed(render(Page("Study", "", (), (), (Section("a", "A", (), (bare,)),))))
    assert cells.texts("td") == ["Nothing to show here yet."]
    assert cells.attributes("td")[0]["colspan"] == "2"


def test_what_cannot_be_shown_is_refused() -> None:
    """Names that are no file or anchor, and rows that do not fit, are errors that say why."""
    one = Table("one", "", ("a",), ())
    with pytest.raises(ValueError, match="'../one' is an anchor or a file's"):
        Table("../one", "", ("a",), ())
    with pytest.raises(ValueError, match="no column"):
        Table("one", "", (), ())
    with pytest.raises(ValueError, match="columns alike: 'a'"):
        Table("one", "", ("a", "a"), ())
    with pytest.raises(ValueError, match="row 1 of table 'one' has 2 cells for 1 columns"):
        Table("one", "", ("a",), ((Cell("1"), Cell("2")),))
    with pytest.raises(ValueError, match="tables of a page have the same name: 'one'"):
        Page("", "", (), (), (Section("s", "", (), (one,), details=(one,)),))
    with pytest.raises(ValueError, match="give an <svg> element"):
        Picture("p", "", "", "<?xml version='1.0'?><svg/>")


def test_csv_holds_the_very_numbers(tmp_path: Path) -> None:
    """pandas reads the values back to the last bit, a dash as missing, and links beside them."""
    paths = write_tables(page("a, \"b\" & 'c'\n"), tmp_path)
    assert [path.name for path in paths[:2]] == ["scores.csv", "scores.tex"]
    assert {path.stem for path in paths} == {"scores", "curve-data", "folded"}
    frame = pd.read_csv(paths[0], float_precision="round_trip")
    assert list(frame) == ["arch", "arch run", "macro", "macro mark", "macro run", "sentence"]
    assert float(frame["macro"][0]) == 75.312345678901234
    assert frame["macro"][2] == "diverged"
    assert pd.isna(frame["macro"][3])
    assert float(frame["macro"][4]) == math.inf
    assert frame["arch"][1] == "a, \"b\" & 'c'\n"
    assert frame["macro run"].tolist()[:1] == [RUN]
    assert frame["macro mark"].tolist()[:2] == ["best", "chance"]


def test_csv_has_both_ends_of_an_interval(tmp_path: Path) -> None:
    """What a text holds besides its value is in CSV as numbers, missing where a cell has none."""
    rows = (Cell("74.1 to 76.2", 74.1, also=(("high", 76.2),)),), (Cell("-"),)
    one = Table("one", "", ("interval",), rows)
    paths = write_tables(Page("", "", (), (), (Section("s", "", (), (one,)),)), tmp_path)
    frame = pd.read_csv(paths[0])
    assert list(frame) == ["interval", "interval high"]
    assert frame.iloc[0].tolist() == [74.1, 76.2]
    assert frame.iloc[1].isna().all()


def test_csv_names_the_column_that_is_in_the_way(tmp_path: Path) -> None:
    """A column that links would overwrite is an error, not a loss."""
    one = Table("one", "", ("a", "a run"), ((Cell("1", 1.0, RUN), Cell("2")),))
    with pytest.raises(ValueError, match="has a column 'a run', which 'a' needs"):
        write_tables(Page("", "", (), (), (Section("s", "", (), (one,)),)), tmp_path)


@pytest.mark.parametrize("rows", [0, 5, 60])
def test_latex_is_well_formed(rows: int, tmp_path: Path) -> None:
    """Braces and environments balance, no special character is bare, each row has its cells."""
    one = table(text=SPECIAL)
    long = Table("long", one.caption, one.columns, (one.rows * 12)[:rows], note=SPECIAL)
    section = Section("s", "", (), (long,))
    text = write_tables(Page("", "", (), (), (section,)), tmp_path)[1].read_text(encoding="utf-8")
    commands = [line for line in text.splitlines() if not line.startswith("%")]
    bare = re.sub(r"\\[&%$#_{}\\]", "", "\n".join(commands))
    assert not set("%$#~^") & set(bare)
    assert "_" not in re.sub(r"\\label\{[^}]*\}", "", bare)
    depth = 0
    for sign in bare:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0
    begun = re.findall(r"\\begin\{(\w+)\}", bare)
    assert begun == list(reversed(re.findall(r"\\end\{(\w+)\}", bare)))
    assert begun == (["longtable"] if rows > 40 else ["table", "tabular"])
    assert ("[htbp]" in text) == (rows <= 40)  # longtable has no place on a page
    body = [line for line in commands if re.search(r"(?<!\\)&", line)]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {2}
    assert len(body) == rows + (2 if rows > 40 else 1)
    assert text.count(r"\caption[Scores a\_b ") == 1  # short for a list of tables, without the note
    assert r"\$. a\_b " in text  # the note follows as a sentence of its own
    assert r"\label{tab:long}" in text
    assert r"\toprule" in text


def test_latex_prints_the_best_in_bold_and_the_other_marks_in_words(tmp_path: Path) -> None:
    """The mark that colours the page is in the published table, too."""
    text = write_tables(page(SPECIAL), tmp_path)[1].read_text(encoding="utf-8")
    assert r"\textbf{75.3}" in text
    assert "50.1 (within chance)" in text
    assert r"a\_b \& 50\% of \#1 \{x\} \textasciitilde{} \textasciicircum{} " in text
    assert r"\textbackslash{}end \$" in text


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(mode: str) -> None:
    """Each colour of text on each ground has WCAG's contrast of 4.5:1."""
    style = Parsed(render(page())).texts("style")[0]
    light, dark = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)[:2]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", light if mode == "light" else dark))
    texts, grounds = ("ink", "muted", "link", "best", "bad"), ("paper", "card", "warning")
    for text, ground in product(texts, grounds):
        contrast = wcag_contrast(colours[text], colours[ground])
        assert contrast >= 4.5, f"{text} on {ground}: {contrast:.2f}"


def wcag_contrast(first: str, second: str) -> float:
    """WCAG 2.2's contrast ratio of two colours like #1d2023."""
    bright, dim = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance, 0 to 1."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_contrast_of_known_colours() -> None:
    """Black on white has the ratio 21, and #767676 is the lightest grey that passes on white."""
    assert wcag_contrast("#000000", "#ffffff") == pytest.approx(21)
    assert wcag_contrast("#767676", "#ffffff") >= 4.5 > wcag_contrast("#777777", "#ffffff")
