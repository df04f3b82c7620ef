"""Find benchmarks: in a folder by their layout, or on the Hugging Face hub by their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from analysis.benchmarks import glue
from analysis.benchmarks.benchmark import Benchmark
from analysis.benchmarks.folders import FolderEntry, check_filled, survey, why_nothing
from analysis.benchmarks.kind import BenchmarkKind, BenchmarkSource
from analysis.benchmarks.kinds import ALL_KINDS, KINDS, MACRO_WEIGHTS, kind_named
from analysis.benchmarks.protocols import check_protocol
from analysis.benchmarks.suite import Suite

HUB = "hub"
"""In place of a folder: take the benchmarks from the Hugging Face hub."""


def load_suite(
    path: Path | str | BenchmarkSource, protocol: str, tasks: Sequence[str] = ()
) -> Suite:
    """The suite of the benchmarks that a folder or the hub has.

    A folder is recognised by its name (`BenchmarkKind.folders`). Of several folders of one kind the
    one ending in `_fast`, or in `fast_eval`, is taken (see `BenchmarkSource.fast`); without one,
    `tasks` must name one.

    Args:
        path: see `BenchmarkSource.path`; or a whole source.
        protocol: one of `protocols.PROTOCOLS`.
        tasks: see `BenchmarkSource.tasks`.

    Raises:
        ValueError: nothing found, something named is missing, an ambiguous choice, or a bad file.
    """
    check_protocol(protocol)
    source = path if isinstance(path, BenchmarkSource) else BenchmarkSource(str(path), tuple(tasks))
    source = replace(source, protocol=protocol)
    if source.path == HUB:
        return Suite(tuple(_on_hub(source)), protocol)
    chosen = sorted(_in_folder(source), key=lambda found: _kind(found).name)
    return Suite(tuple(found.read(source) for found in chosen), protocol)


def _on_hub(source: BenchmarkSource) -> Iterator[Benchmark]:
    there = [kind.name for kind in ALL_KINDS if kind.from_hub]
    names = source.tasks or ("blimp",)
    for name in there if "all" in names else names:
        kind = kind_named(name)
        if kind.from_hub is None:
            raise ValueError(
                f"{name} cannot be taken from the hub, only {', '.join(there)}: download the "
                "benchmark and give its folder"
            )
        yield Benchmark(name, kind.from_hub(source), kind.hub_id)


def _in_folder(source: BenchmarkSource) -> list[FolderEntry]:
    """The entries of a source's folder that are to be read."""
    path = Path(source.path)
    if not path.exists():
        raise ValueError(
            f"no benchmark folder at {path}: expected one with blimp*, supplement* ..."
        )
    entries = survey(path)
    check_filled(path, entries)
    found = [entry for entry in entries if entry.place is not None]
    if not found:
        raise ValueError(why_nothing(path))
    if "all" in source.tasks or not source.tasks:
        there = dict.fromkeys(map(_kind, found))
        counts = () if source.tasks else MACRO_WEIGHTS[source.protocol]
        wanted = [kind for kind in there if kind.name in counts] or list(there)
        return [_choose([e for e in found if e.kind == kind], source.fast) for kind in wanted]
    chosen = [_named(task, found, source) for task in source.tasks]
    kinds = [_kind(each).name for each in chosen]
    if twice := [name for name in KINDS if kinds.count(name) > 1]:
        raise ValueError(f"two of the tasks {', '.join(source.tasks)} are both {twice[0]}")
    return chosen


def _kind(entry: FolderEntry) -> BenchmarkKind:
    assert entry.kind is not None
    return entry.kind


def _named(task: str, found: Sequence[FolderEntry], source: BenchmarkSource) -> FolderEntry:
    """The entry that a task names: it is a kind or the name of a folder."""
    if so_called := [each for each in found if task in (each.name, each.dataset)]:
        return _choose(so_called, source.fast)
    there = ", ".join(each.name for each in found)
    if task in glue.NAMES:
        raise ValueError(
            f"{task} is fine-tuned, which is not done after every epoch: put it into --final-tasks"
        )
    if task not in KINDS:
        raise ValueError(
            f"unknown task {task!r}: choose a kind of benchmark ({', '.join(KINDS)}), "
            f"all, or what {source.path} has ({there}); fine-tuned once, one of "
            f"{', '.join(glue.NAMES)}"
        )
    if of_kind := [each for each in found if _kind(each).name == task]:
        return _choose(of_kind, source.fast)
    raise ValueError(f"no {task} benchmark in {source.path}: it has {there}")


def _choose(found: Sequence[FolderEntry], fast: bool) -> FolderEntry:
    """Of entries of a kind the fast one, or the one that is not; one that is called like the kind
    goes before others, such as sets of other languages."""
    kind = _kind(found[0]).name
    found = [each for each in found if each.dataset.lower().startswith(kind)] or found
    fitting = [each for each in found if each.is_fast == fast]
    if len(found) > 1 and len(fitting) != 1:
        listed = ", ".join(each.name for each in found)
        raise ValueError(f"several {kind} benchmarks ({listed}) and no rule to choose: name one")
    return (fitting or found)[0]
