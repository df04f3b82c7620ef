"""The fine-tuning sets of the BabyLM challenge's multilingual track: English, Dutch, Chinese.

Of a question with answers to choose from, such as ARC's, text and choices are one text, and the
label is a letter; labels are those of the training file, whose words are of its language. Figures
are accuracies. Files are `<language>/<set>/<set>_<language>.{train,valid}.jsonl`.

Source: github.com/babylm-org/babylm-eval (2026), the folder multilingual/: finetune/data/ for files
and fields, finetune/finetune_classification.py for how they are read, scripts/finetune_model.sh for
the sets that are run and the settings, scripts/print_finetune_results.py for the mean of a
language.
"""

from __future__ import annotations

from analysis.benchmarks.classification import ClassificationTask
from analysis.schema.choices import MULTILINGUAL

_TEXTS = {
    "mnli": ("{premise}", "{hypothesis}"),
    "xnli": ("{premise}", "{hypothesis}"),
    "xcopa": ("{sentence1}", "{sentence2}"),
}
_NOT_RUN = ("global_mmlu", "xcopa")
"""Sets whose files are there, and which the organisers' script leaves out."""

TASKS = {
    f"{name}_{language}": ClassificationTask(
        f"{name}_{language}", (), _TEXTS.get(name, ("{sentence}",)), language=language
    )
    for language, names in MULTILINGUAL.items()
    for name in names
}
"""All tasks by name."""

GROUPS = {
    f"multilingual_{language}": tuple(
        f"{name}_{language}" for name in names if name not in _NOT_RUN
    )
    for language, names in MULTILINGUAL.items()
}
"""By group, the tasks of the organisers' script, whose unweighted mean is the language's figure."""
GROUP_FOLDERS = {
    f"multilingual_{language}": (language, f"multilingual*/{language}") for language in MULTILINGUAL
}
"""By group, patterns of the folder that its files are in."""
ALL = "multilingual"
"""Stands for all groups."""
