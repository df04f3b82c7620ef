"""From a command's arguments to everything its trials need, checked before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

import models
from analysis import literature
from analysis.benchmarks import BenchmarkSource, Suite, load_suite, password
from analysis.benchmarks.classification import ClassificationTask
from analysis.config_file import save_config
from analysis.errors import named
from analysis.places import path_or_hub_id, reading
from analysis.schema.axes import AXES
from analysis.schema.ranges import check
from analysis.store import make_store, tracking_uri
from sweeps.arguments import TrainingArgs
from sweeps.arguments.axes import given_value
from sweeps.arguments.presets import Preset, choose
from sweeps.arguments.training import CORPORA
from sweeps.engine.resources import Resources
from sweeps.engine.scoring.finetuning import check_tasks
from sweeps.engine.scoring.found import Found, look_into
from sweeps.engine.scoring.tasks import benchmark_place, check_folder, split_tasks
from sweeps.engine.tuning import local_gpus
from sweeps.plans.spaces import Plan, Values, variants
from sweeps.stored.trials import check_study_name, resolve_storage, study_name, study_trials
from trainables.checkpoint import TrialFolder
from trainables.corpus import Blocks, Corpus, mini_benchmark, prepare_corpus
from trainables.device import default_precision
from trainables.kept import put_folder
from trainables.launches import KERNEL_AXES, TrialWork
from trainables.milestones import steps_between
from trainables.spec import TrialSpec
from trainables.tracking import Tracker
from trainables.trainer import MicroBatch, RuntimeConfig, steps_per_epoch

Status = Callable[[str], None]
Number = TypeVar("Number", int, float)
PROCESS_BYTES = 0.4e9
"""Memory that a process has to itself once it has imported the libraries."""


@dataclass(frozen=True)
class FinalTasks:
    """Tasks that are scored once, on the best checkpoint of each architecture.

    Attributes:
        zero_shot: benchmarks, or None.
        glue: tasks to fine-tune on, with the labels of their files.
        folder: of benchmarks that their files are in.
    """

    zero_shot: BenchmarkSource | None = None
    glue: tuple[ClassificationTask, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class SweepPlan:
    """Trials, ready to run.

    Attributes:
        bases: by part of the plan, the spec whose seed and axes vary. The parts of a sweep are its
            architectures.
        plans: by part, the order of its trials.
        teachers, init, trunk_steps, milestones: see `RuntimeConfig`.
        shared_steps: by part, the first steps that its trials take over from another part's.
        kind: what the parts are called in MLflow.
        axes: that vary within a part (`analysis.schema.axes.AXES`).
        asked: by axis, the values, or ends of a range, that were asked for.
        taken: by flag, the values that no flag gave and the study did.
        found: what the folder of benchmarks holds, if one was named.
    """

    study: str
    storage: Path
    corpus: Corpus
    num_blocks: int
    benchmarks: BenchmarkSource | None
    num_items: int
    final: FinalTasks
    bases: dict[str, TrialSpec]
    plans: dict[str, Plan]
    resources: Resources
    micro_batch: MicroBatch
    checkpoint_minutes: float
    keep: Literal["newest", "best"]
    teachers: tuple[Path, ...] = ()
    init: Path | None = None
    trunk_steps: tuple[int, ...] = ()
    milestones: tuple[int, ...] = ()
    shared_steps: Mapping[str, int] = field(default_factory=dict)
    kind: str = "lr sweep"
    axes: tuple[str, ...] = ("lr",)
    asked: Values = field(default_factory=dict)
    taken: Mapping[str, Any] = field(default_factory=dict)
    found: Found = Found()

    @property
    def epochs(self) -> int:
        """Epochs of the longest trial."""
        return max(base.epochs for base in self.bases.values())

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.storage / self.study

    @property
    def tracking_uri(self) -> str:
        """The MLflow store."""
        return tracking_uri(self.storage)

    @property
    def least_memory(self) -> float:
        """Bytes of the machine's memory that a worker of a trial takes at least.

        On a CPU float32 parameters, their gradients and one of the optimizer's moments are in it,
        and the teachers' parameters; what a step needs beside them is not.
        """
        if self.resources.gpus:
            return PROCESS_BYTES
        vocab = self.corpus.vocab_size
        configs = [
            models.build_config(base.arch, base.size, vocab_size=vocab, context=base.context)
            for base in self.bases.values()
        ]
        params = max(models.num_params(config).total for config in configs)
        teachers = sum(
            file.stat().st_size for each in self.teachers for file in each.glob("*.safetensors")
        )
        return PROCESS_BYTES + 12.0 * params + teachers

    def fitting(self, available: dict[str, float], limit: int | None = None) -> int:
        """Number of its trials that fit a cluster at once, see `Resources.trials_at_once`."""
        return self.resources.trials_at_once(available, limit, self.least_memory)

    @property
    def works(self) -> list[TrialWork]:
        """What its trials do on a GPU, those that launch other kernels apart."""
        kinds = [kind for b in self.bases.values() for kind in variants(b, self.asked, KERNEL_AXES)]
        shares = [k.replace(batch_size=k.batch_size // self.resources.workers) for k in kinds]
        vocab_size = self.corpus.vocab_size
        return [TrialWork(share, vocab_size, self.micro_batch, self.teachers) for share in shares]

    def validations(self, spec: TrialSpec, total_steps: int) -> list[int]:
        """The steps of a trial after which it is validated and scored besides after its epochs."""
        return steps_between(spec, self.corpus, self.milestones, total_steps)

    @property
    def stop_file(self) -> Path:
        """The file that asks this sweep's trials to stop."""
        return self.folder / "locks" / f"{min(self.sweep_hashes)}.stop"

    @property
    def sweep_hashes(self) -> list[str]:
        """What names each part's sweep."""
        return [base.sweep_hash(self.axes) for base in self.bases.values()]

    @property
    def trials(self) -> list[TrialFolder]:
        """The folders of its trials, and of earlier ones of the same sweeps."""
        mine = set(self.sweep_hashes)
        trials = study_trials(self.folder)
        return [trial for trial in trials if trial.spec.sweep_hash(self.axes) in mine]

    @property
    def trunks(self) -> list[TrialFolder]:
        """The folders of what its trials share with longer and shorter ones."""
        if not any(self.trunk_steps):
            return []
        trunks = [TrialFolder.trunk(self.folder, trial.spec) for trial in self.trials]
        return [*{trunk.path: trunk for trunk in trunks}.values()]

    @property
    def unfinished(self) -> list[TrialFolder]:
        """The folders of the study's trials, and of trunks, without an outcome."""
        trunks = [TrialFolder(path) for path in self.folder.glob("trunks/*")]
        return [trial for trial in [*study_trials(self.folder), *trunks] if trial.outcome is None]

    def runtime_config(self, tracker: Tracker) -> RuntimeConfig:
        """The paths and machine settings with which the sweep's trials run."""
        return RuntimeConfig(
            study=self.folder,
            corpus=self.corpus.directory,
            benchmarks=self.benchmarks,
            tracker=tracker,
            teachers=self.teachers,
            init=self.init,
            trunk_steps=self.trunk_steps,
            milestones=self.milestones,
            micro_batch=self.micro_batch,
            gpus=self.resources.gpus,
            threads=self.resources.cpus,
            checkpoint_minutes=self.checkpoint_minutes,
            stop=self.stop_file,
        )


