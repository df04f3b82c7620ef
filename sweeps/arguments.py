"""The flags of every command, with their defaults and what `--help` says of them."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from analysis.schema.axes import AXES
from analysis.schema.fields import Optimizer, Precision, Protocol, Schedule, of_trial
from analysis.schema.ranges import LARGEST_VOCAB, MOST, within

ARCHITECTURES = "transformer, lstm, xlstm, mamba, hgrn2, gated_deltanet"
"""Those of `models.architectures()`, which takes seconds to import: --help is to answer at once."""

Architectures = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        help=f"Architectures: {ARCHITECTURES}; study (those of the BabyHGRN study), or all."
    ),
]
OneArchitecture = tyro.conf.arg(help=f"Architecture: one of {ARCHITECTURES}.")


@dataclass(frozen=True, kw_only=True)
class TrainingArgs:
    """What is trained on what, how, and where; unset ones come from the preset."""

    arch: Architectures
    preset: Literal["auto", "mini", "small", "base", "paper", "large"] = "auto"
    """Defaults for everything below: mini (a laptop), small, base, paper (the BabyHGRN study),
    large (its final model). auto: mini."""
    size: Literal["mini", "small", "base", "paper", "large"] | None = None
    """Model size, matched between architectures; large has 1B parameters, for a large GPU."""
    corpus: str | None = None
    """mini (generated), a file or folder of text (plain, Markdown, JSON lines and Parquet with
    `text`, CHAT transcripts; gz, bz2, xz or zst), babylm-strict-small, babylm-strict, pile-10m,
    pile-100m, or a data set id on the hub."""
    vocab_size: int | None = within(258, LARGEST_VOCAB, default=None)
    """Tokens of the BPE vocabulary, trained on the corpus."""
    benchmarks: str | None = None
    """Folder with blimp*, supplement*, ewok* ... folders, or hub (the Hugging Face hub). Default:
    the built-in benchmarks for the mini corpus, none for others."""
    tasks: tuple[str, ...] = ()
    """What to score after every epoch: blimp, supplement, ewok, bear, wug, entity_tracking, comps,
    names of the folders, or all. Default: those of the first three that are there."""
    final_tasks: tuple[str, ...] = ()
    """What to score once, on the best checkpoint of each architecture: the same names, glue, or
    names of GLUE tasks, which are fine-tuned."""
    ewok_password: str | None = field(default=None, repr=False)
    """Password of EWoK's zip file; default: BABYSWEEP_EWOK_PASSWORD."""
    protocol: Protocol = "2024"
    """Zero-shot protocol: 2024 (leading space, BOS) or 2025 (text as it is)."""

    seeds: tuple[int, ...] = of_trial("seed", default=(0,))
    """Everything is trained with each seed; three or more give an interval."""
    epochs: int | None = of_trial("epochs", default=None)
    """Passes over the corpus."""
    batch_size: int | None = of_trial("batch_size", default=None)
    """Sequences in one optimizer step."""
    micro_batch: int | Literal["auto"] | None = of_trial("batch_size", default=None)
    """Sequences in one forward pass, where a batch does not fit the memory. auto: as many as fit
    the trial's share of the GPU, with activations computed twice if not even one would. Default:
    auto on a GPU, the whole batch on a CPU."""
    context: int | None = of_trial("context", default=None)
    """Tokens in one sequence."""
    schedule: Schedule | None = None
    """Learning-rate schedule: linear, cosine or wsd (warm-up, stable, decay); default: linear."""
    warmup: float | None = of_trial("warmup", default=None)
    """Fraction of the steps with rising learning rate; default: 0.05."""
    weight_decay: float | None = of_trial("weight_decay", default=None)
    """Decoupled weight decay of matrices; default: 0.1."""
    dropout: float | None = of_trial("dropout", default=None)
    """Probability of dropout, of the embeddings and of what each layer adds; default: 0."""
    optimizer: Optimizer | None = None
    """adamw, or muon for the hidden matrices; default: adamw."""
    grad_clip: float = of_trial("grad_clip", default=1.0)
    """Maximum norm of the gradient."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast or not; auto: where the device gains from it."""

    cpus_per_trial: int | None = within(1, 4096, default=None)
    """CPUs, and threads, of one worker."""
    gpus_per_trial: float | None = within(0, 4096, default=None)
    """GPUs of one worker; fractions share one."""
    workers_per_trial: int = within(1, 4096, default=1)
    """Data-parallel workers of one trial."""
    max_concurrent: int | None = within(1, MOST, default=None)
    """Trials at once; default: as many as fit."""
    runner: Literal["auto", "inline", "train"] = "auto"
    """inline (one worker, quick to start) or train (Ray Train workers); auto: by their number."""
    address: str | None = None
    """Ray cluster to use; default: RAY_ADDRESS, else one started for this command."""
    storage: Path | None = None
    """Folder of corpora, checkpoints and the MLflow store; default: BABYSWEEP_STORAGE or runs/."""
    study: str | None = None
    """Name of the MLflow experiment; default: corpus and size."""
    checkpoint_minutes: float = within(0, 1e6, default=10.0)
    """Longest time between two checkpoints; there is one after every epoch anyway."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print parameters, FLOPs, steps, devices and a measured estimate of the time, and stop."""


