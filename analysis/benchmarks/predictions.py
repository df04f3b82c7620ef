"""What a model answered to every item: as JSON lines, and as the BabyLM challenge wants it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.benchmarks.benchmark import Benchmark
from analysis.benchmarks.items import Answer, Item
from analysis.benchmarks.kind import Predictions
from analysis.benchmarks.suite import Suite
from analysis.whole_files import whole_file, write_text
from analysis.wording import count


def write_answers(suite: Suite, answers: Mapping[str, Sequence[Answer]], file: Path) -> None:
    """Write a line per item: benchmark, task, index, choice, right, value, tied, log-probabilities.

    No line holds a text, so that the file may be shared and logged.
    """
    with whole_file(file) as partial, partial.open("w", encoding="utf-8") as lines:
        for benchmark in suite.benchmarks:
            pairs = zip(benchmark.items, answers[benchmark.name], strict=True)
            for index, (item, answer) in enumerate(pairs):
                lines.write(json.dumps(_answer(benchmark, index, item, answer)) + "\n")


def _answer(benchmark: Benchmark, index: int, item: Item, answer: Answer) -> dict[str, Any]:
    return {
        "benchmark": benchmark.name,
        "task": item.task,
        "index": index,
        "choice": answer.choice,
        "right": item.right if item.human is None and not benchmark.kind.submitted else None,
        "value": round(answer.value, 6),
        "tied": answer.tied,
        # JSON has no infinity and no NaN.
        "log_probs": [round(x, 5) for x in answer.log_probs] if answer.finite else None,
    }


def write_submission(
    suite: Suite, answers: Mapping[str, Sequence[Answer]], folder: Path
) -> list[Path]:
    """Write `zero_shot/causal/<task>/<dataset>/predictions.json` as the BabyLM 2025 pipeline does.

    Of reading times it is `zero_shot/causal/reading/predictions.json`, with surprisals in nats.

    A file maps each UID to {"predictions": [{"id": "<UID>_<n>", "pred": <the chosen text>}, ...]}.
    The UIDs are those that the pipeline's scorer looks up: names of the data set's files, for
    entity tracking with the number of operations, and `BenchmarkKind.submitted_as`.
    These files hold texts, EWoK's too: keep them off the public web. The option of the greatest
    log-probability is the prediction, as it is there: of equal ones the first, which in minimal
    pairs is the right one. Where each option has a context of its own, both are the prediction: an
    option alone would not tell which. Benchmarks that are no part of the challenge's predictions
    (BEAR) are left out.

    Returns:
        The files written.

    Raises:
        ValueError: a score is not finite, so that there is no prediction.
    """
    for name, items in answers.items():
        if bad := sum(not answer.finite for answer in items):
            raise ValueError(
                f"{name} has {count(bad, 'score')} not finite: the model is broken, and there is "
                "nothing to submit"
            )
    written = []
    for benchmark in suite.benchmarks:
        if benchmark.kind.submission is None:
            continue
        place = folder / "zero_shot" / "causal" / benchmark.kind.submission
        if benchmark.kind.submitted:
            predictions = benchmark.kind.submitted(benchmark.items, answers[benchmark.name])
        else:
            place /= benchmark.dataset or benchmark.name
            predictions = _choices(benchmark, answers[benchmark.name])
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps({uid: {"predictions": mine} for uid, mine in predictions.items()})
        write_text(place / "predictions.json", text)
        written.append(place / "predictions.json")
    return written


def _choices(benchmark: Benchmark, answers: Sequence[Answer]) -> Predictions:
    """The chosen options."""
    predictions: Predictions = defaultdict(list)
    for item, answer in zip(benchmark.items, answers, strict=True):
        uid = benchmark.kind.submitted_as or item.task
        mine = predictions[uid]
        context, option = item.texts[int(np.argmax(answer.log_probs))]
        entry: dict[str, Any] = {
            "id": f"{uid}_{len(mine)}",
            "pred": option if isinstance(item.context, str) else context + option,
        }
        if item.human is not None:
            entry["prob"] = answer.value
        mine.append(entry)
    return predictions