@dataclass(frozen=True)
class TrainingSetup:
    """The inputs of a training command, checked and resolved, before its trials are known.

    Attributes:
        suite: the benchmarks scored every epoch, None for none.
    """

    args: TrainingArgs
    preset: Preset
    storage: Path
    corpus: Corpus
    benchmarks: BenchmarkSource | None
    suite: Suite | None
    resources: Resources

    @property
    def suite_hash(self) -> str:
        """Hash of the benchmarks scored every epoch, "" for none."""
        return self.suite.hash if self.suite else ""

    def found(self, final: FinalTasks, final_suite: Suite | None) -> Found:
        """What the folder of benchmarks holds, if one was named."""
        suites = (self.suite, final_suite)
        return look_into(self.args.benchmarks, suites, final.glue, "--final-tasks")

    def spec(self, arch: str) -> TrialSpec:
        """The spec of an architecture, but for its learning rate and seed.

        What no flag says is the preset's, or `TrialSpec`'s default.

        Raises:
            ValueError: a value that no trial can have.
        """
        args, preset = self.args, self.preset
        names = ("grad_clip", *(name for name in AXES if name != "lr"))
        given = {name: value for name in names if (value := given_value(args, name)) is not None}
        spec = TrialSpec(
            arch=arch,
            size=args.size or preset.size,
            corpus=self.corpus.name,
            corpus_hash=self.corpus.hash,
            benchmarks_hash=self.suite_hash,
            protocol=args.protocol,
            context=_or(args.context, preset.context),
            batch_size=_or(args.batch_size, preset.batch_size),
            lr=1.0,
            epochs=_or(args.epochs, preset.epochs),
            seed=0,
            revision=models.revision(arch),
        ).replace(**given)
        config = models.build_config(
            arch, spec.size, vocab_size=self.corpus.vocab_size, context=spec.context
        )
        is_auto = args.precision == "auto"
        fitting = default_precision(self.resources.gpus, config.hidden_size)
        return spec.replace(precision=fitting if is_auto else args.precision)

    def num_blocks(self, spec: TrialSpec) -> int:
        """Training blocks of an epoch."""
        return len(Blocks(self.corpus.train, spec.context))

    def check_batch(self, spec: TrialSpec) -> None:
        """Check that the workers can share a batch, and that the corpus fills one.

        Raises:
            ValueError: they cannot, or it does not.
        """
        steps_per_epoch(spec, self.num_blocks(spec))
        if spec.batch_size % self.resources.workers:
            raise ValueError(
                f"--batch-size {spec.batch_size} does not divide among "
                f"{self.resources.workers} workers per trial"
            )

    def at_values(self, base: TrialSpec, values: Values) -> TrialSpec:
        """A spec with a value to try of every axis: its own where that is one, else the first.

        Raises:
            ValueError: a combination of the values cannot be trained.
        """
        for combination in product(*values.values()):  # Optuna stays between these
            self.check_batch(base.replace(**dict(zip(values, combination, strict=True))))
        new = {n: given[0] for n, given in values.items() if getattr(base, n) not in given}
        return base.replace(**new)

    def study(self, spec: TrialSpec) -> str:
        """Name of the study."""
        return self.args.study or study_name(f"{self.corpus.name}-{spec.size}")

    def plan(self, bases: dict[str, TrialSpec], plans: dict[str, Plan], **extra: Any) -> SweepPlan:
        """The plan of these trials.

        Raises:
            ValueError: a batch does not divide among the workers, or the corpus is too short.
        """
        args, base = self.args, next(iter(bases.values()))
        self.check_batch(base)
        final, suite = final_tasks(args, self.benchmarks)
        if suite is not None:
            with named("--final-tasks"):
                suite.check_fits(self.corpus.tokenizer(), base.context)
        return SweepPlan(
            study=self.study(base),
            storage=self.storage,
            corpus=self.corpus,
            num_blocks=self.num_blocks(base),
            benchmarks=self.benchmarks,
            num_items=self.suite.num_items if self.suite else 0,
            final=final,
            found=self.found(final, suite),
            bases=bases,
            plans=plans,
            resources=self.resources,
            micro_batch=args.micro_batch or ("auto" if self.resources.gpus else None),
            checkpoint_minutes=args.checkpoint_minutes,
            keep=args.keep,
            **extra,
        )


