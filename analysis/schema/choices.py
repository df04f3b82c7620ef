"""Closed choices that are no fields of a trial: of a flag, and of what it is passed to."""

from __future__ import annotations

from typing import Literal

SelectionRule = Literal["val_loss", "selection-split", "macro"]
"""What learning rate and epoch are chosen by in a report."""
Depth = Literal["fast", "full"]
"""Which of two benchmarks of a kind is scored: the challenge's small one, or the whole one."""
Layout = Literal["auto", "good-first", "bad-first"]
"""Which sentence of a minimal pair comes first in files of plain lines."""
ItemPart = Literal["held_out", "selection", "all"]
"""Items: those that no choice looks at, those that choices may look at, or both."""
EpochSelection = Literal["split", "reported"]
"""What the epoch of a fine-tuning is chosen on: a split of the training examples, or the examples
whose score is reported."""
BENCHMARKS = (
    *("blimp", "supplement", "ewok", "bear", "wug", "wug_past", "entity_tracking", "comps"),
    *("reading", "global_piqa_parallel", "global_piqa_nonparallel"),
)
"""Kinds of benchmarks; the names of their folders begin with them."""
PAIR_FOLDERS = ("*blimp*", "clams*", "zorro*")
SUPPLEMENT_FOLDERS = ("*blimp*supplement*",)
OTHER_FOLDERS = (*PAIR_FOLDERS, *SUPPLEMENT_FOLDERS)
"""Patterns of folders of benchmarks whose names do not begin with that of their kind."""
GLUE_TASKS = (
    *("boolq", "cola", "mnli", "mnli-mm", "mrpc", "multirc", "qnli", "qqp", "rte", "sst2", "wsc"),
)
"""Tasks of GLUE and SuperGLUE that models are fine-tuned on."""
MULTILINGUAL = {
    "en": (
        *("arc", "belebele", "bmlama", "mnli", "sib200", "truthfulqa", "xnli"),
        *("global_mmlu", "xcopa"),
    ),
    "nl": (
        *("arc", "belebele", "bmlama", "include", "mnli", "sib200", "truthfulqa"),
        "global_mmlu",
    ),
    "zh": (
        *("arc", "belebele", "bmlama", "include", "mnli", "sib200", "truthfulqa", "xnli"),
        *("global_mmlu", "xcopa"),
    ),
}
"""By language, the sets of BabyLM's multilingual track that models are fine-tuned on."""
MULTILINGUAL_TASKS = tuple(
    f"{name}_{lang}" for lang, names in MULTILINGUAL.items() for name in names
)
"""Tasks of the multilingual track."""
