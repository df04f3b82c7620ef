"""Tasks that the BabyLM challenge added later (2025): nominalised wug adjectives, entity tracking.

`wug_adj*/*.jsonl`: `sentences`, two texts separated by a tab, and `ratio`, the share of people who
prefer the first (Hofmann et al. 2024). The figure is Spearman's correlation with the model's share,
the softmax over both texts.

`entity_tracking*/<split>.jsonl`: `input_prefix`, `options` of which the first is right, and
`numops`, the number of operations on the boxes' contents (Kim & Schuster 2023, arXiv 2305.02363).
The figure is the mean over splits of the mean over numbers of operations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.benchmarks.figures import CORRELATION, MEAN_OF_SPLITS
from analysis.benchmarks.files import number_field, read_folder, text_field
from analysis.benchmarks.items import Item
from analysis.benchmarks.kind import Kind


def read_wug(folder: Path) -> tuple[Item, ...]:
    """Nominalisations with people's preferences.

    Raises:
        ValueError: no file, or a bad row (file and line are named).
    """
    return tuple(row.parse(_nominalisation) for row in read_folder(folder))


def read_entity_tracking(folder: Path) -> tuple[Item, ...]:
    """The questions of entity tracking, one file for each split; errors as for `read_wug`."""
    return tuple(row.parse(_tracking) for row in read_folder(folder))


def _nominalisation(values: dict[str, Any], source: str) -> Item:
    options = tuple(text_field(values, "sentences").split("\t"))
    if len(options) != 2:
        raise ValueError(f"'sentences' holds {len(options)} texts separated by tabs, not two")
    ratio = number_field(values, "ratio")
    if not 0 <= ratio <= 1:
        raise ValueError(f"'ratio' is a share, 0 to 1, not {ratio}")
    return Item(task=source, options=options, human=ratio)


def _tracking(values: dict[str, Any], source: str) -> Item:
    options = values.get("options")
    if (
        not isinstance(options, list)
        or len(options) < 2
        or not all(isinstance(option, str) and option for option in options)
    ):
        raise ValueError("field 'options' is not a list of two or more texts")
    return Item(
        task=f"{source}_{int(number_field(values, 'numops'))}_ops",
        options=tuple(options),
        context=text_field(values, "input_prefix"),
    )


WUG = Kind(
    "wug",
    ("wug_adj*",),
    read=lambda place, source: read_wug(place),
    figure=CORRELATION,
    submission="wug_adj",
    shown_by=None,
)
ENTITY_TRACKING = Kind(
    "entity_tracking",
    ("entity_tracking*",),
    read=lambda place, source: read_entity_tracking(place),
    figure=MEAN_OF_SPLITS,
    submission="entity_tracking",
)
