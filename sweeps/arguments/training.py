"""The flags that all commands which train have, by their panels of `--help`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from analysis.flag_values import default_is, place
from analysis.schema.choices import Depth, Layout
from analysis.schema.fields import Optimizer, Protocol, Schedule, trial_field
from analysis.schema.ranges import LARGEST_VOCAB, MOST, SMALLEST_SHARE, within
from sweeps.arguments.presets import PresetName, Size, preset_default
from sweeps.arguments.scoring import TaskNames

Architecture = Literal["transformer", "lstm", "xlstm", "mamba", "hgrn2", "gated_deltanet"]
"""Those of `models.architectures()`, which takes seconds to import: --help is to answer at once."""
CORPORA = (
    *("mini", "babylm-strict-small", "babylm-strict", "babylm-eng", "babylm-nld", "babylm-zho"),
    *("pile-10m", "pile-100m"),
)
"""Names that win over a path of that name, those of `trainables.corpus.sources`."""
ArchitectureOrGroup: TypeAlias = Literal[Architecture, "study", "all"]


@dataclass(frozen=True, kw_only=True)
class MainArgs:
    """Models of a study: architectures, size, seeds."""

    PANEL = "main"

    arch: tuple[ArchitectureOrGroup, ...]
    """Architectures; study stands for those of the BabyHGRN study, all for every one."""
    preset: PresetName = "auto"
    """Defaults of size, data, training and grid: mini (a laptop), small, base, paper (the BabyHGRN
    study), large (its final model). auto is mini."""
    size: Annotated[Size | None, default_is("that of the preset")] = None
    """Model size, matched between architectures; large has 1B parameters, for a large GPU."""
    seeds: tuple[int, ...] = trial_field("seed", default=(0,))
    """Everything is trained with each seed; three or more give an interval."""
    dry_run: bool = False
    """Print parameters, FLOPs, steps, devices and a measured estimate of the time, and stop."""


@dataclass(frozen=True, kw_only=True)
class DataArgs:
    """Corpus and benchmarks of a study."""

    PANEL = "data"

    corpus: Annotated[str | None, preset_default("corpus")] = place(*CORPORA, default=None)
    """mini (generated), a file or folder of text (plain, Markdown, JSON lines and Parquet with
    `text`, CHAT transcripts; gz, bz2, xz or zst), babylm-strict-small, babylm-strict, babylm-eng,
    babylm-nld, babylm-zho, pile-10m, pile-100m, or a data set id on the hub."""
    vocab_size: Annotated[int | None, preset_default("vocab_size")] = within(
        258, LARGEST_VOCAB, default=None
    )
    """Tokens of the BPE vocabulary, trained on the corpus."""
    benchmarks: Annotated[
        str | None, default_is("the built-in ones for the corpus mini, none for others")
    ] = place("hub", default=None)
    """Folder with blimp*, supplement*, ewok* ... folders, or with the BabyLM challenge's full_eval/
    and fast_eval/ of them, or hub (the Hugging Face hub)."""
    tasks: Annotated[TaskNames, default_is("those of the macro that are there")] = ()
    """What to score after every epoch: blimp, supplement, ewok, bear, wug, wug_past,
    entity_tracking, comps, reading, global_piqa_parallel, global_piqa_nonparallel, names of the
    folders, or all. The macro averages the first three; with --protocol 2026 all but bear, wug
    and wug_past."""
    final_tasks: Annotated[TaskNames, default_is("none")] = ()
    """What to score once, on the best checkpoint of each architecture: the same names; or what is
    fine-tuned on: glue, multilingual, multilingual_nl (_en, _zh), names of tasks (rte,
    sib200_nl)."""
    depth: Annotated[Depth | None, default_is("fast after epochs, full for --final-tasks")] = None
    """Of two folders of a kind: fast, that ending in _fast or in fast_eval/; full, the other."""
    layout: Layout = "auto"
    """Minimal pairs in files of plain lines: which sentence of two is the good one."""
    ewok_password: Annotated[str | None, default_is("BABYSWEEP_EWOK_PASSWORD")] = field(
        default=None, repr=False
    )
    """Password of EWoK's zip file; better in BABYSWEEP_EWOK_PASSWORD: others may see a command."""
    protocol: Protocol = "2024"
    """Zero-shot protocol, BabyLM's of a year: 2024 (leading space, BOS), 2025 (text as it is), 2026
    (as 2025, with more benchmarks in the macro)."""


