"""A trial's identity: what is in its hash, what is not, and what is refused."""

from __future__ import annotations

import json

import pytest

from analysis.schema.axes import short
from analysis.schema.fields import names_of
from trainables.spec import TrialSpec

SPEC = TrialSpec(
    arch="hgrn2",
    size="mini",
    corpus="mini",
    corpus_hash="abc",
    context=64,
    batch_size=32,
    lr=1e-3,
    epochs=3,
    seed=0,
)


def test_hash_is_frozen():
    """The hash of a spec never changes: it names folders and runs of studies that exist."""
    assert SPEC.canonical == (
        '{"arch":"hgrn2","batch_size":32,"context":64,"corpus_hash":"abc","epochs":3,'
        '"lr":0.001,"seed":0,"size":"mini"}'
    )
    assert SPEC.hash == "938f28d6c9633555"


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 2e-3},
        {"seed": 1},
        {"epochs": 4},
        {"schedule": "cosine"},
        {"precision": "bf16"},
        {"dropout": 0.1},
        {"optimizer": "muon"},
    ],
)
def test_what_changes_the_result_changes_the_hash(changes):
    """Two trials with different results have different identities."""
    assert SPEC.replace(**changes).hash != SPEC.hash


def test_name_of_the_corpus_is_not_identity():
    """A renamed copy of a corpus is the same corpus."""
    assert SPEC.replace(corpus="renamed").hash == SPEC.hash


def test_dict_round_trip_through_json():
    """A spec survives JSON bit by bit."""
    spec = SPEC.replace(lr=0.1 + 0.2)
    assert TrialSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_setting_joins_the_trials_of_one_curve():
    """Learning rate and seed vary along a curve; anything else begins another."""
    assert SPEC.replace(lr=1e-2, seed=5).setting == SPEC.setting
    assert SPEC.replace(epochs=5).setting != SPEC.setting


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr must be from 1e-15 to"),
        ({"lr": float("nan")}, "lr must be"),
        ({"epochs": 0}, "epochs must be from 1 to 1000000, not 0"),
        ({"context": 1}, "context must be from 2 to"),
        ({"seed": -1}, "seed must be from 0 to 9223372036854775807, not -1"),
        ({"warmup": 1.5}, "warmup must be from 0 to 1, not 1.5"),
        ({"schedule": "wsd", "warmup": 0.9, "decay": 0.2}, "must not exceed 1"),
        ({"schedule": "step"}, "schedule must be one of linear, cosine, wsd, not 'step'"),
        ({"beta2": 1.0}, "beta2 must be from 0 to below 1"),
        ({"grad_clip": -1.0}, "grad_clip must be from 0"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1, not 1.0"),
        ({"dropout": -0.1}, "dropout must be from 0"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, muon, not 'sgd'"),
    ],
)
def test_bad_values_are_refused(changes, message):
    """An error names the field, the rule and the value."""
    with pytest.raises(ValueError, match=message):
        SPEC.replace(**changes)


def test_unknown_and_missing_fields_are_refused():
    """A spec from another version is an error, not a guess."""
    values = SPEC.to_dict()
    with pytest.raises(ValueError, match="unknown field.*momentum"):
        TrialSpec.from_dict({**values, "momentum": 0.9})
    del values["lr"]
    with pytest.raises(ValueError, match="missing field.*lr"):
        TrialSpec.from_dict(values)


@pytest.mark.parametrize(
    ("lr", "text"), [(1e-3, "1e-3"), (3.3e-4, "3.3e-4"), (0.02, "2e-2"), (1.0, "1e0")]
)
def test_learning_rates_read_as_people_write_them(lr, text):
    """1e-3, not 0.001 and not 1e-03."""
    assert short(lr) == text


def test_whole_numbers_are_the_same_trial() -> None:
    """From Python 1 is given where the command line has 1.0."""
    assert SPEC.replace(weight_decay=1, lr=1).hash == SPEC.replace(weight_decay=1.0, lr=1.0).hash


@pytest.mark.parametrize("name", [f for f in names_of("float") if f not in ("lr", "temperature")])
def test_zero_has_no_sign(name: str) -> None:
    """-0.0 is the trial of 0.0: of the same hash, JSON and name."""
    minus, zero = (SPEC.replace(**{name: value}) for value in (-0.0, 0.0))
    assert minus.hash == zero.hash
    assert json.dumps(minus.to_dict()) == json.dumps(zero.to_dict())
    assert minus.name_among([name]) == zero.name_among([name])
