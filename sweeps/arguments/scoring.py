"""The flags of `evaluate`, by their panels of `--help`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import tyro

from analysis.flag_values import SPLITS, Beginnings, default_is, place
from analysis.schema.choices import (
    BENCHMARKS,
    GLUE_TASKS,
    MULTILINGUAL,
    MULTILINGUAL_TASKS,
    OTHER_FOLDERS,
    Depth,
    EpochSelection,
    Layout,
)
from analysis.schema.fields import Precision, Protocol
from analysis.schema.ranges import MOST, SMALLEST_SHARE, within

_GROUPS = tuple(f"multilingual_{language}" for language in MULTILINGUAL)
_FINETUNED = ("glue", *GLUE_TASKS, *_GROUPS, *MULTILINGUAL_TASKS)
# A pattern is a whole name: multilingual_fr begins with "multilingual", and is none.
_TASKS = Beginnings((*BENCHMARKS, "all", *_FINETUNED), (*OTHER_FOLDERS, "multilingual"))
TaskNames: TypeAlias = tuple[Annotated[str, SPLITS, _TASKS], ...]
"""Kinds of benchmarks, names of their folders, and tasks to fine-tune on."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkArgs:
    """Benchmarks of an evaluation, and how they are asked."""

    PANEL = "data"

    benchmarks: str = place("hub", default="hub")
    """Folder with blimp*, supplement*, ewok*, bear*, wug_adj*, wug_past*, entity_tracking*, comps*,
    reading*, global_piqa_parallel*, global_piqa_nonparallel*, glue*, multilingual* folders, or with
    the BabyLM challenge's full_eval/ and fast_eval/ of them; or hub: BLiMP, EWoK (with your token)
    and BEAR from the Hugging Face hub."""
    tasks: Annotated[TaskNames, default_is("all that is not fine-tuned on; of the hub blimp")] = ()
    """Kinds of benchmarks (blimp, supplement, ewok, bear, wug, wug_past, entity_tracking, comps,
    reading, global_piqa_parallel, global_piqa_nonparallel), names of folders, all (of these); or
    what is fine-tuned on: glue, multilingual, multilingual_nl (_en, _zh), names of tasks (rte,
    sib200_nl)."""
    depth: Depth = "full"
    """Of two folders of a kind: fast, that ending in _fast or in fast_eval/; full, the other."""
    protocol: Protocol = "2024"
    """BabyLM's of a year. 2024: leading space, conditioned on BOS; 2025 and 2026: the text as the
    tokenizer takes it. Also GLUE's settings (the multilingual track's are those of 2024), and which
    benchmarks the macro averages; of 2026 also how EWoK and entity tracking ask."""
    all_templates: bool = False
    """Ask BEAR's questions in every wording, not only in the first."""
    layout: Layout = "auto"
    """Minimal pairs in files of plain lines: which sentence of two is the good one."""
    ewok_password: Annotated[str | None, default_is("BABYSWEEP_EWOK_PASSWORD")] = field(
        default=None, repr=False
    )
    """Password of EWoK's zip file; better in BABYSWEEP_EWOK_PASSWORD: others may see a command."""
    long_texts: Literal["refuse", "truncate"] = "refuse"
    """Texts longer than the model's context: an error, or lm-eval's rule: only their last tokens
    are read and scored. How many there were is reported."""


@dataclass(frozen=True, kw_only=True)
class FinetuningArgs:
    """Settings of fine-tuning."""

    PANEL = "training"

    selection: EpochSelection = "split"
    """What fine-tuning's epoch is chosen on: a split of the training data, or, as leaderboards do,
    the very set that is reported."""
    glue_lr: Annotated[float | None, default_is("the protocol's")] = within(
        1e-15, 1e9, default=None
    )
    """Learning rate of fine-tuning: tiny models want a higher one than the protocol's."""
    glue_epochs: Annotated[int | None, default_is("the protocol's")] = within(1, MOST, default=None)
    """Most epochs of fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class ScoringMachineArgs:
    """Hardware of an evaluation."""

    PANEL = "machine"

    precision: Precision = "fp32"
    """Arithmetic; bf16 (autocast) is faster and changes some decisions."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to score; auto: a GPU if there is one."""
    token_budget: int | None = within(1, MOST, default=None)
    """Most tokens in a batch, which bounds the memory."""
    eval_workers: int = within(1, 4096, default=1)
    """Ray workers that share the zero-shot evaluation."""
    cpus: Annotated[
        int | None, default_is("a worker's share of this machine; one for a fine-tuning")
    ] = within(1, 4096, default=None)
    """CPUs, and threads, of a worker or a fine-tuning."""
    gpus: Annotated[float | None, default_is("one")] = within(
        SMALLEST_SHARE, 4096, or_zero=True, default=None
    )
    """GPUs of a worker or a fine-tuning on a GPU."""
    address: Annotated[str | None, default_is("RAY_ADDRESS, else one started here")] = None
    """Ray cluster of workers and fine-tunings."""


@dataclass(frozen=True, kw_only=True)
class ScoresOutputArgs:
    """Places that an evaluation writes to."""

    PANEL = "output"

    storage: Annotated[Path | None, default_is("BABYSWEEP_STORAGE or runs/")] = place(default=None)
    """Folder, or s3:// address, of results and fine-tunings; the folder has the MLflow store."""
    output: Annotated[Path | None, default_is("one in the storage, named after the model")] = place(
        default=None
    )
    """Folder of scores.json and answers.jsonl."""
    submission: bool = False
    """Also write the BabyLM challenge's predictions.json files, of 2026 with --protocol 2026. They
    hold texts: keep EWoK's off the public web."""
    run_id: str | None = None
    """MLflow run to log the scores to, or the hash of its trial."""


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs(ScoresOutputArgs, ScoringMachineArgs, FinetuningArgs, BenchmarkArgs):
    """Arguments of an evaluation."""

    PANEL = "main"

    model: str = place()
    """A checkpoint's folder, models:/NAME@ALIAS or models:/NAME/VERSION, or an id on the hub."""


@dataclass(frozen=True, kw_only=True)
class SubmissionArgs:
    """The model of a submission, and where it goes."""

    PANEL = "main"

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = place()
    """MLflow run of the trial, or the hash of the trial."""
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = place()
    """Folder to write to; what is there already is not made again."""
    protocol: Literal["2026", "2025"] = "2026"
    """The year of the challenge, whose benchmarks, questions and files differ. 2026: GlobalPIQA, no
    WUG."""
    track: Literal["strict-small", "strict"] = "strict-small"
    """Which models on the way are wanted: up to 100M words seen, or up to 1000M."""
    name: Annotated[str | None, default_is("architecture and trial")] = None
    """What the model's folder in DIR is called."""


@dataclass(frozen=True, kw_only=True)
class SubmitArgs(SubmissionArgs, ScoringMachineArgs, FinetuningArgs):
    """Arguments of a submission."""

    PANEL = "data"

    benchmarks: str = place()
    """The challenge's evaluation_data, with full_eval/ and fast_eval/ in it."""
    glue: bool = True
    """Fine-tune on GLUE, which may take hours."""
    ewok_password: Annotated[str | None, default_is("BABYSWEEP_EWOK_PASSWORD")] = field(
        default=None, repr=False
    )
    """Password of EWoK's zip file; better in BABYSWEEP_EWOK_PASSWORD: others may see a command."""
    storage: Annotated[Path | None, default_is("BABYSWEEP_STORAGE or runs/")] = place(default=None)
    """Folder, or s3:// address, of the study and of GLUE trials."""
