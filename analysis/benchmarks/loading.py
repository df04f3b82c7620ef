"""Find benchmarks: in a folder by their layout, or on the Hugging Face hub by their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from analysis.benchmarks import bear, ewok, glue
from analysis.benchmarks.benchmark import Benchmark
from analysis.benchmarks.later_tasks import read_entity_tracking, read_wug
from analysis.benchmarks.minimal_pairs import blimp_from_hub, read_minimal_pairs
from analysis.benchmarks.protocols import check_protocol
from analysis.benchmarks.suite import MACRO, Suite

HUB = "hub"
"""In place of a folder: take the benchmarks from the Hugging Face hub."""
PASSWORD_VARIABLE = "BABYSWEEP_EWOK_PASSWORD"


@dataclass(frozen=True)
class Source:
    """Which benchmarks, and from where.

    Attributes:
        path: a benchmark's folder or the folder that holds them, or `HUB`.
        tasks: kinds of benchmarks ("blimp", "supplement", "ewok", "bear", "wug",
            "entity_tracking"), names of folders, or "all"; by default those of the macro figure
            that are there.
        all_templates: ask BEAR's questions in all their wordings, not in the first only.
        fast: of several folders of a kind take the one ending in `_fast`; if not, the one that does
            not.
        ewok_password: of EWoK's zip file; by default the environment's `BABYSWEEP_EWOK_PASSWORD`.
    """

    path: str
    tasks: tuple[str, ...] = ()
    all_templates: bool = False
    fast: bool = True
    ewok_password: str | None = field(default=None, repr=False)


def password(given: str | None) -> str | None:
    """The password of EWoK's zip file, if one is known."""
    return given or os.environ.get(PASSWORD_VARIABLE)


@dataclass(frozen=True)
class _Kind:
    """A kind of benchmark: how its folders are called, and how it is read."""

    prefix: str
    find: Callable[[Path], Path | None]
    """Where in a folder of that name the benchmark is, or None if it holds none."""
    read: Callable[[Path, Source], Benchmark]
    from_hub: Callable[[Source], Benchmark] | None = None


def _find_json_lines(path: Path) -> Path | None:
    return path if path.is_dir() and any(path.glob("*.jsonl")) else None


_KINDS = {
    "blimp": _Kind(
        "blimp",
        _find_json_lines,
        lambda place, source: read_minimal_pairs("blimp", place),
        lambda source: blimp_from_hub(),
    ),
    "supplement": _Kind(
        "supplement",
        _find_json_lines,
        lambda place, source: read_minimal_pairs("supplement", place),
    ),
    "ewok": _Kind(
        "ewok",
        ewok.find,
        lambda place, source: ewok.read_ewok(place, password(source.ewok_password)),
        lambda source: ewok.ewok_from_hub(),
    ),
    "bear": _Kind(
        "bear",
        bear.find,
        lambda place, source: bear.read_bear(place, all_templates=source.all_templates),
        lambda source: bear.bear_from_hub(all_templates=source.all_templates),
    ),
    "wug": _Kind("wug_adj", _find_json_lines, lambda place, source: read_wug(place)),
    "entity_tracking": _Kind(
        "entity_tracking", _find_json_lines, lambda place, source: read_entity_tracking(place)
    ),
}
KINDS = tuple(_KINDS)
"""The kinds of benchmarks there are."""


def load_suite(path: Path | str | Source, protocol: str, tasks: Sequence[str] = ()) -> Suite:
    """The suite of the benchmarks that a folder or the hub has.

    A folder is recognised by its name: `supplement*` or `blimp_supplement*`, `blimp*`, `ewok*`
    (with *.jsonl files or a zip of them), `bear*`, `wug_adj*`, `entity_tracking*`. Of several
    folders of one kind the one ending in `_fast` is taken (see `Source.fast`); without one, `tasks`
    must name one.

    Args:
        path: see `Source.path`; or a whole source.
        protocol: "2024" or "2025"; see `protocols`.
        tasks: see `Source.tasks`.

    Raises:
        ValueError: nothing found, something named is missing, an ambiguous choice, or a bad file.
    """
    check_protocol(protocol)
    source = path if isinstance(path, Source) else Source(str(path), tuple(tasks))
    if source.path == HUB:
        return Suite(tuple(_on_hub(source)), protocol)
    chosen = sorted(_in_folder(source), key=lambda found: found.kind)
    return Suite(tuple(found.read(source) for found in chosen), protocol)