def prepare(args: TrainingArgs, status: Status, corpus: Corpus | None = None) -> TrainingSetup:
    """Resolve what all training commands share: preset, resources, corpus, benchmarks.

    Args:
        args: the command's arguments.
        status: told what takes a while.
        corpus: in place of the one that the arguments name.

    Raises:
        ValueError: something asked for cannot be; the message says what to do.
    """
    check(args, flags=True)
    if args.study is not None:
        check_study_name(args.study)
    if not args.seeds:
        raise ValueError("--seeds needs at least one seed")
    preset = choose(args.preset, local_gpus())
    storage = resolve_storage(args.storage)
    if not args.dry_run:
        make_store(tracking_uri(storage))
    source = corpus.name if corpus else args.corpus or preset.corpus
    resources = Resources.choose(
        _or(args.cpus_per_trial, preset.cpus_per_trial),
        _or(args.gpus_per_trial, float(preset.gpus_per_trial)),
        args.workers_per_trial,
        args.runner,
    )
    # Before the corpus, which may take long: of what cannot be scored all of it would be in vain.
    benchmarks = _benchmarks(args, source, storage)
    suite = None if benchmarks is None else load_suite(benchmarks, args.protocol)
    with path_or_hub_id("--corpus", source, CORPORA), reading("--corpus", source):
        corpus = corpus or prepare_corpus(
            source,
            vocab_size=_or(args.vocab_size, preset.vocab_size),
            cache=storage / "corpora",
            progress=status,
        )
    if suite is not None:
        suite.check_fits(corpus.tokenizer(), _or(args.context, preset.context))
    return TrainingSetup(args, preset, storage, corpus, benchmarks, suite, resources)


