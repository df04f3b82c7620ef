"""Intervals of scores and tests of differences, against references made in other ways."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis import inference
from analysis.benchmarks import Benchmark, Item
from analysis.inference import Estimate, Sample, compare_all, difference, estimate, holm, mcnemar
from analysis.task_signal import TaskSignal
from analysis.variances import SeedParts, Spread
from tests.analysis import check_statistics


def sample(values: Any, *, weights: Any = None, strata: Any = None, clusters: Any = None) -> Sample:
    """One stratum, no clusters and equal weights unless given."""
    scores = np.atleast_2d(np.asarray(values, dtype=float))
    items = scores.shape[1]
    return Sample(
        scores,
        np.full(items, 1 / items) if weights is None else np.asarray(weights, dtype=float),
        np.zeros(items, dtype=int) if strata is None else np.asarray(strata),
        np.arange(items) if clusters is None else np.asarray(clusters),
    )


def answers(seeds: int, items: int, share: float = 0.6, *, random_seed: int = 0) -> np.ndarray:
    """(seeds, items) of 0 and 1, with items that are harder than others."""
    random = np.random.default_rng(random_seed)
    hard = random.uniform(share - 0.35, share + 0.35, items)
    return (random.random((seeds, items)) < hard).astype(float)


def constant(*figures: float, items: int = 20) -> Sample:
    """Seeds that score the same on every item, in percent: items add nothing to their spread."""
    return sample(np.repeat(np.array(figures)[:, None] / 100, items, axis=1))


def test_the_error_over_items_is_the_benchmarks_own() -> None:
    """With one seed, strata and clusters give the standard error of `Benchmark.error`."""
    values = answers(1, 60)
    strata = np.repeat([0, 1, 2], [10, 20, 30])
    clusters = np.arange(60) // 2
    items = [
        Item(f"task {stratum}", ("", ""), cluster=f"cluster {cluster}")
        for stratum, cluster in zip(strata, clusters, strict=True)
    ]
    benchmark = Benchmark("blimp", tuple(items))
    found = estimate(sample(values, weights=benchmark.weights, strata=strata, clusters=clusters))
    assert found.mean == pytest.approx(benchmark.figure(values[0].tolist()))
    assert found.standard_error == pytest.approx(benchmark.error(values[0].tolist()))
    assert math.isnan(found.seed_sd)


def test_the_parts_are_those_of_drawn_bootstraps() -> None:
    """Draws of seeds, of items within strata, and of both have the variances that are computed
    without drawing: seeds + items - answers, each freed of the bootstrap's factor (n - 1) / n."""
    seeds, strata, each, draws = 4, 3, 8, 200_000
    values = answers(seeds, strata * each)
    one = sample(values, strata=np.repeat(np.arange(strata), each))
    random = np.random.default_rng(1)
    of_seeds = random.multinomial(seeds, [1 / seeds] * seeds, draws) / seeds
    of_items = random.multinomial(each, [1 / each] * each, (draws, strata)) / (each * strata)
    of_items = of_items.reshape(draws, -1)
    drawn_seeds = 100 * of_seeds @ values.mean(axis=1)
    drawn_items = 100 * of_items @ values.mean(axis=0)
    drawn_both = 100 * np.einsum("ds,si,di->d", of_seeds, values, of_items, optimize=True)
    from_seeds, from_items = drawn_seeds.var(), drawn_items.var()
    from_answers = drawn_both.var() - from_seeds - from_items
    fewer_seeds, fewer_items = (seeds - 1) / seeds, (each - 1) / each
    expected = from_seeds / fewer_seeds + from_items / fewer_items
    expected -= from_answers / (fewer_seeds * fewer_items)
    assert estimate(one).standard_error ** 2 == pytest.approx(expected, rel=0.03)
    parts = SeedParts.of(one.figures, one.deviations, one.design)
    assert parts is not None
    assert parts.answers == pytest.approx(from_answers / (fewer_seeds * fewer_items), rel=0.03)


def test_the_variance_is_right_on_average() -> None:
    """Over 3,000 draws with known spread of seeds, items and answers the squared standard error is
    their variance of the mean, by arithmetic."""
    random = np.random.default_rng(2)
    seeds, items, draws = 3, 100, 3000
    found = []
    for _ in range(draws):
        right = random.uniform(0.3, 0.7, items) + 0.03 * random.standard_normal((seeds, 1))
        found.append(estimate(sample(random.random((seeds, items)) < right)).standard_error ** 2)
    of_items, of_seeds = 0.4**2 / 12, 0.03**2
    of_answers = 0.25 - of_items - of_seeds  # of a coin that is fair on the whole
    expected = 1e4 * (of_seeds / seeds + of_items / items + of_answers / (seeds * items))
    error = np.std(found) / math.sqrt(draws)
    assert np.mean(found) == pytest.approx(expected, abs=3 * error)
    assert error < 0.02 * expected


