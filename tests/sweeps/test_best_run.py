"""The best run of a study, from figures alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from sweeps.findings.common import winner
from sweeps.stages import best_trials
from sweeps.stored.best import best_trial
from tests.sweeps.test_epoch_study import end
from tests.trainables.test_spec import SPEC
from trainables.spec import TrialSpec

ROWS = {  # (setting's batch size, lr, seed): outcome and bits per byte
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
    "settings are compared by their best rates": (
        {
            (4, 1e-3, 0): ("finished", 1.2),
            (8, 1e-3, 0): ("finished", 1.4),
            (8, 3e-3, 0): ("finished", 1.1),
        },
        (8, 3e-3, 0),
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
            context=64,
            batch_size=batch,
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
    assert [trial.path.name for trial in best_trials(tmp_path, SPEC.corpus_hash)] == [wanted]
