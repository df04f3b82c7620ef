"""What a person sees while trials run: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mlflow.entities import Run
from ray.tune.experiment import Trial
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from analysis.addresses import shown
from analysis.errors import without_secret
from analysis.schema.axes import AXES
from analysis.terminal import say
from analysis.wording import count
from sweeps.engine.contact import MlflowContact
from sweeps.engine.failures import HOPELESS
from sweeps.engine.notices import NOTICES
from sweeps.engine.tuning import DriverCallback, Slots
from trainables.bucket import without_patience
from trainables.checkpoint import TrialFolder
from trainables.milestones import revision_of
from trainables.spec import TrialSpec
from trainables.tracking import MILESTONE, Tracker

REFRESH_SECONDS = 1.0
QUIET_SECONDS = 10.0
"""Between two looks into MLflow where no table is shown: it may be away, which is said; and between
two lines of what takes long."""
LINE_SECONDS = 60.0
"""Between two lines about a trial where no table is shown."""
_STYLES = {"running": "bold", "finished": "green", "diverged": "yellow", "failed": "red"}


@dataclass
class TrialRow:
    """One trial as the table shows it; the numbers are the newest that MLflow holds.

    Attributes:
        milestones: the words of those that were reached and told.
        validations: steps within epochs after which milestones are measured.
    """

    spec: TrialSpec
    state: str = "waiting"
    was_over: bool = False
    said: float = field(default_factory=time.monotonic)
    metrics: dict[str, float] = field(default_factory=dict)
    total_steps: int | None = None
    milestones: set[int] = field(default_factory=set)
    validations: Sequence[int] = ()

    @property
    def epoch(self) -> float:
        """Epochs trained, with the fraction of the current one."""
        return self.metrics.get("train/epoch", 0.0)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the trial's end, None while nothing was measured."""
        if self.state not in ("running", "waiting"):
            return 0.0
        left = self.spec.epochs - self.epoch
        if (seconds := self.metrics.get("epoch/seconds")) is not None:
            return left * seconds + self._validation_seconds(self.epoch)
        speed = self.metrics.get("train/tokens_per_second")
        if not speed or self.total_steps is None:
            return None
        tokens = self.total_steps * self.spec.batch_size * self.spec.context
        return left / self.spec.epochs * tokens / speed

    @property
    def whole_seconds(self) -> float | None:
        """Estimated seconds of the whole trial, None while no epoch has ended."""
        seconds = self.metrics.get("epoch/seconds")
        return seconds and self.spec.epochs * seconds + self._validation_seconds(0.0)

    def _validation_seconds(self, epoch: float) -> float:
        """Seconds of what is measured within epochs from a point on: each as at an epoch's end."""
        seconds, speed = (self.metrics.get(f"epoch/{n}") for n in ("seconds", "tokens_per_second"))
        if not (seconds and speed and self.total_steps):
            return 0.0
        an_epoch = self.total_steps / self.spec.epochs
        training = an_epoch * self.spec.batch_size * self.spec.context / speed
        number = sum(step > epoch * an_epoch for step in self.validations)
        return number * max(0.0, seconds - training)

    @property
    def position(self) -> str:
        """The trial's position, speed, loss and time left."""
        if not self.epoch or self.total_steps is None:
            return "no step is measured yet"
        step = round(self.epoch / self.spec.epochs * self.total_steps)
        parts = [
            f"epoch {self.epoch:.1f}/{self.spec.epochs}",
            f"step {step:,}/{self.total_steps:,}",
        ]
        if speed := self.metrics.get("train/tokens_per_second"):
            parts.append(f"{speed:,.0f} tokens/s")
        if (loss := self.metrics.get("train/loss")) is not None:
            parts.append(f"loss {loss:.3f}")
        if self.seconds_left is not None:
            parts.append(f"about {format_seconds(self.seconds_left)} left")
        return ", ".join(parts)

    def update(self, run: Run) -> None:
        """Take over what the trial's MLflow run holds."""
        self.metrics = dict(run.data.metrics)
        if (steps := run.data.params.get("total_steps")) is not None:
            self.total_steps = int(steps)

    def cells(self, axes: Sequence[str], has_milestones: bool) -> list[str]:
        """The row's columns, with its place on these axes, and its last milestone where rows have
        one."""
        newest = [revision_of(max(self.milestones)) if self.milestones else ""]
        spec, seen = self.spec, self.metrics
        speed = seen.get("train/tokens_per_second")
        return [
            spec.arch,
            *(AXES[name].show(getattr(spec, name)) for name in axes),
            str(spec.seed),
            f"{self.epoch:.1f}/{spec.epochs}",
            *(newest if has_milestones else []),
            "" if speed is None or self.state != "running" else f"{speed:,.0f}",
            _number(seen.get("train/loss"), 3),
            _number(seen.get("val/bits_per_byte"), 4),
            _number(seen.get("zero_shot/macro"), 1),
            format_seconds(self.seconds_left) if self.state == "running" else self.state,
        ]


