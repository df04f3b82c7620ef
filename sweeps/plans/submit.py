"""Plan of a submission: the trial, its models, and what the challenge wants of each."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from analysis.benchmarks import glue
from analysis.benchmarks.files import DEPTHS
from analysis.errors import named
from analysis.flag_values import checked
from analysis.places import resolved, writable_folder
from analysis.store import open_store, tracking_uri
from sweeps.arguments import EvaluateArgs, SubmitArgs
from sweeps.engine.scoring.tasks import benchmark_place
from sweeps.plans.tracks import most_seen
from sweeps.stored.chosen import run_id_of
from sweeps.stored.hub import MAIN
from sweeps.stored.trials import resolve_storage
from trainables.checkpoint import TrialFolder, look_at_all
from trainables.milestones import BABYLM, is_seen, revision_of
from trainables.progress import best_epoch

_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""The challenge's code leaves out what stands behind a dot."""
PREDICTIONS = "predictions.json"
ZERO_SHOT = Path("zero_shot/causal")
ACQUISITION = ZERO_SHOT / "AoA_word/surprisal.json"
ACQUISITION_SCORE = ZERO_SHOT / "AoA_word/aoa_score.json"
_FAST = (
    *("blimp/blimp_fast", "blimp/supplement_fast", "ewok/ewok_fast"),
    *("entity_tracking/entity_tracking_fast", "reading"),
)
_FULL = (
    *("blimp/blimp_filtered", "blimp/supplement_filtered", "ewok/ewok_filtered"),
    *("entity_tracking/entity_tracking", "comps/comps", "reading"),
)


@dataclass(frozen=True)
class _Challenge:
    """In what a year's submission differs from another's.

    Attributes:
        tasks: folders of predictions of every model, beside those that all years have.
        acquisition: files on the age of acquisition.
        incomplete: what its `collate_preds` makes of models that are not there.
    """

    tasks: tuple[str, ...]
    acquisition: tuple[Path, ...]
    incomplete: str


_CHALLENGES: Mapping[str, _Challenge] = {
    "2025": _Challenge(
        ("wug_adj/wug_adj_nominalization", "wug_past/wug_past_tense"),
        (ACQUISITION,),
        "wants all",
    ),
    "2026": _Challenge(
        (
            "global_piqa_parallel/global_piqa_parallel",
            "global_piqa_nonparallel/global_piqa_nonparallel",
        ),
        (ACQUISITION, ACQUISITION_SCORE),
        "then leaves out the surprisals of all words",
    ),
}
"""By protocol. Source: babylm-org/babylm-eval, strict/evaluation_pipeline/collate_preds.py
(`_check_validity_of_dir`, `collate_full_eval_preds`): the rules of 2025 as commit 45fe2c1 still has
them, those of 2026 as of a66e05d."""


@dataclass(frozen=True)
class SubmissionPlan:
    """A submission, with all checked that can be before it starts.

    Attributes:
        models: folder of each model by revision, that of the best one first.
        words: that each revision but this one has seen.
        corpus_words: that the trial was trained on.
        epochs: that the best model has seen of them.
        seen: words that the trial saw.
        fast, full: the challenge's folders of benchmarks.
        place: of the revisions' folders.
    """

    args: SubmitArgs
    storage: Path
    models: Mapping[str, Path]
    words: Mapping[str, int]
    corpus_words: int
    epochs: int
    seen: int
    fast: Path
    full: Path
    place: Path

    @property
    def revisions(self) -> dict[str, bool]:
        """Those that the track asks for, the best model's first, and whether the training came to
        them."""
        asked = [words for words in BABYLM if words <= most_seen(self.args.track)]
        return {MAIN: True, **{revision_of(words): is_seen(words, self.seen) for words in asked}}

    @property
    def scored(self) -> list[str]:
        """Those of them that are there."""
        return [revision for revision in self.revisions if revision in self.models]

    @property
    def challenge(self) -> _Challenge:
        """What the protocol's year has for itself."""
        return _CHALLENGES[self.args.protocol]

    @property
    def words_file(self) -> Path | None:
        """The words whose age of acquisition is asked for, if they are there."""
        return next(iter(sorted(self.full.glob("*/cdi_childes.json"))), None)

    @property
    def human_file(self) -> Path | None:
        """The table of when children know them, if it is there."""
        return next(iter(sorted(self.full.glob("*/cdi_human.csv"))), None)

    def evaluation(self, revision: str) -> EvaluateArgs:
        """Arguments to score a model."""
        args, is_main = self.args, revision == MAIN
        return EvaluateArgs(
            model=str(self.models[revision]),
            benchmarks=str(self.full if is_main else self.fast),
            tasks=("all", "glue") if is_main and args.glue else ("all",),
            protocol=args.protocol,
            ewok_password=args.ewok_password,
            long_texts="truncate",
            selection=args.selection,
            glue_lr=args.glue_lr,
            glue_epochs=args.glue_epochs,
            precision=args.precision,
            device=args.device,
            token_budget=args.token_budget,
            eval_workers=args.eval_workers,
            cpus=args.cpus,
            gpus=args.gpus,
            address=args.address,
            storage=self.storage,
            output=self.place / revision,
            submission=True,
        )

    def wanted(self, revision: str) -> list[Path]:
        """Files that the challenge's pipeline looks for in a revision's folder."""
        files = [ZERO_SHOT / task / PREDICTIONS for task in self._tasks(revision)]
        if revision == MAIN:
            of_glue = glue.PROTOCOL_TASKS[self.args.protocol]
            files += [Path("finetune") / task / PREDICTIONS for task in of_glue]
            files += self.challenge.acquisition
        return files

    def _tasks(self, revision: str) -> tuple[str, ...]:
        return (*(_FULL if revision == MAIN else _FAST), *self.challenge.tasks)

    def missing(self, revision: str) -> list[Path]:
        """Those of them that are not there."""
        folder = self.place / revision
        return [file for file in self.wanted(revision) if not (folder / file).is_file()]

    @property
    def absent(self) -> list[Path]:
        """Benchmarks that are asked for, and not in the challenge's folders here."""
        asked = {
            (self.full if revision == MAIN else self.fast) / Path(task).name
            for revision in self.scored
            for task in self._tasks(revision)
        }
        # EWoK's may be a zip file.
        return sorted(path for path in asked if not any(path.parent.glob(f"{path.name}*")))


