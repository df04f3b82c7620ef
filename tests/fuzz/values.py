"""Wrong values of every flag, made from the dataclasses of the flags."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from analysis.flag_values import format_of
from analysis.schema.ranges import Range, flag_of
from tests.fuzz.ground import Ground

NUMBERS = (
    *("nan", "inf", "-inf", "-1", "0", "1e-320", str(2**64), str(10**30), "1.5", "1e400"),
    *("abc", "", " ", "0x10", "1,5"),
)
NEVER_GOOD = ("nan", "inf", "-inf", "-1", "1e-320", str(2**64), str(10**30), "1e400")
"""Of these, no flag of any command takes one."""
SMALL = {"gpus": "5e-5", "gpus_per_trial": "5e-5"}
"""By flag, numbers that are wrong for it alone."""
NAMES = (
    *("../x", "/abs", "<script>", "", "x" * 300, "a\nb", "a\x1bb", "a\x00b", "-x", ".", ".."),
    *("x/y", "a\udcffb", "~nobody/x"),
)
ADDRESSES = (
    *("nonsense", "127.0.0.1:1", "127.0.0.1:x", ":::", "ray://", "http://x", "localhost:99999999"),
    *("ray://127.0.0.1:1", "-1:-1"),
)


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A wrong value: the words that give it, and what the answer must name one of."""

    words: tuple[str, ...]
    names: tuple[str, ...]

    def as_file(self, flags: type, words: Sequence[str]) -> str:
        """The same in JSON, as a file of flags has it; "" if the flag is among words, which win."""
        flag, is_joined, value = self.words[0].partition("=")
        values = [value] if is_joined else [*self.words[1:]]
        name = flag[2:].replace("-", "_")
        form = format_of(typing.get_type_hints(flags, include_extras=True).get(name, str))
        if flag in words or not (values or (form and form.several)):
            return ""
        return json.dumps({name: values if form and form.several else values[0]})


def wrong_values(flags: type, ground: Ground) -> Iterator[Wrong]:
    """Wrong values of all fields of a dataclass of flags."""
    hints = typing.get_type_hints(flags)
    for field in dataclasses.fields(flags):
        if not field.init:
            continue
        name = flag_of(field.name)
        for words in _of_field(field, hints[field.name], ground):
            if field.name in ("first", "second"):
                continue
            named = (name, *words) if words and words[0] and field.name in OF_FILES else (name,)
            joined = (f"{name}={words[0]}",) if len(words) == 1 else (name, *words)
            yield Wrong(joined, named)
    yield Wrong(("--no-such-flag", "1"), ("--no-such-flag",))


def _of_field(
    field: dataclasses.Field[Any], hint: Any, ground: Ground
) -> Iterator[tuple[str, ...]]:
    kinds, length = _kinds(hint)
    numbers = [kind for kind in kinds if kind in (int, float)]
    choices = [name for kind in kinds for name in typing.get_args(kind)]
    if numbers:
        allowed = field.metadata.get("range")
        assert allowed is not None, f"{field.name} has no range"
        good = "1" if allowed.holds(1) else str(allowed.high)
        for text in (*NUMBERS, *filter(None, [SMALL.get(field.name)])):
            if length == 1 and text == "1,5":  # several in one word
                continue
            if not _is_good(text, numbers[0], allowed):
                yield from _in_tuple(text, good, length)
        if length == 2:
            yield (good,)
    elif choices:
        for text in ("", "nan", choices[0].upper() + "x", choices[0][:-1], f"{choices[0]} "):
            if text not in choices and not (length and text.strip() in choices):
                yield from _in_tuple(text, choices[0], length)
    elif bool in kinds:
        yield ("maybe",)
    elif (special := SPECIAL.get(field.name)) is not None:
        for text in special(ground):
            yield from _in_tuple(text, None, length)
    if length and field.default in (dataclasses.MISSING,) or (length and field.default):
        yield ()


def _in_tuple(text: str, good: str | None, length: int) -> Iterator[tuple[str, ...]]:
    yield (text,) if length != 2 else (text, good or "")
    if length and good is not None:
        yield (good, text)