@dataclass(frozen=True, kw_only=True)
class HyperparameterArgs:
    """Hyperparameters that every trial has in common."""

    PANEL = "training"

    epochs: Annotated[int | None, preset_default("epochs")] = trial_field("epochs", default=None)
    """Passes over the corpus."""
    batch_size: Annotated[int | None, preset_default("batch_size")] = trial_field(
        "batch_size", default=None
    )
    """Sequences in one optimizer step."""
    context: Annotated[int | None, preset_default("context")] = trial_field("context", default=None)
    """Tokens in one sequence."""
    schedule: Annotated[Schedule | None, default_is("linear")] = None
    """Learning-rate schedule: linear, cosine or wsd (warm-up, stable, decay)."""
    warmup: Annotated[float | None, default_is("0.05")] = trial_field("warmup", default=None)
    """Fraction of the steps with rising learning rate."""
    weight_decay: Annotated[float | None, default_is("0.1")] = trial_field(
        "weight_decay", default=None
    )
    """Decoupled weight decay of matrices."""
    dropout: Annotated[float | None, default_is("0")] = trial_field("dropout", default=None)
    """Probability of dropout, of the embeddings and of what each layer adds."""
    optimizer: Annotated[Optimizer | None, default_is("adamw")] = None
    """adamw, or muon for the hidden matrices."""
    grad_clip: Annotated[float | None, default_is("1.0")] = trial_field("grad_clip", default=None)
    """Maximum norm of the gradient."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast or not; auto: where the device gains from it."""


@dataclass(frozen=True, kw_only=True)
class MachineArgs:
    """Hardware of the trials."""

    PANEL = "machine"

    cpus_per_trial: Annotated[int | None, preset_default("cpus_per_trial")] = within(
        1, 4096, default=None
    )
    """CPUs, and threads, of one worker."""
    gpus_per_trial: Annotated[float | None, preset_default("gpus_per_trial")] = within(
        SMALLEST_SHARE, 4096, or_zero=True, default=None
    )
    """GPUs of one worker; fractions share one. Preset auto: 0.25 where there is a GPU."""
    workers_per_trial: int = within(1, 4096, default=1)
    """Data-parallel workers of one trial."""
    max_concurrent: Annotated[int | None, default_is("as many as fit")] = within(
        1, MOST, default=None
    )
    """Trials at once."""
    micro_batch: Annotated[
        int | Literal["auto"] | None, default_is("auto on a GPU, the whole batch on a CPU")
    ] = trial_field("batch_size", default=None)
    """Sequences in one forward pass, where a batch does not fit the memory. auto: as many as fit
    the trial's share of the GPU, with activations computed twice if not even one would."""
    runner: Literal["auto", "inline", "train"] = "auto"
    """inline (one worker, quick to start) or train (Ray Train workers); auto: by their number."""
    address: Annotated[str | None, default_is("RAY_ADDRESS, else one started here")] = None
    """Ray cluster to use."""


@dataclass(frozen=True, kw_only=True)
class OutputArgs:
    """Name and storage of a study."""

    PANEL = "output"

    study: Annotated[str | None, default_is("corpus and size, like mini-mini")] = None
    """Name of the study, MLflow's experiment."""
    storage: Annotated[Path | None, default_is("BABYSWEEP_STORAGE or runs/")] = place(default=None)
    """Folder, or s3:// address, of corpora and checkpoints; the folder has the MLflow store."""
    checkpoint_minutes: float = within(0, 1e6, default=10.0)
    """Longest time between two checkpoints; there is one after every epoch anyway."""
    keep: Literal["newest", "best"] = "newest"
    """Checkpoints of trials that ended. newest: of each the best epoch's parameters and all of its
    last, and what longer trials of an epoch study go on from; best: the former only."""


@dataclass(frozen=True, kw_only=True)
class TrainingArgs(OutputArgs, MachineArgs, HyperparameterArgs, DataArgs, MainArgs):
    """The flags of a command that trains; unset ones come from the preset."""