def kind_of(name: str) -> str | None:
    """The kind of benchmark that a folder or file of this name holds."""
    name = name.lower()
    if name.startswith("blimp") and "supplement" in name:
        return "supplement"
    return next((kind for kind, rule in _KINDS.items() if name.startswith(rule.prefix)), None)


def _on_hub(source: Source) -> Iterator[Benchmark]:
    there = {kind: rule.from_hub for kind, rule in _KINDS.items() if rule.from_hub}
    names = source.tasks or ("blimp",)
    for name in there if "all" in names else names:
        if name not in there:
            raise ValueError(
                f"{name} cannot be taken from the hub, only {', '.join(there)}: download the "
                "benchmark and give its folder"
            )
        yield there[name](source)


@dataclass(frozen=True)
class _Found:
    """A benchmark in a folder: the name to call it by, its kind, where it is."""

    name: str
    kind: str
    place: Path

    def read(self, source: Source) -> Benchmark:
        """Read it."""
        dataset = self.place.stem if self.place.suffix == ".zip" else self.name
        return replace(_KINDS[self.kind].read(self.place, source), dataset=dataset)


def _in_folder(source: Source) -> list[_Found]:
    """What to read."""
    path = Path(source.path)
    if not path.exists():
        raise ValueError(
            f"no benchmark folder at {path}: expected one with blimp*, supplement* ..."
        )
    found = list(_search(path))
    if not found:
        raise ValueError(
            f"no benchmark in {path}: looked at it and at what is in it for names that begin with "
            f"{', '.join(rule.prefix for rule in _KINDS.values())} and hold such a benchmark "
            "(*.jsonl files; of EWoK also a zip)"
        )
    if "all" in source.tasks or not source.tasks:
        there = dict.fromkeys(each.kind for each in found)
        wanted = [kind for kind in there if kind in MACRO and not source.tasks] or list(there)
        return [_choose(found, kind, source.fast) for kind in wanted]
    chosen = [_named(task, found, source) for task in source.tasks]
    kinds = [each.kind for each in chosen]
    if twice := [kind for kind in KINDS if kinds.count(kind) > 1]:
        raise ValueError(f"two of the tasks {', '.join(source.tasks)} are both {twice[0]}")
    return chosen


def _search(path: Path) -> Iterator[_Found]:
    """The place itself, and everything in it, that holds a benchmark."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    for candidate in (path.absolute(), *inside):
        kind = kind_of(candidate.name)
        place = _KINDS[kind].find(candidate) if kind else None
        if kind and place:
            yield _Found(candidate.name, kind, place)
        elif kind and candidate.is_dir() and candidate in inside:
            raise ValueError(
                f"{candidate} is called like a {kind} benchmark and holds none: fill it, or move it"
            )


def _named(task: str, found: Sequence[_Found], source: Source) -> _Found:
    """What a task means, which is a kind or the name of a folder."""
    for each in found:
        if each.name == task:
            return each
    there = ", ".join(each.name for each in found)
    if task == "glue" or task in glue.TASKS:
        raise ValueError(
            f"{task} is fine-tuned, which is not done after every epoch: put it into --final-tasks"
        )
    if task not in KINDS:
        raise ValueError(
            f"unknown task {task!r}: choose a kind of benchmark ({', '.join(KINDS)}), all, or what "
            f"{source.path} has ({there})"
        )
    if not any(each.kind == task for each in found):
        raise ValueError(f"no {task} benchmark in {source.path}: it has {there}")
    return _choose(found, task, source.fast)


def _choose(found: Sequence[_Found], kind: str, fast: bool) -> _Found:
    mine = [each for each in found if each.kind == kind]
    fitting = [each for each in mine if each.name.endswith("_fast") == fast]
    if len(mine) > 1 and len(fitting) != 1:
        listed = ", ".join(each.name for each in mine)
        raise ValueError(f"several {kind} benchmarks ({listed}) and no rule to choose: name one")
    return (fitting or mine)[0]
