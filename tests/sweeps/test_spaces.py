"""The order of trials: grids that extend themselves, Optuna, and the searcher over them."""

from __future__ import annotations

import math

import pytest
from ray.tune.search import Searcher

from sweeps.plans.spaces import GridPlan, OptunaPlan, SweepSearch, next_on_grid
from tests.trainables.test_spec import SPEC


def run(plan, score):
    """Run a plan to its end on a known curve; returns the pairs in order."""
    pairs = []
    while (pair := plan.ask()) is not None:
        pairs.append(pair)
        plan.tell(*pair, score(pair[0]))
    assert plan.finished
    assert plan.remaining() == 0
    return pairs


def valley(optimum):
    """A quadratic in log LR."""
    return lambda lr: math.log10(lr / optimum) ** 2


def test_grid_with_interior_optimum_is_not_extended():
    """Both neighbours of the optimum are in the grid: it ends there."""
    plan = GridPlan([1e-3, 1e-2, 1e-1], seeds=[0, 1])
    pairs = run(plan, valley(1e-2))
    assert sorted(pairs) == [(lr, seed) for lr in (1e-3, 1e-2, 1e-1) for seed in (0, 1)]
    assert plan.edge() is None


@pytest.mark.parametrize(("optimum", "added"), [(1.0, [3e-2, 1e-1, 3e-1]), (3e-2, [3e-2, 1e-1])])
def test_grid_extends_until_the_optimum_is_inside(optimum, added):
    """Points are added beyond the best edge, one by one, three at most."""
    plan = GridPlan([1e-3, 3e-3, 1e-2], seeds=[0])
    pairs = run(plan, valley(optimum))
    assert [lr for lr, _ in pairs[3:]] == added
    assert plan.edge() == ("high" if optimum == 1.0 else None)


def test_extension_waits_for_all_seeds():
    """Nothing is added while a result of the grid is missing."""
    plan = GridPlan([1e-3, 1e-2], seeds=[0, 1])
    pairs = [plan.ask() for _ in range(4)]
    for lr, seed in pairs[:3]:
        plan.tell(lr, seed, -lr - seed)
        assert plan.ask() is None
        assert not plan.finished
    plan.tell(*pairs[3], -pairs[3][0] - pairs[3][1])
    assert plan.ask() == (1e-1, 0)


def test_divergence_at_the_edge_bounds_the_grid():
    """A diverged rate is worse than any other, so the optimum beside it is inside."""
    plan = GridPlan([1e-3, 1e-2, 1e-1], seeds=[0])
    run(plan, lambda lr: math.inf if lr == 1e-1 else -lr)
    assert plan.edge() is None


def test_all_diverged_extends_nothing():
    """Without one finished rate there is no direction to go."""
    assert len(run(GridPlan([1e-1, 1.0], seeds=[0]), lambda lr: math.inf)) == 2


def test_known_rates_are_judged_together_with_the_grid():
    """Rates that the study holds bound the optimum; they need not be run again."""
    score = valley(5e-3)
    known = {(lr, 0): score(lr) for lr in (1e-2, 3e-2)}
    plan = GridPlan([1e-3, 3e-3], seeds=[0], known=known)
    assert [lr for lr, _ in run(plan, score)] == [1e-3, 3e-3]
    assert plan.edge() is None


def test_rate_known_for_one_seed_only_is_completed():
    """An extension interrupted between two seeds is run with both."""
    score = valley(1e-2)
    plan = GridPlan([1e-3, 3e-3], seeds=[0, 1], known={(1e-2, 0): score(1e-2)})
    assert run(plan, score)[4:6] == [(1e-2, 0), (1e-2, 1)]


@pytest.mark.parametrize("reached", [1, 2, 3])
def test_interrupted_extension_continues_to_the_same_points(reached):
    """A plan rebuilt in the middle of its extension ends with the same learning rates."""
    score = valley(1.0)
    whole = GridPlan([1e-3, 2e-3], seeds=[0])
    extensions = [lr for lr, _ in run(whole, score)[2:]]
    known = {(lr, 0): score(lr) for lr in extensions[:reached]}
    rebuilt = GridPlan([1e-3, 2e-3], seeds=[0], known=known)
    run(rebuilt, score)
    assert rebuilt.lrs == whole.lrs


def test_known_rates_far_from_the_grid_do_not_forbid_extensions():
    """Only points that the rule itself could have added count as extensions."""
    score = valley(1.0)
    plan = GridPlan([1e-3, 3e-3], seeds=[0], known={(lr, 0): score(lr) for lr in (1e-6, 1e-5)})
    assert [lr for lr, _ in run(plan, score)[2:]] == [1e-2, 3e-2, 1e-1]


