"""Run a planned learning-rate sweep, or say what it would cost."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from sweeps.dry_run import print_dry_run
from sweeps.lr_sweep import LrSweepArgs
from sweeps.planning import SweepPlan, plan_sweep
from sweeps.progress import ProgressDisplay
from sweeps.results import failed_trials, show_results
from sweeps.spaces import SweepSearch
from sweeps.tuning import DriverCallback, build_scheduler, ray_cluster, run_tune
from trainables.checkpoint import TrialFolder
from trainables.spec import TrialSpec
from trainables.tracking import Tracker
from trainables.trial import finish_trial

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def run_lr_sweep(args: LrSweepArgs) -> int:
    """Plan the sweep and run it, or print what it would take; returns the exit status."""
    console = Console() if sys.stdout.isatty() else Console(width=120)
    try:
        with console.status("Preparing") as status:
            plan = plan_sweep(args, lambda text: status.update(text))
            if args.dry_run:
                status.update("Measuring")
                print_dry_run(plan, args, console)
                return 0
        with _sole_owner(plan):
            return _run(plan, args, console)
    except (ValueError, OSError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        return EXIT_USAGE


def _run(plan: SweepPlan, args: LrSweepArgs, console: Console) -> int:
    _treat_termination_as_interrupt()
    dashboard = args.scheduler != "none" and plan.resources.runner == "train"
    with ray_cluster(args.address, dashboard=dashboard) as available:
        at_once = plan.resources.trials_at_once(available, args.max_concurrent)
        tracker = Tracker.open(
            plan.tracking_uri,
            plan.storage / "artifacts" / plan.study,
            plan.study,
            list(plan.bases.values()),
        )
        tracker.close_trials()  # of a process that was killed
        search = SweepSearch({arch: (plan.bases[arch], plan.plans[arch]) for arch in plan.bases})
        display = ProgressDisplay(tracker, search, at_once, console)
        status = "KILLED"
        try:
            run_tune(
                search,
                plan.workplace(tracker),
                plan.resources,
                build_scheduler(args.scheduler, plan.epochs),
                [Bookkeeper(plan.folder, tracker), display],
                at_once,
            )
            if all(sweep.finished for sweep in plan.plans.values()):
                status = "FAILED" if failed_trials(plan, search) else "FINISHED"
        finally:
            display.close()
            tracker.close(status)
    if status == "KILLED":
        command = " ".join(["python", *sys.argv])
        console.print(f"\nStopped. To continue, run it again:\n  {command}", highlight=False)
        return EXIT_INTERRUPTED
    show_results(plan, tracker, search, console)
    return EXIT_FAILED if status == "FAILED" else 0


class Bookkeeper(DriverCallback):
    """Records the ends that a trial's own process cannot: stopped by the scheduler, or failed."""

    def __init__(self, study: Path, tracker: Tracker) -> None:
        self._study, self._tracker = study, tracker

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record "stopped" unless the trial came to an end of its own."""
        spec = TrialSpec.from_dict(trial.config["spec"])
        folder = TrialFolder.of(self._study, spec)
        newest = folder.newest()
        if folder.outcome is None and newest is not None:
            _, progress = newest
            finish_trial(folder, self._tracker.trial(spec, {}), "stopped", progress.history)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Keep the error beside the trial, and mark its run as failed. It may be tried again."""
        spec = TrialSpec.from_dict(trial.config["spec"])
        error = Path(trial.error_file).read_text() if trial.error_file else "no error was recorded"
        (TrialFolder.of(self._study, spec).path / "error.txt").write_text(error)
        self._tracker.trial(spec, {}).fail(error)


@contextlib.contextmanager
def _sole_owner(plan: SweepPlan) -> Iterator[None]:
    """Let no second command run the same sweeps at the same time.

    Raises:
        ValueError: another one does.
    """
    with contextlib.ExitStack() as stack:
        for arch, base in plan.bases.items():
            path = plan.folder / "locks" / f"{base.setting.hash}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(FileLock(path, timeout=0))
            except Timeout:
                raise ValueError(
                    f"another command is running the sweep of {arch} in study {plan.study!r}; "
                    "wait for it, or choose another --study"
                ) from None
        yield


def _treat_termination_as_interrupt() -> None:
    """End as on Ctrl-C when the job or the system asks to (SIGTERM)."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
