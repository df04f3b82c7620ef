"""Plan a distillation with its controls, and say what the teacher was worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console
from rich.markup import escape

from analysis import runs
from analysis.gains import at_best_lr, why_no_gain
from analysis.learning_rates import completed
from analysis.statistics import Gain, paired_gain
from sweeps.findings.lr_sweep import (
    describe,
    glue_line,
    of_setting,
    rich_table,
    winner,
    zero_shot_line,
)
from sweeps.plans.common import (
    Ground,
    Status,
    SweepPlan,
    chosen_archs,
    earlier_trials,
    prepare,
    resolve_storage,
)
from sweeps.plans.spaces import GridPlan, SweepSearch
from sweeps.running import run_command
from sweeps.stored.model_names import copy_version, find_version, resolve_model
from trainables.checkpoint import Progress, read_json
from trainables.corpus import Corpus
from trainables.corpus.tokenizer import tokenizer_hash
from trainables.finetune_spec import model_hash
from trainables.spec import TrialSpec, format_lr
from trainables.tracking import Tracker, tracking_uri

if TYPE_CHECKING:
    from sweeps.distill import DistillArgs

CONTROL = "control"


@dataclass(frozen=True)
class Teacher:
    """A model to learn from.

    Attributes:
        name: what it is called: its version in the registry, or its folder.
        folder: where it is.
        spec: what it was trained as, None if its folder does not say.
    """

    name: str
    folder: Path
    spec: TrialSpec | None

    @classmethod
    def find(cls, name: str, uri: str, storage: Path) -> Teacher:
        """The teacher that a name stands for; an alias is resolved to its version of this moment.

        Raises:
            ValueError: there is no such model, or it is not in a folder.
        """
        if name.startswith("models:/"):
            version = find_version(name, uri)
            folder = copy_version(version, uri, storage)
            name = f"models:/{version.name}/{version.version}"
        else:
            folder = Path(resolve_model(name, uri, storage))
            if not folder.is_dir():
                raise ValueError(
                    f"no teacher at {name}: give a checkpoint's folder, models:/NAME@ALIAS or "
                    "models:/NAME/VERSION (sweeps/promote.py registers one)"
                )
            name = str(folder)
        file = folder / "spec.json"
        spec = TrialSpec.from_dict(read_json(file)) if file.is_file() else None
        return cls(name, folder, spec)


def run_distillation(args: DistillArgs) -> int:
    """Plan the trials and run them, or print what they would take; returns the exit status."""
    return run_command(args, lambda status: plan_distillation(args, status), show_gains)


def plan_distillation(args: DistillArgs, status: Status) -> SweepPlan:
    """The plan: a part for each alpha and temperature, and the control.

    Raises:
        ValueError: something asked for cannot be; the message says what to do.
    """
    _check(args)
    storage = resolve_storage(args.storage)
    uri = tracking_uri(storage)
    teachers = [Teacher.find(name, uri, storage) for name in args.teacher]
    args = _with_defaults(args, teachers[0])
    arch = _student_arch(args)
    corpus = None if args.corpus else _corpus_of(teachers[0], storage)
    ground = prepare(args, status, corpus)
    base = ground.spec(arch)
    for teacher in teachers:
        _check_fits(teacher, ground, base)
    if args.student_init == "teacher":
        base = _start_from(teachers[0], base)
    distilled = base.replace(
        teacher="+".join(model_hash(teacher.folder) for teacher in teachers),
        teacher_name="+".join(teacher.name for teacher in teachers),
        alpha=args.alphas[0],
        reverse_kl=args.reverse_kl,
    )
    bases = {
        f"alpha={alpha:g} T={temperature:g}": distilled.replace(
            alpha=alpha, temperature=temperature
        )
        for alpha in args.alphas
        for temperature in args.temperatures
    }
    if args.control:
        bases[CONTROL] = base
    folder = storage / ground.study(base)
    lrs = _lrs(args, teachers[0])
    return ground.plan(
        bases,
        {part: _plan(args, lrs, spec, folder) for part, spec in bases.items()},
        teachers=tuple(teacher.folder for teacher in teachers),
        init=teachers[0].folder if base.init else None,
        kind="distillation",
    )


def _check(args: DistillArgs) -> None:
    if not args.teacher:
        raise ValueError("--teacher needs a model, e.g. models:/hgrn2@teacher")
    for name in ("alphas", "temperatures"):
        if not getattr(args, name):
            raise ValueError(f"--{name} needs a value")
    for alpha in args.alphas:
        if not 0 < alpha <= 1:
            raise ValueError(
                f"--alphas weigh the divergence, above 0 and up to 1, not {alpha:g}; alpha 0 is "
                "the control, which is trained anyway"
            )
    for temperature in args.temperatures:
        if not temperature > 0:
            raise ValueError(f"--temperatures must be positive, not {temperature:g}")


def _with_defaults(args: DistillArgs, teacher: Teacher) -> DistillArgs:
    """The arguments with what was not given taken from the teacher's training."""
    spec = teacher.spec
    if spec is None:
        return args
    return replace(
        args,
        arch=args.arch or (spec.arch,),
        size=args.size or spec.size,
        context=args.context or spec.context,
        batch_size=args.batch_size or spec.batch_size,
        epochs=args.epochs or spec.epochs,
    )


