"""Find the best learning rate of a language-model architecture on a corpus.

Every trial is recorded in MLflow. Running the same command again continues where it stopped;
finished trials are not run again, and further --lrs or --seeds add trials to the same study.

    python sweeps/lr_sweep.py --arch mamba
    python sweeps/lr_sweep.py --arch all --seeds 0 1 2
    python sweeps/lr_sweep.py --arch hgrn2 --corpus my_texts/ --benchmarks evaluation_data/
    python sweeps/lr_sweep.py --arch lstm --search optuna --lr-range 1e-4 1e-1 --num-samples 8
    python sweeps/lr_sweep.py --preset paper --arch all --dry-run
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

if __name__ == "__main__":
    # The sibling packages, whether or not the project is installed; not this folder's modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


@dataclass(frozen=True)
class LrSweepArgs:
    """Arguments of the sweep; unset ones come from the preset."""

    arch: tuple[str, ...]
    """Architectures: transformer, lstm, xlstm, mamba, hgrn2, or all."""
    preset: str = "auto"
    """Defaults for everything below: mini (a laptop), small, base, paper (the BabyHGRN study).
    auto: mini."""
    size: str | None = None
    """Model size, matched between architectures: mini, small, base, paper."""
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
    ewok_password: str | None = None
    """Password of EWoK's zip file; default: BABYSWEEP_EWOK_PASSWORD."""
    protocol: str = "2024"
    """Zero-shot protocol: 2024 (leading space, BOS) or 2025 (text as it is)."""

    lrs: tuple[float, ...] = ()
    """The grid of learning rates."""
    extend: bool = True
    """Add up to three points beyond the grid while its best learning rate lies on the edge."""
    search: str = "grid"
    """grid, or optuna within --lr-range."""
    lr_range: tuple[float, float] | None = None
    """Lowest and highest learning rate for optuna."""
    num_samples: int = 8
    """Learning rates that optuna tries."""
    sampler: str = "gp"
    """Optuna's sampler: gp (Gaussian process) or tpe."""
    seeds: tuple[int, ...] = (0,)
    """Every learning rate is run with each seed; three or more give an interval."""
    scheduler: str = "none"
    """asha stops the worse two thirds of the trials early; none runs all to the end."""

    epochs: int | None = None
    """Passes over the corpus."""
    batch_size: int | None = None
    """Sequences in one optimizer step."""
    micro_batch: int | None = None
    """Sequences in one forward pass, where a batch does not fit the memory."""
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
    """inline (one CPU worker, quick to start) or train (Ray Train workers)."""
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


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = tyro.cli(LrSweepArgs, args=argv, description=__doc__)
    from sweeps.environment import secure_local_cluster

    secure_local_cluster(args.address)
    from sweeps.running import run_lr_sweep  # heavy imports: not before --help

    return run_lr_sweep(args)


if __name__ == "__main__":
    from sweeps.lr_sweep import main as imported_main  # one module, also for pickles and types

    sys.exit(imported_main())