def test_seeds_alone_give_students_t() -> None:
    """Where items add no spread, intervals and p-values are those of scipy's t tests."""
    first, second = (60.0, 63.0, 61.0), (58.0, 62.0, 57.5)
    interval = stats.ttest_1samp(first, 0).confidence_interval(0.95)
    found = estimate(constant(*first))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.seed_sd == pytest.approx(np.std(first, ddof=1))
    expected = stats.ttest_rel(first, second)
    paired = difference(constant(*first), constant(*second), paired=True)
    assert paired.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (paired.low, paired.high) == pytest.approx((interval.low, interval.high))


def test_items_alone_give_students_t() -> None:
    """One seed each, no strata or clusters: the p-value is that of a paired t test on items."""
    first, second = answers(1, 80), answers(1, 80, 0.5, random_seed=1)
    found = difference(sample(first), sample(second))
    assert found.p_value == pytest.approx(stats.ttest_rel(first[0], second[0]).pvalue)
    assert found.seeds == (1, 1)
    assert found.seeds_needed is None


def test_a_side_with_one_seed_is_taken_to_vary_as_the_other() -> None:
    """The standard error is s sqrt(1 + 1/n), that of one more draw from the other's seeds."""
    first = (60.0, 63.0, 61.0, 62.0)
    expected = np.std(first, ddof=1) * math.sqrt(1 + 1 / 4)
    for found in (
        difference(constant(*first), constant(55.0)),
        difference(constant(55.0), constant(*first)),
    ):
        assert found.standard_error == pytest.approx(expected)
        statistic = abs(found.mean) / expected
        assert found.p_value == pytest.approx(2 * stats.t.sf(statistic, 3))


@pytest.mark.parametrize(
    ("seeds", "least", "most", "rare"),
    [
        (2, 2.6, 6.6, 1.5),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in ((3, 3.7, 5.3, 0.9), (5, 4.2, 5.0, 0.65))
        ),
    ],
)
def test_false_positives_whatever_the_items_add(
    seeds: int, least: float, most: float, rare: float
) -> None:
    """Percent of normal means, of which only the variance over seeds is estimated, found different
    from their truth at the levels 0.05 and 0.005, by integrating over that estimate."""
    degrees = seeds - 1
    seen = stats.chi2.ppf((np.arange(1000) + 0.5) / 1000, degrees) / degrees
    often, rarely = [], []
    for items in (0, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 20):
        spreads = [Spread(items, 1e9, SeedParts(one, degrees, 0.0, one)) for one in seen]
        for rates, level in ((often, 0.05), (rarely, 0.005)):
            halves = np.array([spread.half_width(level) for spread in spreads])
            rates.append(100 * float(2 * stats.norm.sf(halves / math.sqrt(1 + items)).mean()))
    assert least <= min(often) < max(often) <= most
    assert max(rarely) <= rare


def test_two_sides_with_as_many_seeds_are_told_apart_as_often_as_they_should() -> None:
    """By integrating over the variances seen of two equal sides of three seeds: 4.9 to 5.1 %."""
    grid = stats.chi2.ppf((np.arange(50) + 0.5) / 50, 2) / 2
    rates = []
    for first, second in itertools.product(grid, grid):
        sides = (SeedParts(first, 2, 0.0, first), SeedParts(second, 2, 0.0, second))
        spread = Spread(0.0, 1e9, SeedParts.of_both(*sides, (3, 3)))
        rates.append(2 * stats.norm.sf(spread.half_width() / math.sqrt(2)))
    assert 4.9 <= 100 * float(np.mean(rates)) <= 5.1


def test_interval_and_p_value_agree() -> None:
    """The interval excludes zero just when the p-value is below 0.05, one seed or several."""
    seen = set()
    for seeds, paired, random_seed in itertools.product((1, 2, 4), (False, True), range(20)):
        first = sample(answers(seeds, 100, 0.6, random_seed=random_seed))
        second = sample(answers(seeds, 100, 0.45, random_seed=100 + random_seed))
        found = difference(first, second, paired=paired)
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)
        seen.add(found.p_value < 0.05)
    assert seen == {True, False}


def test_equal_models_do_not_differ() -> None:
    """A model against itself: no difference, p = 1, nothing that more data would show."""
    for seeds, paired in ((1, False), (3, False), (3, True)):
        one = sample(answers(seeds, 30))
        found = difference(one, one, paired=paired)
        assert (found.mean, found.p_value, found.mcnemar_p) == (0, 1, 1)
        assert (found.seeds_needed, found.items_needed) == (None, None)


