"""The best run of a study, from figures alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from analysis.learning_rates import compare_best
from analysis.points import best_points
from sweeps.findings.common import winner
from sweeps.findings.paper import final_table
from sweeps.stored.best import best_scored, best_trial
from sweeps.stored.finalists import Finalists
from tests.sweeps.test_epoch_study import end
from tests.trainables.test_spec import SPEC
from trainables.spec import TrialSpec

ROWS = {  # (setting's context, lr, seed): outcome and bits per byte
    "the luckiest trial is of a rate with a worse mean": (
        {
            (4, 1e-3, 0): ("finished", 1.0),
            (4, 1e-3, 1): ("finished", 2.0),
            (4, 3e-3, 0): ("finished", 1.3),
            (4, 3e-3, 1): ("finished", 1.2),
        },
        (4, 3e-3, 0),
    ),
    "a seed that only one rate has is not compared": (
        {
            (4, 1e-3, 0): ("finished", 0.9),
            (4, 1e-3, 1): ("finished", 1.1),
            (4, 3e-3, 0): ("finished", 0.97),
            (4, 3e-3, 1): ("finished", 0.99),
            (4, 1e-3, 2): ("finished", 0.1),
        },
        (4, 3e-3, 0),
    ),
    "a diverged seed disqualifies a rate": (
        {
            (4, 1e-3, 0): ("finished", 1.0),
            (4, 1e-3, 1): ("diverged", 0.9),
            (4, 3e-3, 0): ("finished", 1.5),
        },
        (4, 3e-3, 0),
    ),
    "a stopped rate comes last, and its stopped seed is not taken": (
        {
            (4, 1e-3, 0): ("finished", 1.1),
            (4, 1e-3, 1): ("stopped", 1.0),
            (4, 3e-3, 0): ("diverged", 1.5),
        },
        (4, 1e-3, 0),
    ),
    "a rate that no seed finished is behind one that a seed did": (
        {
            (4, 1e-3, 0): ("stopped", 1.9),
            (4, 1e-3, 1): ("stopped", 1.9),
            (4, 1e-2, 0): ("finished", 1.0),
            (4, 1e-2, 1): ("stopped", 3.0),
        },
        (4, 1e-2, 0),
    ),
    "all were stopped": ({(4, 1e-3, 0): ("stopped", 1.9), (4, 1e-2, 0): ("stopped", 1.8)}, None),
    "settings are compared by their best rates": (
        {
            (4, 1e-3, 0): ("finished", 1.2),
            (8, 1e-3, 0): ("finished", 1.4),
            (8, 3e-3, 0): ("finished", 1.1),
        },
        (8, 3e-3, 0),
    ),
    "settings are compared over the seeds that most of their best points have": (
        {
            (4, 1e-3, 0): ("finished", 1.2),
            (8, 1e-3, 0): ("finished", 1.3),
            (8, 1e-3, 1): ("finished", 0.9),
            (8, 1e-3, 2): ("finished", 0.9),
        },
        (4, 1e-3, 0),
    ),
    "a setting on other seeds only comes after the others": (
        {
            (4, 1e-3, 0): ("finished", 1.2),
            (8, 1e-3, 0): ("finished", 1.3),
            (16, 1e-3, 1): ("finished", 0.9),
        },
        (4, 1e-3, 0),
    ),
    "the lowest seed is one that was compared": (
        {
            (4, 1e-3, 1): ("finished", 1.2),
            (4, 3e-3, 1): ("finished", 1.1),
            (4, 3e-3, 0): ("finished", 1.0),
        },
        (4, 3e-3, 1),
    ),
    "or the lowest that finished, where none that was compared did": (
        {
            (4, 1e-3, 0): ("diverged", 1.2),
            (4, 3e-3, 0): ("stopped", 1.1),
            (4, 3e-3, 2): ("finished", 1.0),
            (4, 3e-3, 1): ("finished", 1.3),
        },
        (4, 3e-3, 1),
    ),
    "unfinished trials do not count": (
        {(4, 1e-3, 0): ("finished", 1.2), (4, 3e-3, 0): (None, float("nan"))},
        (4, 1e-3, 0),
    ),
    "every rate diverged on a seed": (
        {(4, 1e-3, 0): ("finished", 1.2), (4, 1e-3, 1): ("diverged", float("nan"))},
        None,
    ),
}


@pytest.mark.parametrize(("rows", "best"), ROWS.values(), ids=ROWS)
def test_the_best_trial_follows_the_sweeps_rules(rows, best) -> None:
    """Least mean over seeds first, then the lowest finished seed; see the case's name."""
    specs = {
        f"{batch}/{lr}/{seed}": TrialSpec(
            arch="hgrn2",
            size="mini",
            corpus="c",
            corpus_hash="c",
            context=batch,  # no axis, so that it makes a setting
            batch_size=4,
            lr=lr,
            epochs=1,
            seed=seed,
        )
        for batch, lr, seed in rows
    }
    frame = pd.DataFrame(
        {
            "spec_hash": list(specs),
            "arch": "hgrn2",
            "lr": [spec.lr for spec in specs.values()],
            "seed": [spec.seed for spec in specs.values()],
            "outcome": [outcome for outcome, _ in rows.values()],
            "bits_per_byte": [figure for _, figure in rows.values()],
            "macro": 50.0,
        }
    )
    found = best_trial(frame, specs)
    expected = None if best is None else "/".join(map(str, best))
    assert (None if found is None else found["spec_hash"]) == expected
    if len({batch for batch, _, _ in rows}) == 1:  # tables and the report have one setting
        said = compare_best(frame, "hgrn2").best
        assert said == best_points(frame).get("hgrn2", {}).get("lr") == (best[1] if best else None)


