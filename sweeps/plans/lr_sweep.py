"""Plans of a learning-rate sweep: a part for each architecture, rates from a grid or Optuna."""

from __future__ import annotations

from pathlib import Path

from sweeps.arguments import LrSweepArgs
from sweeps.engine.tuning import build_scheduler
from sweeps.plans.common import Status, SweepPlan, chosen_archs, prepare
from sweeps.plans.presets import Preset
from sweeps.plans.spaces import GridPlan, OptunaPlan, Plan
from sweeps.stored.trials import earlier_trials
from trainables.spec import TrialSpec


def plan_sweep(args: LrSweepArgs, status: Status) -> SweepPlan:
    """The plan of a learning-rate sweep, a part for each architecture; errors as for `prepare`."""
    archs = chosen_archs(args.arch)
    _check_search(args)
    build_scheduler(args.scheduler, 1)
    ground = prepare(args, status)
    bases = {arch: ground.spec(arch) for arch in archs}
    folder = ground.storage / ground.study(next(iter(bases.values())))
    plans = {arch: _lr_plan(args, ground.preset, base, folder) for arch, base in bases.items()}
    return ground.plan(bases, plans)


def _check_search(args: LrSweepArgs) -> None:
    if args.search not in ("grid", "optuna"):
        raise ValueError(f"--search must be grid or optuna, not {args.search!r}")
    if args.search == "optuna" and args.lr_range is None:
        raise ValueError("--search optuna needs a range: --lr-range LO HI")
    if args.search == "grid" and args.lr_range is not None:
        raise ValueError("--lr-range goes with --search optuna; a grid takes --lrs")
    if args.search == "optuna" and args.lrs:
        raise ValueError("--lrs goes with --search grid; optuna takes --lr-range LO HI")
    if args.num_samples < 1:
        raise ValueError(f"--num-samples must be at least 1, not {args.num_samples}")


def _lr_plan(args: LrSweepArgs, preset: Preset, base: TrialSpec, folder: Path) -> Plan:
    earlier = earlier_trials(folder, base)
    if args.search == "optuna":
        assert args.lr_range is not None
        low, high = args.lr_range
        return OptunaPlan(
            low,
            high,
            args.num_samples,
            args.seeds,
            sampler=args.sampler,
            known=earlier,
        )
    lrs = args.lrs or preset.lrs
    for lr in lrs:
        base.replace(lr=lr)  # checks it
    known = {pair: score for pair, score in earlier.items() if score is not None}
    return GridPlan(lrs, args.seeds, extend=args.extend, known=known)
