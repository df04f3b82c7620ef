"""What commands print in a terminal and in a pipe."""

from __future__ import annotations

import io
import re
from itertools import pairwise

import pytest
from rich.console import Console

from analysis.terminal import RareLines, open_console, say, show_title, show_whole, showing
from tests.contracts.import_graph import modules_by_name

SENTENCE = (
    "[bold]lstm: 3e-2[/] is ahead of 1e-2 by 0.0007 bits/byte in "
    "/a/path/of/more/than/forty/columns/and/one/more on one seed."
)
COMMAND = "python analysis/report.py --study 'my study' --storage '/a/path/with spaces/in it'"


def printed(width: int, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_terminal_breaks_between_words_only(width: int) -> None:
    """Lines fit the terminal where their words do; no word is broken or lost."""
    console = printed(width)
    say(console, SENTENCE)
    lines = text_of(console).splitlines()
    words = re.sub(r"\[/?\w*\]", "", SENTENCE).split()
    assert " ".join(lines).split() == words
    assert all(len(line) <= width or " " not in line for line in lines)
    for line, after in pairwise(lines):
        assert len(line) + len(after.split()[0]) >= width


def test_lines_of_their_own_stay() -> None:
    console = printed(20)
    say(console, "\none two\nthree four five six seven")
    assert text_of(console).splitlines() == ["", "one two", "three four five six", "seven"]


def test_a_pipe_breaks_nothing() -> None:
    console = printed(20, terminal=False)
    say(console, SENTENCE)
    assert len(text_of(console).splitlines()) == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_what_people_paste_is_never_broken(terminal: bool) -> None:
    """Nor is a bracket or a colon in it taken for rich's."""
    console = printed(30, terminal)
    odd = "/a/[bold]/:smile:/ b"
    show_whole(console, "Report", COMMAND, odd)
    assert text_of(console).splitlines() == [f"Report      {COMMAND}", f"            {odd}"]


def test_a_title_is_a_rule_in_a_terminal_only() -> None:
    for terminal, end in ((True, "─"), (False, "p")):
        console = printed(30, terminal)
        show_title(console, "1/6 sweep")
        assert text_of(console).rstrip("\n").endswith(end)
        assert "1/6 sweep" in text_of(console)


def test_what_goes_on_is_told_in_a_pipe() -> None:
    """Each stage in a line of its own, when it begins; a terminal has one line, which goes."""
    console = printed(80, terminal=False)
    with showing(console, "Preparing") as show:
        assert re.fullmatch(r"\d\d:\d\d:\d\d  Preparing\n", text_of(console))
        show("Training the tokenizer")
        show("Training the tokenizer")
    assert [line[10:] for line in text_of(console).splitlines()] == [
        "Preparing",
        "Training the tokenizer",
    ]
    console = printed(80)
    with showing(console, "Preparing") as show:
        show("Training")
    assert not re.search(r"\d\d:\d\d:\d\d", text_of(console))


def test_progress_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pause, and then only what is new."""
    console, now = printed(80, terminal=False), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    lines = RareLines(console, 60)
    for seconds in (1, 59, 60, 61, 119, 120, 200):
        now[0] = float(seconds)
        lines.say(f"{min(seconds, 120)} texts")
    assert [line[10:] for line in text_of(console).splitlines()] == ["60 texts", "120 texts"]


def test_a_table_has_room_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert open_console().width >= 300


def test_one_place_opens_the_console() -> None:
    """Commands agree on what a pipe is; `models` knows nothing of `analysis`."""
    found = [
        name
        for name, path in modules_by_name().items()
        if "Console(" in path.read_text() and not name.startswith("models.")
    ]
    assert sorted(found) == ["analysis.errors", "analysis.terminal"]
