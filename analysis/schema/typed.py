"""JSON values as the types that hold them, checked: what a file says is not trusted to have its
shape."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from functools import cache
from typing import Annotated, Any

_NAMES: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    type(None): "null",
}
_MOST_BITS = 63  # and the sign


def parse_json(text: str) -> object:
    """The value that a text stands for.

    Raises:
        ValueError: it is no JSON; or is nested too deeply to be read, which Python's reader takes
            for a fault of the program.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def typed(value: Any, kind: Any, where: str = "") -> Any:
    """A value that was read from JSON as what `kind` says it is.

    Args:
        value: the value.
        kind: a dataclass, whose fields are read in the same way; `tuple[X, ...]`, `list[X]`,
            `dict[str, X]`, `dict[int, X]`, a union, `Any`, a type of JSON, or `Annotated[X, check]`
            with a function that is called with the value and its place. Numbers must be finite, and
            whole ones of 64 bits at most.
        where: the value's place, for the error.

    Raises:
        ValueError: it is something else, or the dataclass refuses it; the place is named.
    """
    origin = typing.get_origin(kind) or kind
    inner = typing.get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        found = typed(value, inner[0], where)
        inner[1](found, where)
        return found
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, inner, where)
    if dataclasses.is_dataclass(kind):
        return _record(value, kind, where)
    if origin in (tuple, list):
        _check(value, list, where)
        if inner[0] is float and _are_finite(value):
            return origin(value)
        items = (typed(item, inner[0], f"{where}[{i}]") for i, item in enumerate(value))
        return origin(items)
    if origin is dict:
        _check(value, dict, where)
        key, of = inner or (str, Any)
        return {key(name): typed(item, of, _within(where, name)) for name, item in value.items()}
    _check(value, origin, where)
    return value


def _are_finite(values: list[Any]) -> bool:
    """Whether these are finite floats, told at once: scores hold a hundred thousand of them."""
    return set(map(type, values)) == {float} and all(map(math.isfinite, values))


def _one_of(value: object, kinds: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    problems = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return typed(value, kind, where)
            except ValueError as problem:
                problems.append(problem)
    raise problems[0]


def _record(value: Any, kind: Any, where: str) -> Any:
    _check(value, dict, where)
    fields = dataclasses.fields(kind)
    needed = {field.name for field in fields if _is_needed(field)}
    for what, names in (
        ("unknown", set(value) - {field.name for field in fields}),
        ("missing", needed - set(value)),
    ):
        if names:
            place = f" in {where}" if where else ""
            noun = "field" if len(names) == 1 else "fields"
            raise ValueError(f"{what} {noun}{place}: {', '.join(sorted(names))}")
    kinds = _field_types(kind)
    values = {name: typed(item, kinds[name], _within(where, name)) for name, item in value.items()}
    try:
        return kind(**values)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from error


@cache
def _field_types(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _check(value: object, kind: type, where: str) -> None:
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        found = _NAMES.get(type(value), type(value).__name__)
        raise ValueError(f"{_is(where)}{found}, not {_NAMES[kind]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{_is(where)}{value}, not a finite number")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError(f"{_is(where)}a whole number of more than 64 bits")


def _is(where: str) -> str:
    return f"{where} is " if where else ""


def _within(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
