"""What a folder of benchmarks holds: what can be scored, and what not and why."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from analysis.benchmarks import glue
from analysis.benchmarks.benchmark import Benchmark
from analysis.benchmarks.classification import ClassificationTask
from analysis.benchmarks.files import DEPTHS, depth_folders, is_zip
from analysis.benchmarks.kind import BenchmarkKind, BenchmarkSource
from analysis.benchmarks.kinds import ALL_KINDS, kind_of_folder
from analysis.schema.choices import BENCHMARKS
from analysis.wording import as_flag, count, quoted

_MOST_FOLDERS = 1000
"""That are looked into for a hint; links may lead in a circle."""
_NOT_SCORED = {
    "cdi*": "age of acquisition is not scored here",
    "aoa*": "age of acquisition is not scored here",
    **dict.fromkeys(("vqa*", "winoground*", "devbench*"), "pictures are not scored here"),
}
"""By pattern of a name: what the BabyLM challenge has beside the benchmarks that are read."""


@dataclass(frozen=True)
class FolderEntry:
    """Something in a folder of benchmarks.

    Attributes:
        name: of the folder or file; in the challenge's `full_eval` or `fast_eval` with that.
        kind: the benchmark's, None if it is none.
        place: where the benchmark is, None if it cannot be scored.
        note: why not; or what of it is not read.
        group: of tasks to fine-tune on (`glue.GROUPS`) whose files it holds; "" for none.
    """

    name: str
    kind: BenchmarkKind | None = None
    place: Path | None = None
    note: str = ""
    group: str = ""

    @property
    def dataset(self) -> str:
        """The name that its scores are filed under: its own, of a zip file without the suffix."""
        own = Path(self.name).name
        return self.place.stem if self.place and is_zip(self.place) else own

    @property
    def is_fast(self) -> bool:
        """Whether it is the smaller one of two that a challenge has of a kind."""
        return self.dataset.endswith("_fast") or self.name.startswith(f"{DEPTHS[0]}/")

    def read(self, source: BenchmarkSource) -> Benchmark:
        """Read the benchmark."""
        assert self.kind is not None
        assert self.place is not None
        items = self.kind.read(self.place, source)
        return Benchmark(self.kind.name, items, self.dataset, self.place)


def survey(path: Path) -> list[FolderEntry]:
    """The folder itself, if it is a benchmark's, or else everything in it, and in the challenge's
    `full_eval` and `fast_eval`, or in `multilingual*`, there."""
    itself = _entry(path.absolute())
    if itself.place is not None or not path.is_dir():
        return [itself]
    deeper = [each for each in depth_folders(path) if _holds_benchmarks(each)]
    deeper += sorted(each for each in path.iterdir() if _holds_languages(each))
    entries = [
        replace(entry, name=f"{folder.name}/{entry.name}")
        for folder in deeper
        for entry in survey(folder)
    ]
    return [*entries, *_inside(path, without=deeper)]


def _inside(path: Path, without: Sequence[Path]) -> list[FolderEntry]:
    inside = sorted(each for each in path.iterdir() if each.name[0] != "." and each not in without)
    groups = glue.groups_in(path)
    entries = [_entry(each) for each in inside if not any(each.name in g for g in groups.values())]
    entries += [FolderEntry(path.absolute().name, group=group) for group in groups]
    return [_beside_its_folder(entry, entries) for entry in entries]


def check_filled(path: Path, entries: Sequence[FolderEntry]) -> None:
    """Check that no folder among the entries of `survey` is called like a benchmark for nothing.

    Raises:
        ValueError: one is: it may be lacking what was asked for.
    """
    for entry in entries:
        is_called_so = entry.dataset.lower().startswith(BENCHMARKS)
        if is_called_so and entry.kind and not entry.place and (path / entry.name).is_dir():
            raise ValueError(_holds_none(path / entry.name, entry.kind))


def why_nothing(path: Path) -> str:
    """Reason why a folder has no benchmark to score, and which folder to give instead."""
    if advice := hint(path):
        return f"no benchmark in {path} itself: {advice}"
    kind = kind_of_folder(path.absolute().name)
    if kind and path.is_dir():
        return _holds_none(path, kind)
    names = ", ".join(kind.folders[0].rstrip("*") for kind in ALL_KINDS)
    return (
        f"no benchmark in {path}: looked at it and at what is in it for names that begin with "
        f"{names} and hold such a benchmark (*.jsonl files; of EWoK also a zip, of reading "
        "times *.csv)"
    )


def where_benchmarks_are(path: Path, groups: Collection[str] = ()) -> list[Path]:
    """The nearest folders below a folder that hold benchmarks, such as the challenge's `full_eval`,
    or files of one of these groups of tasks to fine-tune on; all of one depth. The folder may be
    anyone's home: where there are very many, none is found."""
    level, left = [path], _MOST_FOLDERS
    while level and left > 0:
        inside = sorted(each for folder in level for each in _folders(folder))[:left]
        if found := [each for each in inside if _holds(each, groups)]:
            return found
        level, left = inside, left - len(inside)
    return []


def hint(path: Path, groups: Collection[str] = ()) -> str:
    """A sentence on which folder in the folder to give instead; "" if none holds benchmarks, or
    files of one of these groups of tasks to fine-tune on."""
    folders = [quoted(str(each)) for each in where_benchmarks_are(path, groups)]
    if not folders:
        return ""
    return f"give the folder that holds them: --benchmarks {' or '.join(folders)}"


def _folders(path: Path) -> list[Path]:
    """The folders in one that can be looked into, but for hidden ones."""
    found = [each for each in path.iterdir() if each.name[0] != "." and each.is_dir()]
    return [each for each in found if os.access(each, os.R_OK | os.X_OK)]


