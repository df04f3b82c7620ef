"""Run planned trials, or say what they would cost."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TypeVar

from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from rich.console import Console
from rich.markup import escape

from analysis.addresses import address_of
from analysis.commands import record, say_how_to_continue
from analysis.errors import (
    EXIT_FAILED,
    say_error,
)
from analysis.flag_values import checked
from analysis.signals import ending_on_signals
from analysis.store import database_of, reason
from analysis.terminal import open_console, say, showing
from analysis.wording import count
from sweeps.arguments import TrainingArgs
from sweeps.engine.contact import MlflowContact
from sweeps.engine.environment import check_address
from sweeps.engine.failures import in_a_line, is_death, keep_error
from sweeps.engine.kernel_builds import start_building
from sweeps.engine.lease import sole_command
from sweeps.engine.progress import ProgressDisplay
from sweeps.engine.stopping import stopping_at_checkpoints
from sweeps.engine.tuning import DriverCallback, Slots, build_scheduler, ray_cluster, run_tune
from sweeps.engine.watch import RayDied
from sweeps.findings.common import describe_study, failed_trials, show_ways_on
from sweeps.findings.final_scores import score_winners
from sweeps.plans.common import Status, SweepPlan, keep_config
from sweeps.plans.dry_run import print_dry_run
from sweeps.plans.milestones import ended_without
from sweeps.plans.spaces import SweepSearch
from sweeps.plans.tracks import show_rules
from trainables.bucket import without_patience
from trainables.checkpoint import TrialFolder
from trainables.machine_limits import memory_kills
from trainables.spec import TrialSpec
from trainables.tracking import Tracker
from trainables.trial import finish_trial

Args = TypeVar("Args", bound=TrainingArgs)


def run_command(
    args: Args,
    planner: Callable[[Args, Status], SweepPlan],
    show: Callable[[SweepPlan, Tracker, SweepSearch, Console], None],
    scheduler: str = "none",
) -> int:
    """Plan trials and run them, or print what they would take.

    Args:
        args: the command's arguments.
        planner: makes the plan of the checked arguments; its ValueErrors and OSErrors are shown to
            the user.
        show: prints, and stores, what the trials found.
        scheduler: of the trials; see `build_scheduler`.

    Returns:
        The exit status.
    """
    console = open_console()
    try:
        with ending_on_signals(), contextlib.ExitStack() as owned:
            try:
                args = checked(args)
                if not args.dry_run:
                    check_address(args.address)
                with showing(console, "Preparing") as show_stage:
                    plan = planner(args, show_stage)
                    if plan.corpus.contents:
                        say(console, escape(f"{plan.corpus.name}: {plan.corpus.contents}"))
                    plan.found.show(console)
                    if args.dry_run:
                        show_stage("Measuring")
                        print_dry_run(plan, args, console)
                        return 0
                owned.enter_context(_sole_owner(plan))
                owned.enter_context(sole_command(plan.folder, console))
                keep_config(plan.folder, args)
            except (ValueError, OSError) as error:
                return say_error(error)
            return _run(plan, args, show, scheduler, console)
    except MlflowException as error:
        say_error(ValueError(f"the results could not be recorded in MLflow: {reason(error)}"))
        return say_how_to_continue(console, EXIT_FAILED)
    except (RayDied, OSError) as error:
        say_error(error)
        return say_how_to_continue(console, EXIT_FAILED)
    except KeyboardInterrupt:
        return say_how_to_continue(console)


def _run(
    plan: SweepPlan,
    args: TrainingArgs,
    show: Callable[[SweepPlan, Tracker, SweepSearch, Console], None],
    scheduler: str,
    console: Console,
) -> int:
    search = SweepSearch(plan.plans)
    _say_what_is_to_come(plan, search, console)
    # Only with Ray's dashboard is what a killed controller of Train held given back.
    dashboard = plan.resources.runner == "train"
    starting = contextlib.ExitStack()
    starting.enter_context(showing(console, "Starting Ray"))
    with contextlib.ExitStack() as cluster:
        cluster.callback(starting.close)
        try:
            available = cluster.enter_context(ray_cluster(args.address, dashboard=dashboard))
            fitting = functools.partial(plan.fitting, limit=args.max_concurrent)
            slots = Slots(search, fitting, available, console)
            kernels = start_building(plan.works, plan.resources.gpus)
            contact = MlflowContact(plan.tracking_uri, console)
            tracker = contact.result_of(lambda: _open_tracker(plan))
            _set_aside_damaged(plan, console)
        except (ValueError, OSError) as error:
            return say_error(error)
        contact.result_of(lambda: _record_command(tracker, args, plan))
        contact.result_of(tracker.close_trials)  # of a process that was killed
        starting.close()
        if search.remaining():
            at_once = count(slots.number, "trial")
            say(console, escape(f"{at_once} at once, each on {plan.resources.in_words}"))
        status = "KILLED"
        try:
            kernels.wait(console)
            rule = build_scheduler(scheduler, plan.epochs)
            _train(plan, tracker, contact, search, rule, slots, console)
            if _is_done(plan):
                is_scored = score_winners(plan, tracker, console)
                is_whole = is_scored and not failed_trials(plan, search)
                status = "FINISHED" if is_whole else "FAILED"
                _tidy(plan, console)
        finally:
            tell = contact.try_once if status == "KILLED" else contact.retry
            if not tell(lambda: tracker.close(status), now=True):
                say(
                    console,
                    "What MLflow still shows as running is closed when this command runs again.",
                )
    if status == "KILLED":
        return say_how_to_continue(console)
    show(plan, tracker, search, console)
    describe_study(plan, tracker)
    show_ways_on(plan, tracker, search, console)
    return EXIT_FAILED if status == "FAILED" else 0


def _say_what_is_to_come(plan: SweepPlan, search: SweepSearch, console: Console) -> None:
    say(console, _head(plan, search))
    show_rules(plan, console)
    trials = plan.trials if plan.milestones else []
    if late := len(ended_without(trials, plan.corpus, plan.milestones)):
        say(
            console,
            f"[yellow]{count(late, 'trial')} ended before --milestones were asked for, and kept no "
            "model on the way: train with a --study of its own to have them.[/]",
        )


def _head(plan: SweepPlan, search: SweepSearch) -> str:
    """The first line: what is going to be done."""
    left = count(search.remaining(), "trial")
    return escape(
        f"Study {plan.study}: {plan.kind} of {', '.join(plan.bases)} on {plan.corpus.name}, "
        f"{left} to train, of at most {count(plan.epochs, 'epoch')}"
    )


def _train(
    plan: SweepPlan,
    tracker: Tracker,
    contact: MlflowContact,
    search: SweepSearch,
    scheduler: TrialScheduler,
    slots: Slots,
    console: Console,
) -> None:
    """Run the plan's trials to their ends, with progress and records."""
    display = ProgressDisplay(
        tracker, contact, plan.folder, search, slots, console, plan.validations
    )
    bookkeeper = Bookkeeper(plan, tracker, contact, console)
    stopping = stopping_at_checkpoints(plan.stop_file, display.running, console)
    with contextlib.closing(display), stopping:
        runtime = plan.runtime_config(tracker)
        run_tune(runtime, plan.resources, scheduler, [bookkeeper, display], slots)
        bookkeeper.settle(patience=60, tell=contact.retry if _is_done(plan) else contact.try_once)


