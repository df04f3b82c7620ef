"""Stored scores as samples: the figures, the parts, and chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.samples import benchmarks_of, chance, sample
from tests.made_study import MadeStudy, base_spec, suite


def scores_of(seed: int, items: dict[str, dict[str, int]] | None = None) -> dict[str, Any]:
    """A made-up model's scores, through JSON."""
    made = MadeStudy(Path("/nowhere"), suite=suite(items), uri="sqlite://")
    scores = made.report(base_spec(seed=seed), 1, 0.0).scores
    return json.loads(json.dumps(scores))


@pytest.fixture(scope="module")
def seeds() -> list[dict[str, Any]]:
    return [scores_of(seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("part", "stored"),
    [("all", "benchmarks"), ("held_out", "held_out"), ("selection", "selection")],
)
def test_figures_of_a_sample_are_the_stored_ones(
    seeds: list[dict[str, Any]], part: str, stored: str
) -> None:
    """Weighted values give each seed's figure on every part, of every benchmark and the macro."""
    for name in ("blimp", "supplement", "ewok", "bear"):
        expected = [scores[stored][name] for scores in seeds]
        assert sample(seeds, name, part).figures == pytest.approx(expected, abs=1e-9)
    macro = [
        np.mean([scores[stored][n] for n in ("blimp", "supplement", "ewok")]) for scores in seeds
    ]
    assert sample(seeds, "macro", part).figures == pytest.approx(macro, abs=1e-9)


def test_items_are_drawn_within_subtasks_and_by_cluster(seeds: list[dict[str, Any]]) -> None:
    """BLiMP has a stratum a task; EWoK's swapped pairs are one cluster; BEAR has one stratum."""
    found = sample(seeds, "macro", "all")
    assert len(np.unique(found.strata)) == 3 + 2 + 2
    assert len(np.unique(found.clusters)) == 180 + 80 + 50  # 100 items of EWoK are 50 pairs
    assert len(np.unique(sample(seeds, "bear", "all").strata)) == 1


def test_the_parts_are_all_the_items(seeds: list[dict[str, Any]]) -> None:
    """Held out and selection together are all items, and a fifth of them chooses."""
    sizes = {
        part: sample(seeds, "blimp", part).values.shape[1] for part in ("held_out", "selection")
    }
    assert sizes == {"held_out": 144, "selection": 36}


def test_scores_of_different_items_are_refused(seeds: list[dict[str, Any]]) -> None:
    """A mean over seeds that answered different questions is none."""
    other = scores_of(1, {"blimp": {"agreement": 60}})
    with pytest.raises(ValueError, match="scored on different items"):
        sample([seeds[0], other], "blimp")
    with pytest.raises(ValueError, match="one of held_out, selection, all, not 'half'"):
        sample(seeds, "blimp", "half")


def test_a_benchmark_too_small_to_split_says_so() -> None:
    """Of tasks with a single item nothing is set aside."""
    scores = scores_of(0, {"blimp": {"one": 1}})
    with pytest.raises(ValueError, match="blimp has no item in the part 'selection'"):
        sample([scores], "blimp", "selection")
    assert sample([scores], "blimp", "held_out").values.shape == (1, 1)


def test_chance_holds_what_guessing_reaches(seeds: list[dict[str, Any]]) -> None:
    """BLiMP's chance is 50 with 1.96 standard deviations of guessing; the macro's is narrower than
    its widest part; five options guess 20."""
    found = chance(seeds[0], "blimp", "all")
    assert found.level == 50
    assert found.high - found.level == pytest.approx(1.96 * 100 * 0.5 / np.sqrt(180))
    assert found.holds(found.high - 0.01)
    assert not found.holds(found.high + 0.01)
    assert chance(seeds[0], "bear").level == pytest.approx(20)
    macro = chance(seeds[0], "macro", "all")
    widest = max(chance(seeds[0], name, "all").high for name in ("blimp", "supplement", "ewok"))
    assert 50 < macro.high < widest


def test_a_correlation_is_no_sample(seeds: list[dict[str, Any]]) -> None:
    """Only benchmarks whose items' values add up to the figure are offered."""
    assert benchmarks_of(seeds[0]) == ("macro", "blimp", "supplement", "ewok", "bear")
