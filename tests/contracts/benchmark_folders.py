"""A small folder of every kind of benchmark: two tasks or more, and every text has a zebra."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from analysis.benchmarks.kind import BenchmarkKind


def _pair(n: int) -> dict[str, Any]:
    return {"sentence_good": f"a zebra runs {n}", "sentence_bad": f"a zebra run {n}"}


def _context(domain: str, n: int) -> dict[str, Any]:
    sides = {"Context": f"zebra {n} is", "Target": f"{domain} zebra is"}
    return {f"{key}{i}": f"{text} {way}" for key, text in sides.items() for i, way in SIDES}


def _concepts(n: int) -> dict[str, Any]:
    concepts = {"prefix_acceptable": f"a zebra {n}", "prefix_unacceptable": f"a zebra stone {n}"}
    return {**concepts, "property_phrase": "eats as a zebra does"}


def _solutions(language: str, n: int, solutions: int) -> dict[str, Any]:
    options = {f"solution{k}": f"runs {k} steps" for k in range(solutions)}
    row = {"prompt": f"a zebra {n}", **options, "label": n % solutions}
    return {**row, "example_id": f"{language}_{n}"}


SIDES = ((1, "left"), (2, "right"))
RELATIONS = {
    name: {"templates": [template], "answer_space_labels": ["red", "green", "blue"]}
    for name, template in {"P1": "zebra [X] likes [Y].", "P2": "[Y] is zebra [X]'s colour."}.items()
}


def _wugs(start: float) -> list[dict[str, Any]]:
    forms = [f"zebra {n}ity\tzebra {n}ness" for n in range(4)]
    return [{"sentences": both, "ratio": n / 10 + start} for n, both in enumerate(forms)]


def _reading_times(words: int) -> str:
    """A table of so many words, each the third one of a sentence, with made-up times."""
    chance = random.Random(0)
    rows = [",".join((*TEXT_COLUMNS, *NUMBER_COLUMNS))]
    for n in range(words):
        numbers = [f"{chance.random():.3f}" for _ in NUMBER_COLUMNS]
        rows.append(",".join((f"zebra {n}", f"a{n}", "zebra", f"{n}", *numbers)))
    return "\n".join(rows) + "\n"


TEXT_COLUMNS = ("item", "word", "prev_item", "prev_word")
NUMBER_COLUMNS = (
    *("RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound", "self_paced_reading_time"),
    *("Subtlex_log10", "length", "context_length", "prev_length"),
)
FILES: dict[str, dict[str, Any]] = {
    "blimp": {f"{uid}.jsonl": [_pair(n) for n in range(4)] for uid in ("agreement", "order")},
    "supplement": {f"{uid}.jsonl": [_pair(n) for n in range(4)] for uid in ("turns", "hypernym")},
    "ewok": {
        f"{domain}.jsonl": [_context(domain, n) for n in range(4)] for domain in ("space", "matter")
    },
    "bear": {
        "metadata_relations.json": RELATIONS,
        **{
            f"{name}.jsonl": [{"sub_label": f"{n}", "answer_idx": n % 3} for n in range(4)]
            for name in RELATIONS
        },
    },
    "wug": {"first.jsonl": _wugs(0.0), "second.jsonl": _wugs(0.4)},
    "wug_past": {"first.jsonl": _wugs(0.0), "second.jsonl": _wugs(0.4)},
    "reading": {"reading_data.csv": _reading_times(40)},
    "entity_tracking": {
        f"{split}.jsonl": [
            {"input_prefix": "zebra", "options": [" a", " b", " c"], "numops": n % 2}
            for n in range(4)
        ]
        for split in ("regular", "move_contents")
    },
    **{
        f"global_piqa_{name}": {
            f"{language}.jsonl": [_solutions(language, n, solutions) for n in range(4)]
            for language in ("eng_latn", "nld_latn")
        }
        for name, solutions in (("parallel", 4), ("nonparallel", 2))
    },
    "comps": {
        f"comps_{subset}.jsonl": [_concepts(n) for n in range(4)]
        for subset in ("base", "wugs_dist-before")
    },
}
"""By kind and name of a file: its rows if it is of JSON lines, else its text or JSON content."""


def write_folder(kind: BenchmarkKind, parent: Path) -> Path:
    """A folder with the kind's `FILES`, called as the first of its patterns wants."""
    folder = parent / kind.folders[0].replace("*", "_small")
    folder.mkdir()
    for name, content in FILES[kind.name].items():
        rows = content if name.endswith(".jsonl") else [content]
        lines = [content] if isinstance(content, str) else [json.dumps(row) + "\n" for row in rows]
        (folder / name).write_text("".join(lines))
    return folder
