"""Numbers in sentences are written in one way."""

from __future__ import annotations

import ast
import re

import pytest

from analysis.schema.axes import AXES, short
from analysis.wording import as_flag, count, quoted
from tests.contracts.import_graph import modules_by_name
from tests.shell import words_of

PLURALS = r"trials|seeds|words|tokens|items|steps|epochs|students|controls|ties|texts|files|rows"


def test_one_is_not_many() -> None:
    assert [count(n, "trial") for n in (0, 1, 2, 1000)] == [
        *("0 trials", "1 trial", "2 trials", "1,000 trials")
    ]
    assert count(1, "text is", "texts are") == "1 text is"
    assert count(2, "text is", "texts are") == "2 texts are"


@pytest.mark.parametrize(("value", "text"), [(0.03, "3e-2"), (3.3e-4, "3.3e-4"), (1.0, "1e0")])
def test_learning_rates(value: float, text: str) -> None:
    """In tables, sentences, names and help alike."""
    assert short(value) == AXES["lr"].show(value) == text


def _pieces(node: ast.JoinedStr) -> list[str]:
    """What a formatted text prints: its constants, and {name} for what stands between."""
    parts = []
    for part in node.values:
        is_text = isinstance(part, ast.Constant)
        parts.append(str(part.value) if is_text else f"{{{ast.unparse(part.value)}}}")
    return ["".join(parts)]


def test_no_sentence_of_sweeps_counts_without_a_singular() -> None:
    """A number that may be 1 is written by `count`: the plural never stands behind a formatted
    number, but for that of a product (32 x 64 tokens) and in a unit (tokens/s)."""
    found = []
    for name, path in modules_by_name().items():
        if name.startswith("sweeps."):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    for text in _pieces(node):
                        found += [
                            (name, match[0])
                            for match in re.finditer(
                                rf"(?<!x )\{{[^}}]+\}} ({PLURALS})\b(?!/s)", text
                            )
                        ]
    assert not found


@pytest.mark.parametrize(
    "name",
    ["plain", "my study", "it's", 'a "b"', "a$HOME", "50%", "zażółć", "-x", "a`b`", "--", "#"],
)
def test_what_is_printed_can_be_typed(name: str) -> None:
    """Names of files and studies are one word for a shell, and never a flag for a command."""
    assert words_of(quoted(name, "b")) == [name, "b"]
    words = words_of(as_flag("study", quoted(name)))
    assert words == ([f"--study={name}"] if name.startswith("-") else ["--study", name])


def test_one_place_quotes_for_the_shell() -> None:
    users = {name for name, path in modules_by_name().items() if "shlex" in path.read_text()}
    assert users == {"analysis.wording"}


def test_bits_per_byte_has_one_name_in_sentences() -> None:
    for name, path in modules_by_name().items():
        assert "bits-per-byte" not in path.read_text(), name
