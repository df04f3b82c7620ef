"""Minimal pairs: does a model give the good sentence more probability than the bad?

In BLiMP's layout one `*.jsonl` file per task, one pair per line: `sentence_good`, `sentence_bad`,
and in BLiMP also `UID` (the task; the file's stem where it is absent, as in the BLiMP supplement),
`field` and `linguistics_term`. BLiMP: Warstadt et al. 2020, arXiv 1912.00582. Supplement: Warstadt
et al. 2023, the BabyLM Challenge. Sets of other languages have other layouts: `pair_files`.
"""

from __future__ import annotations

from pathlib import Path

from analysis.benchmarks.files import hub_rows
from analysis.benchmarks.items import Item
from analysis.benchmarks.kind import BenchmarkKind, BenchmarkSource
from analysis.benchmarks.pair_files import FIELDS, FORMS, find_pairs, read_pairs, sentences_of
from analysis.schema.choices import PAIR_FOLDERS, SUPPLEMENT_FOLDERS, Layout

GROUPINGS = {"field": ("field",), "linguistics_term": ("linguistics_term", "phenomenon")}
"""By what tasks are grouped, and the fields that say so."""
_TASKS = ("UID", "PID", "paradigm")
HUB_ID = "nyu-mll/blimp"


def read_minimal_pairs(folder: Path, layout: Layout = "auto") -> tuple[Item, ...]:
    """The pairs of a folder's files, in the order of their names.

    Raises:
        ValueError: no file, an empty file, or a line that is not a pair (file and line are named).
    """
    return tuple(row.parse(_pair) for row in read_pairs(folder, layout))


def _read(folder: Path, source: BenchmarkSource) -> tuple[Item, ...]:
    return read_minimal_pairs(folder, source.layout)


def _pair(values: dict[str, object], source: str) -> Item:
    said = {name: str(value) for name, value in values.items() if value}
    task = next((said[name] for name in _TASKS if name in said), said.get("phenomenon", source))
    groups = [
        (grouping, _style(said[name]))
        for grouping, names in GROUPINGS.items()
        for name in names
        if name in said
    ]
    options = sentences_of(values)
    # Some sets have a good sentence against several bad ones; BLiMP's pairs are each by itself.
    cluster = "" if FIELDS[0][0] in values else options[0]
    return Item(task, options=options, groups=tuple(groups), cluster=cluster)


def _style(group: str) -> str:
    """The public files write one field in two ways."""
    return group.replace("syntax_semantics", "syntax/semantics")


_EXPECTS = f"{', '.join(FORMS[:3])} files with the fields {' and '.join(FIELDS[0])}, or *.txt"
BLIMP = BenchmarkKind(
    "blimp",
    ("blimp*", *PAIR_FOLDERS),
    _read,
    files=FORMS,
    only_first_form=True,
    expects=_EXPECTS,
    find=find_pairs,
    from_hub=lambda source: tuple(row.parse(_pair) for row in hub_rows(HUB_ID)),
    hub_id=HUB_ID,
    submission="blimp",
    shown_by="linguistics_term",
)
SUPPLEMENT = BenchmarkKind(
    "supplement",
    ("supplement*", *SUPPLEMENT_FOLDERS),
    _read,
    files=FORMS,
    only_first_form=True,
    expects=_EXPECTS,
    find=find_pairs,
    submission="blimp",
)
