"""Tasks that the BabyLM challenge added later (2025): wugs, entity tracking, COMPS.

`wug_adj*/*.jsonl`: `sentences`, two texts separated by a tab, and `ratio`, the share of people who
prefer the first (Hofmann et al. 2024). The figure is Spearman's correlation with the model's share,
the softmax over both texts. `wug_past*/*.jsonl` are the same of past tenses (Weissweiler et al.
2023, arXiv 2310.15113).

`entity_tracking*/<split>.jsonl`: `input_prefix`, `options` of which the first is right, and
`numops`, the number of operations on the boxes' contents (Kim & Schuster 2023, arXiv 2305.02363).
The figure is the mean over splits of the mean over numbers of operations. Under the protocol of
2026 an item with the word "nothing" in an option is left out (babylm-org/babylm-eval at a66e05d,
see `protocols`, strict/evaluation_pipeline/sentence_zero_shot/read_files.py,
`decode_entity_tracking`).

`comps*/comps_<subset>.jsonl`: `prefix_acceptable` and `prefix_unacceptable`, which name a concept,
and `property_phrase`, which is true of the first alone and is scored after each; in the files also
`acceptable_concept` and `negative_sample_type`, how the wrong concept was chosen (Misra, Rayz &
Ettinger 2023, arXiv 2210.01963). The figure is the mean over subsets.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from analysis.benchmarks.figures import CORRELATION, MEAN_OF_SPLITS
from analysis.benchmarks.files import number_field, text_field
from analysis.benchmarks.items import Item
from analysis.benchmarks.kind import BenchmarkKind, BenchmarkSource, json_lines


def _inflections(values: dict[str, object], source: str) -> Item:
    options = tuple(text_field(values, "sentences").split("\t"))
    if len(options) != 2:
        raise ValueError(f"'sentences' holds {len(options)} texts separated by tabs, not two")
    ratio = number_field(values, "ratio")
    if ratio < 0:  # only its rank counts: a percentage does as well
        raise ValueError(f"'ratio' is a share of people, 0 or more, not {ratio}")
    return Item(task=source, options=options, human=ratio)


def _tracking(values: dict[str, object], source: str) -> Item:
    options = values.get("options")
    if (
        not isinstance(options, list)
        or len(options) < 2
        or not all(isinstance(option, str) and option for option in options)
    ):
        raise ValueError("field 'options' is not a list of two or more texts")
    operations = number_field(values, "numops")
    if operations < 0 or operations != int(operations):
        raise ValueError(f"'numops' is a number of operations, not {operations}")
    return Item(
        task=f"{source}_{int(operations)}_ops",
        options=tuple(options),
        context=text_field(values, "input_prefix"),
    )


def _read_tracking(folder: Path, source: BenchmarkSource) -> tuple[Item, ...]:
    items = json_lines(_tracking)(folder, source)
    if source.protocol != "2026":
        return items
    left = tuple(item for item in items if not any("nothing" in text for text in item.options))
    if not left:
        raise ValueError(
            f"each item in {folder} has an option with the word 'nothing', which the protocol of "
            "2026 leaves out: give the whole benchmark, or --protocol 2025"
        )
    return left


def _property(values: dict[str, object], source: str) -> Item:
    task = source.removeprefix("comps_").replace("-", "_")
    phrase = text_field(values, "property_phrase")
    right = text_field(values, "prefix_acceptable")
    chosen = values.get("negative_sample_type")
    # A concept is set against several wrong ones: the score of its side is the same in all.
    concept = values.get("acceptable_concept") or right
    return Item(
        task=task,
        options=(f" {phrase}", f" {phrase}"),
        context=(right, text_field(values, "prefix_unacceptable")),
        groups=(("negative_sample_type", str(chosen)),) if chosen else (),
        cluster=f"{task} {concept} {phrase}",
    )


WUG = BenchmarkKind(
    "wug",
    ("wug_adj*",),
    json_lines(_inflections),
    expects="*.jsonl files with the fields sentences and ratio",
    figure=CORRELATION,
    submission="wug_adj",
    submitted_as=lambda items: ["wug_adj"] * len(items),
    shown_by=None,
)
WUG_PAST = replace(
    WUG,
    name="wug_past",
    folders=("wug_past*",),
    submission="wug_past",
    submitted_as=lambda items: ["wug_past"] * len(items),
)
ENTITY_TRACKING = BenchmarkKind(
    "entity_tracking",
    ("entity_tracking*",),
    _read_tracking,
    expects="*.jsonl files with the fields input_prefix, options and numops",
    figure=MEAN_OF_SPLITS,
    submission="entity_tracking",
)
COMPS = BenchmarkKind(
    "comps",
    ("comps*",),
    json_lines(_property),
    expects="*.jsonl files with prefix_acceptable, prefix_unacceptable and property_phrase",
    submission="comps",
    listed_as="subset",
)
