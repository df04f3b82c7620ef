"""What a model answered to every item: as JSON lines, and as the BabyLM challenge wants it."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.benchmarks.benchmark import Benchmark
from analysis.benchmarks.items import Answer, Item
from analysis.benchmarks.kind import Predictions
from analysis.benchmarks.suite import Suite
from analysis.errors import named
from analysis.whole_files import whole_file, write_text
from analysis.wording import count

_GLOBAL_PIQA = ("global_piqa_parallel", "global_piqa_nonparallel")
_LEFT_OUT = {"2024": _GLOBAL_PIQA, "2025": _GLOBAL_PIQA, "2026": ("wug", "wug_past")}
"""By protocol: kinds of benchmarks that other years' submissions have."""


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
    """Write `zero_shot/causal/<task>/<dataset>/predictions.json` as the BabyLM pipeline does.

    Of reading times it is `zero_shot/causal/reading/predictions.json`, with surprisals in nats.

    A file maps each UID to {"predictions": [{"id": "<UID>_<n>", "pred": <the chosen text>}, ...]}.
    The UIDs are those that the pipeline's scorer looks up: names of the data set's files, for
    entity tracking with the number of operations, and `BenchmarkKind.submitted_as`.
    These files hold texts, EWoK's too: keep them off the public web. The option of the greatest
    log-probability (of GlobalPIQA its mean over tokens) is the prediction; of equal ones, by the
    protocols before 2026 the first, which in minimal pairs is the right one, since then any of them
    (here the same one each time). Where each option has a context of its own, both are the
    prediction: an option alone would not tell which. Benchmarks that are no part of the year's
    predictions are left out: BEAR, of 2026 WUG, and before it GlobalPIQA.

    Source: babylm-org/babylm-eval, strict/evaluation_pipeline/sentence_zero_shot (run.py,
    `save_predictions`; compute_results.py, `rank_and_evaluate`) and reading/run.py: the rules of
    2025 as commit 45fe2c1 still has them, those of 2026 as of a66e05d.

    Returns:
        The files written.

    Raises:
        ValueError: a score is not finite, so that there is no prediction; or `check_submission`.
    """
    check_submission(suite)
    for name, items in answers.items():
        if bad := sum(not answer.finite for answer in items):
            raise ValueError(
                f"{name} has {count(bad, 'score')} not finite: the model is broken, and there is "
                "nothing to submit"
            )
    written = []
    for benchmark in suite.benchmarks:
        if benchmark.kind.submission is None or benchmark.name in _LEFT_OUT[suite.protocol]:
            continue
        place = folder / "zero_shot" / "causal" / benchmark.kind.submission
        if benchmark.kind.submitted:
            predictions = benchmark.kind.submitted(benchmark.items, answers[benchmark.name])
        else:
            place /= benchmark.dataset or benchmark.name
            predictions = _choices(benchmark, answers[benchmark.name], suite.protocol)
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps({uid: {"predictions": mine} for uid, mine in predictions.items()})
        write_text(place / "predictions.json", text)
        written.append(place / "predictions.json")
    return written


def check_submission(suite: Suite) -> None:
    """Check before any scoring that predictions can be filed as the challenge wants them.

    Raises:
        ValueError: they cannot; the message names the benchmark.
    """
    for benchmark in suite.benchmarks:
        if benchmark.name not in _LEFT_OUT[suite.protocol]:
            with named(str(benchmark.place or benchmark.name)):
                benchmark.kind.submitted_as(benchmark.items)


def _first(options: Sequence[int], name: str) -> int:
    return options[0]


def _drawn(options: Sequence[int], name: str) -> int:
    return random.Random(name).choice(options)


_OF_EQUAL = {"2024": _first, "2025": _first, "2026": _drawn}
"""By protocol: which of the equally probable options of a prediction of this id is chosen."""


def _choices(benchmark: Benchmark, answers: Sequence[Answer], protocol: str) -> Predictions:
    """The chosen options."""
    predictions: Predictions = defaultdict(list)
    uids = benchmark.kind.submitted_as(benchmark.items)
    for uid, item, answer in zip(uids, benchmark.items, answers, strict=True):
        mine = predictions[uid]
        name, greatest = f"{uid}_{len(mine)}", max(answer.log_probs)
        equal = [index for index, each in enumerate(answer.log_probs) if each == greatest]
        context, option = item.texts[_OF_EQUAL[protocol](equal, name)]
        entry: dict[str, Any] = {
            "id": name,
            "pred": option if isinstance(item.context, str) else context + option,
        }
        if item.human is not None:
            entry["prob"] = answer.value
        mine.append(entry)
    return predictions
