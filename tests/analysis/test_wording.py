"""Numbers in sentences are written in one way."""

from __future__ import annotations

import ast
import math
import re

import pytest

from analysis.schema.axes import AXES, short
from analysis.wording import OVER_SEEDS, as_flag, between, count, legend, quoted, with_error
from tests.contracts.import_graph import ROOT, modules_by_name
from tests.notation import FORBIDDEN, faults
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


def test_what_a_figure_is_uncertain_by() -> None:
    """Is told where it is known; a table says so below itself where any cell does."""
    assert with_error(1.25, 0.04, 1) == "1.2 ± 0.0"
    assert with_error(1.25, math.nan, 1) == "1.2"
    assert with_error(math.inf, 0.1, 1) == with_error(math.nan, 0.1, 1) == "-"
    assert legend(["1.0", "1.2 ± 0.1"]) == OVER_SEEDS
    assert legend(["1.0", "-"]) == ""


def test_a_range_has_the_noun_of_its_end() -> None:
    assert [between(1, 1, "seed"), between(1, 3, "seed")] == ["1 seed", "1 to 3 seeds"]


@pytest.mark.parametrize(
    "text",
    [
        *("0.8 bits per byte", "Bits-per-byte", "at learning rate 0.03", "lr=0.01", "LR: 0.1"),
        *("1 trials left", "1 new trials", "2 run(s)", "macro 50.0 ± 0.8", "± 0.1 over all"),
    ],
)
def test_a_second_notation_is_found(text: str) -> None:
    """The rules that reports and terminals are held to know each kind of fault."""
    assert len(faults([text])) == 1


def test_the_one_notation_is_no_fault() -> None:
    texts = [
        "0.8 bits/byte",
        "learning rate 3e-2",
        "lr=1e-2",
        "1 trial left",
        "11 trials, 2.1 runs",
    ]
    assert faults([*texts, "50.0 ± 0.8 (± standard error over items)", "p 0.031 after 0.5"]) == []


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


def _texts(tree: ast.AST) -> list[str]:
    """All texts of a module but for docstrings, which stand alone."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
    ]


def test_no_text_of_the_code_has_a_second_notation() -> None:
    """Also where no test has it printed: errors, labels of pictures, help."""
    paths = {**modules_by_name(), "docs": ROOT / "docs" / "from_mlflow_to_a_figure.py"}
    found = [
        (name, text)
        for name, path in paths.items()
        for text in _texts(ast.parse(path.read_text()))
        if any(rule.search(text) for rule in FORBIDDEN.values())
    ]
    assert found == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_no_text_about_the_code_has_a_second_notation(name: str) -> None:
    assert faults((ROOT / name).read_text().split("\n\n")) == []


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
