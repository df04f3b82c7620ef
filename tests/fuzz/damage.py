"""Ways in which a file is damaged."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HARMLESS = ("alpha", "beta1", "beta2", "benchmarks_hash", "reason", "P1", "P2")
"""Names in JSON files that may be left out."""

Damage = Callable[[Path], None]

_OTHER_TYPE = [{"x": [None]}]
_MOST_INNER = 6
_NOISE = random.Random(0).randbytes(5000)


def of_bytes() -> dict[str, Damage]:
    """Of any file."""
    return {
        "empty": lambda file: _write(file, b""),
        "half": lambda file: _write(file, file.read_bytes()[: file.stat().st_size // 2 + 3]),
        "random": lambda file: _write(file, _NOISE),
        "folder": _make_folder,
    }


def of_json(file: Path) -> dict[str, Damage]:
    """Of a JSON file: other shapes, each of the first fields gone or of another type, and some of
    those within them of another type."""
    content = json.loads(file.read_text())
    shapes: dict[str, Any] = {"list": [], "null": None, "number": 5, "text": "x", "object": {}}
    if isinstance(content, dict):
        for name in [name for name in content if name not in HARMLESS][:4]:
            rest = {key: value for key, value in content.items() if key != name}
            if file.name != "digests.json":  # which need not know all files
                shapes[f"without {name}"] = rest
            shapes[f"{name} of another type"] = {**content, name: _OTHER_TYPE}
        inner = [path for path in _paths(content) if len(path) > 1]
        for path in random.Random(0).sample(inner, min(len(inner), _MOST_INNER)):
            shapes[f"{'.'.join(path)} of another type"] = _changed(content, path)
    nested = {"nested": lambda file: _write(file, b"[" * 100_000)}
    written = {
        name: (lambda file, shape=shape: _write(file, json.dumps(shape).encode()))
        for name, shape in shapes.items()
    }
    return {**of_bytes(), **nested, **written}


def _paths(content: Any) -> Iterator[tuple[str, ...]]:
    """Ways to the fields of an object and of those within it; of lists to the first item's."""
    if isinstance(content, list):
        content = dict(enumerate(content[:1]))
    if isinstance(content, dict):
        for name, inner in content.items():
            if name not in HARMLESS:
                yield (str(name),)
                yield from ((str(name), *rest) for rest in _paths(inner))


def _changed(content: Any, path: tuple[str, ...]) -> Any:
    """The content with another type at the end of the way."""
    if not path:
        return _OTHER_TYPE
    first, *rest = path
    if isinstance(content, list):
        return [_changed(content[0], tuple(rest)), *content[1:]]
    return {**content, first: _changed(content[first], tuple(rest))}


def of_json_lines() -> dict[str, Damage]:
    """Of a benchmark's file."""
    return {
        **{name: damage for name, damage in of_bytes().items() if name != "folder"},
        "not UTF-8": lambda file: _write(file, b'{"sentence_good": "\xff\xfe"}\n'),
        "cut line": lambda file: _write(file, file.read_bytes()[:-5]),
        "NUL bytes": lambda file: _write(file, b"\x00" * 100 + file.read_bytes()),
        "missing fields": lambda file: _write(file, b'{"x": 1}\n'),
        "wrong types": lambda file: _write(file, _retyped(file)),
        "no objects": lambda file: _write(file, b"[1]\n"),
        "nested": lambda file: _write(file, b"[" * 100_000 + b"\n"),
    }


def _retyped(file: Path) -> bytes:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return "".join(json.dumps(dict.fromkeys(row, [[]])) + "\n" for row in rows).encode()


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def damages(file: Path) -> Iterator[tuple[str, Damage]]:
    """Names and ways for a file, by its kind."""
    if file.suffix == ".jsonl":
        yield from of_json_lines().items()
    elif file.suffix == ".json":
        yield from of_json(file).items()
    else:
        yield from of_bytes().items()
