"""Wug adjectives, entity tracking and COMPS: what is read, and how their figures are made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.benchmarks import Benchmark, BenchmarkSource, Item
from analysis.benchmarks.kind import BenchmarkKind
from analysis.benchmarks.later_tasks import COMPS, ENTITY_TRACKING, WUG

REAL_WUG = Path(__file__).resolve().parents[2].parent / "shared/data/wug_adj_nominalization"


def write(folder: Path, name: str, *rows: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def items_of(kind: BenchmarkKind, folder: Path) -> tuple[Item, ...]:
    return kind.read(folder, BenchmarkSource(str(folder)))


def test_wug_compares_the_models_share_with_peoples(tmp_path: Path) -> None:
    """The value is the softmax over both texts, the figure Spearman's correlation."""
    ratios = [0.1, 0.9, 0.4, 0.6]
    rows = [{"sentences": f"wug {i}ity\twug {i}ness", "ratio": r} for i, r in enumerate(ratios)]
    benchmark = Benchmark("wug", items_of(WUG, write(tmp_path / "wug", "wug.jsonl", *rows)))
    assert benchmark.items[1] == Item("wug", ("wug 1ity", "wug 1ness"), human=0.9)
    first, second = [-3.0, -2.0, -4.0, -1.0], [-1.0, -2.5, -4.0, -3.0]
    pairs = [np.array([x]) for both in zip(first, second, strict=True) for x in both]
    values = [outcome.value for outcome in benchmark.grade(pairs)]
    assert values[0] == pytest.approx(np.exp(-3) / (np.exp(-3) + np.exp(-1)))
    assert values[2] == 0.5
    expected = 100 * stats.spearmanr(values, ratios).statistic
    assert benchmark.figure(values) == pytest.approx(expected)
    assert benchmark.chance == 0.0


def test_a_model_without_preference_correlates_not_at_all(tmp_path: Path) -> None:
    """A constant share has no rank correlation: the figure is zero, not NaN."""
    rows = [{"sentences": "a\tb", "ratio": r} for r in (0.1, 0.5, 0.7, 0.9)]
    benchmark = Benchmark("wug", items_of(WUG, write(tmp_path / "wug", "wug.jsonl", *rows)))
    assert benchmark.figure([0.5] * 4) == 0.0


def test_error_of_a_rank_correlation_is_that_of_simulated_ones() -> None:
    """The standard error agrees with the spread over samples of correlated pairs."""
    generator = np.random.default_rng(0)

    def sample() -> tuple[np.ndarray, np.ndarray]:
        both = generator.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=200)
        return both[:, 0], both[:, 1]

    figures, errors = [], []
    for _ in range(300):
        model, human = sample()
        benchmark = Benchmark("wug", tuple(Item("w", ("a", "b"), human=h) for h in human))
        figures.append(benchmark.figure(model.tolist()))
        errors.append(benchmark.error(model.tolist()))
    assert np.mean(errors) == pytest.approx(np.std(figures), rel=0.1)


def test_entity_tracking_averages_operations_within_splits(tmp_path: Path) -> None:
    """The first option is right; splits count alike, whatever their numbers of items."""
    options = [" a ball", " a key", " a cup"]
    row = {"input_prefix": "Box 1 contains", "options": options, "numops": 0}
    folder = write(tmp_path / "entity_tracking", "regular.jsonl", row, row, {**row, "numops": 2})
    items = items_of(ENTITY_TRACKING, write(folder, "move_contents.jsonl", row))
    benchmark = Benchmark("entity_tracking", items)
    tasks = ["move_contents_0_ops", "regular_0_ops", "regular_0_ops", "regular_2_ops"]
    assert [item.task for item in benchmark.items] == tasks
    assert benchmark.items[0].context == "Box 1 contains"
    assert benchmark.items[0].right == 0
    assert benchmark.figure([1.0, 1.0, 0.0, 0.0]) == pytest.approx((100 + (50 + 0) / 2) / 2)
    assert benchmark.chance == pytest.approx(100 / 3)


CONCEPTS = {
    "acceptable_concept": "kettle",
    "prefix_acceptable": "a kettle",
    "prefix_unacceptable": "a spoon",
    "property_phrase": "boils water.",
    "negative_sample_type": "taxonomic",
}