def _kinds(hint: Any) -> tuple[list[Any], int]:
    """The kinds of a hint's values, and 0, 1 (many), or 2: how many it takes."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _kinds(inner[0])
    if origin in (typing.Union, types.UnionType):
        found = [_kinds(each) for each in inner if each is not type(None)]
        return [kind for kinds, _ in found for kind in kinds], max(n for _, n in found)
    if origin is tuple:
        return _kinds(inner[0])[0], 1 if inner[1] is Ellipsis else 2
    if origin is Literal:
        return [hint], 0
    return [hint], 0


def _is_good(text: str, kind: type, allowed: Range) -> bool:
    if text in NEVER_GOOD:  # whatever range is declared
        return False
    with contextlib.suppress(ValueError):
        return allowed.holds(kind(text))
    return False


def _paths(ground: Ground, *, must_be_there: bool) -> list[str]:
    """Paths at which there can be no folder."""
    file, loop = ground.root / "file", ground.root / "loop"
    file.write_text("text")
    if not loop.is_symlink():
        loop.symlink_to(loop)
    found = [str(file), str(file / "below"), str(loop), str(loop / "below"), "a\x00b"]
    return found + ([str(ground.root / "missing")] if must_be_there else [])


def _storages(ground: Ground) -> list[str]:
    percent = str(ground.root / "a%20b")
    return [*_paths(ground, must_be_there=False), percent, "", "s3://bucket/x", "x" * 300]


def _folders(ground: Ground) -> list[str]:
    (ground.root / "empty").mkdir(exist_ok=True)
    return [*_paths(ground, must_be_there=True), str(ground.root / "empty"), ""]


def _corpora(ground: Ground) -> list[str]:
    nothing = ground.root / "nothing.txt"
    nothing.write_text("")
    return [*_folders(ground)[1:], str(nothing), "no/such/data/set", "babylm-strictt"]


def _models(ground: Ground) -> list[str]:
    unknown = ["models:/x", "models:/none@teacher", "models:/lstm/99", "models:/lstm@none"]
    return [*_folders(ground), *unknown, "../x", "x" * 300]


FILES_OF_FLAGS = {
    ".yaml": (
        *("", "- epochs", "epochs", "epochs: [", "epochs: " + "[" * 20_000, "epochs: {? [1] : 1}"),
        *("epochs: !!int ''", "dry_run: !!bool maybe", "epochs: !!timestamp x", "epochs: *x"),
        *("epochs: !!float ''", "epochs: !!binary é", "epochs: &a [*a]", "epochs: " + "1" * 5000),
        *("epochs: !!set {a}", "epochs: !!python/name:x x", "storage: \x01", 'storage: "\\0"'),
        *("epochs: x\n---\nepochs: 2", "<<: {epochs: 3}", '"a\\nb\\nc\\nd": 1', "1: 1", "null: 1"),
        "x0: &x0 {a: b}\n"
        + "".join(f"x{n + 1}: &x{n + 1} {{<<: [{f'*x{n},' * 9}]}}\n" for n in range(9)),
        "epochs: [&x0 [a]" + "".join(f", &x{n + 1} [{f'*x{n},' * 9}]" for n in range(9)) + "]",
    ),
    ".json": (
        *("", "[]", "5", "null", "{", "[" * 100_000, '{"epochs": ' + "[" * 100_000),
        *('{"epochs": ' + "[" * 900 + "]" * 900 + "}", '{"epochs": ' + "1" * 5000 + "}"),
        *('{"epochs": NaN}', '{"epochs": {}}', '{"epochs": [[]]}', '{"storage": "a\\u0000b"}'),
        *('{"epochs": "\x01"}', '{"a\\nb\\nc\\nd": 1}', '{"epochs": 1} {}', '{"\\ud800": 1}'),
    ),
}
"""By a file's ending, what no file of flags may hold."""

OF_FILES = ("storage", "output", "benchmarks", "corpus", "model", "teacher")
"""Flags whose values are files, or what is named like them: to name the value is enough."""

SPECIAL: dict[str, Any] = {
    "arch": lambda ground: ("LSTM", "lstmm", "", "all ", "../lstm"),
    "teacher_arch": lambda ground: ("LSTM", "lstmm", "", "study"),
    "study": lambda ground: NAMES,
    "name": lambda ground: NAMES,
    "alias": lambda ground: (*NAMES, "latest", "v1"),
    "run_id": lambda ground: (*NAMES, "'", "0" * 32),
    "address": lambda ground: ADDRESSES,
    "ui": lambda ground: ("nonsense", "javascript:alert(1)", "ftp://x", ""),
    "storage": _storages,
    "output": lambda ground: _paths(ground, must_be_there=False),
    "benchmarks": _folders,
    "corpus": _corpora,
    "model": _models,
    "teacher": _models,
    "tasks": lambda ground: ("blimpp", "BLIMP", "", "../x", "a\x00b"),
    "final_tasks": lambda ground: ("blimpp", "", "rtee"),
    "milestones": lambda ground: ("0", "-1", "1X", "", "nan", "1e6", "99999999B", "1" * 400),
}
"""By flag, wrong values of those that take text."""
