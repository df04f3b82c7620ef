"""Arguments that all commands which train have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class TrainingArgs:
    """What is trained on what, how, and where; unset ones come from the preset."""

    arch: tuple[str, ...]
    """Architectures: transformer, lstm, xlstm, mamba, hgrn2, or all."""
    preset: str = "auto"
    """Defaults for everything below: mini (a laptop), small, base, paper (the BabyHGRN study),
    large (its final model). auto: mini."""
    size: str | None = None
    """Model size, matched between architectures: mini, small, base, paper, large (1B parameters,
    for a large GPU)."""
    corpus: str | None = None
    """mini (generated), a file or folder of text, babylm-strict-small, babylm-strict, pile-10m,
    pile-100m, or a data set id on the hub."""
    vocab_size: int | None = None
    """Tokens of the BPE vocabulary, trained on the corpus."""
    benchmarks: str | None = None
    """Folder with blimp*, supplement*, ewok* ... folders, or hub (the Hugging Face hub). Default:
    the built-in benchmarks for the mini corpus, none for others."""
    tasks: tuple[str, ...] = ()
    """What to score after every epoch: blimp, supplement, ewok, bear, wug, entity_tracking, names
    of the folders, or all. Default: those of the first three that are there."""
    final_tasks: tuple[str, ...] = ()
    """What to score once, on the best checkpoint of each architecture: the same names, glue, or
    names of GLUE tasks, which are fine-tuned."""
    ewok_password: str | None = field(default=None, repr=False)
    """Password of EWoK's zip file; default: BABYSWEEP_EWOK_PASSWORD."""
    protocol: str = "2024"
    """Zero-shot protocol: 2024 (leading space, BOS) or 2025 (text as it is)."""

    seeds: tuple[int, ...] = (0,)
    """Everything is trained with each seed; three or more give an interval."""
    epochs: int | None = None
    """Passes over the corpus."""
    batch_size: int | None = None
    """Sequences in one optimizer step."""
    micro_batch: int | Literal["auto"] | None = None
    """Sequences in one forward pass, where a batch does not fit the memory. auto: as many as fit
    the trial's share of the GPU, with activations computed twice if not even one would. Default:
    auto on a GPU, the whole batch on a CPU."""
    context: int | None = None
    """Tokens in one sequence."""
    schedule: str = "linear"
    """Learning-rate schedule: linear, cosine or wsd (warm-up, stable, decay)."""
    warmup: float = 0.05
    """Fraction of the steps with rising learning rate."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices."""
    grad_clip: float = 1.0
    """Maximum norm of the gradient."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast or not; auto: where the device gains from it."""

    cpus_per_trial: int | None = None
    """CPUs, and threads, of one worker."""
    gpus_per_trial: float | None = None
    """GPUs of one worker; fractions share one."""
    workers_per_trial: int = 1
    """Data-parallel workers of one trial."""
    max_concurrent: int | None = None
    """Trials at once; default: as many as fit."""
    runner: str = "auto"
    """inline (one worker, quick to start) or train (Ray Train workers); auto: by their number."""
    address: str | None = None
    """Ray cluster to use; default: RAY_ADDRESS, else one started for this command."""
    storage: Path | None = None
    """Folder of corpora, checkpoints and the MLflow store; default: BABYSWEEP_STORAGE or runs/."""
    study: str | None = None
    """Name of the MLflow experiment; default: corpus and size."""
    checkpoint_minutes: float = 10.0
    """Longest time between two checkpoints; there is one after every epoch anyway."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print parameters, FLOPs, steps, devices and a measured estimate of the time, and stop."""