Design = Literal["trajectory", "independent", "branch"]

AxesArgs: Any = make_dataclass(
    "AxesArgs",
    [
        (
            axis.plural,
            Annotated[tuple[axis.kind, ...], tyro.conf.arg(help=axis.help)],  # type: ignore[name-defined]
            of_trial(axis.field, default=()),
        )
        for axis in AXES.values()
    ],
    frozen=True,
    kw_only=True,
)
"""The values to try on each axis, e.g. `lrs`, `weight_decays`."""


@dataclass(frozen=True, kw_only=True)
class LrSweepArgs(AxesArgs, TrainingArgs):  # type: ignore[misc]
    """Arguments of the sweep."""

    order: Annotated[
        Literal["grid", "coordinate"],
        tyro.conf.arg(
            help="With several axes: grid tries all combinations; coordinate one axis after the "
            "other, each from the best point so far, in the order "
            f"{', '.join(axis.label for axis in AXES.values())}."
        ),
    ] = "grid"
    extend: bool = True
    """Add up to three values beyond the ends of an axis while the best point lies there."""
    search: Literal["grid", "optuna"] = "grid"
    """grid, or optuna within --lr-range and between the ends of the other axes."""
    lr_range: tuple[float, float] | None = of_trial("lr", default=None)
    """Lowest and highest learning rate for optuna."""
    num_samples: int = within(1, MOST, default=8)
    """Points that optuna tries."""
    sampler: Literal["gp", "tpe"] = "gp"
    """Optuna's sampler: gp (Gaussian process) or tpe."""
    scheduler: Literal["none", "asha"] = "none"
    """asha stops the worse two thirds of the trials early; none runs all to the end."""


@dataclass(frozen=True, kw_only=True)
class EpochStudyArgs(TrainingArgs):
    """Arguments of the epoch study."""

    arch: Annotated[tuple[str, ...], OneArchitecture] = ("hgrn2",)
    designs: tuple[Design, ...] = ("branch",)
    """What is compared; see above."""
    horizons: tuple[int, ...] = of_trial("epochs", default=())
    """Numbers of epochs to compare; default: 1 to --epochs."""
    lr: float | None = of_trial("lr", default=None)
    """Peak learning rate; default: the best of this architecture in the study, with the values of
    what else was swept there."""
    decay: float = of_trial("decay", default=0.3)
    """Fraction of the steps in the final decay of the schedule wsd, which branches have. A longer
    one ends nearer to a whole linear decay, and shares fewer steps between the lengths."""
    milestones: tuple[str, ...] = ()
    """Score also after so many words: 1000000, or 1M. A branch leaves those before it began to the
    longest trial."""


@dataclass(frozen=True, kw_only=True)
class DistillArgs(TrainingArgs):
    """Arguments of a distillation."""

    arch: tuple[str, ...] = ()
    """The student's architecture; default: the teacher's."""
    teacher: tuple[str, ...]
    """models:/NAME@ALIAS, models:/NAME/VERSION or a checkpoint's folder. Of several, the mean of
    their probabilities counts."""
    alphas: tuple[float, ...] = of_trial("alpha", default=(0.5,))
    """Weights of the divergence from the teacher, above 0 and up to 1."""
    temperatures: tuple[float, ...] = of_trial("temperature", default=(1.0,))
    """Temperatures of the probabilities in the divergence."""
    reverse_kl: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """KL(student || teacher), which seeks the teacher's modes, in place of KL(teacher || student).
    """
    lrs: tuple[float, ...] = of_trial("lr", default=())
    """Learning rates of the student; default: the teacher's."""
    student_init: Literal["scratch", "teacher"] = "scratch"
    """Start from random weights, or from the (first) teacher's."""
    control: bool = True
    """Also train without a teacher, which the gain is measured against."""


