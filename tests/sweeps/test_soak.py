"""The soak sees what it is there to see."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tests.sweeps.conftest import SweepCommand
from tests.sweeps.soak import KINDS, Soak, everything, flip


def test_a_sweep_that_ended_otherwise_is_told(whole_sweep: SweepCommand, tmp_path: Path) -> None:
    """A copy is equal; with one bit of one trial's parameters changed, or of a model in MLflow, it
    is not, and a sweep without one of the trials is not either."""
    whole = everything(whole_sweep)
    assert len(whole) == 3
    copy = SweepCommand(whole_sweep.text, shutil.copytree(whole_sweep.storage, tmp_path / "copy"))
    soak = Soak(tmp_path, random.Random(0), KINDS)
    soak.compare(copy, "1", whole)
    assert soak.failures == []
    model = next(copy.storage.glob("study/trials/*/checkpoints/step-*/model.safetensors"))
    flip(model, random.Random(0))
    soak.compare(copy, "2", whole)
    (failure,) = soak.failures
    assert f"sweep 2, trial {model.parents[2].name}: parameters" in failure
    flip(model, random.Random(0))  # back
    flip(next(copy.storage.glob("artifacts/**/model.safetensors")), random.Random(0))
    soak.compare(copy, "3", whole)
    assert "sweep 3, trial models in MLflow: parameters" in soak.failures[-1]
    assert len(soak.failures) == 2
    soak.compare(whole_sweep, "4", dict([*whole.items()][:2]))
    assert "is in one sweep only" in soak.failures[-1]
