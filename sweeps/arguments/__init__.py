"""The flags of every command, with their defaults and what `--help` says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from analysis.flag_values import Names, default_is, place
from analysis.schema.fields import trial_field
from analysis.schema.ranges import MOST, within
from sweeps.arguments.axes import AxesArgs, GridArgs
from sweeps.arguments.scoring import EvaluateArgs, SubmitArgs
from sweeps.arguments.training import Architecture, ArchitectureOrGroup, TrainingArgs

__all__ = [
    "Design",
    "DistillArgs",
    "DoctorArgs",
    "EpochStudyArgs",
    "EvaluateArgs",
    "ExportArgs",
    "GridArgs",
    "LrSweepArgs",
    "PaperArgs",
    "PromoteArgs",
    "SubmitArgs",
    "TrainingArgs",
]

Design = Literal["trajectory", "independent", "branch"]


@dataclass(frozen=True, kw_only=True)
class MilestoneArgs:
    """Models that are kept and measured on the way."""

    PANEL = "output"

    milestones: Annotated[Names, default_is("none")] = ()
    """Keep the model, validate it and score the benchmarks, also after so many words: 1000000, or
    1M; babylm: after those that the challenge asks for. A branch leaves those before it began to
    the longest trial."""


@dataclass(frozen=True, kw_only=True)
class LrSweepArgs(GridArgs, MilestoneArgs, TrainingArgs):
    """Arguments of the sweep."""

    PANEL = "grid"

    extend: bool = True
    """Add up to three values beyond the ends of an axis while the best point lies there."""
    search: Literal["grid", "optuna"] = "grid"
    """grid, or optuna within --lr-range and between the ends of the other axes."""
    lr_range: tuple[float, float] | None = trial_field("lr", default=None)
    """Lowest and highest learning rate for optuna."""
    num_samples: int = within(1, MOST, default=8)
    """Points that optuna tries."""
    sampler: Literal["gp", "tpe"] = "gp"
    """Optuna's sampler: gp (Gaussian process) or tpe."""
    scheduler: Literal["none", "asha"] = "none"
    """asha stops the worse two thirds of the trials early; none runs all to the end."""


@dataclass(frozen=True, kw_only=True)
class PlateauArgs:
    """The learning rate of an epoch study."""

    PANEL = "training"

    lr: Annotated[float | None, default_is("the best of this architecture in the study")] = (
        trial_field("lr", default=None)
    )
    """Peak learning rate; the best one comes with the values of what else was swept there."""
    decay: float = trial_field("decay", default=0.3)
    """Fraction of the steps in the final decay of the schedule wsd, which branches have. A longer
    one ends nearer to a whole linear decay, and shares fewer steps between the lengths."""


@dataclass(frozen=True, kw_only=True)
class EpochStudyArgs(PlateauArgs, MilestoneArgs, TrainingArgs):
    """Arguments of the epoch study."""

    PANEL = "grid"

    arch: tuple[Architecture, ...] = ("hgrn2",)
    """The one architecture whose epochs are studied."""
    designs: tuple[Design, ...] = ("branch",)
    """What is compared; see above."""
    horizons: Annotated[tuple[int, ...], default_is("1 to --epochs")] = trial_field(
        "epochs", default=()
    )
    """Numbers of epochs to compare."""


@dataclass(frozen=True, kw_only=True)
class StudentArgs:
    """The teachers of a distillation, and how its students begin."""

    PANEL = "main"

    teacher: tuple[str, ...] = place()
    """models:/NAME@ALIAS, models:/NAME/VERSION or a checkpoint's folder. Of several, the mean of
    their probabilities counts."""
    student_init: Literal["scratch", "teacher"] = "scratch"
    """Start from random weights, or from the (first) teacher's."""
    control: bool = True
    """Also train without a teacher, which the gain is measured against."""


@dataclass(frozen=True, kw_only=True)
class DistillArgs(StudentArgs, AxesArgs, MilestoneArgs, TrainingArgs):  # type: ignore[misc]
    """Arguments of a distillation."""

    PANEL = "grid"

    arch: Annotated[tuple[Architecture, ...], default_is("the teacher's")] = ()
    """The student's architecture."""
    lrs: Annotated[tuple[float, ...], default_is("the teacher's")] = trial_field("lr", default=())
    """Learning rates of the student and its control; each is reported at its best. What else no
    flag sets or varies is the teacher's too, if it is of the student's architecture."""
    alphas: tuple[float, ...] = trial_field("alpha", default=(0.5,))
    """Weights of the divergence from the teacher, above 0 and up to 1."""
    temperatures: tuple[float, ...] = trial_field("temperature", default=(1.0,))
    """Temperatures of the probabilities in the divergence."""
    reverse_kl: bool = False
    """KL(student || teacher), which seeks the teacher's modes, in place of KL(teacher || student).
    """


