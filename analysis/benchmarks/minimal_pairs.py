"""Minimal pairs in BLiMP layout: does a model give the good sentence more probability than the bad?

One `*.jsonl` file per task, one pair per line: `sentence_good`, `sentence_bad`, and in BLiMP also
`UID` (the task; the file's stem where it is absent, as in the BLiMP supplement), `field` and
`linguistics_term`. BLiMP: Warstadt et al. 2020, arXiv 1912.00582. Supplement: Warstadt et al. 2023,
the BabyLM Challenge.
"""

from __future__ import annotations

from pathlib import Path

from analysis.benchmarks.files import hub_rows, read_folder, text_field
from analysis.benchmarks.items import Item
from analysis.benchmarks.kind import BenchmarkKind, json_lines

GROUPINGS = ("field", "linguistics_term")
HUB_ID = "nyu-mll/blimp"


def read_minimal_pairs(folder: Path) -> tuple[Item, ...]:
    """The pairs of every `*.jsonl` file of a folder, in the order of their names.

    Raises:
        ValueError: no file, an empty file, or a line that is not a pair (file and line are named).
    """
    return tuple(row.parse(_pair) for row in read_folder(folder))


def _pair(values: dict[str, object], source: str) -> Item:
    return Item(
        task=str(values.get("UID") or source),
        options=(text_field(values, "sentence_good"), text_field(values, "sentence_bad")),
        groups=tuple((name, _style(values[name])) for name in GROUPINGS if values.get(name)),
    )


def _style(group: object) -> str:
    """The public files write one field in two ways."""
    return str(group).replace("syntax_semantics", "syntax/semantics")


_EXPECTS = "*.jsonl files with the fields sentence_good and sentence_bad"
BLIMP = BenchmarkKind(
    "blimp",
    ("blimp*",),
    json_lines(_pair),
    expects=_EXPECTS,
    from_hub=lambda source: tuple(row.parse(_pair) for row in hub_rows(HUB_ID)),
    hub_id=HUB_ID,
    in_macro=True,
    submission="blimp",
    shown_by="linguistics_term",
)
SUPPLEMENT = BenchmarkKind(
    "supplement",
    ("supplement*", "blimp*supplement*"),
    json_lines(_pair),
    expects=_EXPECTS,
    in_macro=True,
    submission="blimp",
)