def test_sweep_promotion_and_paper_choose_alike(tmp_path: Path) -> None:
    """One rate has the luckiest seed, the other the better mean: all three take the latter's
    lowest seed."""
    figures = {(1e-3, 0): 0.90, (1e-3, 1): 1.10, (3e-3, 0): 0.99, (3e-3, 1): 0.97}
    specs = {pair: SPEC.replace(lr=pair[0], seed=pair[1]) for pair in figures}
    for pair, spec in specs.items():
        end(tmp_path, spec, [figures[pair]])
    frame = pd.DataFrame(
        [
            {"spec_hash": spec.hash, "arch": spec.arch, "lr": spec.lr, "seed": spec.seed}
            | {"outcome": "finished", "bits_per_byte": figures[pair], "macro": 50.0}
            for pair, spec in specs.items()
        ]
    )
    wanted = specs[3e-3, 0].hash
    promoted = best_trial(frame, {spec.hash: spec for spec in specs.values()})
    assert promoted is not None
    assert promoted["spec_hash"] == wanted
    plan: Any = SimpleNamespace(folder=tmp_path, bases={"part": SPEC}, axes=("lr",))
    swept = winner(plan, frame, "part")
    assert swept is not None
    assert swept.path.name == wanted
    finalists = Finalists(tmp_path, [SPEC])
    assert [(by, trial.spec.hash) for by, trial in finalists.rows] == [("sweep", wanted)]
    scores = dict(zip(specs.values(), figures.values(), strict=True))
    assert best_scored(scores) == SPEC.replace(lr=3e-3)


MAMBA = SPEC.replace(arch="mamba")


def sweep_of_two(folder: Path) -> None:
    """Both architectures at two rates and three epochs: mamba is ahead."""
    for lr, hgrn2, mamba in ((1e-3, 1.50, 1.60), (3e-3, 1.55, 1.49)):
        end(folder, SPEC.replace(lr=lr), [hgrn2])
        end(folder, MAMBA.replace(lr=lr), [mamba])


def table(folder: Path, *bases: TrialSpec) -> list[tuple[str, str, int, float]]:
    """Of each row what it was found by, architecture, epochs and figure."""
    return [
        (by, trial.spec.arch, trial.spec.epochs, trial.outcome.score)
        for by, trial in Finalists(folder, bases).rows
        if trial.outcome
    ]


def test_architectures_are_compared_in_the_setting_that_all_have(tmp_path: Path) -> None:
    """The one with an epoch study has more horizons and seeds to choose among; what that found is a
    row of its own, and the row beside the others is of the sweep."""
    sweep_of_two(tmp_path)
    rows = [("sweep", "hgrn2", 3, 1.50), ("sweep", "mamba", 3, 1.49)]
    assert table(tmp_path, SPEC, MAMBA) == rows
    branch = {"schedule": "wsd", "warmup_steps": 5, "decay": 0.3}
    end(tmp_path, SPEC.replace(epochs=4), [1.45])
    end(tmp_path, SPEC.replace(epochs=4, **branch), [1.46])
    end(tmp_path, SPEC.replace(seed=1), [1.20])  # of the sweep's setting and best rate
    assert table(tmp_path, SPEC, MAMBA) == [*rows, ("epoch study", "hgrn2", 4, 1.45)]
    end(tmp_path, SPEC.replace(seed=2), [], kind="diverged")
    assert table(tmp_path, SPEC, MAMBA)[:2] == rows


def test_unequal_draws_are_named_below_the_final_table(tmp_path: Path) -> None:
    """Seeds of the epoch study are none: the sweep's points are not ranked on them."""
    assert Finalists(tmp_path, [SPEC, MAMBA]).warnings == []
    sweep_of_two(tmp_path)
    end(tmp_path, SPEC.replace(seed=1), [1.20])
    assert Finalists(tmp_path, [SPEC, MAMBA]).warnings == []
    end(tmp_path, SPEC.replace(lr=1e-2), [1.7])
    (sentence,) = Finalists(tmp_path, [SPEC, MAMBA]).warnings
    assert "3 learning rates for hgrn2; 2 learning rates for mamba" in sentence


def test_students_and_their_controls_follow(tmp_path: Path) -> None:
    """A control that is another row already is not shown twice; the best of each part first."""
    sweep_of_two(tmp_path)
    taught = {"teacher": "t", "alpha": 0.5}
    end(tmp_path, SPEC.replace(**taught), [1.40])
    end(tmp_path, SPEC.replace(**taught, temperature=2.0), [1.39])
    rows = Finalists(tmp_path, [SPEC, MAMBA]).rows
    assert [by for by, _ in rows] == ["sweep", "sweep", "distillation", "distillation"]
    shown = final_table([(by, trial, {}) for by, trial in rows])
    assert [*shown.columns[3].cells] == ["1.4900", "1.5000", "1.3900", "1.4000"]
