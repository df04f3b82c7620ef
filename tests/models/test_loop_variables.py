"""Triton's loops carry every variable that a kernel hands on within them.

Triton (3.6, 3.9) visits a loop's body once, and carries the variables whose value is another one
afterwards. Where `a` and `b` begin as one value and the body says `a, b = new, a`, the value of `b`
is the same before and after: it is taken for unchanged, and dropped. The interpreter does as Python
does, so no run in it can show this.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import models

KERNELS = sorted((Path(models.__file__).parent / "kernels" / "gpu").glob("*.py"))
Beginnings = dict[str, frozenset[object]]
"""By variable: what its value may be, as names of other values or the places that made it."""


def test_no_kernel_hands_on_what_began_as_one_value() -> None:
    """`tl.zeros_like(zero)`, say, is a value of its own."""
    found = [f"{path.name}: {line}" for path in KERNELS for line in confused(path.read_text())]
    assert not found, "begin as one value, and one is handed to another in a loop"


def test_kernels_are_read() -> None:
    """The test above sees functions with loops, of most of the files."""
    functions = [f for path in KERNELS for f in _kernels(path.read_text())]
    assert len(functions) > 80
    loops = [f.name for f in functions if any(isinstance(n, _LOOPS) for n in ast.walk(f))]
    assert len(loops) > 15


def kernel(beginning: str, body: str) -> str:
    """The source of a kernel with a loop."""
    inside = "".join(f"        {line}\n" for line in body.splitlines())
    before = "".join(f"    {line}\n" for line in beginning.splitlines())
    return f"@triton.jit\ndef f(x, n):\n{before}    for i in range(n):\n{inside}"


ZERO = "zero = tl.zeros((16,), tl.float32)\n"
SHIFT = "d0 = tl.load(x + i)\nd1, d2, d3 = d0, d1, d2"


@pytest.mark.parametrize(
    ("beginning", "body"),
    [
        (ZERO + "d1, d2, d3 = zero, zero, zero", SHIFT),
        (ZERO + "d1 = zero\nd2 = d1\nd3 = tl.zeros((16,), tl.float32)", SHIFT),
        (ZERO + "d1 = zero.to(tl.float32)\nd2 = tl.cast(d1, tl.float32)\nd3 = x", SHIFT),
        (ZERO + "if n > 2:\n    d1, d2 = zero, zero\nelse:\n    d1, d2 = x, n\nd3 = n", SHIFT),
        (ZERO + "d1, d2 = zero, zero", "kept = d1\nd1 = tl.load(x + i)\nd2 = kept"),
        (ZERO + "d1, d2 = zero, zero", "d2 = d1 if n else d2\nd1 += tl.load(x + i)"),
        (ZERO + "d1, d2 = zero, zero", "while i < n:\n    d2 = d1\n    d1 += 1"),
    ],
)
def test_one_value_handed_on_is_found(beginning: str, body: str) -> None:
    """However it came to be one, and through whichever variables it goes."""
    (line,) = set(confused(kernel(beginning, body)))
    assert line.startswith("f: d1, d2")


@pytest.mark.parametrize(
    ("beginning", "body"),
    [
        (ZERO + "d1, d2, d3 = tl.zeros_like(zero), zero, zero + 0", SHIFT),
        (ZERO + "d1, d2 = zero, zero\nd2 = tl.load(x)", "d1, d2 = tl.load(x + i), d1"),
        # Sums are values of their own after every step.
        (ZERO + "d1, d2 = zero, zero", "d1 += tl.load(x + i)\nd2 += d1"),
        # What no loop assigns stays what it was.
        (ZERO + "d1, d2 = zero, zero", "d1 = d2"),
    ],
)
def test_values_of_their_own_pass(beginning: str, body: str) -> None:
    assert confused(kernel(beginning, body)) == []


def test_a_loop_that_is_unrolled_carries_nothing() -> None:
    source = kernel(ZERO + "d1, d2, d3 = zero, zero, zero", SHIFT)
    assert confused(source)
    assert confused(source.replace("range(n)", "tl.static_range(n)")) == []


# ---- reading kernels

_LOOPS = (ast.For, ast.While)


def confused(source: str) -> list[str]:
    """For each loop that hands on what began as one value: its function and the variables."""
    return [
        f"{function.name}: {', '.join(sorted(names))}"
        for function in _kernels(source)
        for loop, beginnings in _loops(function)
        if (names := _confused(loop, beginnings))
    ]


def _kernels(source: str) -> list[ast.FunctionDef]:
    """Functions that are decorated by `triton.jit`, with options or without."""
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and any("triton.jit" in ast.unparse(each) for each in node.decorator_list)
    ]


def _confused(loop: ast.For | ast.While, beginnings: Beginnings) -> set[str]:
    """Variables that the loop assigns, that begin as one value, and that it hands to each other."""
    assigned, given = set(), set()
    for node in (node for statement in loop.body for node in ast.walk(statement)):
        for name, value in _assignments(node):
            assigned.add(name)
            given |= {(name, source) for source in _same(value)}
    while more := {(a, d) for a, b in given for c, d in given if b == c} - given:
        given |= more
    return {
        name
        for a, b in given
        if a != b and {a, b} <= assigned
        if beginnings.get(a, frozenset()) & beginnings.get(b, frozenset())
        for name in (a, b)
    }


def _loops(function: ast.FunctionDef) -> Iterator[tuple[ast.For | ast.While, Beginnings]]:
    """Every loop, with the values of variables where it begins."""
    values: Beginnings = {each.arg: frozenset([each.arg]) for each in function.args.args}
    yield from _follow(function.body, values)


def _follow(
    body: list[ast.stmt], values: Beginnings
) -> Iterator[tuple[ast.For | ast.While, Beginnings]]:
    """The loops of statements; changes `values` to those behind them."""
    for statement in body:
        if isinstance(statement, _LOOPS) and not _is_unrolled(statement):
            yield statement, dict(values)
        if isinstance(statement, (ast.If, *_LOOPS)):
            one, other = dict(values), dict(values)
            yield from _follow(statement.body, one)
            yield from _follow(statement.orelse, other)
            for name in one.keys() | other.keys():
                values[name] = one.get(name, frozenset()) | other.get(name, frozenset())
            continue
        new = {
            name: frozenset().union(*(values.get(source, {source}) for source in _same(value)))
            or frozenset([(name, statement.lineno)])
            for name, value in _assignments(statement)
        }
        values.update(new)


def _is_unrolled(loop: ast.For | ast.While) -> bool:
    """Its body is repeated, and nothing is carried."""
    return isinstance(loop, ast.For) and ast.unparse(loop.iter).startswith("tl.static_range(")


def _assignments(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """What an assignment gives to which names; those of `+=` are given a value of its own."""
    if isinstance(node, ast.Assign):
        pairs = [(target, node.value) for target in node.targets]
    elif isinstance(node, ast.AugAssign):
        pairs = [(node.target, node)]
    elif isinstance(node, ast.AnnAssign) and node.value:
        pairs = [(node.target, node.value)]
    else:
        return
    for target, value in pairs:
        if isinstance(target, ast.Tuple):
            parts = value.elts if isinstance(value, ast.Tuple) else [value] * len(target.elts)
            same = isinstance(value, ast.Tuple)
            for name, part in zip(target.elts, parts, strict=True):
                yield ast.unparse(name), part if same else ast.Constant(None)
        else:
            yield ast.unparse(target), value


def _same(value: ast.AST) -> list[str]:
    """Names of variables whose very value this may be: converted to its own type it is the same."""
    if isinstance(value, ast.Name):
        return [value.id]
    if isinstance(value, ast.IfExp):
        return _same(value.body) + _same(value.orelse)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        if value.func.attr == "to":
            return _same(value.func.value)
        if value.func.attr == "cast":
            return _same(value.args[0])
    return []