@dataclass(frozen=True)
class PromoteArgs:
    """Arguments of a promotion."""

    arch: Annotated[str, OneArchitecture] = "hgrn2"
    study: str | None = None
    """Name of the study; default: that of --run-id, or the only one there is."""
    name: str | None = None
    """Name of the registered model; default: the architecture."""
    alias: str = "teacher"
    """Alias that is moved to the promoted version."""
    run_id: str | None = None
    """MLflow run to promote in place of the study's best."""
    force: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Promote although what has the alias is better, or was validated on another corpus."""
    storage: Path | None = None
    """Folder of checkpoints and the MLflow store; default: BABYSWEEP_STORAGE or runs/."""


@dataclass(frozen=True, kw_only=True)
class PaperArgs(TrainingArgs):
    """Arguments of the study."""

    arch: Architectures = ("study",)
    teacher_arch: str = "hgrn2"
    """Architecture of epoch study, teacher and students."""
    lrs: tuple[float, ...] = of_trial("lr", default=())
    """The grid of learning rates of the sweep."""
    sweep_seeds: tuple[int, ...] = of_trial("seed", default=(0,))
    """Seeds of the sweep; --seeds are those of epoch study and distillation."""
    seeds: tuple[int, ...] = of_trial("seed", default=(0, 1, 2))
    """Seeds of epoch study and distillation; three or more give an interval."""
    designs: tuple[Design, ...] = ("branch",)
    """Of the epoch study."""
    horizons: tuple[int, ...] = of_trial("epochs", default=())
    """Numbers of epochs to compare; default: 1 to the preset's."""
    alphas: tuple[float, ...] = of_trial("alpha", default=(0.5,))
    """Weights of the divergence from the teacher."""
    temperatures: tuple[float, ...] = of_trial("temperature", default=(1.0,))
    """Temperatures of the divergence."""
    status: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print where the study stands, and stop."""


@dataclass(frozen=True)
class EvaluateArgs:
    """Arguments of an evaluation."""

    model: str
    """A checkpoint's folder, models:/NAME@ALIAS or models:/NAME/VERSION, or an id on the hub."""
    benchmarks: str = "hub"
    """Folder with blimp*, supplement*, ewok*, bear*, wug_adj*, entity_tracking*, comps*, glue*
    folders, or hub: BLiMP, EWoK (with your token) and BEAR from the Hugging Face hub."""
    tasks: tuple[str, ...] = ()
    """Kinds of benchmarks (blimp, supplement, ewok, bear, wug, entity_tracking, comps), names of
    folders, all (of these), glue, or names of GLUE tasks. Default: all that is there but GLUE; of
    the hub blimp. Of several folders of a kind the one that does not end in _fast is taken."""
    protocol: Protocol = "2024"
    """2024: leading space, conditioned on BOS; 2025: the text as the tokenizer takes it. Also
    GLUE's settings."""
    all_templates: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Ask BEAR's questions in every wording, not only in the first."""
    ewok_password: str | None = field(default=None, repr=False)
    """Password of EWoK's zip file; default: BABYSWEEP_EWOK_PASSWORD."""
    long_texts: Literal["refuse", "truncate"] = "refuse"
    """Texts longer than the model's context: an error, or lm-eval's rule: only their last tokens
    are read and scored. How many there were is reported."""

    precision: Precision = "fp32"
    """Arithmetic; bf16 (autocast) is faster and changes some decisions."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to score; auto: a GPU if there is one."""
    token_budget: int | None = within(1, MOST, default=None)
    """Most tokens in a batch, which bounds the memory."""
    eval_workers: int = within(1, 4096, default=1)
    """Ray workers that share the zero-shot evaluation."""
    cpus: int | None = within(1, 4096, default=None)
    """CPUs, and threads, of a worker or a GLUE trial. Default: a worker's share of this machine;
    one for a GLUE trial."""
    gpus: float | None = within(0, 4096, default=None)
    """GPUs of a worker or a GLUE trial on a GPU; default: one."""
    address: str | None = None
    """Ray cluster of workers and GLUE trials; default: RAY_ADDRESS, else one started here."""

    selection: Literal["split", "reported"] = "split"
    """What GLUE's epoch is chosen on: a split of the training data, or, as leaderboards do, the
    very set that is reported."""
    glue_lr: float | None = within(1e-15, 1e9, default=None)
    """Learning rate of fine-tuning in place of the protocol's: tiny models want a higher one."""
    glue_epochs: int | None = within(1, MOST, default=None)
    """Most epochs of fine-tuning in place of the protocol's."""
    storage: Path | None = None
    """Folder of results, GLUE trials and the MLflow store; default: BABYSWEEP_STORAGE or runs/."""
    output: Path | None = None
    """Folder of scores.json and answers.jsonl; default: one in the storage, named after the model.
    """
    submission: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write the BabyLM challenge's predictions.json files. They hold texts: keep EWoK's off
    the public web."""
    run_id: str | None = None
    """MLflow run to log the scores to."""
