"""The house keeps its floors: imports between packages only run down."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sweeps", "trainables", "analysis", "models")
COMMANDS = {"analysis/evaluate.py"}
"""Scripts that a person runs: they may call what they drive."""
ALLOWED = {
    "sweeps": {"trainables", "analysis", "models"},
    "trainables": {"models", "analysis.benchmarks"},
    "analysis": set(),
    "models": set(),
}


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_only_run_down(package):
    """No module imports from a package above its own or beside it."""
    for path in (ROOT / package).rglob("*.py"):
        if str(path.relative_to(ROOT)) in COMMANDS:
            continue
        for name in _imports(path):
            target = name.split(".")[0]
            if target in PACKAGES and target != package:
                fits = any(f"{name}.".startswith(f"{allowed}.") for allowed in ALLOWED[package])
                assert fits, f"{path.relative_to(ROOT)} imports {name}"


def test_no_other_top_level_package():
    """The top level holds the four packages and the tests, and no other Python."""
    found = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert found <= {*PACKAGES, "tests"}
    assert not list(ROOT.glob("*.py"))