def _is_done(plan: SweepPlan) -> bool:
    return all(part.finished for part in plan.plans.values())


def _tidy(plan: SweepPlan, console: Console) -> None:
    """Remove the checkpoints of this sweep that it was not told to keep."""
    if plan.keep != "best":
        return
    try:
        with showing(console, "Removing checkpoints"):
            for trial in plan.trials:
                with contextlib.suppress(Timeout), trial.lock(timeout=0):
                    trial.keep_best_only()
            for trunk in plan.trunks:
                with contextlib.suppress(Timeout), trunk.lock(timeout=0):
                    trunk.remove()
    except OSError as error:
        text = f"not all checkpoints could be removed: {error}; run the same command again"
        say(console, f"[yellow]{escape(text)}[/]")


def _set_aside_damaged(plan: SweepPlan, console: Console) -> None:
    """Let no trial go on from a damaged checkpoint, and say which there are."""
    if address_of(plan.folder) is not None:  # its files are not here: who brings them looks
        return
    for trial in plan.unfinished:
        with contextlib.suppress(Timeout), trial.lock(timeout=0):  # who holds it looks himself
            for sentence in trial.set_aside_damaged():
                say(console, f"[yellow]{escape(sentence)}[/]")


def _open_tracker(plan: SweepPlan) -> Tracker:
    home = plan.storage
    if address_of(plan.folder) is not None:  # what is here is a copy, which may go
        home = database_of(plan.tracking_uri).parent
    return Tracker.open(
        plan.tracking_uri,
        home / "artifacts" / plan.study,
        plan.study,
        plan.bases.values(),
        plan.kind,
        plan.axes,
    )


