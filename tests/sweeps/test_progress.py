"""The lines of a sweep where there is no terminal."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from analysis.schema.milestone import MilestoneReport
from sweeps.engine import progress
from sweeps.engine.notices import NOTICES
from sweeps.engine.progress import ProgressDisplay
from sweeps.engine.tuning import Slots
from sweeps.plans.grids import GridPlan
from sweeps.plans.spaces import SweepSearch
from trainables.checkpoint import TrialFolder
from trainables.spec import TrialSpec

BASE = TrialSpec(
    arch="lstm",
    size="mini",
    corpus="tiny",
    corpus_hash="c",
    benchmarks_hash="",
    protocol="2025",
    context=64,
    batch_size=4,
    lr=1.0,
    epochs=4,
    seed=0,
)


class Sweep:
    """A display, a search that gives it trials, and what it has printed."""

    def __init__(self, study: Path, is_terminal: bool = False, **values: list[float]) -> None:
        self.study, self.metrics = study, dict[str, float]()
        self.milestones = dict[int, float]()
        axes = tuple(values)
        self.search = SweepSearch({"lstm": GridPlan(BASE, values, [0])})
        tracker: Any = SimpleNamespace(
            name_of=lambda spec: spec.name_among(axes),
            axes=axes,
            trial_runs=self._runs,
            milestones=lambda run: self.milestones,
        )
        contact: Any = SimpleNamespace(try_once=lambda call: call() or True)
        self._output = io.StringIO()
        console = Console(file=self._output, width=200, force_terminal=is_terminal)
        slots = Slots(self.search, lambda available: 1, {}, console)
        self.display = ProgressDisplay(
            tracker, contact, study, self.search, slots, console, lambda spec, steps: (20, 50, 130)
        )
        self._number = 0

    def start(self, failures: int = 0) -> Any:
        """Start the next trial."""
        self._number += 1
        name = str(self._number)
        config = self.search.suggest(name)
        trial = SimpleNamespace(trial_id=name, config=config, num_failures=failures)
        self.display.on_trial_start(0, [trial], trial)
        return trial

    def end(self, trial: Any, bits_per_byte: float) -> None:
        """Let a trial end."""
        result = {"ended": True, "diverged": 0, "best_bits_per_byte": bits_per_byte}
        self.display.on_trial_result(0, [trial], trial, result)
        self.search.on_trial_complete(trial.trial_id, result)
        self.display.on_trial_complete(0, [trial], trial)

    def report(self, trial: Any, *notices: str) -> None:
        """Let a trial report an epoch."""
        result = {"ended": 0, "epoch": 1, "bits_per_byte": 2.0, "macro": -1.0}
        result |= {NOTICES: [*notices]} if notices else {}
        self.display.on_trial_result(0, [trial], trial, result)

    def lines(self) -> list[str]:
        """The lines since the last call, without the time of day."""
        text = self._output.getvalue()
        self._output.seek(0)
        self._output.truncate()
        return [line.split("  ", 1)[1] for line in text.splitlines()]

    def _runs(self) -> list[Any]:
        data = [
            SimpleNamespace(
                params={"total_steps": "200"},
                metrics=self.metrics,
                tags={"babysweep.spec_hash": row},
            )
            for row in self.display.rows
        ]
        return [SimpleNamespace(data=each) for each in data]


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., Sweep]:
    """Makes a sweep over these axes."""
    return lambda **values: Sweep(tmp_path, **values)


def test_a_trial_is_named_by_all_axes(begin: Callable[..., Sweep]) -> None:
    """Also by a value that is the default of its axis."""
    sweep = begin(lr=[1e-3], weight_decay=[BASE.weight_decay, 0.4])
    sweep.start()
    sweep.start()
    assert sweep.lines() == [
        "lstm lr=1e-3 weight_decay=0.1 seed=0: started",
        "lstm lr=1e-3 weight_decay=0.4 seed=0: started",
    ]


def test_what_is_over_is_not_said_to_start(begin: Callable[..., Sweep]) -> None:
    """A trial that an earlier command finished neither starts nor ends."""
    sweep = begin(lr=[1e-3, 3e-3])
    folder = TrialFolder.of(sweep.study, BASE.replace(lr=1e-3))
    folder.finish(folder.outcome_of("diverged", []))
    sweep.end(sweep.start(), 2.0)
    sweep.start()
    assert sweep.lines() == ["lstm lr=3e-3 seed=0: started"]


def test_a_resumed_trial_says_from_where(
    begin: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step of the checkpoint that it goes on from, in a new command and after a failure."""
    reached = Path("step-00000120"), SimpleNamespace(step=1200)
    monkeypatch.setattr(TrialFolder, "newest", lambda self: reached)
    sweep = begin(lr=[1e-3, 3e-3])
    sweep.start()
    sweep.start(failures=1)
    assert sweep.lines() == [
        "lstm lr=1e-3 seed=0: started from step 1,200",
        "lstm lr=3e-3 seed=0: started again from step 1,200",
    ]


def test_an_added_value_is_announced(begin: Callable[..., Sweep]) -> None:
    """When the best of a grid is at its edge another trial is left, and says why it starts."""
    sweep = begin(lr=[1e-3, 3e-3])
    for score in (2.0, 1.0):
        sweep.end(sweep.start(), score)
    assert sweep.lines()[-1] == "lstm lr=3e-3 seed=0: finished; 1 trial left"
    sweep.start()
    assert sweep.lines() == [
        "lstm lr=1e-2 seed=0: started; added to the grid, since its best learning rate was at the "
        "edge"
    ]


