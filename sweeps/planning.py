"""From a command's arguments to everything a sweep needs, checked before anything is spent."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import models
from analysis.benchmarks import HUB, Source, load_suite
from sweeps.presets import Preset, choose
from sweeps.spaces import GridPlan, OptunaPlan, Plan
from sweeps.tasks import find_glue, split_tasks
from sweeps.tuning import ROOT, Resources, build_scheduler, local_gpus
from trainables.checkpoint import TrialFolder
from trainables.corpus import Blocks, Corpus, mini_benchmark, prepare_corpus
from trainables.device import default_precision
from trainables.spec import TrialSpec
from trainables.tracking import Tracker, tracking_uri
from trainables.trainer import Workplace, steps_per_epoch

if TYPE_CHECKING:
    from sweeps.lr_sweep import LrSweepArgs

Status = Callable[[str], None]
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class FinalTasks:
    """What is scored once, on the best checkpoint of each architecture.

    Attributes:
        zero_shot: benchmarks, or None.
        glue: names of GLUE tasks.
        folder: of GLUE's files, where there are tasks.
    """

    zero_shot: Source | None = None
    glue: tuple[str, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class SweepPlan:
    """A learning-rate sweep, ready to run.

    Attributes:
        bases: by architecture, the spec whose learning rate and seed vary.
        plans: by architecture, the order of its trials.
    """

    study: str
    storage: Path
    corpus: Corpus
    num_blocks: int
    benchmarks: Source | None
    num_items: int
    final: FinalTasks
    bases: dict[str, TrialSpec]
    plans: dict[str, Plan]
    resources: Resources
    epochs: int
    micro_batch: int | None
    checkpoint_minutes: float

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.storage / self.study

    @property
    def tracking_uri(self) -> str:
        """The MLflow store."""
        return tracking_uri(self.storage)

    def workplace(self, tracker: Tracker) -> Workplace:
        """Where the sweep's trials run."""
        return Workplace(
            study=self.folder,
            corpus=self.corpus.directory,
            benchmarks=self.benchmarks,
            tracker=tracker,
            micro_batch=self.micro_batch,
            threads=self.resources.cpus,
            checkpoint_minutes=self.checkpoint_minutes,
        )


def plan_sweep(args: LrSweepArgs, status: Status) -> SweepPlan:
    """Resolve the arguments: preset, corpus, benchmarks, specs, plans.

    Args:
        args: the command's arguments.
        status: told what takes a while.

    Raises:
        ValueError: something asked for cannot be; the message says what to do.
    """
    archs = chosen_archs(args.arch)
    _check_search(args)
    build_scheduler(args.scheduler, 1)
    preset = choose(args.preset, local_gpus())
    storage = resolve_storage(args.storage)
    source = args.corpus or preset.corpus
    resources = Resources.choose(
        _or(args.cpus_per_trial, preset.cpus_per_trial),
        _or(args.gpus_per_trial, float(preset.gpus_per_trial)),
        args.workers_per_trial,
        args.runner,
    )
    corpus = prepare_corpus(
        source,
        vocab_size=_or(args.vocab_size, preset.vocab_size),
        cache=storage / "corpora",
        progress=status,
    )
    benchmarks = _benchmarks(args, source, storage)
    suite = None
    if benchmarks is not None:
        suite = load_suite(benchmarks, args.protocol)
        suite.check_fits(corpus.tokenizer(), _or(args.context, preset.context))
    bases = {
        arch: _base_spec(args, preset, arch, corpus, suite.hash if suite else "", resources.gpus)
        for arch in archs
    }
    any_base = next(iter(bases.values()))
    num_blocks = len(Blocks(corpus.train, any_base.context))
    steps_per_epoch(any_base, num_blocks)
    if any_base.batch_size % resources.workers:
        raise ValueError(
            f"--batch-size {any_base.batch_size} does not divide among "
            f"{resources.workers} workers per trial"
        )
    study = args.study or f"{corpus.name}-{any_base.size}"
    folder = storage / study
    return SweepPlan(
        study=study,
        storage=storage,
        corpus=corpus,
        num_blocks=num_blocks,
        benchmarks=benchmarks,
        num_items=suite.num_items if suite else 0,
        final=_final_tasks(args, benchmarks, corpus, any_base),
        bases=bases,
        plans={arch: _build_plan(args, preset, base, folder) for arch, base in bases.items()},
        resources=resources,
        epochs=any_base.epochs,
        micro_batch=args.micro_batch,
        checkpoint_minutes=args.checkpoint_minutes,
    )


def chosen_archs(names: tuple[str, ...]) -> tuple[str, ...]:
    """The architectures to sweep; "all" stands for every one.

    Raises:
        ValueError: unknown name.
    """
    if not names:
        raise ValueError(f"--arch needs one or more of {', '.join(models.architectures())}, all")
    if "all" in names:
        return models.architectures()
    for name in names:
        if name not in models.architectures():
            raise ValueError(
                f"unknown architecture {name!r}: choose from "
                f"{', '.join(models.architectures())}, all"
            )
    return tuple(dict.fromkeys(names))


def resolve_storage(storage: Path | None) -> Path:
    """The storage folder as an absolute path: the flag, `BABYSWEEP_STORAGE`, or `runs/`.

    Raises:
        ValueError: none was given inside a submitted job, or it is not a path.
    """
    if storage is None and "BABYSWEEP_STORAGE" in os.environ:
        storage = Path(os.environ["BABYSWEEP_STORAGE"])
    if storage is None:
        if "working_dir_files" in ROOT.parts or "working_dir_files" in str(ROOT):
            raise ValueError(
                "a submitted job's working folder is temporary: pass --storage with an absolute "
                "path that all nodes share"
            )
        storage = ROOT / "runs"
    if "://" in str(storage) or ":/" in str(storage):
        raise ValueError(
            f"--storage must be a folder that all nodes share, not {storage}: mount the bucket, or "
            "use a network file system"
        )
    storage = storage.expanduser().resolve()
    storage.mkdir(parents=True, exist_ok=True)
    return storage


