"""Shows a checkup: a row for each node, and a sentence for all that is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.addresses import shown
from analysis.errors import without_secret
from analysis.terminal import say, show_whole
from analysis.wording import count, in_gb
from sweeps.engine.checkup.folder import HELD
from sweeps.findings.node_problems import GIGA, Checkup, Examined, Finding, where
from sweeps.plans.doctor import BUCKET, MACHINE, SOFTWARE, STORAGE, STORE

_COLUMNS = ("node", "CPUs", "memory", "GPUs", "torch", "code", "storage", "MLflow", "clock")
_LEGEND = "CPUs and GPUs: handed out by Ray / there; memory: free / there"


def show_checkup(checkup: Checkup, findings: Sequence[Finding], console: Console) -> None:
    """Print the table, the findings, and whether a sweep may start."""
    worst: dict[str, bool] = {}
    for each in findings:
        for name in each.names:
            worst[name] = worst.get(name, False) or each.is_problem
    table = Table(
        *_COLUMNS,
        header_style="bold",
        box=None,
        pad_edge=False,
        caption=_LEGEND,
        caption_justify="left",
    )
    styles = {True: "red", False: "yellow", None: None}
    for node in checkup.nodes:
        table.add_row(*map(escape, _cells(node, checkup)), style=styles[worst.get(node.name)])
    console.print(table)
    console.print()
    show_whole(console, "Storage", f"{shown(checkup.storage)} ({in_gb(checkup.free)} free)")
    show_whole(console, "MLflow", without_secret(checkup.uri))
    console.print()
    names = [node.name for node in checkup.nodes]
    for each in findings:
        label = "[bold red]problem[/]" if each.is_problem else "[yellow]warning[/]"
        place = where(each.names, names)
        sentence = f"{place}: {each.text}" if place else each.text
        say(console, f"{label}: {escape(without_secret(sentence))}.")
    say(console, _summary(checkup, findings))


def _summary(checkup: Checkup, findings: Sequence[Finding]) -> str:
    problems = sum(each.is_problem for each in findings)
    nodes = count(len(checkup.nodes), "node")
    if not findings:
        return f"All is well: {nodes}, and nothing to warn of."
    warnings = count(len(findings) - problems, "warning")
    return f"{nodes}: {count(problems, 'problem')}, {warnings}."


def _cells(each: Examined, checkup: Checkup) -> list[str]:
    """A node's row, "-" for what is not known."""
    node, machine, software = each.node, each.said_of(MACHINE), each.said_of(SOFTWARE)
    assert node is not None
    cpus = memory = "-"
    gpus = f"{node.gpus:g}" if node.gpus else "-"
    if machine is not None:
        cpus = f"{node.cpus:g}/{machine.cpus}"
        memory = f"{machine.free_memory / GIGA:.0f}/{in_gb(machine.memory)}"
        if machine.gpus:
            first = machine.gpus[0]
            name = first.name.removeprefix("NVIDIA ")
            gpus = f"{node.gpus:g}/{len(machine.gpus)} {name} {in_gb(first.memory)}"
    torch = code = "-"
    if software is not None:
        torch = software.packages.get("torch", "none")
        ours = checkup.here.said_of(SOFTWARE)
        code = "same" if ours and ours.sources == software.sources else "other"
    clock = "-" if each.clock is None else f"{each.clock.ahead:+.1f} s"
    return [node.name, cpus, memory, gpus, torch, code, _storage(each), _mlflow(each), clock]


def _storage(each: Examined) -> str:
    if (bucket := each.said_of(BUCKET)) is not None:
        return "refused" if bucket.refused else "same" if bucket.is_same else "other"
    use = each.said_of(STORAGE)
    if use is None:
        return "-"
    if not use.is_same:
        return "other" if use.is_there else "none"
    if use.refused or each.returned:
        return "refused"
    return "same" if use.lock == HELD else "no locks"


def _mlflow(each: Examined) -> str:
    answer = each.said_of(STORE)
    if answer is None:
        return "-"
    return "no" if answer.problem else f"{1000 * answer.seconds:.0f} ms"
