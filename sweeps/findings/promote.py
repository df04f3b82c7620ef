"""Shows a promotion: the version that an alias pointed to, beside the one of now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from mlflow.entities.model_registry import ModelVersion
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.schema.axes import short
from analysis.store import how_to_browse
from analysis.terminal import say, show_whole
from sweeps.stored.versions import tag

_ID = 32  # characters of an MLflow run's


@dataclass(frozen=True)
class Promotion:
    """The version that an alias pointed to, and the one that it points to now.

    Attributes:
        before: None if the model had no such alias; `after` itself if nothing changed.
        is_new: whether `after` was registered by this promotion.
    """

    before: ModelVersion | None
    after: ModelVersion
    is_new: bool = False


def show_promotion(promotion: Promotion, alias: str, storage: Path, console: Console) -> None:
    """Print both versions side by side, and what became of the alias."""
    before, after = promotion.before, promotion.after
    versions = {"now": after}
    if before is not None and before is not after:
        versions = {"before": before, "now": after}
    # So that two ids of runs, which people paste, fit 80 columns unbroken.
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column()
    for title, version in versions.items():
        heading = f"{title}: version {version.version}"
        table.add_column(heading, overflow="fold", min_width=_ID)
    for row in zip(*(_cells(version) for version in versions.values()), strict=True):
        table.add_row(row[0][0], *(escape(value) for _, value in row))
    console.print(table)
    uri = f"models:/{after.name}@{alias}"
    if before is after:
        sentence = f"{uri} is this checkpoint already: nothing changed."
    else:
        kind = "a new version" if promotion.is_new else "registered earlier"
        sentence = f"{uri} is version {after.version} now, {kind}."
    say(console, escape(sentence))
    console.print()
    show_whole(console, "Browse", *how_to_browse(storage, f"#/models/{quote(after.name)}"))


def _cells(version: ModelVersion) -> list[tuple[str, str]]:
    """The rows of the table: what a version was tagged with, "-" for what it was not."""
    spec = json.loads(tag(version, "spec") or "{}")
    created = datetime.fromtimestamp(version.creation_timestamp / 1000).astimezone()
    figures = {}
    for name, digits in (("bits_per_byte", 4), ("macro", 1)):
        value = tag(version, name)
        figures[name] = f"{float(value):.{digits}f}" if value else "-"
    return [
        ("run", version.run_id or "-"),
        ("lr", short(spec["lr"]) if spec else "-"),
        ("seed", str(spec.get("seed", "-"))),
        ("epochs", f"{tag(version, 'epoch') or '-'} of {spec.get('epochs', '-')}"),
        ("bits/byte", figures["bits_per_byte"]),
        ("macro", figures["macro"]),
        ("corpus", f"{tag(version, 'corpus') or '-'} {tag(version, 'corpus_hash')[:8]}".strip()),
        ("commit", tag(version, "commit")[:10] or "-"),
        ("date", created.strftime("%Y-%m-%d %H:%M")),
    ]