def _entry(path: Path) -> FolderEntry:
    kind = kind_of_folder(path.name)
    place = kind.find(path) if kind else None
    if kind and place:
        return FolderEntry(path.name, kind, place, _unread(place, kind))
    if kind:
        return FolderEntry(path.name, kind, note=f"it is no folder with {kind.expects}")
    if group := glue.group_of(path):
        return FolderEntry(path.name, group=group)
    lower = path.name.lower()
    for pattern, note in _NOT_SCORED.items():
        if fnmatchcase(lower, pattern):
            return FolderEntry(path.name, note=note)
    if path.is_dir() and _holds_benchmarks(path):
        flag = as_flag("benchmarks", quoted(str(path)))
        return FolderEntry(path.name, note=f"a folder of benchmarks: {flag}")
    names = ", ".join(kind.folders[0] for kind in ALL_KINDS)
    finetuned = ", ".join(folders[0] for folders in glue.GROUPS.values())
    return FolderEntry(path.name, note=f"no benchmark is called so ({names}, {finetuned})")


def _holds(path: Path, groups: Collection[str]) -> bool:
    """Whether a folder holds files of one of these groups; of none, benchmarks of any kind."""
    if not groups:
        return _holds_benchmarks(path)
    return any(glue.folders(path, group) for group in groups)


def _holds_benchmarks(path: Path) -> bool:
    if any(map(_holds_benchmarks, depth_folders(path))):
        return True
    kinds = [(kind_of_folder(child.name), child) for child in path.iterdir()]
    if _holds(path, glue.GROUPS):
        return True
    return any(kind and kind.find(child) for kind, child in kinds)


def _holds_languages(path: Path) -> bool:
    is_called_so = path.name.lower().startswith("multilingual")
    return is_called_so and path.is_dir() and any(map(glue.group_of, path.iterdir()))


def _unread(place: Path, kind: BenchmarkKind) -> str:
    """Files of a benchmark's folder that look like data and are not read."""
    if not place.is_dir():
        return ""
    inside = list(place.iterdir())
    forms = kind.files
    if kind.only_first_form:
        names = [each.name.lower() for each in inside]
        forms = next(((form,) for form in forms if any(fnmatchcase(n, form) for n in names)), forms)
    others = sorted(each.name for each in inside if _looks_like_data(each, kind, forms))
    return f"not read in it: {_listed(others)}" if others else ""


def _looks_like_data(path: Path, kind: BenchmarkKind, forms: Sequence[str]) -> bool:
    name = path.name.lower()
    if name.startswith((".", "readme", "license")) or name.endswith(".md"):
        return False
    if path.is_dir():
        return True
    return kind.find(path) is None and not any(fnmatchcase(name, each) for each in forms)


def _holds_none(folder: Path, kind: BenchmarkKind) -> str:
    content = sorted(each.name for each in folder.iterdir())
    holds = f"holds {_listed(content)}" if content else "holds nothing"
    return (
        f"{folder} is called like the benchmark {kind.name} and {holds}: expected {kind.expects}; "
        "or move it elsewhere"
    )


def _beside_its_folder(entry: FolderEntry, entries: Sequence[FolderEntry]) -> FolderEntry:
    """Drop a zip file in favour of the folder that it was unpacked to."""
    folders = {each.name for each in entries if each.place and each.name == each.dataset}
    if entry.place is None or entry.name == entry.dataset or entry.dataset not in folders:
        return entry
    return FolderEntry(entry.name, entry.kind, note=f"the folder {entry.dataset} is read instead")


def _listed(names: Sequence[str]) -> str:
    """List some of the names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def entry_rows(
    entries: Sequence[FolderEntry],
    benchmarks: Sequence[Benchmark],
    tasks: Sequence[ClassificationTask],
    tasks_flag: str = "--tasks",
) -> Iterator[tuple[str, str, str]]:
    """Rows of a table on each entry: name, benchmark, what is done with it or why nothing.

    Args:
        entries: of `survey`.
        benchmarks: those that are scored.
        tasks: those that are fine-tuned on, with the labels of their files.
        tasks_flag: the flag that asks for those.
    """
    scored = {each.place: len(each) for each in benchmarks}
    kinds = {each.name: each.dataset for each in benchmarks}
    for entry in entries:
        kind = entry.kind.name if entry.kind else entry.group
        note = f" ({entry.note})" if entry.note else ""
        if finetuned := [_described(task) for task in tasks if task.group == entry.group]:
            yield entry.name, kind, f"fine-tuned on: {', '.join(finetuned)}"
        elif entry.group:
            some = _listed(glue.tasks_of(entry.group))
            only_with = f"{tasks_flag} {entry.group}, or one of its tasks ({some})"
            yield entry.name, kind, f"left out: fine-tuned only with {only_with}"
        elif entry.place is None:
            yield entry.name, kind, f"left out: {entry.note}"
        elif entry.place in scored:
            yield entry.name, kind, f"to score: {count(scored[entry.place], 'item')}{note}"
        elif kind in kinds:
            named = as_flag("tasks", quoted(entry.name))
            yield entry.name, kind, f"left out: {kinds[kind]} is scored; {named}"
        else:
            yield entry.name, kind, f"left out: not asked for; --tasks {kind}{note}"


def _described(task: ClassificationTask) -> str:
    """A task's name, with its labels where they are those of a file."""
    if not task.language:
        return task.name
    if not task.labels:
        return f"{task.name} (lacks files)"
    return f"{task.name} ({count(len(task.labels), 'label')}: {_listed(task.labels)})"
