"""The order of trials: grids that extend themselves, Optuna, and the searcher over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import pytest
from ray.tune.search import Searcher

from analysis.schema.axes import AXES, LR
from sweeps.plans.grids import MAX_EXTENSIONS, CoordinatePlan, GridPlan, point_of
from sweeps.plans.proposals import OptunaPlan
from sweeps.plans.spaces import Plan, SweepSearch
from sweeps.stored.best import best_scored
from tests.trainables.test_spec import SPEC
from trainables.spec import TrialSpec

Score = Callable[[TrialSpec], float]


def run(plan: Plan, score: Score) -> list[TrialSpec]:
    """Run a plan to its end on a known surface; returns the trials in order."""
    specs = []
    while (spec := plan.ask()) is not None:
        specs.append(spec)
        plan.tell(spec, score(spec))
    assert plan.finished
    assert plan.remaining() == 0
    return specs


def at(lr: float, seed: int = 0, **values: Any) -> TrialSpec:
    """A trial at a point."""
    return SPEC.replace(lr=lr, seed=seed, **values)


def grid(lrs: Sequence[float], seeds: Sequence[int] = (0,), **options: Any) -> GridPlan:
    """A grid of learning rates."""
    return GridPlan(SPEC, {"lr": lrs}, seeds, **options)


def valley(optimum: float) -> Score:
    """A quadratic in log LR."""
    return lambda spec: math.log10(spec.lr / optimum) ** 2


def bowl(lr: float, weight_decay: float, tilt: float = 0.0) -> Score:
    """A quadratic in log LR and log weight decay; `tilt` turns its axes."""

    def score(spec: TrialSpec) -> float:
        x = math.log10(spec.lr / lr)
        y = math.log10(spec.weight_decay / weight_decay)
        return x**2 + y**2 + tilt * x * y

    return score


def test_grid_with_interior_optimum_is_not_extended() -> None:
    """Both neighbours of the optimum are in the grid: it ends there."""
    specs = run(grid([1e-3, 1e-2, 1e-1], seeds=[0, 1]), valley(1e-2))
    assert specs == [at(lr, seed) for seed in (0, 1) for lr in (1e-3, 1e-2, 1e-1)]


@pytest.mark.parametrize(("optimum", "added"), [(1.0, [3e-2, 1e-1, 3e-1]), (3e-2, [3e-2, 1e-1])])
def test_grid_extends_until_the_optimum_is_inside(optimum: float, added: list[float]) -> None:
    """Points are added beyond the best edge, one by one, three at most."""
    specs = run(grid([1e-3, 3e-3, 1e-2]), valley(optimum))
    assert [spec.lr for spec in specs[3:]] == added


def test_extension_waits_for_all_seeds() -> None:
    """Nothing is added while a result of the grid is missing."""
    plan = grid([1e-3, 1e-2], seeds=[0, 1])
    specs = [plan.ask() for _ in range(4)]
    for spec in specs[:3]:
        plan.tell(spec, -spec.lr - spec.seed)
        assert plan.ask() is None
        assert not plan.finished
    plan.tell(specs[3], -specs[3].lr - specs[3].seed)
    assert plan.ask() == at(1e-1)


def test_divergence_at_the_edge_bounds_the_grid() -> None:
    """A diverged rate is worse than any other, so the optimum beside it is inside."""
    plan = grid([1e-3, 1e-2, 1e-1])
    assert len(run(plan, lambda spec: math.inf if spec.lr == 1e-1 else -spec.lr)) == 3


def test_all_diverged_extends_nothing() -> None:
    """Without one finished rate there is no direction to go."""
    plan = grid([1e-1, 1.0])
    assert len(run(plan, lambda spec: math.inf)) == 2
    assert plan.best is None


def test_known_rates_are_judged_together_with_the_grid() -> None:
    """Rates that the study holds bound the optimum; they need not be run again."""
    score = valley(5e-3)
    known = {at(lr): score(at(lr)) for lr in (1e-2, 3e-2)}
    assert [spec.lr for spec in run(grid([1e-3, 3e-3], known=known), score)] == [1e-3, 3e-3]


def test_rate_known_for_one_seed_only_is_completed() -> None:
    """An extension interrupted between two seeds is run with both."""
    score = valley(1e-2)
    plan = grid([1e-3, 3e-3], seeds=[0, 1], known={at(1e-2): score(at(1e-2))})
    assert run(plan, score)[4:6] == [at(1e-2, 0), at(1e-2, 1)]


def test_a_grid_goes_on_beside_the_point_that_is_called_best() -> None:
    """By one rule, over all seeds that the study holds, not this command's alone: with seed 0 the
    lowest rate would look best, and be extended."""
    figures = {(1e-3, 0): 0.90, (1e-3, 1): 1.10, (3e-3, 0): 0.97, (3e-3, 1): 0.99}
    figures |= {(1e-2, 0): 1.5, (1e-2, 1): 1.5}
    scores = {at(lr, seed): figure for (lr, seed), figure in figures.items()}
    plan = grid([1e-3, 3e-3, 1e-2], seeds=[0], known=scores)
    assert [spec.lr for spec in run(plan, scores.__getitem__)] == [1e-3, 3e-3, 1e-2]
    assert plan.best == point_of(at(3e-3))
    assert best_scored(scores) == plan.best


@pytest.mark.parametrize("reached", [1, 2, 3])
def test_interrupted_extension_continues_to_the_same_points(reached: int) -> None:
    """A plan rebuilt in the middle of its extension ends with the same learning rates."""
    score = valley(1.0)
    whole = grid([1e-3, 2e-3])
    extensions = run(whole, score)[2:]
    rebuilt = grid([1e-3, 2e-3], known={spec: score(spec) for spec in extensions[:reached]})
    run(rebuilt, score)
    assert set(rebuilt.points) == set(whole.points)


def test_known_rates_far_from_the_grid_do_not_forbid_extensions() -> None:
    """Only points that the rule itself could have added count as extensions."""
    score = valley(1.0)
    plan = grid([1e-3, 3e-3], known={at(lr): score(at(lr)) for lr in (1e-6, 1e-5)})
    assert [spec.lr for spec in run(plan, score)[2:]] == [1e-2, 3e-2, 1e-1]


def test_finished_trials_are_no_work_left() -> None:
    """What remains counts only what has to be trained."""
    assert grid([1e-3, 3e-3], known={at(1e-3): 1.0}).remaining() == 1


def test_no_extension_on_request() -> None:
    """`--no-extend` keeps the grid as it was given."""
    assert len(run(grid([1e-3, 1e-2], extend=False), valley(1.0))) == 2


@pytest.mark.parametrize(
    ("name", "values", "edge", "expected"),
    [
        ("lr", [1e-3, 3e-3], "high", 1e-2),
        ("lr", [1e-3, 1e-2], "high", 1e-1),
        ("lr", [3e-4, 1e-3], "low", 1e-4),
        ("lr", [1e-6, 1e-5, 1e-4, 1e-3], "high", 1e-2),
        ("lr", [2e-3, 4e-3], "high", 8e-3),
        ("lr", [2e-3, 6e-3], "low", 6.67e-4),
        ("weight_decay", [0.1, 0.4, 1.6], "high", 6.4),
        ("weight_decay", [0.1, 0.4, 1.6], "low", 0.025),
        ("weight_decay", [0.0, 0.1], "low", None),
        ("weight_decay", [0.0, 0.1], "high", 0.2),
        ("dropout", [0.0, 0.1], "low", None),
        ("dropout", [0.1, 0.3, 0.5], "high", 0.7),
        ("dropout", [0.5, 0.9], "high", None),
        ("batch_size", [16, 32], "high", 64),
        ("batch_size", [1, 2], "low", None),
        ("warmup", [0.05, 0.1], "low", 0.0),
    ],
)
def test_next_value_continues_the_spacing(
    name: str, values: list[float], edge: Any, expected: float | None
) -> None:
    """Decades go on as decades, half-decades as half-decades, others by ratio or difference; none
    beyond what a trial can have."""
    found = AXES[name].beyond(values, edge)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-9))
    if found is not None:
        SPEC.replace(**{name: found})


TWO: Mapping[str, Sequence[float]] = {"lr": [1e-3, 1e-2, 1e-1], "weight_decay": [0.1, 0.4, 1.6]}


def is_inside(plan: GridPlan | CoordinatePlan, score: Score) -> bool:
    """Whether the best point's neighbours on both sides of every axis were tried."""
    points = plan.points
    best = min(points, key=score)
    return all(
        any(
            point.replace(**{name: getattr(best, name)}) == best
            and sign * (getattr(point, name) - getattr(best, name)) > 0
            for point in points
        )
        for name in TWO
        for sign in (-1, 1)
    )


