"""Who imports whom among the project's modules, imports for types only included.

python -m tests.contracts.import_graph    # the picture in docs/architecture.md, to paste there
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sweeps", "trainables", "analysis", "models")

Graph = dict[str, set[str]]
"""By module, the modules that it imports."""


def modules_by_name() -> dict[str, Path]:
    """The files of the four packages by their dotted names; of a package its `__init__`."""
    return {_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


@functools.cache
def import_graph() -> Graph:
    """What every module imports from the four packages."""
    files = modules_by_name()
    return {name: set(_imported(path, files)) - {name} for name, path in files.items()}


def boxes(graph: Graph, package: str) -> Graph:
    """The graph of a package's own modules and folders, each folder one node."""
    inside = {name for name in graph if name.startswith(f"{package}.")}

    def box(name: str) -> str:
        return ".".join(name.split(".")[:2])

    found: Graph = {box(name): set() for name in inside}
    for name in inside:
        found[box(name)] |= {box(target) for target in graph[name] & inside} - {box(name)}
    return found


def circles(graph: Graph) -> list[set[str]]:
    """Groups of modules that import each other, straight or by way of others."""
    reached = {name: reachable(graph, name) for name in graph}
    groups = {
        frozenset(other for other in reached[name] if name in reached[other]) for name in graph
    }
    return [set(group) for group in groups if group]


def picture() -> str:
    """The boxes of `sweeps` above the other packages, in Mermaid: of the arrows those that no path
    of others stands for."""
    graph: Graph = {}
    for name, targets in import_graph().items():
        graph.setdefault(_floor(name), set()).update(map(_floor, targets))
    graph = {name: targets - {name, "sweeps"} for name, targets in graph.items()}
    del graph["sweeps"]  # its `__init__`
    lines = ["flowchart TD"]
    for name in sorted(graph):
        others = {far for near in graph[name] for far in reachable(graph, near)}
        lines += [f"    {name} --> {target}" for target in sorted(graph[name] - others)]
    return "\n".join(lines)


def _floor(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "sweeps" and len(parts) > 1 else parts[0]


def reachable(graph: Graph, start: str) -> set[str]:
    """Modules at the ends of paths of at least one arrow."""
    seen: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph[name]
    return seen


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            # `from a.b import c`: the module a.b.c if there is one, else a.b.
            both = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
            names = [inner if inner in modules else outer for inner, outer in both]
        else:
            continue
        yield from (name for name in names if name in modules)


if __name__ == "__main__":
    print(picture())