def _student_arch(args: DistillArgs) -> str:
    archs = chosen_archs(args.arch)
    if len(archs) > 1:
        raise ValueError(f"a student has one architecture, not {', '.join(archs)}: --arch ONE")
    return archs[0]


def _corpus_of(teacher: Teacher, storage: Path) -> Corpus:
    """The prepared corpus that the teacher learned."""
    if teacher.spec is not None:
        for file in storage.glob("corpora/*/corpus.json"):
            if read_json(file)["hash"] == teacher.spec.corpus_hash:
                return Corpus.open(file.parent)
    raise ValueError(
        f"the corpus of {teacher.name} is not in {storage / 'corpora'}: name it with --corpus, or "
        "give the --storage of the study that trained it"
    )


def _check_fits(teacher: Teacher, ground: Ground, base: TrialSpec) -> None:
    """Check that a teacher speaks of the same tokens, and reads as many of them."""
    if tokenizer_hash(teacher.folder) != tokenizer_hash(ground.corpus.directory):
        raise ValueError(
            f"the teacher {teacher.name} has another tokenizer than the corpus "
            f"{ground.corpus.name}: their tokens mean different things. Distil on the teacher's "
            "own corpus (leave --corpus and --vocab-size out), or train a teacher on this one"
        )
    longest = read_json(teacher.folder / "config.json").get("max_position_embeddings")
    if longest is not None and longest < base.context:
        raise ValueError(
            f"the teacher {teacher.name} reads {longest} tokens, fewer than the --context of "
            f"{base.context}"
        )


def _start_from(teacher: Teacher, base: TrialSpec) -> TrialSpec:
    mine = (base.arch, base.size, base.revision)
    spec = teacher.spec
    if spec is None or (spec.arch, spec.size, spec.revision) != mine:
        raise ValueError(
            "--student-init teacher needs a student of the teacher's architecture and size"
        )
    return base.replace(init=model_hash(teacher.folder))


def _lrs(args: DistillArgs, teacher: Teacher) -> tuple[float, ...]:
    if args.lrs:
        return args.lrs
    if teacher.spec is None:
        raise ValueError(f"the folder of {teacher.name} has no spec.json: give --lrs")
    if teacher.spec.arch not in args.arch:
        raise ValueError(
            f"the teacher's learning rate is that of {teacher.spec.arch}: give --lrs for the "
            f"student, {args.arch[0]}"
        )
    return (teacher.spec.lr,)


def _plan(args: DistillArgs, lrs: tuple[float, ...], base: TrialSpec, folder: Path) -> GridPlan:
    earlier = earlier_trials(folder, base)
    known = {pair: score for pair, score in earlier.items() if score is not None}
    # Only the rates asked for: every part is compared at the same ones.
    known = {pair: score for pair, score in known.items() if pair[0] in lrs}
    return GridPlan(lrs, args.seeds, extend=False, known=known)