def _record_command(tracker: Tracker, args: TrainingArgs, plan: SweepPlan) -> None:
    """Add this command to those that the sweeps' runs name."""
    record(tracker.client, tracker.parents.values(), args, plan.storage, plan.taken)


class Bookkeeper(DriverCallback):
    """Records the ends that a trial's own process cannot: stopped by the scheduler, or failed."""

    def __init__(
        self, plan: SweepPlan, tracker: Tracker, contact: MlflowContact, console: Console
    ) -> None:
        self._study, self._tracker, self._console = plan.folder, tracker, console
        self._keeps_best_only = plan.keep == "best"
        self._contact = contact
        self._memory_kills = memory_kills()
        self._ended: list[TrialSpec] = []
        self._failed: list[tuple[TrialSpec, str]] = []

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Remember the trial; its process may still be at work."""
        self._ended.append(TrialSpec.from_dict(trial.config["spec"]))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Record the ends whose process is gone."""
        self.settle(patience=0, tell=self._contact.try_once)

    def settle(self, patience: float, tell: Callable[[Callable[[], object]], bool]) -> None:
        """Give an outcome to ended trials without one, and mark those that failed.

        Args:
            patience: seconds to wait for a trial's lock.
            tell: returns whether MLflow could be told; what it could not waits.
        """
        waiting = []
        for spec in self._ended:
            folder = TrialFolder.of(self._study, spec)
            with without_patience():
                folder.look()
            if folder.outcome is not None and not self._keeps_best_only:
                continue
            try:
                with folder.lock(timeout=patience):
                    is_recorded = self._settle(folder, spec, tell)
            except Timeout:
                is_recorded = False
            if not is_recorded:
                waiting.append(spec)
        self._ended = waiting
        self._failed = [
            (spec, error)
            for spec, error in self._failed
            if not tell(functools.partial(self._tracker.fail, spec, error))
        ]

    def _settle(
        self, folder: TrialFolder, spec: TrialSpec, tell: Callable[[Callable[[], object]], bool]
    ) -> bool:
        """Whether the trial has an outcome now, or is none that gets one here."""
        if folder.outcome is None and not tell(functools.partial(self._record_stop, folder, spec)):
            return False
        if self._keeps_best_only:
            with contextlib.suppress(OSError), without_patience():  # else when the sweep is done
                folder.keep_best_only()
        return True

    def _record_stop(self, folder: TrialFolder, spec: TrialSpec) -> None:
        folder.bring()
        newest = folder.newest()
        if folder.outcome is None and newest is not None:
            history = newest[1].history
            # Schedulers may stop a trial in the report of its very last epoch.
            kind = "finished" if history[-1].epoch == spec.epochs else "stopped"
            run = self._tracker.trial(spec, {}, folder.path)
            finish_trial(folder, run, kind, history)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Say why a trial is started again."""
        self._report_failure(trial, "will be started again")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Keep the error beside the trial, and mark its run as failed. It may be tried again."""
        error = self._report_failure(trial, "failed for good")
        spec = TrialSpec.from_dict(trial.config["spec"])
        self._failed.append((spec, error))

    def _report_failure(self, trial: Trial, what: str) -> str:
        spec = TrialSpec.from_dict(trial.config["spec"])
        error, path = keep_error(trial.error_file, TrialFolder.of(self._study, spec).path)
        was_killed = memory_kills() > self._memory_kills
        self._memory_kills += was_killed and is_death(error)  # a kill explains one death
        line = in_a_line(error, was_killed)
        name = escape(self._tracker.name_of(spec))
        say(self._console, f"{name} {what}: {escape(line)} (all of it: {escape(str(path))})")
        return error


@contextlib.contextmanager
def _sole_owner(plan: SweepPlan) -> Iterator[None]:
    """Let no second command run the same sweeps at the same time.

    Raises:
        ValueError: another one does.
    """
    with contextlib.ExitStack() as stack:
        for arch, sweep in zip(plan.bases, plan.sweep_hashes, strict=True):
            path = plan.folder / "locks" / f"{sweep}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(FileLock(path, timeout=0))
            except Timeout:
                raise ValueError(
                    f"another command is running the sweep of {arch} in study {plan.study!r}; "
                    "wait for it, or choose another --study"
                ) from None
        yield