def test_comps_scores_a_property_after_each_of_two_concepts(tmp_path: Path) -> None:
    """The property is scored after the right concept and the wrong one; a file is a subset."""
    folder = write(tmp_path / "comps", "comps_wugs_dist-in-between.jsonl", CONCEPTS)
    (item,) = items_of(COMPS, folder)
    assert item.texts == [("a kettle", " boils water."), ("a spoon", " boils water.")]
    assert (item.task, item.right) == ("wugs_dist_in_between", 0)
    assert item.groups == (("negative_sample_type", "taxonomic"),)


def test_comps_averages_subsets(tmp_path: Path) -> None:
    """Subsets count alike, whatever their numbers of items."""
    folder = write(tmp_path / "comps", "comps_base.jsonl", CONCEPTS, CONCEPTS, CONCEPTS)
    benchmark = Benchmark("comps", items_of(COMPS, write(folder, "comps_wugs.jsonl", CONCEPTS)))
    assert [item.task for item in benchmark.items] == ["base"] * 3 + ["wugs"]
    assert benchmark.figure([1.0, 0.0, 0.0, 1.0]) == pytest.approx((100 / 3 + 100) / 2)
    assert benchmark.chance == 50.0


def test_one_concept_against_several_is_one_piece_of_evidence(tmp_path: Path) -> None:
    """The score of a right sentence decides all its pairs: four times as many add no certainty."""
    kettles = [{**CONCEPTS, "acceptable_concept": f"kettle {n}"} for n in range(6)]
    folders = (write(tmp_path / f"x{n}", "comps_base.jsonl", *kettles * n) for n in (1, 4))
    once, often = (Benchmark("comps", items_of(COMPS, folder)) for folder in folders)
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    assert often.error(values * 4) == pytest.approx(once.error(values))
    assert once.error(values) > 0


@pytest.mark.parametrize("field", ["prefix_acceptable", "prefix_unacceptable", "property_phrase"])
def test_bad_concepts_are_named(tmp_path: Path, field: str) -> None:
    """Each text of a pair must be there."""
    folder = write(tmp_path / "comps", "comps_base.jsonl", {**CONCEPTS, field: ""})
    with pytest.raises(ValueError, match=f"comps_base.jsonl, line 1: field '{field}' is missing"):
        items_of(COMPS, folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sentences": "one text", "ratio": 0.5}, "holds 1 texts separated by tabs, not two"),
        ({"sentences": "a\tb"}, "field 'ratio' is missing or not a number"),
        ({"sentences": "a\tb", "ratio": -1}, "'ratio' is a share of people, 0 or more, not -1"),
    ],
)
def test_bad_wug_rows_are_named(tmp_path: Path, row: object, message: str) -> None:
    """File and line stand before the reason."""
    with pytest.raises(ValueError, match=rf"wug.jsonl, line 1: .*{message}"):
        items_of(WUG, write(tmp_path / "wug", "wug.jsonl", row))


def test_bad_options_are_named(tmp_path: Path) -> None:
    """An item of entity tracking needs a list of texts to choose from."""
    row = {"input_prefix": "Box 1 contains", "options": [" a ball"], "numops": 0}
    with pytest.raises(ValueError, match="line 1: field 'options' is not a list of two or more"):
        items_of(ENTITY_TRACKING, write(tmp_path / "entity_tracking", "regular.jsonl", row))


@pytest.mark.parametrize("number", [1.5, -1])
def test_parts_of_an_operation_are_refused(number: float, tmp_path: Path) -> None:
    """Items are grouped by their number of operations: none is rounded into a group."""
    row = {"input_prefix": "Box 1 contains", "options": [" a", " b"], "numops": number}
    with pytest.raises(
        ValueError, match=f"line 1: 'numops' is a number of operations, not {number}"
    ):
        items_of(ENTITY_TRACKING, write(tmp_path / "entity_tracking", "regular.jsonl", row))


@pytest.mark.skipif(not REAL_WUG.is_dir(), reason="no public wug files")
def test_the_public_wug_file_loads() -> None:
    """200 adjectives."""
    assert len(items_of(WUG, REAL_WUG)) == 200