def test_finished_trials_are_no_work_left():
    """What remains counts only what has to be trained."""
    plan = GridPlan([1e-3, 3e-3], seeds=[0], known={(1e-3, 0): 1.0})
    assert plan.remaining() == 1


def test_no_extension_on_request():
    """`--no-extend` keeps the grid as it was given."""
    plan = GridPlan([1e-3, 1e-2], seeds=[0], extend=False)
    assert len(run(plan, valley(1.0))) == 2
    assert plan.edge() == "high"


@pytest.mark.parametrize(
    ("lrs", "edge", "expected"),
    [
        ([1e-3, 3e-3], "high", 1e-2),
        ([1e-3, 1e-2], "high", 1e-1),
        ([3e-4, 1e-3], "low", 1e-4),
        ([1e-6, 1e-5, 1e-4, 1e-3], "high", 1e-2),
        ([2e-3, 4e-3], "high", 8e-3),
        ([2e-3, 6e-3], "low", 6.67e-4),
    ],
)
def test_next_point_continues_the_spacing(lrs, edge, expected):
    """Decades go on as decades, half-decades as half-decades, others by their ratio."""
    assert next_on_grid(lrs, edge) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_optuna_finds_a_valley(sampler):
    """Twelve proposals come within a factor of two of the optimum of a smooth curve."""
    plan = OptunaPlan(1e-5, 1.0, 12, seeds=[0, 1], sampler=sampler)
    pairs = run(plan, valley(3e-3))
    best = min({lr for lr, _ in pairs}, key=valley(3e-3))
    assert len(pairs) <= 24
    assert abs(math.log(best / 3e-3)) < math.log(2.5)


def test_interrupted_optuna_ends_with_the_asked_number_of_rates():
    """A rerun begins with what is known, trains none of it again, and proposes the rest."""
    score = valley(3e-3)
    first = OptunaPlan(1e-4, 1e-1, 6, seeds=[0])
    known = {}
    for _ in range(3):
        lr, seed = first.ask()
        known[lr, seed] = score(lr)
        first.tell(lr, seed, score(lr))
    lr, seed = first.ask()
    known[lr, seed] = None  # was running when the sweep was killed
    rerun = OptunaPlan(1e-4, 1e-1, 6, seeds=[0], known={**known, (5.0, 0): 1.0})
    assert rerun.remaining() == 3
    pairs = run(rerun, score)
    assert {lr for lr, _ in pairs[:4]} == {lr for lr, _ in known}
    assert len({lr for lr, _ in pairs}) == 6


def test_optuna_stops_where_a_range_is_used_up():
    """A range with few rates of three digits ends the search instead of repeating them."""
    pairs = run(OptunaPlan(1e-3, 1.02e-3, 12, seeds=[0]), valley(1e-3))
    assert len(pairs) == len(set(pairs)) <= 3
    assert all(1e-3 <= lr <= 1.02e-3 for lr, _ in pairs)


def test_optuna_survives_divergence():
    """A diverged rate is told as bad, and the search goes on."""
    plan = OptunaPlan(1e-4, 10.0, 6, seeds=[0])
    pairs = run(plan, lambda lr: math.inf if lr > 1e-2 else valley(3e-3)(lr))
    assert len({lr for lr, _ in pairs}) == 6


def test_optuna_refuses_an_empty_range():
    """LO must lie below HI."""
    with pytest.raises(ValueError, match="0 < LO < HI, not 0.1 0.01"):
        OptunaPlan(0.1, 0.01, 3, seeds=[0])


def test_searcher_hands_out_every_architecture_and_finishes():
    """Ray gets the trials of all plans, None while results are due, and then the end."""
    lstm = SPEC.replace(arch="lstm")
    plans = {
        spec.arch: (spec, GridPlan([1e-3, 1e-2], seeds=[0], extend=False)) for spec in (SPEC, lstm)
    }
    search = SweepSearch(plans)
    suggestions = [search.suggest(str(index)) for index in range(4)]
    assert [s["spec"]["arch"] for s in suggestions] == ["hgrn2"] * 2 + ["lstm"] * 2
    assert search.suggest("4") is None
    assert search.remaining() == 4
    for index in range(4):
        search.on_trial_complete(str(index), {"best_bits_per_byte": 1.0, "diverged": 0})
    assert search.suggest("5") == Searcher.FINISHED
    assert search.remaining() == 0


def test_failed_trial_does_not_stop_the_sweep():
    """A trial that failed for good counts as worst; the plan still ends."""
    search = SweepSearch({"hgrn2": (SPEC, GridPlan([1e-3], seeds=[0]))})
    search.suggest("0")
    search.on_trial_complete("0", error=True)
    assert search.suggest("1") == Searcher.FINISHED