def chosen_archs(names: tuple[str, ...]) -> tuple[str, ...]:
    """The architectures to sweep; "study" stands for those of the BabyHGRN study, "all" for every
    one.

    Raises:
        ValueError: there is none.
    """
    groups = {"study": tuple(literature.BEST), "all": models.architectures()}
    choices = ", ".join((*models.architectures(), *groups))
    if not names:
        raise ValueError(f"--arch needs one or more of {choices}")
    found: list[str] = []
    for name in names:
        found += groups.get(name, (name,))
    return tuple(dict.fromkeys(found))


def _benchmarks(args: TrainingArgs, corpus: str, storage: Path) -> BenchmarkSource | None:
    """Benchmarks to score every epoch: by default the built-in suite for the built-in corpus."""
    path = args.benchmarks
    if path is None:
        if corpus != "mini":
            if args.tasks or args.final_tasks:
                raise ValueError("--tasks and --final-tasks need --benchmarks: a folder, or hub")
            return None
        folder = mini_benchmark(storage / "benchmarks")
        put_folder(folder)
        path = str(folder)
    path = benchmark_place(path)
    return BenchmarkSource(
        path,
        args.tasks,
        fast=args.depth != "full",
        layout=args.layout,
        ewok_password=password(args.ewok_password),
    )


def final_tasks(
    args: TrainingArgs, source: BenchmarkSource | None
) -> tuple[FinalTasks, Suite | None]:
    """The tasks that are scored once, and the zero-shot benchmarks among them.

    Raises:
        ValueError: a task is not known, or its files are not there or damaged.
    """
    if source is None or not args.final_tasks:
        return FinalTasks(), None
    with named("--final-tasks"):
        zero_shot, names = split_tasks(args.final_tasks, args.protocol)
        final, suite = None, None
        if zero_shot:
            final = replace(source, tasks=zero_shot, fast=args.depth == "fast")
            suite = load_suite(final, args.protocol)
        folder = check_folder(source.path, args.final_tasks) if names else None
        glue = check_tasks(folder, names) if folder else ()
    return FinalTasks(final, glue, folder), suite


def keep_config(folder: Path, args: Any) -> None:
    """Write a command's flags into its study's folder, see `save_config`; into its bucket, too."""
    put_folder(save_config(folder, args).parent)


def _or(value: Number | None, default: Number) -> Number:
    return default if value is None else value
