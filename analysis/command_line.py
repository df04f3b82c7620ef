"""A command's words as its arguments, and an error of a line where they are not."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from analysis.errors import EXIT_USAGE, say_error

Args = TypeVar("Args")
_MOST_SHOWN = 80
_KINDS = {
    "INT": "a whole number",
    "FLOAT": "a number",
    "STR": "a text",
    "PATH": "a folder",
    "[INT [INT ...]]": "whole numbers",
    "[FLOAT [FLOAT ...]]": "numbers",
    "{FLOAT FLOAT}": "two numbers",
}


def parse(kind: type[Args], words: Sequence[str] | None, description: str | None) -> Args:
    """The arguments that a command's words stand for.

    What they cannot stand for ends the process with a sentence that names the flag, in place of
    tyro's picture.

    Args:
        kind: dataclass of the arguments.
        words: after the command's name; None for those of the process.
        description: of the command, for `--help`.
    """
    words = sys.argv[1:] if words is None else words
    flag = ""
    for word in words:
        flag = word.partition("=")[0] if word.startswith("-") else flag
        if word in ("", f"{flag}="):
            sys.exit(_refuse(f"{flag or 'a word'} is empty: give a value, or leave the flag out"))
        if re.search("[\\x00-\\x1f\\x7f\\ud800-\\udfff]", word):
            sys.exit(_refuse(f"{flag or 'a word'} has a character that is no letter: {word!r}"))
    picture = io.StringIO()
    try:
        with contextlib.redirect_stderr(picture):
            return tyro.cli(kind, args=words, description=description)
    except SystemExit as end:
        if not end.code:  # of --help
            raise
        sys.exit(_refuse(_sentence(picture.getvalue(), words)))


def place(flag: str, path: str | Path) -> Path:
    """The absolute path that a flag's value stands for.

    Raises:
        ValueError: it stands for none: its links lead in a circle, or there is no such user's home.
    """
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{flag} {path} cannot be looked at: {error}") from error


def make_folder(flag: str, path: str | Path) -> Path:
    """The folder that a flag's value stands for, made if it is not there.

    Raises:
        ValueError: it cannot be made.
    """
    folder = place(flag, path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{flag} must be a folder, or a place for one: {folder} is not ({error.strerror})"
        ) from error
    return folder


def _refuse(text: str) -> int:
    return say_error(ValueError(f"{text} (--help explains every flag)"), EXIT_USAGE)


def _sentence(picture: str, words: Sequence[str]) -> str:
    """What tyro's picture says, in a line; its own words where it says something new."""
    rows = [line.strip("│ ") for line in picture.splitlines()[1:]]  # but for the title
    lines = ["" if set(row) <= set("─-╰╯") else row for row in rows]
    lines = list(itertools.dropwhile(lambda line: not line, lines))
    said = " ".join(itertools.takewhile(bool, lines))
    for pattern, phrase in _PHRASES:
        if found := re.fullmatch(pattern, said):
            return phrase(found, lines, words)
    return said


def _cut(value: str) -> str:
    return value if len(value) <= _MOST_SHOWN else f"{value[:_MOST_SHOWN]}..."


def _wrong_type(found: re.Match[str], lines: list[str], words: Sequence[str]) -> str:
    flag, value = found[1], _cut(found[2].rstrip("]."))
    wanted = next((line.split(" ", 1)[1] for line in lines if line.startswith(f"{flag} ")), "STR")
    kinds = [_KINDS.get(kind, kind.strip("{}")) for kind in wanted.split("|") if kind != "{None}"]
    return f"{flag} takes {' or '.join(kinds)}, not {value}"


def _wrong_choice(found: re.Match[str], lines: list[str], words: Sequence[str]) -> str:
    value, flag, choices = _cut(found[1]), found[2], found[3]
    names = sorted(set(re.findall(r"'([^']+)'", choices)) - {"None"})
    return f"{flag} takes one of {', '.join(names)}, not {value}"


def _no_value(found: re.Match[str], lines: list[str], words: Sequence[str]) -> str:
    flag = found[1]
    return f"{flag} needs a value; one that begins with a dash is written {flag}=-..."


def _unknown(found: re.Match[str], lines: list[str], words: Sequence[str]) -> str:
    word = found[1].split(", ")[0]
    if word.startswith("-"):
        meant = [line.split()[0] for line in lines if line.startswith("--")]
        return f"there is no flag {word}{f': perhaps {meant[0]}' if meant else ''}"
    place = list(words).index(word) if word in words else len(words)
    flags = [each for each in words[:place] if each.startswith("-")]
    return f"{word!r} is one word too many" + (f" after {flags[-1]}" if flags else "")


def _missing(found: re.Match[str], lines: list[str], words: Sequence[str]) -> str:
    return f"missing: {found[1].replace(' (required)', ';').rstrip(';')}"


_PHRASES: tuple[tuple[str, Callable[[re.Match[str], list[str], Sequence[str]], str]], ...] = (
    (r"Error parsing (--[\w-]+): .*?(?:\[|: )('.*)", _wrong_type),
    (r"invalid choice (.*) for argument '(.*?)'\. Expected one of (.*)", _wrong_choice),
    (r"Missing value for argument '(.*?)'\. .*", _no_value),
    (r"Unrecognized options: (.*)", _unknown),
    (r"Missing from .*?: (.*)", _missing),
)
