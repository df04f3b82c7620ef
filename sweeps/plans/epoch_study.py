"""Plans of an epoch study: which trials its designs need, in which order, at which rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from analysis.points import varied
from analysis.schema.axes import AXES
from analysis.wording import count
from sweeps.arguments import Design, EpochStudyArgs
from sweeps.arguments.axes import given_value
from sweeps.plans.branches import BranchPlan
from sweeps.plans.common import Status, SweepPlan, TrainingSetup, chosen_archs, prepare
from sweeps.plans.grids import GridPlan
from sweeps.plans.milestones import plan_milestones
from sweeps.plans.spaces import Plan
from sweeps.stored.best import as_compared, best_trial
from sweeps.stored.trials import earlier_trials, ended_frame, scored, study_trials
from trainables.checkpoint import TrialFolder
from trainables.corpus import Blocks
from trainables.optim import steps_at_peak
from trainables.spec import TrialSpec
from trainables.trainer import steps_per_epoch
from trainables.trial import LOG_EVERY

DESIGNS: tuple[Design, ...] = get_args(Design)
_MOST_HORIZONS = 1000


@dataclass(frozen=True)
class Designs:
    """The trials of an epoch study's designs.

    Attributes:
        base: the spec with the study's own schedule, whatever its epochs; its seed varies.
        names: of the designs.
        horizons: numbers of epochs, ascending.
        steps_per_epoch: optimizer steps.
        decay: fraction of a branch's steps in its decay.
        seeds: of this command.
        milestones: words seen after which to keep the model, and to measure it.
        taken: see `SweepPlan`.
    """

    base: TrialSpec
    names: tuple[str, ...]
    horizons: tuple[int, ...]
    steps_per_epoch: int
    decay: float
    seeds: tuple[int, ...]
    milestones: tuple[int, ...] = ()
    taken: Mapping[str, Any] = field(default_factory=dict)

    def spec(self, design: str, horizon: int) -> TrialSpec:
        """The spec of a design's trial of so many epochs, for seed 0."""
        spec = self.base.replace(epochs=horizon)
        if design != "branch":
            return spec
        return spec.replace(schedule="wsd", warmup_steps=self.warmup_steps, decay=self.decay)

    def lengths(self, design: str) -> tuple[int, ...]:
        """Epochs of the trials of a design, the longest first."""
        return self.horizons[-1:] if design == "trajectory" else self.horizons[::-1]

    @property
    def warmup_steps(self) -> int:
        """Warm-up of all branches: of the longest one, but at most a tenth of the shortest."""
        longest = math.ceil(self.base.warmup * self.horizons[-1] * self.steps_per_epoch)
        return max(1, min(longest, self.horizons[0] * self.steps_per_epoch // 10))

    def trunk_step(self, horizon: int) -> int:
        """Step at which a branch of so many epochs leaves the trunk; 0 if it shares nothing.

        The last step at its peak after which a trial may leave a checkpoint: one where it reads
        the loss, in the middle of an epoch.
        """
        spec = self.spec("branch", horizon)
        step = steps_at_peak(spec, horizon * self.steps_per_epoch)
        step -= step % LOG_EVERY
        while step > 0 and step % self.steps_per_epoch == 0:
            step -= LOG_EVERY
        return step


def plan_designs(args: EpochStudyArgs, status: Status) -> tuple[TrainingSetup, Designs]:
    """Resolve the arguments to a setup and designs, with the learning rate from the study.

    Raises:
        ValueError: something asked for cannot be; the message says what to do.
    """
    archs = chosen_archs(args.arch)
    if len(archs) > 1:
        raise ValueError(
            f"an epoch study is of one architecture, not of {', '.join(archs)}: run one for each"
        )
    names = _names(args.designs)
    setup = prepare(args, status)
    base = setup.spec(archs[0])
    horizons = _horizons(args, base.epochs)
    base = base.replace(epochs=horizons[-1])
    study = setup.study(base)
    taken: dict[str, Any] = {}
    if args.lr is None:
        best, axes = best_point(setup.storage / study, base, study)
        taken = {name: getattr(best, name) for name in axes if given_value(args, name) is None}
        base = base.replace(**taken)
    else:
        base = base.replace(lr=args.lr)
    if base.schedule == "wsd":
        base = base.replace(decay=args.decay)
    steps = steps_per_epoch(base, len(Blocks(setup.corpus.train, base.context)))
    milestones = plan_milestones(args.milestones, setup, base)
    return setup, Designs(base, names, horizons, steps, args.decay, args.seeds, milestones, taken)


def plan_epochs(setup: TrainingSetup, designs: Designs) -> SweepPlan:
    """The trials of all designs, each once; errors as for `TrainingSetup.plan`."""
    study = setup.study(designs.base)
    folder = setup.storage / study
    bases: dict[str, TrialSpec] = {}
    plans: dict[str, Plan] = {}
    shared: dict[str, int] = {}
    settings: set[TrialSpec] = set()
    for design in designs.names:
        trunk: BranchPlan | None = None
        for horizon in designs.lengths(design):
            spec = designs.spec(design, horizon)
            if spec.setting in settings:
                continue  # of another design as well
            settings.add(spec.setting)
            part = f"{design} {count(horizon, 'epoch')}"
            bases[part] = spec
            known = earlier_trials(folder, spec)
            if design != "branch":
                values = {"lr": [spec.lr]}
                plans[part] = GridPlan(
                    spec, values, designs.seeds, extend=False, known=scored(known)
                )
            elif trunk is None:
                plans[part] = trunk = BranchPlan(spec, designs.seeds, known=known)
            else:
                shared[part] = designs.trunk_step(horizon)
                ready = _leaves_trunk(folder, spec, shared[part], trunk)
                plans[part] = BranchPlan(spec, designs.seeds, known=known, ready=ready)
    branches = designs.lengths("branch") if "branch" in designs.names else ()
    # Where the longest one ends its peak as well: a longer one may join the study.
    trunk_steps = {designs.trunk_step(horizon) for horizon in branches}
    return setup.plan(
        bases,
        plans,
        trunk_steps=tuple(sorted(trunk_steps - {0})),
        milestones=designs.milestones,
        shared_steps=shared,
        kind="epoch study",
        taken=designs.taken,
    )


def _leaves_trunk(
    folder: Path, spec: TrialSpec, step: int, trunk: BranchPlan
) -> Callable[[int], bool]:
    """Whether a seed's branch can begin: its checkpoint is there, or will never be."""

    def ready(seed: int) -> bool:
        if step == 0 or seed in trunk.ended:
            return True
        return TrialFolder.trunk(folder, spec.replace(seed=seed)).has_checkpoint(step)

    return ready


def best_point(folder: Path, base: TrialSpec, study: str) -> tuple[TrialSpec, tuple[str, ...]]:
    """The spec of the best of a study's ended trials of an architecture, size and corpus, and the
    axes that were varied where it was found.

    Any number of epochs and any schedule count, as `sweeps.stored.best` compares them.

    Raises:
        ValueError: there is none.
    """
    alike = [trial for trial in study_trials(folder) if _alike(trial.spec, base)]
    specs = {trial.spec.hash: trial.spec for trial in alike}
    trials = ended_frame(alike)
    best = None if trials.empty else best_trial(as_compared(trials, specs), specs)
    if best is None:
        raise ValueError(
            f"study {study!r} has no finished trial of {base.arch} {base.size} on this corpus to "
            f"take the learning rate from: run sweeps/lr_sweep.py --arch {base.arch} first, or "
            "give --lr"
        )
    found = specs[str(best["spec_hash"])]
    beside = [trial for trial in alike if trial.spec.without(AXES) == found.without(AXES)]
    return found, tuple(axis.field for axis in varied(ended_frame(beside)))


def _alike(spec: TrialSpec, base: TrialSpec) -> bool:
    names = ("arch", "size", "corpus_hash", "revision", "teacher", "init")
    return all(getattr(spec, name) == getattr(base, name) for name in names)


def _names(designs: tuple[str, ...]) -> tuple[str, ...]:
    if not designs:
        raise ValueError(f"--designs takes one or more of {', '.join(DESIGNS)}")
    return tuple(name for name in DESIGNS if name in designs)


def _horizons(args: EpochStudyArgs, epochs: int) -> tuple[int, ...]:
    if args.horizons and args.epochs is not None:
        raise ValueError(
            f"--epochs {args.epochs} stands for --horizons 1 to {args.epochs}: give one of them"
        )
    if not args.horizons and epochs > _MOST_HORIZONS:
        raise ValueError(
            f"--epochs {epochs} stands for --horizons 1 to {epochs}, a trial each: give at most "
            f"{_MOST_HORIZONS}, or those to look at, as --horizons 1 10 {epochs}"
        )
    return tuple(sorted(set(args.horizons or range(1, epochs + 1))))
