"""Figures of made-up predictions are those of the formulas that the public pipelines have.

BabyLM 2025 and 2026: babylm/evaluation-pipeline-2025 and babylm-org/babylm-eval,
evaluation_pipeline/sentence_zero_shot/compute_results.py (a uid's accuracy is a mean, what is
reported of a task the mean over its uids; WUG's is a rank correlation) and
evaluation_pipeline/sentence_zero_shot/read_files.py (what a uid is). BEAR: lm-pub-quiz, accuracy.
Reading times, the age of acquisition and the macro have tests of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.benchmarks import Benchmark, load_suite
from analysis.benchmarks.kinds import KINDS, kind_named
from tests.contracts.benchmark_folders import FILES, write_folder

OF_ONE_LEVEL = ("blimp", "supplement", "ewok", "comps")
OF_ITEMS = ("bear", "global_piqa_parallel", "global_piqa_nonparallel")
OF_RANKS = ("wug", "wug_past")
TESTED_BY_THEMSELVES = ("reading",)


def test_every_kind_has_a_formula() -> None:
    here = (*OF_ONE_LEVEL, *OF_ITEMS, *OF_RANKS, *TESTED_BY_THEMSELVES, "entity_tracking")
    assert sorted(here) == sorted(KINDS)


def predicted(name: str, folder: Path) -> tuple[Benchmark, list[list[np.ndarray]]]:
    """A benchmark of made-up files, and log-probabilities of the tokens of its options, nats."""
    write_folder(kind_named(name), folder)
    (benchmark,) = load_suite(folder, "2026" if name.startswith("global") else "2025").benchmarks
    random = np.random.default_rng(len(name))
    scores = [
        [-random.gamma(2.0, size=random.integers(1, 6)) for _ in item.options]
        for item in benchmark.items
    ]
    return benchmark, scores


def figure_of(benchmark: Benchmark, scores: Sequence[Sequence[np.ndarray]]) -> float:
    answers = benchmark.grade([option for item in scores for option in item])
    return benchmark.figure([answer.value for answer in answers])


def is_right(benchmark: Benchmark, scores: Sequence[Sequence[np.ndarray]]) -> list[bool]:
    """Whether the option of the greatest score is the right one: the sum, of GlobalPIQA the mean,
    of its tokens' log-probabilities."""
    score = np.mean if benchmark.name.startswith("global") else np.sum
    return [
        int(np.argmax([score(option) for option in options])) == item.right
        for item, options in zip(benchmark.items, scores, strict=True)
    ]


def mean_over_uids(uids: Sequence[str], right: Sequence[bool]) -> float:
    members = defaultdict(list)
    for uid, found in zip(uids, right, strict=True):
        members[uid].append(found)
    return float(np.mean([np.mean(found) for found in members.values()]))


@pytest.mark.parametrize("name", OF_ONE_LEVEL)
def test_the_mean_over_uids(name: str, tmp_path: Path) -> None:
    benchmark, scores = predicted(name, tmp_path)
    uids = [item.task for item in benchmark.items]
    expected = 100 * mean_over_uids(uids, is_right(benchmark, scores))
    assert figure_of(benchmark, scores) == pytest.approx(expected, rel=0, abs=1e-9)
    assert 0 < expected < 100


def test_entity_tracking_is_the_mean_over_splits_of_the_mean_over_operations(
    tmp_path: Path,
) -> None:
    benchmark, scores = predicted("entity_tracking", tmp_path)
    right = is_right(benchmark, scores)
    splits = defaultdict(list)
    for item, found in zip(benchmark.items, right, strict=True):
        splits[item.task.rsplit("_", 2)[0]].append((item.task, found))
    expected = 100 * float(
        np.mean([mean_over_uids(*zip(*s, strict=True)) for s in splits.values()])
    )
    assert len(splits) == len(FILES["entity_tracking"])
    assert figure_of(benchmark, scores) == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("name", OF_ITEMS)
def test_the_share_of_right_answers(name: str, tmp_path: Path) -> None:
    benchmark, scores = predicted(name, tmp_path)
    expected = 100 * float(np.mean(is_right(benchmark, scores)))
    assert figure_of(benchmark, scores) == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("name", OF_RANKS)
def test_the_rank_correlation_with_peoples_shares(name: str, tmp_path: Path) -> None:
    """Of the first option's probability among both: Pearson's correlation of the ranks."""
    benchmark, scores = predicted(name, tmp_path)
    sums = np.array([[option.sum() for option in options] for options in scores])
    shares = np.exp(sums[:, 0]) / np.exp(sums).sum(axis=1)
    ranks = [stats.rankdata(x) for x in (shares, [item.human for item in benchmark.items])]
    expected = 100 * float(np.corrcoef(*ranks)[0, 1])
    assert figure_of(benchmark, scores) == pytest.approx(expected, rel=0, abs=1e-9)
