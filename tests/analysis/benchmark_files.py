"""Small benchmark folders in the public layouts."""

from __future__ import annotations

import json
from pathlib import Path

PAIRS = {
    "agreement": [("the cat sleeps .", "the cat sleep ."), ("the dogs sleep", "the dogs sleeps")],
    "order": [("the cat sees a dog .", "cat the sees a dog ."), ("a dog sleeps", "dog a sleeps")],
    "adverb": [("the cats often sleep", "the cats sleep often")],
}
FIELDS = {"agreement": "morphology", "order": "syntax", "adverb": "syntax"}


def write_blimp(folder: Path) -> Path:
    """A folder in BLiMP layout: three tasks, five pairs."""
    folder.mkdir(parents=True)
    for uid, pairs in PAIRS.items():
        rows = [
            {
                "sentence_good": good,
                "sentence_bad": bad,
                "UID": uid,
                "field": FIELDS[uid],
                "linguistics_term": uid,
            }
            for good, bad in pairs
        ]
        (folder / f"{uid}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def write_supplement(folder: Path) -> Path:
    """A folder in the layout of the supplement: no UID, sentences with newlines."""
    folder.mkdir(parents=True)
    row = {"sentence_good": "A: see cats ?\nB: cats .", "sentence_bad": "A: see cats ?\nB: often ."}
    (folder / "turn_taking.jsonl").write_text(json.dumps(row) + "\n")
    return folder
