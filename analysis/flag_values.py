"""The values of flags: how people write them, on a command line, in a file of flags, in Python."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro

from analysis.errors import is_secret
from analysis.schema.ranges import check, flag_of

Flags = TypeVar("Flags")

PLACE = "place"
"""In the metadata of a field whose value may be a path: the names that it may be instead."""
SPLITS = "splits"
"""Marks texts of which several may stand in one word, between commas."""
Names: TypeAlias = tuple[Annotated[str, SPLITS], ...]
"""Names without a comma in them."""

NO_LETTER = re.compile("[\\x00-\\x1f\\x7f\\ud800-\\udfff]")
MOST_SHOWN = 60
"""Letters of a wrong value, or name, of a file."""
_DECIMAL_COMMA = re.compile(r"\d+,\d+(e[+-]?\d+)?", re.IGNORECASE)
"""Two numbers between which is a comma, or one with a decimal comma."""
_NUMBERS = {int: ("INT", "whole number", "0 1 2"), float: ("FLOAT", "number", "1e-3 3e-3")}
"""By type: how help calls it, how an error does, and several of them as an example."""


@dataclass(frozen=True)
class Beginnings:
    """Marks texts that begin with a known name, maybe after that of a folder: they are one, or
    belong to what has it.

    Attributes:
        names: that are known.
        patterns: of other texts (`fnmatch`).
    """

    names: tuple[str, ...]
    patterns: tuple[str, ...] = ()

    def fit(self, text: str) -> bool:
        """Whether a text is so marked."""
        last = text.lower().rpartition("/")[2]
        return last.startswith(self.names) or any(fnmatchcase(last, each) for each in self.patterns)


def place(*names: str, **options: Any) -> Any:
    """A dataclass field for a path, or what may be one: these names are none."""
    return field(metadata={PLACE: names}, **options)


def default_is(words: str) -> Any:
    """Words of help for a default that the field's value does not show."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {words})")


@dataclass(frozen=True)
class ValueFormat:
    """The written form of a type's values.

    Attributes:
        metavar: stands for a value in help.
        read: the value of a text; a ValueError says what is wrong with it.
        several: whether a value is several of these, a tuple.
        count: how many, None for any number.
        splits: whether several may stand in one word, as in 1e-3,3e-3.
        optional: whether None is a value.
        is_text: whether any text is a value.
        has_point: whether a value may have a decimal point, for which some write a comma.
    """

    metavar: str
    read: Callable[[str], Any]
    several: bool = False
    count: int | None = None
    splits: bool = False
    optional: bool = False
    is_text: bool = False
    has_point: bool = False

    def _parts(self, word: str) -> list[str]:
        may_be_one = self.has_point and self.count is None and _DECIMAL_COMMA.fullmatch(word)
        if not self.splits or may_be_one:
            return [word]
        if not self.is_text:
            return _parts(word)
        return [part for each in word.split(",") if (part := each.strip())]

    def of_words(self, words: Sequence[str]) -> Any:
        """The value of a flag with these words behind it; errors as of `read`."""
        if not self.several:
            return self.read(words[0])
        parts = [part for word in words for part in self._parts(word)]
        if words and not (parts and all(map(str.strip, words))):
            raise ValueError("has an empty value: give one, or leave the flag out")
        if self.count is not None and len(parts) != self.count:
            raise ValueError(f"takes {self.count} values, not {len(parts)}: {' '.join(words)}")
        return tuple(self.read(part) for part in parts)


def format_of(kind: Any) -> ValueFormat | None:
    """The format of an annotated type's values; None for other types, of which
    flags have only what is true or false."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _marked(format_of(inside[0]), inside[1:])
    if origin in (Union, types.UnionType):
        return _of_union(inside)
    if origin is tuple:
        return _of_tuple(inside)
    if origin is Literal:
        return ValueFormat(f"{{{','.join(inside)}}}", _choice(inside), splits=True)
    if kind in _NUMBERS:
        metavar = _NUMBERS[kind][0]
        return ValueFormat(metavar, _number(kind), splits=True, has_point=kind is float)
    if kind in (str, Path):
        return ValueFormat({str: "TEXT", Path: "PATH"}[kind], _text(kind), is_text=True)
    return None


def _marked(form: ValueFormat | None, marks: Sequence[Any]) -> ValueFormat | None:
    """The format of an annotated type's values with what the annotation says of them."""
    if form is None:
        return None
    for mark in marks:
        if isinstance(mark, Beginnings):
            form = replace(form, read=_beginning(mark, form.read))
    return replace(form, splits=True) if SPLITS in marks else form


def checked(args: Flags) -> Flags:
    """A command's arguments, made in Python, as its command line would have read them.

    Lists and arrays become tuples, 1 the number 1.0 where numbers need not be whole, a path's text
    a path: the same trials come of it.

    Args:
        args: an instance of a dataclass of flags.

    Raises:
        ValueError: a value that its flag cannot have; both are named.
    """
    hints = get_type_hints(type(args), include_extras=True)
    values = {}
    for each in fields(args):  # type: ignore[arg-type]
        value = _without_types(getattr(args, each.name))
        try:
            values[each.name] = value_of(each.name, hints[each.name], value)
        except ValueError as error:
            raise ValueError(f"{flag_of(each.name)}: {error}") from None
    args = replace(args, **values)  # type: ignore[type-var]
    check(args, flags=True)
    return args


