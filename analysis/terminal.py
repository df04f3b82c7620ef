"""What commands print: sentences broken between words only, what is to be pasted not at all."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.text import Text

PIPE_WIDTH = 400
"""Columns where there is no terminal: wide enough for every table."""
_LABEL = 12  # columns


def open_console() -> Console:
    """The console of this process; in a pipe it does not wrap."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def say(console: Console, sentence: str) -> None:
    """Print a sentence with rich's markup: a terminal shows it in lines of whole words, a pipe in
    one."""
    text = Text.from_markup(sentence, emoji=False)
    if console.is_terminal:
        text.plain = _between_words(text.plain, console.width)
    console.print(text, highlight=False, soft_wrap=True)


def show_whole(console: Console, label: str, *lines: str) -> None:
    """Print what people copy (paths, commands, addresses) behind a label, one below the other:
    nothing breaks it."""
    width = max(len(label), _LABEL if label.strip() else 0)
    for number, line in enumerate(lines):
        console.print(Text(f"{'' if number else label:{width}}{line}"), soft_wrap=True)


def show_title(console: Console, title: str) -> None:
    """Print what begins now: a rule across a terminal, a line in a pipe."""
    if console.is_terminal:
        console.rule(f"[bold]{escape(title)}", align="left")
    else:
        console.print(Text(f"\n{title}"), soft_wrap=True)


@contextlib.contextmanager
def showing(console: Console, text: str, pause: float = 0.0) -> Iterator[Callable[[str], None]]:
    """Show what goes on meanwhile, with rich's markup: on a terminal until it is over.

    Args:
        console: where to show it.
        text: what goes on at first.
        pause: for a pipe, see `RareLines`.

    Yields:
        What to call with the next text.
    """
    if console.is_terminal:
        with console.status(text) as status:
            yield lambda following: status.update(following)
    else:
        lines = RareLines(console, pause)
        lines.say(text)
        yield lines.say


class RareLines:
    """Progress where nothing can be shown and taken away again: a line now and then.

    Args:
        console: where to print.
        pause: least seconds before the first line, and between two of them. What comes sooner is
            left out, as is what was said last.
    """

    def __init__(self, console: Console, pause: float) -> None:
        self._console, self._pause = console, pause
        self._last = ""
        self._spoke = time.monotonic()

    def say(self, text: str) -> None:
        """Print a text with rich's markup, if it is time for one."""
        now = time.monotonic()
        if text == self._last or now - self._spoke < self._pause:
            return
        self._last, self._spoke = text, now
        say(self._console, f"{time.strftime('%H:%M:%S')}  {text}")


def _between_words(text: str, width: int) -> str:
    """A text with line ends in place of spaces: no line of two words is longer than `width`."""
    letters, start, space = [*text], 0, -1
    for end, letter in enumerate([*text, " "]):
        if letter not in " \n":
            continue
        if end - start > width and space >= start:
            letters[space] = "\n"
            start = space + 1
        space = end
        if letter == "\n":
            start = end + 1
    return "".join(letters)
