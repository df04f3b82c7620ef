"""The spread over seeds that groups of trials learn from each other."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.inference import difference, estimate
from analysis.paired import Pair, mean_interval, pairs_of_points, spread_of_pairs
from analysis.shared_spread import Share, SharedSpread
from tests.analysis import check_statistics
from tests.analysis.moments import moderated_by_moments, prior_by_moments
from tests.analysis.test_inference import constant


def drawn(groups: int, seeds: int, log_spread: float, random_seed: int = 0) -> np.ndarray:
    """(groups, seeds) normal figures; the logarithms of the true spreads vary by so much."""
    random = np.random.default_rng(random_seed)
    spreads = np.exp(log_spread * random.standard_normal((groups, 1)))
    return spreads * random.standard_normal((groups, seeds))


def test_many_groups_give_smyths_moderated_variances() -> None:
    """3,000 groups leave little doubt about d0 and s0^2: moderated variances and degrees of freedom
    are those of Smyth's estimate by moments."""
    random = np.random.default_rng(0)
    spreads = np.sqrt(6 / random.chisquare(6, (3000, 1)))
    shared = SharedSpread.of(spreads * random.standard_normal((3000, 4)))
    expected, degrees = moderated_by_moments(shared.variances, 3)
    found = [shared.moderated(Share(own, 3)) for own in shared.variances[:40]]
    assert [variance for variance, _ in found] == pytest.approx(expected[:40], rel=0.03)
    assert [known for _, known in found] == pytest.approx([degrees] * 40, rel=0.03)


def test_the_reference_finds_the_prior_that_variances_were_drawn_from() -> None:
    """2,000 variances of d0 = 6 and s0^2 = 2 give both back; equal ones an infinite d0."""
    random = np.random.default_rng(0)
    true = 6 * 2 / random.chisquare(6, 2000)
    prior, middle = prior_by_moments(true * random.chisquare(3, 2000) / 3, 3)
    assert prior == pytest.approx(6, rel=0.2)
    assert middle == pytest.approx(2, rel=0.1)
    assert prior_by_moments(np.full(5, 2.0), 3) == (math.inf, 2.0)


def test_groups_that_are_alike_are_pooled() -> None:
    """30 groups of one spread: nearly its true variance, with many degrees, whatever one shows."""
    shared = SharedSpread.of(drawn(30, 3, 0.0))
    assert shared.groups == 30
    for own in (0.0, 0.1, 1.0):
        variance, degrees = shared.moderated(Share(own, 2))
        assert variance == pytest.approx(1.0, abs=0.3)
        assert degrees > 20


def test_what_differs_wildly_is_hardly_borrowed_from() -> None:
    """Spreads over two orders of magnitude: a group that varies more than most keeps its own
    variance, within a factor of 1.5, and gets at most half as many degrees again."""
    shared = SharedSpread.of(drawn(40, 5, 1.2))
    for own in np.sort(shared.variances)[20:]:
        variance, degrees = shared.moderated(Share(own, 4))
        assert own / 1.5 < variance < 1.5 * own
        assert 4 <= degrees < 6


def test_two_seeds_that_agree_by_luck_are_not_believed() -> None:
    """Of four groups one shows no spread: its interval is narrower than that of those which show
    more, but not by much."""
    groups = [np.array([50.0, 50.0]), *(np.array([50.0, 50.0 + gap]) for gap in (2.0, 3.0, 4.0))]
    shared = SharedSpread.of(groups)
    assert mean_interval(groups[0]) == (50.0, 50.0)
    widths = [high - low for low, high in (mean_interval(group, shared) for group in groups)]
    assert widths == sorted(widths)
    assert widths[-1] < 1.2 * widths[0]


def test_two_seeds_that_differ_by_luck_have_an_interval_that_says_something() -> None:
    """One degree of freedom alone makes 0 to 100; four groups that are alike do not."""
    seeds = constant(40.0, 60.0)
    alone = estimate(seeds)
    assert (alone.low, alone.high) == (0.0, 100.0)
    shared = SharedSpread.of([[40.0, 60.0], [45.0, 55.0], [42.0, 50.0], [48.0, 56.0]])
    found = estimate(seeds, shared)
    assert 20 < found.low < 40 < 60 < found.high < 80


