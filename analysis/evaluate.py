"""Score a language model on BLiMP, its supplement, EWoK, BEAR, GLUE, and later BabyLM tasks.

The model may be a checkpoint of a sweep, any causal language model on the Hugging Face hub or in a
folder, or one of the MLflow registry. GLUE tasks are fine-tuned, as Ray trials; running the same
command again continues them.

    python analysis/evaluate.py --model runs/.../checkpoints/step-00000774 --benchmarks data/
    python analysis/evaluate.py --model models:/hgrn2@teacher --benchmarks data/ --tasks blimp bear
    python analysis/evaluate.py --model gpt2 --benchmarks hub --tasks blimp ewok
    python analysis/evaluate.py --model gpt2 --benchmarks data/ --tasks rte wsc mrpc
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

if __name__ == "__main__":
    # The packages beside this one, not this folder's modules: one is called `statistics`.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


@dataclass(frozen=True)
class EvaluateArgs:
    """Arguments of an evaluation."""

    model: str
    """A checkpoint's folder, models:/NAME@ALIAS or models:/NAME/VERSION, or an id on the hub."""
    benchmarks: str = "hub"
    """Folder with blimp*, supplement*, ewok*, bear*, wug_adj*, entity_tracking*, glue* folders, or
    hub: BLiMP, EWoK (with your token) and BEAR from the Hugging Face hub."""
    tasks: tuple[str, ...] = ()
    """Kinds of benchmarks (blimp, supplement, ewok, bear, wug, entity_tracking), names of folders,
    all (of these), glue, or names of GLUE tasks. Default: all that is there but GLUE; of the hub
    blimp. Of several folders of a kind the one that does not end in _fast is taken."""
    protocol: Literal["2024", "2025"] = "2024"
    """2024: leading space, conditioned on BOS; 2025: the text as the tokenizer takes it. Also
    GLUE's settings."""
    all_templates: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Ask BEAR's questions in every wording, not only in the first."""
    ewok_password: str | None = field(default=None, repr=False)
    """Password of EWoK's zip file; default: BABYSWEEP_EWOK_PASSWORD."""
    long_texts: Literal["refuse", "truncate"] = "refuse"
    """Texts longer than the model's context: an error, or lm-eval's rule: only their last tokens
    are read and scored. How many there were is reported."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic; bf16 (autocast) is faster and changes some decisions."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to score; auto: a GPU if there is one."""
    token_budget: int | None = None
    """Most tokens in a batch, which bounds the memory."""
    eval_workers: int = 1
    """Ray workers that share the zero-shot evaluation."""
    cpus: int | None = None
    """CPUs, and threads, of a worker or a GLUE trial. Default: a worker's share of this machine;
    one for a GLUE trial."""
    gpus: float | None = None
    """GPUs of a worker or a GLUE trial on a GPU; default: one."""
    address: str | None = None
    """Ray cluster of workers and GLUE trials; default: RAY_ADDRESS, else one started here."""

    selection: Literal["split", "reported"] = "split"
    """What GLUE's epoch is chosen on: a split of the training data, or, as leaderboards do, the
    very set that is reported."""
    glue_lr: float | None = None
    """Learning rate of fine-tuning in place of the protocol's: tiny models want a higher one."""
    glue_epochs: int | None = None
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


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = tyro.cli(EvaluateArgs, args=argv, description=__doc__)
    from sweeps.engine.environment import secure_local_cluster

    secure_local_cluster(args.address)
    from sweeps.scoring.evaluation import run_evaluation  # heavy imports: not before --help

    return run_evaluation(args)


if __name__ == "__main__":
    from analysis.evaluate import main as imported_main  # one module, also for pickles and types

    sys.exit(imported_main())