def earlier_trials(folder: Path, base: TrialSpec) -> dict[tuple[float, int], float | None]:
    """Trials in the study's folder that lie on the curve of `base`, by (lr, seed).

    Returns:
        Their best validation bits per byte: infinite if diverged, None while unfinished.
    """
    found: dict[tuple[float, int], float | None] = {}
    for trial in study_trials(folder):
        spec, outcome = trial.spec, trial.outcome
        if spec.setting == base.setting:
            found[spec.lr, spec.seed] = None if outcome is None else outcome.score
    return found


def study_trials(folder: Path) -> list[TrialFolder]:
    """The folders of all trials of a study, begun or ended."""
    return [TrialFolder(path.parent) for path in sorted(folder.glob("trials/*/spec.json"))]


def _check_search(args: LrSweepArgs) -> None:
    if args.search not in ("grid", "optuna"):
        raise ValueError(f"--search must be grid or optuna, not {args.search!r}")
    if args.search == "optuna" and args.lr_range is None:
        raise ValueError("--search optuna needs a range: --lr-range LO HI")
    if args.search == "grid" and args.lr_range is not None:
        raise ValueError("--lr-range goes with --search optuna; a grid takes --lrs")
    if args.search == "optuna" and args.lrs:
        raise ValueError("--lrs goes with --search grid; optuna takes --lr-range LO HI")
    if not args.seeds:
        raise ValueError("--seeds needs at least one seed")
    if args.num_samples < 1:
        raise ValueError(f"--num-samples must be at least 1, not {args.num_samples}")
    for seed in args.seeds:
        if seed < 0:
            raise ValueError(f"--seeds must not be negative, not {seed}")
    for name in ("micro_batch", "max_concurrent"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}")


def _benchmarks(args: LrSweepArgs, corpus: str, storage: Path) -> Source | None:
    """What to score every epoch: by default the built-in suite for the built-in corpus."""
    path = args.benchmarks
    if path is None:
        if corpus != "mini":
            if args.tasks or args.final_tasks:
                raise ValueError("--tasks and --final-tasks need --benchmarks: a folder, or hub")
            return None
        path = str(mini_benchmark(storage / "benchmarks"))
    elif path != HUB:
        path = str(Path(path).expanduser().resolve())
    return Source(path, args.tasks, ewok_password=args.ewok_password)


def _final_tasks(
    args: LrSweepArgs, source: Source | None, corpus: Corpus, spec: TrialSpec
) -> FinalTasks:
    if source is None or not args.final_tasks:
        return FinalTasks()
    zero_shot, glue = split_tasks(args.final_tasks, args.protocol)
    final = None
    if zero_shot:
        final = replace(source, tasks=zero_shot)
        load_suite(final, args.protocol).check_fits(corpus.tokenizer(), spec.context)
    return FinalTasks(final, glue, find_glue(source.path) if glue else None)


def _base_spec(
    args: LrSweepArgs, preset: Preset, arch: str, corpus: Corpus, suite_hash: str, gpus: float
) -> TrialSpec:
    spec = TrialSpec(
        arch=arch,
        size=args.size or preset.size,
        corpus=corpus.name,
        corpus_hash=corpus.hash,
        benchmarks_hash=suite_hash,
        protocol=args.protocol,
        context=_or(args.context, preset.context),
        batch_size=_or(args.batch_size, preset.batch_size),
        lr=1.0,
        epochs=_or(args.epochs, preset.epochs),
        seed=0,
        schedule=args.schedule,
        warmup=args.warmup,
        weight_decay=args.weight_decay,
        grad_clip=args.grad_clip,
        revision=models.revision(arch),
    )
    config = models.build_config(
        arch, spec.size, vocab_size=corpus.vocab_size, context=spec.context
    )
    is_auto = args.precision == "auto"
    precision = default_precision(gpus, config.hidden_size) if is_auto else args.precision
    return spec.replace(precision=precision)


def _build_plan(args: LrSweepArgs, preset: Preset, base: TrialSpec, folder: Path) -> Plan:
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


def measured_step_seconds(plan: SweepPlan, arch: str, steps: int = 3) -> float:
    """Seconds of one optimizer step of a trial, measured here after a warm-up step."""
    import statistics
    import time

    from trainables.device import pick_device, set_up_cpu
    from trainables.trainer import Data, Trainer, World

    spec = plan.bases[arch].replace(lr=1e-4)
    set_up_cpu(plan.resources.cpus)
    data = Data(
        plan.corpus,
        Blocks(plan.corpus.train, spec.context),
        Blocks(plan.corpus.dev, spec.context),
        plan.corpus.tokenizer(),
        None,
    )
    world = World(device=pick_device(plan.resources.gpus))
    trainer = Trainer(spec, data, world, plan.micro_batch)
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        nats, _norm = trainer.step()
        nats.item()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def model_counts(plan: SweepPlan, arch: str) -> tuple[int, int, float]:
    """Parameters, those outside the embeddings, and forward FLOPs per token."""
    spec = plan.bases[arch]
    config = models.build_config(
        arch, spec.size, vocab_size=plan.corpus.vocab_size, context=spec.context
    )
    counts = models.num_params(config)
    return counts.total, counts.non_embedding, models.flops_per_token(config, spec.context)


def _or(value: Number | None, default: Number) -> Number:
    return default if value is None else value