def plan_submission(args: SubmitArgs) -> SubmissionPlan:
    """Find the trial and its models, the benchmarks, and the place to write to.

    Raises:
        ValueError: something asked for cannot be; the message says what to do.
    """
    args = checked(args)
    storage = resolve_storage(args.storage, create=False)
    path = Path(benchmark_place(args.benchmarks))
    fast, full = (path / name for name in DEPTHS)
    for folder in (fast, full):
        if not folder.is_dir():
            raise ValueError(
                f"--benchmarks {path} has no {folder.name}/ in it: give the challenge's "
                f"evaluation_data, with {' and '.join(DEPTHS)}"
            )
    client = open_store(tracking_uri(storage))
    run = _run(client, args.run)
    study = client.get_experiment(run.info.experiment_id).name
    look_at_all(storage / study / "trials")
    trial = TrialFolder(storage / study / "trials" / run.data.tags["babysweep.spec_hash"])
    with named("RUN"):
        best = trial.best_checkpoint
    kept = {revision_of(words): words for words in trial.models}
    models = {revision: trial.models[words] for revision, words in kept.items()}
    place = resolved(args.folder, "DIR")
    name = args.name or f"{trial.spec.arch}-{trial.spec.hash}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"--name is of letters, digits, - and _, not {name!r}: it names a folder")
    return SubmissionPlan(
        args,
        storage,
        {MAIN: best, **models},
        kept,
        *_words_seen(trial, run, kept.values()),
        fast,
        full,
        writable_folder(place, "DIR") / name,
    )


def _run(client: MlflowClient, text: str) -> Run:
    with named("RUN"):
        try:
            run = client.get_run(run_id_of(client, text))
        except MlflowException as error:
            raise ValueError(
                f"no run or trial is called {text!r}: give the id of a run in MLflow, or the name "
                "of a folder in STUDY/trials/"
            ) from error
        if "babysweep.spec_hash" not in run.data.tags:
            raise ValueError(f"{text!r} is no trial's run: give that of one trial")
    return run


def _words_seen(trial: TrialFolder, run: Run, kept: Collection[int]) -> tuple[int, int, int]:
    """Words of the trial's corpus, the best model's epoch, and the words that the trial saw: in its
    epochs, and in one that it broke off in, up to the last model that it kept there."""
    assert trial.outcome is not None
    params = run.data.params
    if not {"train_tokens", "train_words"} <= params.keys():
        raise ValueError(
            f"RUN: the run of {trial.path} does not tell how many words its corpus has: an earlier "
            "version made it; train it again"
        )
    history, words = trial.outcome.history, int(params["train_words"])
    in_epochs = history[-1].tokens * words // int(params["train_tokens"])
    best = best_epoch(history)
    assert best is not None
    return words, best.epoch, max(in_epochs, *kept, 0)
