"""An axis takes one entry: from flags over plan and points to the groups of a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from analysis.command_line import parse
from analysis.points import best_points, point_table, varied
from analysis.schema.axes import AXES, Axis
from analysis.study import setting
from sweeps.arguments import LrSweepArgs
from sweeps.arguments.axes import axes_args, set_single, values_of
from sweeps.arguments.presets import PRESETS
from sweeps.engine.resources import Resources
from sweeps.findings import lr_sweep
from sweeps.plans.common import TrainingSetup
from sweeps.plans.grids import GridPlan
from tests.trainables.test_spec import SPEC

VALUES = {"beta2": (0.9, 0.99), "grad_clip": (0.5, 2.0)}
"""One that no flag sets, and one that a flag does."""


def arguments(words: list[str]) -> Any:
    """What is said with the axes that there are now."""
    new: Any = axes_args()

    @dataclass(frozen=True, kw_only=True)
    class Args(LrSweepArgs, new):
        """With the flags of today's axes."""

    return set_single(parse(Args, ["--arch", "lstm", "--lrs", "1e-3", *words], None))


@pytest.mark.parametrize("name", VALUES)
def test_an_entry_makes_an_axis(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags, plan, points and the report's groups know a field of the spec once it is an entry."""
    axis = Axis(name, name, "Tried by a test.", scale="linear")
    monkeypatch.setitem(AXES, name, axis)
    given = VALUES[name]
    args = arguments([axis.flag, *map(str, given)])
    values = values_of(args)
    assert values == {"lr": (1e-3,), name: given}

    corpus: Any = SimpleNamespace(name="text", hash="c0ffee", vocab_size=280)
    resources = Resources(1, 0, 1, "inline")
    setup = TrainingSetup(args, PRESETS["mini"], Path(), corpus, None, None, resources)
    assert getattr(setup.spec("lstm"), name) == getattr(SPEC, name)

    plan = GridPlan(SPEC, values, (0,), extend=False)
    assert [getattr(point, name) for point in plan.points] == list(given)
    assert {spec.without(AXES) for spec in plan.specs} == {SPEC.without(AXES)}
    assert len({spec.name for spec in plan.specs}) == 2

    losses = {value: 1.0 + number for number, value in enumerate(given)}
    rows = [
        {**spec.to_dict(), "outcome": "finished", "bits_per_byte": losses[getattr(spec, name)]}
        for spec in plan.specs
    ]
    trials = pd.DataFrame(rows)
    assert [each.field for each in varied(trials)] == ["lr", name]
    assert len(point_table(trials)) == 2
    assert best_points(trials)[SPEC.arch][name] == given[0]
    assert setting(trials).nunique() == 1


@pytest.mark.parametrize("name", VALUES)
def test_one_value_is_set_or_is_the_only_one_tried(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a flag of its own it is set; without one it is tried by itself."""
    axis = Axis(name, name, "Tried by a test.", scale="linear")
    monkeypatch.setitem(AXES, name, axis)
    args = arguments([axis.flag, "0.5"])
    in_grid = values_of(args).get(name, (getattr(args, name, None),))
    assert in_grid == (0.5,)
    with_flag = hasattr(args, name)
    assert (name in values_of(args)) is not with_flag
    if with_flag:
        with pytest.raises(ValueError, match=r"--grad-clip 1.0 sets what --grad-clips varies"):
            arguments([axis.flag, "0.5", "2", "--grad-clip", "1.0"])


def test_a_sweep_without_the_rate_has_heat_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each two axes that were varied."""
    drawn: list[str] = []
    monkeypatch.setattr(lr_sweep, "write", lambda figure, file: drawn.append(file.name) or file)
    monkeypatch.setattr(lr_sweep, "plane_figure", lambda *_: None)
    rows = [
        {**SPEC.replace(weight_decay=decay, dropout=dropout).to_dict(), "outcome": "finished"}
        for decay in (0.1, 0.4)
        for dropout in (0.0, 0.1)
    ]
    trials = pd.DataFrame(rows).assign(bits_per_byte=[1.0, 1.1, 1.2, 1.3])
    plan: Any = SimpleNamespace(folder=tmp_path, bases={SPEC.arch: SPEC})
    list(lr_sweep._planes(plan, trials))
    assert drawn == [f"weight_decay_dropout_{SPEC.arch}.png"]