def test_what_trials_have_to_say_is_said_once(begin: Callable[..., Sweep]) -> None:
    """By the first of them that says it; as it is, with the brackets of an error's number."""
    sweep = begin(lr=[1e-3, 3e-3])
    first, second = sweep.start(), sweep.start()
    sweep.lines()
    sweep.report(first, "no C++ for mlstm: [Errno 28] No space left", "mamba-ssm is not installed")
    sweep.report(second, "mamba-ssm is not installed", "the step cannot be captured")
    sweep.report(first, "mamba-ssm is not installed")
    sweep.report(second)
    assert [line for line in sweep.lines() if "epoch" not in line] == [
        "lstm lr=1e-3 seed=0: no C++ for mlstm: [Errno 28] No space left",
        "lstm lr=1e-3 seed=0: mamba-ssm is not installed",
        "lstm lr=3e-3 seed=0: the step cannot be captured",
    ]


def test_what_trials_have_to_say_stands_above_the_table(tmp_path: Path) -> None:
    """Where epochs are not said line by line."""
    sweep = Sweep(tmp_path, is_terminal=True, lr=[1e-3])
    sweep.report(sweep.start(), "mamba-ssm is not installed")
    (line,) = sweep.lines()
    assert "lstm lr=1e-3 seed=0: " in line
    assert "mamba-ssm is not installed" in line


def test_no_trial_is_silent_for_long(
    begin: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line a minute: where it is, how fast, how long it will take; before the first step, that
    there was none."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    sweep = begin(lr=[1e-3])
    trial = sweep.start()
    sweep.lines()
    for seconds in (15, 30, 45, 61, 75):
        clock.now = float(seconds)
        sweep.display.on_step_end(0, [trial])
    assert sweep.lines() == ["lstm lr=1e-3 seed=0: no step is measured yet"]
    sweep.metrics = {"train/epoch": 1.5, "train/tokens_per_second": 6400.0, "train/loss": 3.21}
    clock.now = 122.0
    sweep.display.on_step_end(0, [trial])
    assert sweep.lines() == [
        "lstm lr=1e-3 seed=0: epoch 1.5/4, step 75/200, 6,400 tokens/s, loss 3.210, about 0:05 left"
    ]


def reach(sweep: Sweep, trial: Any, milestones: dict[int, float]) -> None:
    """Let the display find these milestones in MLflow."""
    sweep.milestones = milestones
    sweep.metrics["milestone/bits_per_byte"] = [*milestones.values()][-1]
    sweep.display._refreshed = -1e9
    sweep.display.on_step_end(0, [trial])


def test_milestones_are_told_once(begin: Callable[..., Sweep]) -> None:
    """With what was measured and where the model is; not those of an earlier command."""
    folder = TrialFolder.of(begin(lr=[1e-3]).study, BASE.replace(lr=1e-3))
    folder.keep_milestone(500_000, MilestoneReport(2.0, 1.6))
    sweep = begin(lr=[1e-3])
    trial = sweep.start()
    sweep.lines()
    earlier = {500_000: 1.6}
    reach(sweep, trial, earlier)
    assert sweep.lines() == []
    reach(sweep, trial, {**earlier, 1_000_000: 1.45678, 2_000_000: 1.4})
    reach(sweep, trial, {**earlier, 1_000_000: 1.45678, 2_000_000: 1.4, 3_000_000: 1.3})
    assert sweep.lines() == [
        f"lstm lr=1e-3 seed=0: {words:,} words seen: {figure} bits/byte, kept in "
        f"{folder.path / 'checkpoints' / name}"
        for words, figure, name in (
            (1_000_000, "1.4568", "chck_1M"),
            (2_000_000, "1.4000", "chck_2M"),
            (3_000_000, "1.3000", "chck_3M"),
        )
    ]


def test_a_milestone_before_a_crash_is_told_after_it(begin: Callable[..., Sweep]) -> None:
    """The trial's folder has it when the trial starts again, and no one has seen it in MLflow."""
    sweep = begin(lr=[1e-3])
    trial = sweep.start()
    folder = TrialFolder.of(sweep.study, BASE.replace(lr=1e-3))
    folder.keep_milestone(500_000, MilestoneReport(2.0, 1.6))
    trial.num_failures = 1
    sweep.display.on_trial_start(0, [trial], trial)
    for _ in range(2):
        reach(sweep, trial, {500_000: 1.6})
    assert ["500,000 words seen" in line for line in sweep.lines()] == [False, False, True]


def test_a_table_shows_the_last_milestone(begin: Callable[..., Sweep]) -> None:
    """In a column of its own, where a trial has one."""
    sweep = begin(lr=[1e-3])
    trial = sweep.start()
    columns = [column.header for column in sweep.display._table().columns]
    reach(sweep, trial, {1_000_000: 1.5, 2_000_000: 1.4})
    table = sweep.display._table()
    (added,) = [column for column in table.columns if column.header not in columns]
    assert (added.header, [*added.cells]) == ("milestone", ["chck_2M"])


def test_the_time_left_has_that_of_milestones(begin: Callable[..., Sweep]) -> None:
    """Each takes what an epoch's validation takes; those that are behind no longer count."""
    sweep = begin(lr=[1e-3])
    trial = sweep.start()
    # An epoch is 50 steps of 256 tokens: 8 s of training, and 2 s of validation.
    sweep.metrics = {"epoch/seconds": 10.0, "epoch/tokens_per_second": 1600.0, "train/epoch": 1.5}
    reach(sweep, trial, {1_000_000: 1.5})
    (row,) = sweep.display.rows.values()
    assert row.seconds_left == pytest.approx(2.5 * 10 + 2)
    assert row.whole_seconds == pytest.approx(4 * 10 + 3 * 2)
    sweep.metrics["train/epoch"] = 3.5
    reach(sweep, trial, {1_000_000: 1.5, 2_000_000: 1.4})
    assert row.seconds_left == pytest.approx(0.5 * 10)