def test_a_grid_of_two_axes_tries_all_combinations() -> None:
    """With every seed, and nothing more where the optimum is inside."""
    specs = run(GridPlan(SPEC, TWO, [0, 1]), bowl(1e-2, 0.4))
    expected = {
        at(lr, seed, weight_decay=decay) for lr, decay, seed in product(*TWO.values(), (0, 1))
    }
    assert len(specs) == len(expected)
    assert set(specs) == expected


@pytest.mark.parametrize(
    ("lr", "weight_decay"), [(0.5, 0.4), (1e-2, 8.0), (0.5, 8.0), (1e-4, 0.01)]
)
def test_the_edges_of_both_axes_are_extended_beside_the_best(
    lr: float, weight_decay: float
) -> None:
    """Until the best point has tried neighbours everywhere, with few points more."""
    score = bowl(lr, weight_decay)
    plan = GridPlan(SPEC, TWO, [0])
    specs = run(plan, score)
    assert is_inside(plan, score)
    assert len(specs) <= 9 + 4 * MAX_EXTENSIONS
    assert len(set(specs)) == len(specs)


def test_an_interrupted_grid_of_two_axes_arrives_at_the_same_points() -> None:
    """Whatever was finished before the kill."""
    score = bowl(0.5, 8.0, tilt=-0.8)
    whole = GridPlan(SPEC, TWO, [0])
    specs = run(whole, score)
    for reached in range(len(specs)):
        known = {spec: score(spec) for spec in specs[:reached]}
        rebuilt = GridPlan(SPEC, TWO, [0], known=known)
        run(rebuilt, score)
        assert set(rebuilt.points) == set(whole.points), reached


