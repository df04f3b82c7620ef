"""The house keeps its floors: imports only run down, and never in a circle."""

from __future__ import annotations

import re

import pytest

from sweeps import cli
from tests.contracts.import_graph import (
    PACKAGES,
    ROOT,
    boxes,
    circles,
    import_graph,
    modules_by_name,
    picture,
    reachable,
)

ALLOWED = {
    "sweeps": {"trainables", "analysis", "models"},
    "trainables": {
        "models",
        "analysis.addresses",
        "analysis.benchmarks",
        "analysis.schema",
        "analysis.store",
        "analysis.stored_files",
        "analysis.whole_files",
    },
    "analysis": set(),
    "models": set(),
}
FLOORS = (
    *("cli", "paper", "submit"),
    *("lr_sweep", "epoch_study", "distill", "promote", "evaluate", "export", "doctor"),
    *("running", "findings", "plans", "stored", "engine", "arguments"),
)
"""Of `sweeps`, from the roof down."""


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_only_run_down(package: str) -> None:
    """No module imports from a package above its own or beside it."""
    for name, targets in import_graph().items():
        if name.split(".")[0] != package:
            continue
        for target in targets:
            if target.split(".")[0] != package:
                fits = any(f"{target}.".startswith(f"{allowed}.") for allowed in ALLOWED[package])
                assert fits, f"{name} imports {target}"


def test_no_circle() -> None:
    """No module imports what imports it, nor by way of others; imports for types count."""
    assert circles(import_graph()) == []


def test_the_floors_of_sweeps() -> None:
    """At most 16 boxes and 50 arrows between them, all of which run down."""
    found = boxes(import_graph(), "sweeps")
    arrows = [(name, target) for name, targets in found.items() for target in targets]
    print(f"sweeps: {len(found)} boxes, {len(arrows)} arrows")
    assert {name.split(".")[1] for name in found} == set(FLOORS)
    assert len(found) <= 16
    assert len(arrows) <= 50
    for name, target in arrows:
        upper, lower = (FLOORS.index(each.split(".")[1]) for each in (name, target))
        assert upper < lower, f"{name} imports {target}"


@pytest.mark.parametrize("module", [m for m in cli.COMMANDS.values() if m.startswith("sweeps.")])
def test_a_command_has_a_plan_and_findings(module: str) -> None:
    """Each module of `sweeps` that is a command has one of its name in `plans` and in `findings`,
    and goes by both of them."""
    name = module.removeprefix("sweeps.")
    parts = {f"sweeps.plans.{name}", f"sweeps.findings.{name}"}
    assert parts <= modules_by_name().keys()
    assert parts <= reachable(import_graph(), module)


def words_of_the_tree() -> dict[str, set[str]]:
    """By dotted folder, what the README's tree says of it."""
    text = (ROOT / "README.md").read_text()
    tree = next(part for part in text.split("```") if part.startswith("\nsweeps/"))
    path: list[str] = []
    words: dict[str, set[str]] = {}
    for line in tree.splitlines():
        if folder := re.match(r"((?:  )*)(\w+)/", line):
            path = [*path[: len(folder[1]) // 2], folder[2]]
        words.setdefault(".".join(path), set()).update(re.findall(r"\w+", line))
    for folder in ("models.kernels.gpu", "sweeps.plans", "sweeps.findings"):
        words[folder] |= words[folder.rpartition(".")[0]]  # names of the folder above, it says
    return words


def test_the_tree_of_the_readme_names_every_module() -> None:
    """Each in its folder, and no folder that is not there."""
    words = words_of_the_tree()
    modules = {name for name, file in modules_by_name().items() if file.name != "__init__.py"}
    missing = {
        name
        for name in modules
        if not name.endswith("__main__")
        and name.rpartition(".")[2] not in words.get(name.rpartition(".")[0], set())
    }
    assert not missing
    assert not [name for name in words if not (ROOT / name.replace(".", "/")).is_dir()]


def test_the_picture_of_the_architecture_is_drawn_from_the_code() -> None:
    """`python -m tests.contracts.import_graph` prints it anew."""
    assert picture() in (ROOT / "docs" / "architecture.md").read_text()


def test_no_other_top_level_package() -> None:
    """The top level holds the four packages, the tests and an example, and no other Python."""
    found = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert found <= {*PACKAGES, "tests", "docs"}
    assert not list(ROOT.glob("*.py"))