def show_gains(plan: SweepPlan, tracker: Tracker, search: SweepSearch, console: Console) -> None:
    """Print each part's figures and its gain over the control, and store them in its MLflow run."""
    trials = runs.trials(plan.tracking_uri, plan.study)
    ended = {part: _ended(plan, trials, part) for part in plan.bases}
    figures = {part: at_best_lr(frame) for part, frame in ended.items()}
    cells = _cells(figures)
    console.print(rich_table(cells))
    for part, base in plan.bases.items():
        lines = []
        if part != CONTROL and CONTROL in plan.bases:
            gain = gain_over_control(figures[part], figures[CONTROL])
            reason = "" if gain.seeds else why_no_gain(ended[part], ended[CONTROL])
            lines.append(f"{part}: {gain.in_words('the teacher', reason)}.")
            _store(tracker, base, gain)
        lines += _winner_lines(plan, trials, part)
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)
        describe(plan, tracker, trials, part, lines or [f"{part}: no trial ended."], cells)


def _ended(plan: SweepPlan, trials: pd.DataFrame, part: str) -> pd.DataFrame:
    """The completed trials of a part with the plan's rates and seeds."""
    asked = plan.plans[part]
    assert isinstance(asked, GridPlan)
    mine = completed(of_setting(plan, trials, plan.bases[part]))
    return mine[mine["lr"].isin(asked.lrs) & mine["seed"].isin(asked.seeds)]


def gain_over_control(distilled: pd.DataFrame, control: pd.DataFrame) -> Gain:
    """Bits per byte that are gained over the control, each at its best learning rate, by seed."""
    left, right = (frame.set_index("seed")["bits_per_byte"] for frame in (distilled, control))
    return paired_gain(left, right)


def _cells(figures: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row of text for each part."""
    rows = []
    for part, frame in figures.items():
        lr = "" if frame.empty else format_lr(float(frame["lr"].iloc[0]))
        bits, macro = _mean(frame["bits_per_byte"], 4), _mean(frame["macro"], 1)
        rows.append([part, lr, str(len(frame)), bits, macro])
    return pd.DataFrame(rows, columns=["", "LR", "seeds", "bits/byte", "macro"])


def _mean(values: pd.Series, digits: int) -> str:
    numbers = values.dropna().astype(float)
    if numbers.empty:
        return "-"
    spread = f" ± {numbers.std():.{digits}f}" if len(numbers) > 1 else ""
    return f"{numbers.mean():.{digits}f}{spread}"


def _winner_lines(plan: SweepPlan, trials: pd.DataFrame, part: str) -> list[str]:
    """The scores of a part's best trial and its checkpoint, with rich's markup."""
    folder = winner(plan, trials, part)
    if folder is None or folder.outcome is None:
        return []
    best = Progress(history=list(folder.outcome.history)).best
    lines = []
    if best is not None and best.scores is not None:
        lines.append(f"{part}: {zero_shot_line(best.scores)}")
    final = folder.final_scores
    lines += [f"{part}: final {zero_shot_line(final['zero_shot'])}"] if "zero_shot" in final else []
    lines += [f"{part}: final {glue_line(final['glue'])}"] if "glue" in final else []
    lines.append(f"Checkpoint  {folder.best_checkpoint}")
    return [escape(line) for line in lines]


def _store(tracker: Tracker, base: TrialSpec, gain: Gain) -> None:
    """Put the gain into the part's parent run."""
    if gain.seeds == 0:
        return
    run_id = tracker.parents[base.setting.hash]
    values = {"gain/bits_per_byte": gain.mean, "gain/seeds": float(gain.seeds)}
    if gain.interval is not None:
        values |= {"gain/low": gain.interval[0], "gain/high": gain.interval[1]}
    for name, value in values.items():
        tracker.client.log_metric(run_id, name, value)