def test_items_of_weight_0_do_not_count() -> None:
    """They change neither interval nor tests."""
    values, other = answers(2, 40), answers(2, 40, random_seed=1)
    weights = np.where(np.arange(40) < 25, 1 / 25, 0.0)
    with_them = difference(sample(values, weights=weights), sample(other, weights=weights))
    assert with_them == difference(sample(values[:, :25]), sample(other[:, :25]))


def test_a_question_asked_again_is_no_new_evidence() -> None:
    """Each item three times over, as one cluster, gives the interval and test of asking once."""
    values, other = answers(3, 40), answers(3, 40, 0.5, random_seed=1)
    clusters = np.repeat(np.arange(40), 3)
    once = difference(sample(values), sample(other))
    again = difference(
        *(sample(np.repeat(v, 3, axis=1), clusters=clusters) for v in (values, other))
    )
    assert (again.low, again.high) == pytest.approx((once.low, once.high))
    assert again.mcnemar_p == once.mcnemar_p


def test_a_stratum_of_one_item_counts_as_unsure_as_can_be() -> None:
    """It shows no variance; the largest of a value from 0 to 1 stands in."""
    found = estimate(sample([[1.0, 1.0, 1.0]], strata=[0, 1, 1]))
    assert found.standard_error == pytest.approx(100 / 3 * 0.5)


def test_mcnemar_counts_items_on_which_the_models_differ() -> None:
    """9 against 2 is 2 (C(11,9) + C(11,10) + C(11,11)) / 2^11, however many items both have."""
    first = [1] * 9 + [0] * 2 + [1] * 50
    second = [0] * 9 + [1] * 2 + [1] * 50
    expected = 2 * (55 + 11 + 1) / 2**11
    assert mcnemar(sample(first), sample(second)) == pytest.approx(expected)
    assert mcnemar(sample(second), sample(first)) == pytest.approx(expected)


def test_mcnemar_averages_seeds_and_sums_clusters() -> None:
    """Two seeds that split an item tie with two that split it otherwise; a cluster has one side."""
    first = sample([[1, 0, 1, 1], [0, 1, 1, 1]], clusters=[0, 1, 2, 2])
    second = sample([[0, 1, 0, 1], [1, 0, 0, 1]], clusters=[0, 1, 2, 2])
    assert mcnemar(first, second) == 1.0  # one cluster apart: p = 2 / 2


