"""Plans of a sweep: a part for each architecture, over one axis or several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.schema.axes import LR
from analysis.schema.ranges import check
from sweeps.arguments import LrSweepArgs
from sweeps.arguments.axes import set_single, values_of
from sweeps.plans.common import Status, SweepPlan, TrainingSetup, chosen_archs, prepare
from sweeps.plans.grids import CoordinatePlan, GridPlan
from sweeps.plans.milestones import plan_milestones
from sweeps.plans.proposals import OptunaPlan
from sweeps.plans.spaces import Plan
from sweeps.stored.trials import earlier_trials, scored
from trainables.spec import TrialSpec


def plan_sweep(args: LrSweepArgs, status: Status) -> SweepPlan:
    """The plan of a sweep, a part for each architecture; errors as for `prepare`."""
    archs = chosen_archs(args.arch)
    _check_search(args)
    check(args, flags=True)
    args = set_single(args)
    setup = prepare(args, status)
    values = values_of(args)
    values["lr"] = args.lr_range or values["lr"] or setup.preset.lrs
    bases = {arch: setup.at_values(setup.spec(arch), values) for arch in archs}
    folder = setup.storage / setup.study(next(iter(bases.values())))
    plans = {
        arch: _plan(args, values, base, folder, _is_possible(setup)) for arch, base in bases.items()
    }
    kind = "lr sweep" if tuple(values) == ("lr",) else f"sweep of {', '.join(values)}:"
    milestones = plan_milestones(args.milestones, setup, next(iter(bases.values())))
    return setup.plan(
        bases, plans, axes=tuple(values), asked=values, kind=kind, milestones=milestones
    )


def _check_search(args: LrSweepArgs) -> None:
    if args.search == "optuna":
        if args.lr_range is None:
            raise ValueError("--search optuna needs a range: --lr-range LO HI")
        if args.lrs:
            raise ValueError("--lrs goes with --search grid; optuna takes --lr-range LO HI")
        if args.order != "grid":
            raise ValueError("--order coordinate goes with --search grid; optuna has its own order")
        low, high = args.lr_range
        if not 0 < low < high:
            given = f"{LR.show(low)} {LR.show(high)}"
            raise ValueError(f"--lr-range needs 0 < LO < HI, not {given}")
    elif args.lr_range is not None:
        raise ValueError("--lr-range goes with --search optuna; a grid takes --lrs")


def _is_possible(setup: TrainingSetup) -> Callable[[TrialSpec], bool]:
    """Whether a trial beyond the grid can be trained: its batch may be too large, or not divide."""

    def is_possible(spec: TrialSpec) -> bool:
        try:
            setup.check_batch(spec)
        except ValueError:
            return False
        return True

    return is_possible


def _plan(
    args: LrSweepArgs,
    values: dict[str, tuple[Any, ...]],
    base: TrialSpec,
    folder: Path,
    allowed: Callable[[TrialSpec], bool],
) -> Plan:
    earlier = earlier_trials(folder, base, tuple(values))
    if args.search == "optuna":
        return OptunaPlan(
            base, values, args.num_samples, args.seeds, sampler=args.sampler, known=earlier
        )
    kind = CoordinatePlan if args.order == "coordinate" else GridPlan
    known = scored(earlier)
    return kind(base, values, args.seeds, extend=args.extend, known=known, allowed=allowed)
