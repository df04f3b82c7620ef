"""Folders as an earlier version wrote them."""

from __future__ import annotations

import json
from pathlib import Path


def forget_digests(folder: Path) -> None:
    """Make a checkpoint or corpus one of a version that knew no digests."""
    (folder / "digests.json").unlink()
    for name in ("trainer.json", "corpus.json"):
        if (folder / name).exists():
            values = json.loads((folder / name).read_text())
            assert values.pop("has_digests") is True
            (folder / name).write_text(json.dumps(values))