def test_what_cannot_be_trained_is_not_added() -> None:
    """A batch size that does not divide among the workers, say."""
    values = {"lr": [1e-3, 1e-2], "batch_size": [32, 64]}
    plan = GridPlan(SPEC, values, [0], allowed=lambda spec: spec.batch_size <= 64)
    run(plan, lambda spec: spec.lr - spec.batch_size)
    assert max(point.batch_size for point in plan.points) == 64


def test_choices_without_an_order_are_not_extended() -> None:
    """Each is tried with everything else."""
    values = {"lr": [1e-3, 1e-2, 1e-1], "optimizer": ["adamw", "muon"]}
    specs = run(GridPlan(SPEC, values, [0]), valley(1e-2))
    assert sorted({(spec.lr, spec.optimizer) for spec in specs}) == sorted(
        product([1e-3, 1e-2, 1e-1], ["adamw", "muon"])
    )


@pytest.mark.parametrize("tilt", [0.0, -1.0])
def test_coordinates_come_to_the_optimum_with_fewer_trials(tilt: float) -> None:
    """One axis after the other, and at last what is missing beside the best point."""
    score = bowl(1e-2, 1.6, tilt)
    values = {"lr": [1e-4, 1e-3, 1e-2, 1e-1, 1.0], "weight_decay": [0.025, 0.1, 0.4, 1.6, 6.4]}
    plan = CoordinatePlan(SPEC, values, [0])
    specs = run(plan, score)
    assert min(specs, key=score) == at(1e-2, weight_decay=1.6)
    assert is_inside(plan, score)
    assert [spec.weight_decay for spec in specs[:5]] == [SPEC.weight_decay] * 5
    assert len(set(specs)) < 25


def test_interrupted_coordinates_arrive_at_the_same_points() -> None:
    """Nothing is trained twice, nothing left out, whatever was finished before the kill."""
    score = bowl(0.5, 8.0, tilt=-0.8)
    specs = set(run(CoordinatePlan(SPEC, TWO, [0, 1]), score))
    order = run(CoordinatePlan(SPEC, TWO, [0, 1]), score)
    for reached in range(0, len(order), 3):
        known = {spec: score(spec) for spec in order[:reached]}
        rebuilt = CoordinatePlan(SPEC, TWO, [0, 1], known=known)
        assert set(run(rebuilt, score)) | set(known) == specs, reached


def test_extensions_end_however_often_a_sweep_is_run_again() -> None:
    """Also where known values lie beside the grid, and lower is always better."""

    def score(spec: TrialSpec) -> float:
        return math.log10(spec.lr) + math.log10(spec.weight_decay)

    values = {"lr": [0.02, 0.06], "weight_decay": [0.2, 0.6]}
    known = {at(0.01, weight_decay=0.1): score(at(0.01, weight_decay=0.1))}
    for kind in (GridPlan, CoordinatePlan):
        told = dict(known)
        counts = []
        for _ in range(3):
            specs = run(kind(SPEC, values, [0], known=told), score)
            counts.append(len(set(specs) - set(told)))
            told |= {spec: score(spec) for spec in specs}
        assert counts[0] > 0
        assert counts[1:] == [0, 0], kind
        for name, given in values.items():
            new = {getattr(spec, name) for spec in told} - {*given, 0.01, 0.1}
            assert len(new) <= MAX_EXTENSIONS


def test_coordinates_end_where_nothing_finished() -> None:
    """There is no point to go on from, and none that was not asked for is trained."""
    specs = run(CoordinatePlan(SPEC, TWO, [0]), lambda spec: math.inf)
    assert [spec.lr for spec in specs] == list(TWO["lr"])


