"""Names of trials: no two of a study are the same, whatever they differ in."""

from __future__ import annotations

import dataclasses
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeps.plans.epoch_study import Designs
from tests.empty_store import empty_store
from tests.trainables.test_spec import SPEC
from trainables.run_names import telling_fields
from trainables.spec import TrialSpec
from trainables.tracking import Tracker

OTHERS: dict[str, Any] = {
    **{"size": "small", "corpus_hash": "def", "context": 32, "batch_size": 16, "epochs": 5},
    **{"benchmarks_hash": "beef", "protocol": "2025", "warmup_steps": 7, "decay": 0.4, "eps": 1e-6},
    **{"beta1": 0.8, "beta2": 0.9, "grad_clip": 2.0, "precision": "bf16", "revision": 2},
    **{"init": "cafe", "dropout": 0.1, "weight_decay": 0.2, "warmup": 0.1, "optimizer": "muon"},
    **{"schedule": "wsd", "reverse_kl": True, "temperature": 2.0, "alpha": 0.5, "teacher": "fee"},
}
"""By field, another value."""
DESIGNS = Designs(SPEC, ("branch",), (1, 2, 5), 100, 0.3, seeds=(0,))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return empty_store(tmp_path)


def opened(uri: str, bases: list[TrialSpec], axes: tuple[str, ...] = ("lr",)) -> Tracker:
    return Tracker.open(uri, Path("artifacts").absolute(), "study", bases, axes=axes)


def recorded_names(uri: str) -> list[str]:
    client = MlflowClient(uri)
    study = client.get_experiment_by_name("study")
    runs = client.search_runs([study.experiment_id], "tags.`babysweep.kind` = 'trial'")
    return [run.info.run_name for run in runs]


def test_the_other_values_are_of_all_fields() -> None:
    free = {"arch", "lr", "seed", "corpus", "teacher_name"}
    assert OTHERS.keys() | free == {each.name for each in dataclasses.fields(TrialSpec)}


def test_branches_of_one_rate_tell_their_epochs(uri: str, tmp_path: Path) -> None:
    """The sweep that found the rate came first, and its names stay as they are."""
    tracker = opened(uri, [SPEC])
    assert tracker.name_of(SPEC) == "hgrn2 lr=1e-3 seed=0"
    branches = [DESIGNS.spec("branch", horizon) for horizon in (5, 2, 1)]
    later = opened(uri, branches)
    for spec in branches:
        later.trial(spec, {}, tmp_path)
    names = [f"hgrn2 lr=1e-3 schedule=wsd epochs={n} seed=0" for n in (1, 2, 5)]
    assert sorted(recorded_names(uri)) == names
    assert opened(uri, [SPEC]).name_of(SPEC.replace(seed=1)) == "hgrn2 lr=1e-3 seed=1"
    assert [opened(uri, branches).name_of(spec) for spec in branches] == names[::-1]


def test_independent_trials_tell_them_too(uri: str) -> None:
    """But for the length that the sweep had: that is its own trial."""
    opened(uri, [SPEC])
    specs = [DESIGNS.spec("independent", horizon) for horizon in (5, SPEC.epochs, 1)]
    tracker = opened(uri, specs)
    assert len({tracker.name_of(spec) for spec in specs}) == 3


def _sweeps() -> list[TrialSpec]:
    """Sweeps that each differ from the others in one field or two."""
    taught = SPEC.replace(teacher="feed", alpha=0.3)
    found = [SPEC, taught, SPEC.replace(arch="mamba")]
    for name, value in OTHERS.items():
        base = taught if name in ("teacher", "alpha", "temperature", "reverse_kl") else SPEC
        found.append(base.replace(**{name: value}))
        found.append(base.replace(**{name: value}).replace(epochs=4))
    return found


def _named(sweeps: list[TrialSpec], *, together: bool = False) -> list[str]:
    """A name of a trial of each sweep, beside all of them or those before it."""
    recorded = [
        {name: str(value) for name, value in base.to_dict().items() if name not in ("lr", "seed")}
        for base in sweeps
    ]
    names = []
    for number, base in enumerate(sweeps):
        told = telling_fields(base, ("lr",), recorded if together else recorded[:number])
        names.append(base.name_among(told))
    return names


@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
def test_sweeps_that_differ_in_any_field_have_other_names(*, together: bool) -> None:
    """In one command, or each after the others."""
    sweeps = _sweeps()
    names = _named(sweeps, together=together)
    assert len(set(names)) == len(sweeps)
    assert together or names[0] == "hgrn2 lr=1e-3 seed=0"


def test_values_of_the_axes_are_in_every_name(uri: str) -> None:
    """The default as well; what is an axis of another sweep is not told again."""
    tracker = opened(uri, [SPEC], axes=("lr", "weight_decay"))
    assert tracker.name_of(SPEC) == "hgrn2 lr=1e-3 weight_decay=0.1 seed=0"
    assert opened(uri, [SPEC]).name_of(SPEC) == "hgrn2 lr=1e-3 seed=0"


def test_rates_that_look_the_same_have_the_hash(uri: str, tmp_path: Path) -> None:
    """As names round them; so has a trial like one that an earlier version named."""
    near = [SPEC.replace(lr=lr) for lr in (1e-3, 1.00001e-3)]
    tracker = opened(uri, near)
    for spec in (*near, *near):
        tracker.trial(spec, {}, tmp_path)
    names = {"hgrn2 lr=1e-3 seed=0", f"hgrn2 lr=1e-3 seed=0 {near[1].hash[:8]}"}
    assert set(recorded_names(uri)) == names


@pytest.mark.parametrize("order", permutations((0, 1, 2)))
def test_the_order_of_sweeps_does_not_matter(order: tuple[int, ...]) -> None:
    """Of three that differ pairwise in other fields."""
    sweeps = [SPEC, SPEC.replace(epochs=5), SPEC.replace(epochs=5, decay=0.4)]
    assert len(set(_named([sweeps[each] for each in order]))) == 3


def test_processes_that_begin_together_take_different_names(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of values that look the same when rounded each process finds the name free."""
    specs = [SPEC.replace(lr=lr) for lr in (0.00123456781, 0.00123456782)]
    tracker = opened(uri, specs)
    assert tracker.name_of(specs[0]) == tracker.name_of(specs[1])
    monkeypatch.setattr(Tracker, "_free_name", Tracker.name_of)
    for spec in specs:
        tracker.trial(spec, {}, Path("."))
    assert len(set(recorded_names(uri))) == 2


def test_commands_that_begin_together_share_a_new_study(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each asks first, and finds none; only one can make it."""
    first = opened(uri, [SPEC])
    answers = [None]
    ask = MlflowClient.get_experiment_by_name

    def late(client: MlflowClient, name: str) -> object:
        return answers.pop() if answers else ask(client, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    assert opened(uri, [SPEC]).experiment_id == first.experiment_id
    assert not answers