@dataclass(frozen=True, kw_only=True)
class RegistryArgs:
    """The name of a promoted model, and where it is kept."""

    PANEL = "output"

    name: Annotated[str | None, default_is("the architecture")] = None
    """Name of the registered model."""
    alias: str = "teacher"
    """Alias that is moved to the promoted version."""
    storage: Annotated[Path | None, default_is("BABYSWEEP_STORAGE or runs/")] = place(default=None)
    """Folder, or s3:// address, of checkpoints; the folder has the MLflow store."""


@dataclass(frozen=True, kw_only=True)
class PromoteArgs(RegistryArgs):
    """Arguments of a promotion."""

    PANEL = "main"

    arch: Architecture = "hgrn2"
    """The architecture whose best run is promoted."""
    study: Annotated[str | None, default_is("that of --run-id, or the only one there is")] = None
    """Name of the study."""
    run_id: Annotated[str | None, default_is("the study's best")] = None
    """MLflow run to promote, or the hash of its trial."""
    force: bool = False
    """Promote although what has the alias is better, or was validated on another corpus."""


@dataclass(frozen=True, kw_only=True)
class WholeStudyArgs:
    """The subject of a whole study, and its state."""

    PANEL = "main"

    teacher_arch: Architecture = "hgrn2"
    """Architecture of epoch study, teacher and students."""
    sweep_seeds: tuple[int, ...] = trial_field("seed", default=(0,))
    """Seeds of the sweep; --seeds are those of epoch study and distillation."""
    status: bool = False
    """Print where the study stands, and stop."""


@dataclass(frozen=True, kw_only=True)
class PaperArgs(WholeStudyArgs, GridArgs, TrainingArgs):
    """Arguments of the study."""

    PANEL = "grid"

    arch: tuple[ArchitectureOrGroup, ...] = ("study",)
    """Architectures; study stands for those of the BabyHGRN study, all for every one."""
    seeds: tuple[int, ...] = trial_field("seed", default=(0, 1, 2))
    """Seeds of epoch study and distillation; three or more give an interval."""
    designs: tuple[Design, ...] = ("branch",)
    """Of the epoch study: trajectory, independent or branch."""
    horizons: Annotated[tuple[int, ...], default_is("1 to --epochs")] = trial_field(
        "epochs", default=()
    )
    """Numbers of epochs to compare."""
    alphas: tuple[float, ...] = trial_field("alpha", default=(0.5,))
    """Weights of the divergence from the teacher."""
    temperatures: tuple[float, ...] = trial_field("temperature", default=(1.0,))
    """Temperatures of the divergence."""


@dataclass(frozen=True, kw_only=True)
class ClusterArgs:
    """The cluster of a checkup."""

    PANEL = "machine"

    address: Annotated[str | None, default_is("RAY_ADDRESS, else one started here")] = None
    """Ray cluster to examine."""


@dataclass(frozen=True, kw_only=True)
class DoctorArgs(ClusterArgs):
    """Arguments of a checkup."""

    PANEL = "main"

    storage: Annotated[Path | None, default_is("BABYSWEEP_STORAGE or runs/")] = place(default=None)
    """Folder of corpora, checkpoints and the MLflow store, as the sweep will get it."""


@dataclass(frozen=True, kw_only=True)
class ExportArgs:
    """Arguments of an export."""

    PANEL = "main"

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = place()
    """A checkpoint's folder, models:/NAME@ALIAS or models:/NAME/VERSION, or an id on the hub."""
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = place()
    """Folder to write to, new or empty; with --push also one that holds the export already."""
    milestones: bool = False
    """Also the models that its training kept (lr_sweep's --milestones), each in a folder of DIR."""
    push: Annotated[str | None, tyro.conf.arg(metavar="OWNER/NAME")] = None
    """Put the export on the Hugging Face hub: MODEL as main, milestones as revisions chck_..."""
    private: bool = False
    """Of --push: if the hub has no such repository yet, the new one is shown to its owner only."""
    storage: Annotated[
        Path | None, default_is("that of the checkpoint, else BABYSWEEP_STORAGE or runs/")
    ] = place(default=None)
    """Folder, or s3:// address, of studies, with registered models and what is known of corpora."""