def test_mcnemar_is_scipys_binomial_test() -> None:
    """For any split of the items on which two models differ."""
    for wins, losses in ((0, 1), (3, 3), (0, 20), (17, 40), (900, 1020)):
        first = sample([1] * wins + [0] * losses)
        second = sample([0] * wins + [1] * losses)
        expected = stats.binomtest(wins, wins + losses).pvalue
        assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_holm() -> None:
    """A worked example: sorted p-values times 4, 3, 2, 1, never falling, at most 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_seeds_said_to_be_needed_suffice_four_times_in_five() -> None:
    """Of samples with as many seeds, drawn with the difference and spread seen, t tests show 80 %;
    with two thirds as many, clearly fewer."""
    found = difference(constant(60.0, 62.0, 64.0), constant(59.0, 61.0, 63.0))
    assert found.p_value > 0.05
    assert found.seeds_needed is not None
    random = np.random.default_rng(3)
    powers = []
    for seeds in (found.seeds_needed, 2 * found.seeds_needed // 3):
        drawn = 2 * random.standard_normal((2, seeds, 20_000))
        p_values = stats.ttest_ind(drawn[0] + 1, drawn[1]).pvalue
        powers.append(float((p_values < 0.05).mean()))
    assert powers[0] == pytest.approx(0.8, abs=0.02)
    assert powers[1] < 0.7
    assert found.items_needed is None  # items add nothing here


def test_the_items_said_to_be_needed_make_the_error_small_enough() -> None:
    """With k times the items the standard error falls by sqrt(k), to |difference| / 2.80."""
    first, second = sample(answers(1, 2000, 0.52)), sample(answers(1, 2000, 0.5, random_seed=1))
    found = difference(first, second)
    factor = ((1.960 + 0.842) * found.standard_error / found.mean) ** 2
    assert factor > 1
    assert found.items_needed == pytest.approx(factor, rel=0.01)


def test_pairs_are_judged_after_correction_and_said_in_words() -> None:
    """Who wins, or that nothing shows and what would; for one seed what it cannot say."""
    good, same = answers(3, 400, 0.64), answers(3, 400, 0.64, random_seed=1)
    poor = answers(3, 400, 0.36, random_seed=2)
    pairs = compare_all({"a": sample(poor), "b": sample(good), "c": sample(same)})
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [pair.adjusted_p for pair in pairs] == holm([p.difference.p_value for p in pairs])
    assert pairs[0].sentence.startswith("b beats a by ")
    assert "after Holm over 3 pairs" in pairs[0].sentence
    assert pairs[2].sentence.startswith("This study is too small to separate b from c: ")
    assert "would" in pairs[2].sentence
    [single] = compare_all({"a": sample(good[:1]), "b": sample(poor[:1])})
    assert "says nothing of other seeds" in single.sentence
    [mixed] = compare_all({"a": sample(good[:1]), "b": sample(poor)})
    assert "a has one seed; its spread over seeds is taken to be that of b" in mixed.sentence
    assert compare_all({"a": sample(good)}) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": [[0.5, math.nan]]}, "from 0 to 1"),
        ({"values": [[0.5, 2.0]]}, "from 0 to 1"),
        ({"weights": [1.0, -1.0]}, "at least 0"),
        ({"weights": [0.0, 0.0]}, "not all 0"),
        ({"weights": [1.0]}, "weights must be one for each of 2 items"),
        ({"strata": [0, 1], "clusters": [0, 0]}, "cluster lies in two strata"),
    ],
)
def test_what_is_no_sample_is_refused(changed: dict[str, Any], message: str) -> None:
    """With a sentence that says what is wrong."""
    with pytest.raises(ValueError, match=message):
        sample(**{"values": [[0.5, 1.0]], **changed})


def test_only_the_same_items_are_compared() -> None:
    """Other weights, strata or clusters, or pairs without partners, are refused."""
    one = sample(answers(2, 4))
    with pytest.raises(ValueError, match="differ in the strata"):
        difference(one, sample(answers(2, 4), strata=[0, 0, 1, 1]))
    with pytest.raises(ValueError, match="one has 2 and the other 3"):
        difference(one, sample(answers(3, 4)), paired=True)


def test_signal_to_noise_is_about_one_where_architectures_are_alike() -> None:
    """4,000 tasks of five architectures whose means have a standard error of 2 points: the median
    ratio is that of four degrees of freedom, 0.92; a spread of 6 points beyond makes it 2.9."""
    random = np.random.default_rng(0)

    def ratio(spread: float) -> float:
        means = 50 + random.normal(0, math.hypot(2.0, spread), (4000, 5))
        found = [
            TaskSignal.of([Estimate(mean, 0.0, 100.0, 2.0, 3, math.nan) for mean in task])
            for task in means
        ]
        return float(np.median([one.ratio for one in found if one is not None]))

    expected = math.sqrt(stats.chi2.median(4) / 4)
    assert ratio(0.0) == pytest.approx(expected, rel=0.03)
    assert ratio(6.0) == pytest.approx(math.hypot(2, 6) / 2 * expected, rel=0.03)


def test_signal_and_noise_of_a_task() -> None:
    """A worked example; one architecture has none, and without noise any signal is infinite."""
    two = [Estimate(mean, 0.0, 100.0, error, 3, 1.0) for mean, error in ((50.0, 3.0), (56.0, 1.0))]
    found = TaskSignal.of(two)
    assert found is not None
    assert found.signal == pytest.approx(math.sqrt(18))
    assert found.noise == pytest.approx(math.sqrt(5))
    assert found.ratio == pytest.approx(math.sqrt(18 / 5))
    assert TaskSignal.of(two[:1]) is None
    assert TaskSignal(1.0, 0.0).ratio == math.inf
    assert math.isnan(TaskSignal(0.0, 0.0).ratio)


@pytest.mark.slow
def test_the_check_holds_on_a_small_scale() -> None:
    """2,000 draws of three seeds within the bounds of `make check-statistics`."""
    design = check_statistics.DESIGNS[2]
    assert check_statistics.check(design, 2000, 1).passes


def test_the_check_notices_intervals_that_are_too_narrow(monkeypatch) -> None:
    """With the normal distribution in place of Student's it fails: it is able to."""
    monkeypatch.setattr(
        inference.Spread, "half_width", lambda spread: 1.96 * math.sqrt(spread.variance)
    )
    result = check_statistics.check(check_statistics.DESIGNS[2], 500, 0)
    assert not result.passes
    assert result.score < check_statistics.COVERAGE[0]


@pytest.mark.slow
def test_intervals_and_tests_hold_what_they_promise(capsys) -> None:
    """All designs of `make check-statistics`, with as many draws, are within bounds."""
    assert check_statistics.main([]) == 0
    assert "MISSED" not in capsys.readouterr().out