def test_with_nothing_to_borrow_an_interval_is_its_own() -> None:
    """One group, others of one seed, or none that varies: Student's t and Welch's, as before."""
    figures = np.array([1.0, 1.2, 1.1])
    expected = stats.ttest_1samp(figures, 0).confidence_interval(0.95)
    for shared in (None, SharedSpread.of([figures]), SharedSpread.of([figures, [3.0]])):
        assert mean_interval(figures, shared) == pytest.approx((expected.low, expected.high))
    assert SharedSpread.of([]).groups == SharedSpread.of([[1.0], [math.nan, 2.0]]).groups == 1
    still = SharedSpread.of([[2.0, 2.0], [3.0, 3.0]])
    assert still.groups == 1
    assert still.moderated(Share(0.0, 1)) == (0.0, 1)
    other = np.array([0.7, 1.5])
    variance, degrees = SharedSpread.of([figures]).moderated(
        Share(figures.var(ddof=1), 2, 1 / 3), Share(other.var(ddof=1), 1, 1 / 2)
    )
    welch = stats.ttest_ind(figures, other, equal_var=False)
    assert degrees == pytest.approx(welch.df)
    assert (figures.mean() - other.mean()) / math.sqrt(variance) == pytest.approx(welch.statistic)


def test_the_unit_does_not_matter() -> None:
    """Variances of figures in bits or in a thousandth of them have the same ratio and degrees."""
    figures = drawn(5, 3, 0.5)
    one, other = SharedSpread.of(figures), SharedSpread.of(1000 * figures)
    small, large = (s.moderated(Share(s.variances[0], 2)) for s in (one, other))
    assert large[0] == pytest.approx(1e6 * small[0], rel=1e-3)
    assert large[1] == pytest.approx(small[1], rel=1e-3)


def test_one_seed_stays_about_items_only() -> None:
    """However well others' spread is known; of two sides with one seed neither has one."""
    shared = SharedSpread.of(drawn(10, 3, 0.0))
    single = constant(50.0)
    found = estimate(single, shared)
    assert (found.low, found.high, found.seeds) == (50.0, 50.0, 1)
    assert difference(single, constant(51.0), shared=shared).seeds_needed is None


def test_a_pair_has_the_interval_of_its_p_value() -> None:
    """Also with a shared spread, both sides with their own seeds, paired or not."""
    first, second = constant(50.0, 52.0), constant(47.0, 48.0)
    shared = SharedSpread.of(drawn(6, 2, 0.3))
    for paired in (False, True):
        for scale in (0.5, 1.0, 2.0, 4.0):
            wider = SharedSpread(scale * shared.variances, shared.degrees)
            found = difference(first, second, paired=paired, shared=wider)
            assert (found.p_value < 0.05) == (found.low > 0)


def test_a_trial_serves_once() -> None:
    """Of pairs with a trial in common the first is taken, and the own one before all others."""
    own = Pair(frozenset("ab"), np.array([1.0, 2.0]))
    others = [
        Pair(frozenset("bc"), np.array([1.0, 5.0])),
        Pair(frozenset("cd"), np.array([1.0, 3.0])),
        Pair(frozenset("de"), np.array([1.0, 9.0])),
    ]
    assert spread_of_pairs(own, others).variances.tolist() == [0.5, 2.0]


def test_points_are_paired_by_rank_and_seed() -> None:
    """Neighbours in rank, of each architecture, without a rate at which a seed diverged."""
    rows = [
        ("mamba", lr, seed, "diverged" if lr == 1.0 and seed else "finished", 10 * lr + step * seed)
        for lr, step in ((0.1, 0.5), (0.2, 0.7), (0.3, 1.0), (1.0, 0.0))
        for seed in (0, 1)
    ]
    trials = pd.DataFrame(rows, columns=["arch", "lr", "seed", "outcome", "bits_per_byte"])
    found = [pair.differences.tolist() for pair in pairs_of_points(trials)]
    assert found == [pytest.approx([1.0, 1.2]), pytest.approx([1.0, 1.3])]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2 x 2 seeds, alike", "2 x 2 seeds, twofold"])
def test_intervals_hold_the_truth_with_two_seeds(name: str) -> None:
    """400 studies of two architectures: the average is within three standard errors (1 %) of the
    bounds of `make check-statistics`, which draws more."""
    [design] = [each for each in check_statistics.SHARED if each.name == name]
    found = check_statistics.check_shared(design, 400, 0)
    low, high = check_statistics.COVERAGE
    assert low - 2.5 <= found.scores.mean() <= high + 2.5
    assert low - 3 <= found.differences <= high + 3


def test_the_check_notices_a_spread_that_is_taken_for_known(monkeypatch) -> None:
    """As if d0 were infinite and s0^2 without doubt, two seeds hold too little: it is able to."""
    monkeypatch.setattr(
        SharedSpread,
        "moderated",
        lambda shared, *shares: (sum(s.weight for s in shares) * shared.variances.mean(), 1e9),
    )
    [design] = [d for d in check_statistics.SHARED if d.name == "2 x 2 seeds, twofold"]
    found = check_statistics.check_shared(design, 300, 0)
    assert not found.passes
    assert found.scores.mean() < check_statistics.COVERAGE[0] - 2.5