def test_values_that_no_trial_can_have_together_are_not_added() -> None:
    """Warm-up and the decay of wsd share the steps."""
    wsd = SPEC.replace(schedule="wsd", decay=0.3)
    plan = GridPlan(wsd, {"lr": [1e-3, 1e-2, 1e-1], "warmup": [0.1, 0.5]}, [0])
    run(plan, lambda spec: valley(1e-2)(spec) - spec.warmup)
    assert max(point.warmup for point in plan.points) == 0.5


def optuna(low: float, high: float, count: int, seeds: Sequence[int], **options: Any) -> OptunaPlan:
    """A search over learning rates."""
    return OptunaPlan(SPEC, {"lr": (low, high)}, count, seeds, **options)


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_optuna_finds_a_valley(sampler: str) -> None:
    """Twelve proposals come within a factor of two of the optimum of a smooth curve."""
    specs = run(optuna(1e-5, 1.0, 12, seeds=[0, 1], sampler=sampler), valley(3e-3))
    best = min(specs, key=valley(3e-3)).lr
    assert len(specs) <= 24
    assert abs(math.log(best / 3e-3)) < math.log(2.5)


def test_optuna_searches_all_axes_together() -> None:
    """Ranges of real numbers, and choices among whole numbers and names."""
    values = {
        "lr": (1e-4, 1e-1),
        "weight_decay": (0.0, 1.0),
        "batch_size": (16, 32, 48),
        "optimizer": ("adamw", "muon"),
    }
    specs = run(OptunaPlan(SPEC, values, 10, [0]), valley(3e-3))
    assert len(set(specs)) == len(specs) == 10
    assert all(0 <= spec.weight_decay <= 1 for spec in specs)
    assert {spec.batch_size for spec in specs} <= {16, 32, 48}
    assert {spec.optimizer for spec in specs} == {"adamw", "muon"}
    assert len({spec.weight_decay for spec in specs}) > 3


def test_interrupted_optuna_ends_with_the_asked_number_of_rates() -> None:
    """A rerun begins with what is known, trains none of it again, and proposes the rest."""
    score = valley(3e-3)
    first = optuna(1e-4, 1e-1, 6, seeds=[0])
    known: dict[TrialSpec, float | None] = {}
    for _ in range(3):
        spec = first.ask()
        known[spec] = score(spec)
        first.tell(spec, score(spec))
    known[first.ask()] = None  # was running when the sweep was killed
    rerun = optuna(1e-4, 1e-1, 6, seeds=[0], known={**known, at(5.0): 1.0})
    assert rerun.remaining() == 3
    specs = run(rerun, score)
    assert set(specs[:4]) == set(known)
    assert len(set(specs)) == 6


def test_optuna_stops_where_a_range_is_used_up() -> None:
    """A range with few rates of three digits ends the search instead of repeating them."""
    specs = run(optuna(1e-3, 1.02e-3, 12, seeds=[0]), valley(1e-3))
    assert len(specs) == len(set(specs)) <= 3
    assert all(1e-3 <= spec.lr <= 1.02e-3 for spec in specs)


def test_optuna_survives_divergence() -> None:
    """A diverged rate is told as bad, and the search goes on."""
    specs = run(
        optuna(1e-4, 10.0, 6, seeds=[0]),
        lambda spec: math.inf if spec.lr > 1e-2 else valley(3e-3)(spec),
    )
    assert len(set(specs)) == 6


def test_optuna_refuses_a_range_of_one_value() -> None:
    """A range has two ends."""
    with pytest.raises(ValueError, match="--weight-decays with --search optuna takes the ends"):
        OptunaPlan(SPEC, {"lr": (1e-3, 1e-1), "weight_decay": (0.1,)}, 3, [0])


def test_searcher_hands_out_every_architecture_and_finishes() -> None:
    """Ray gets the trials of all plans, None while results are due, and then the end."""
    lstm = SPEC.replace(arch="lstm")
    plans = {
        spec.arch: GridPlan(spec, {"lr": [1e-3, 1e-2]}, [0], extend=False) for spec in (SPEC, lstm)
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


def test_failed_trial_does_not_stop_the_sweep() -> None:
    """A trial that failed for good counts as worst; the plan still ends."""
    search = SweepSearch({"hgrn2": grid([1e-3])})
    search.suggest("0")
    search.on_trial_complete("0", error=True)
    assert search.suggest("1") == Searcher.FINISHED


def test_points_are_told_apart_by_their_axes_alone() -> None:
    """The learning rate leads the axes, and a point has no seed."""
    assert next(iter(AXES.values())) == LR
    assert point_of(at(1e-3, seed=7)) == at(1e-3)
