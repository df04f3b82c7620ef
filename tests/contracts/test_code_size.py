"""Files and functions stay short, and say what they return."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.contracts.import_graph import PACKAGES, ROOT

FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[Path, Function]]:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, Function):
                yield file, node


def lines(node: Function) -> int:
    """From `def` to its end."""
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_files_are_short() -> None:
    """Half of them have at most 150 lines, nine of ten fewer than 340."""
    lengths = [len(file.read_text().splitlines()) for file in FILES]
    assert median(lengths) <= 150
    assert sum(length < 340 for length in lengths) >= 0.9 * len(lengths)


def test_functions_fit_a_screen() -> None:
    """None has more than 60 lines."""
    lengths = {
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name}": lines(node)
        for file, node in functions()
    }
    assert len(lengths) > 1000
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_functions_say_what_they_return() -> None:
    """All of them."""
    silent = [f"{file}:{node.name}" for file, node in functions() if node.returns is None]
    assert silent == []