class Search(Protocol):
    """The source of trials, as the display asks it."""

    def remaining(self) -> int:
        """Trials known to be still to come, running ones included."""

    def beyond(self, trial_id: str) -> list[str]:
        """The axes on which a trial has a value that was added, beyond those asked for."""


class ProgressDisplay(DriverCallback):
    """Follows a Tune run: a live table on a terminal, else one line an event.

    Args:
        tracker: the numbers come from its MLflow store, wherever the trials run.
        contact: with that store.
        study: the folder of its trials.
        search: who hands out the trials.
        slots: for trials that run together, for the estimate of the time left.
        validations: from a trial's spec and number of steps to those within epochs after which
            milestones are measured.
    """

    def __init__(
        self,
        tracker: Tracker,
        contact: MlflowContact,
        study: Path,
        search: Search,
        slots: Slots,
        console: Console,
        validations: Callable[[TrialSpec, int], Sequence[int]] = lambda *_: (),
    ) -> None:
        self._validations = validations
        self._tracker, self._contact, self._study = tracker, contact, study
        self._search, self._slots = search, slots
        self._console = console
        self._closed = False
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._refreshed = 0.0
        self._noticed: set[str] = set()
        self.rows: dict[str, TrialRow] = {}

    def setup(self, *args: object, **info: object) -> None:
        """Begin to show."""
        if self._live:
            self._live.start()

    def close(self) -> None:
        """Show the last state and stop; once."""
        if self._closed:
            return
        self._closed = True
        self._refresh()
        if self._live:
            self._live.stop()

    def running(self) -> list[TrialFolder]:
        """The folders of the trials whose processes are at work."""
        specs = [row.spec for row in self.rows.values() if row.state == "running"]
        return [TrialFolder.of(self._study, spec) for spec in specs]

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Refresh now and then."""
        pause = REFRESH_SECONDS if self._live else QUIET_SECONDS
        if time.monotonic() - self._refreshed > pause:
            for trial in trials:
                self._row(trial)
            self._refresh()
            if not self._live:
                self._say_positions()

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Note that a trial's process started, perhaps again."""
        row = self._row(trial)
        is_first, row.state = row.state == "waiting", "running"
        folder = TrialFolder.of(self._study, row.spec)
        with without_patience():
            folder.look()
        row.was_over = folder.outcome is not None  # it ends at once, and is nothing new
        if is_first:  # in this command; what was reached just before a crash is still to be told
            row.milestones |= folder.milestones.keys()
        if not row.was_over and not self._live:
            self._event(row, self._beginning(trial, folder))

    def _beginning(self, trial: Trial, folder: TrialFolder) -> str:
        text, reached = "started again" if trial.num_failures else "started", folder.newest()
        if reached is not None:
            _, progress = reached
            text += f" from step {progress.step:,}"
        if beyond := [AXES[name].label for name in self._search.beyond(trial.trial_id)]:
            text += f"; added to the grid, since its best {' and '.join(beyond)} was at the edge"
        return text

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: object,
    ) -> None:
        """Show what a trial has to say, and an epoch's end."""
        row = self._row(trial)
        for notice in result.get(NOTICES, ()):
            self._notice(row, notice)
        if HOPELESS in result:
            return
        if result.get("diverged"):
            row.state = "diverged"
        elif result.get("ended"):
            row.state = "finished"
        elif "bits_per_byte" in result:
            scores = f"{result['bits_per_byte']:.4f} bits/byte"
            if result["macro"] >= 0:
                scores += f", macro {result['macro']:.1f}"
            self._event(row, f"epoch {result['epoch']}/{row.spec.epochs}: {scores}")

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Show the end of a trial, by itself or by the scheduler."""
        row = self._row(trial)
        if row.state == "running":
            row.state = "stopped"
        self._contact.try_once(self._pull)
        if not row.was_over:
            self._event(row, f"{row.state}; {self._what_is_left()}")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Show that a trial failed for good."""
        row = self._row(trial)
        row.state = "failed"
        self._event(row, "failed")

    def _row(self, trial: Trial) -> TrialRow:
        spec = TrialSpec.from_dict(trial.config["spec"])
        return self.rows.setdefault(spec.hash, TrialRow(spec))

    def _event(self, row: TrialRow, text: str) -> None:
        if not self._live:
            row.said = time.monotonic()
            self._say(row, text)

    def _notice(self, row: TrialRow, notice: str) -> None:
        """Say, above a table as well, what no trial has said before: on a node all say the same."""
        if notice not in self._noticed:
            self._noticed.add(notice)
            self._say(row, f"[yellow]{escape(without_secret(notice))}[/]")

    def _say(self, row: TrialRow, text: str) -> None:
        clock, name = time.strftime("%H:%M:%S"), self._tracker.name_of(row.spec)
        say(self._console, f"{clock}  {name}: {text}")

    def _say_positions(self) -> None:
        """Let no running trial be silent for long."""
        for row in self.rows.values():
            if row.state == "running" and time.monotonic() - row.said > LINE_SECONDS:
                self._event(row, row.position)

    def _refresh(self) -> None:
        self._refreshed = time.monotonic()
        self._contact.try_once(self._pull)
        if self._live:
            self._live.update(self._table(), refresh=True)

    def _pull(self) -> None:
        for run in self._tracker.trial_runs():
            row = self.rows.get(run.data.tags["babysweep.spec_hash"])
            if row is not None:
                self._update(row, run)

    def _update(self, row: TrialRow, run: Run) -> None:
        """Take over what a trial's run holds, and tell which milestones are new."""
        is_new = run.data.metrics.get(MILESTONE) != row.metrics.get(MILESTONE)
        reached = self._tracker.milestones(run) if is_new else {}  # first: MLflow may be away
        row.update(run)
        if row.total_steps and not row.validations:
            row.validations = self._validations(row.spec, row.total_steps)
        for words, bits_per_byte in reached.items():
            if words not in row.milestones:
                row.milestones.add(words)
                place = shown(TrialFolder.of(self._study, row.spec).model_after(words))
                figure = f"{bits_per_byte:.4f} bits/byte"
                self._event(row, f"{count(words, 'word')} seen: {figure}, kept in {escape(place)}")

    def _table(self) -> Table:
        done = sum(row.state in ("finished", "diverged", "stopped") for row in self.rows.values())
        caption = f"{count(done, 'trial')} done, {self._what_is_left()}"
        table = Table(caption=caption, header_style="bold")
        axes, has_milestones = self._tracker.axes, any(r.milestones for r in self.rows.values())
        middle = ("milestone",) if has_milestones else ()
        columns = ("seed", "epoch", *middle, "tokens/s", "loss", "bits/byte", "macro", "ETA")
        for name in ("arch", *(AXES[axis].column for axis in axes), *columns):
            table.add_column(name, justify="left" if name == "arch" else "right")
        rows = self.rows.values()
        for row in sorted(
            rows, key=lambda row: (row.spec.arch, *(getattr(row.spec, axis) for axis in axes))
        ):
            table.add_row(*row.cells(axes, has_milestones), style=_STYLES.get(row.state, "dim"))
        return table

    def _what_is_left(self) -> str:
        """Trials to come, and how long they will take as far as that is known."""
        seconds = self._seconds_left()
        time_left = "" if not seconds else f", about {format_seconds(seconds)}"
        return f"{count(self._search.remaining(), 'trial')} left{time_left}"

    def _seconds_left(self) -> float | None:
        """Work left, shared among the trials that run together."""
        known = [row.seconds_left for row in self.rows.values() if row.state == "running"]
        left = [seconds for seconds in known if seconds is not None]
        whole = [
            seconds for row in self.rows.values() if (seconds := row.whole_seconds) is not None
        ]
        waiting = max(0, self._search.remaining() - len(known))
        if not whole:
            return None if waiting or not left else max(left)
        shared = (sum(left) + waiting * sum(whole) / len(whole)) / self._slots.number
        return max([*left, float(shared)])


def format_seconds(seconds: float | None) -> str:
    """A duration as h:mm:ss or m:ss; "?" when unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