def _without_types(value: Any) -> Any:
    """A value of Python as a file of flags has it: lists, numbers and texts."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # of NumPy, PyTorch, pandas
        return value.tolist()
    is_several = isinstance(value, Sequence) and not isinstance(value, str)
    return [_without_types(each) for each in value] if is_several else value


def value_of(name: str, kind: Any, value: Any) -> Any:
    """A value of a file, or of Python, as one of a flag's type.

    Args:
        name: of the flag's field.
        kind: the flag's type.
        value: as JSON has it.

    Raises:
        ValueError: it is none; of a secret flag the value is not shown.
    """
    try:
        return _value_of(kind, value)
    except ValueError:
        if not is_secret(name):
            raise
    raise ValueError("must be a text in quotes, of letters that can be printed, and not empty")


def _value_of(kind: Any, value: Any) -> Any:
    form = format_of(kind)
    if form is None:
        if isinstance(value, bool):
            return value
        raise ValueError(f"must be true or false, not {_shown(value)}")
    if value is None and form.optional:
        return None
    if form.several != isinstance(value, list):
        right = "a list in brackets" if form.several else f"{form.metavar}, no list"
        raise ValueError(f"must be {right}, not {_shown(value)}")
    return form.of_words([_word(form, each) for each in (value if form.several else [value])])


def _word(form: ValueFormat, value: object) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, str) or (is_number and not form.is_text):
        return str(value)
    hint = "; a text that looks like something else stands in quotes" if form.is_text else ""
    raise ValueError(f"must be {form.metavar}, not {_shown(value)}{hint}")


def _shown(value: object) -> str:
    """A value as JSON; of a long or deep one the beginning, which alone is written."""
    encoder = json.JSONEncoder(skipkeys=True, ensure_ascii=False, check_circular=False, default=str)
    text = "".join(itertools.islice(encoder.iterencode(value), MOST_SHOWN + 1))
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def _text(kind: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if not text:  # the path of no letters would be the current folder
            raise ValueError("is empty: give a value, or leave the flag out")
        if NO_LETTER.search(text):
            raise ValueError(f"has a character that cannot be printed: {text!r}")
        return kind(text)

    return read


def _of_union(kinds: Sequence[Any]) -> ValueFormat:
    forms = [form for kind in kinds if kind is not type(None) and (form := format_of(kind))]
    is_optional = type(None) in kinds

    metavar = "|".join(form.metavar for form in forms)

    def read(text: str) -> Any:
        for form in forms:
            with contextlib.suppress(ValueError):
                return form.read(text)
        raise ValueError(f"must be {metavar}, not {text!r}")

    if len(forms) == 1:
        return replace(forms[0], optional=is_optional)
    return ValueFormat(metavar, read, optional=is_optional)


def _of_tuple(kinds: Sequence[Any]) -> ValueFormat:
    form = format_of(kinds[0])
    assert form is not None
    count = None if kinds[-1] is Ellipsis else len(kinds)
    metavar = " ".join([form.metavar] * count) if count else f"{form.metavar} ..."
    return replace(form, metavar=metavar, several=True, count=count)


def _number(kind: Any) -> Callable[[str], Any]:
    _, noun, several = _NUMBERS[kind]

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"{text!r} is no {noun}{_hint(text, kind, several)}") from None

    return read


def _hint(text: str, kind: Any, several: str) -> str:
    """What may have been meant by a text that is no number."""
    if kind is float and _DECIMAL_COMMA.fullmatch(text):
        return f"; write {text.replace(',', '.')} with a point, or two numbers as two words"
    if re.fullmatch(r"\d{1,3}(,\d{3})+", text):
        return f"; write {text.replace(',', '')} without commas"
    if re.search(r"\d\D*([,;:|]|\.\.)\D*\d", text) or re.fullmatch(r"\d+-\d+", text):
        return f"; of several, each is a word of its own, as in {several}"
    return ""


def _choice(choices: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text in choices:
            return text
        raise _none_of(text, choices)

    return read


def _beginning(mark: Beginnings, read: Callable[[str], Any]) -> Callable[[str], Any]:
    def read_known(text: str) -> Any:
        value = read(text)
        if mark.fit(text):
            return value
        raise _none_of(text, mark.names)

    return read_known


def _none_of(text: str, choices: Sequence[str]) -> ValueError:
    near = difflib.get_close_matches(text.lower(), choices, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return ValueError(f"{text!r} is none of {', '.join(choices)}{hint}")


def _parts(word: str) -> list[str]:
    """Split a word at commas, within brackets or not.

    A number with separators of thousands (1,000) is left whole, and then refused.
    """
    parts = [part for part in re.split(r"[\s,]+", word.strip("[]()")) if part]
    return [word] if any(re.match(r"0\d", part) for part in parts[1:]) else parts
