"""Plans of a distillation: a part for each alpha and temperature, and the control."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import models
from analysis.benchmarks import Span, sequence_log_probs
from analysis.errors import named
from analysis.places import check_came_along
from analysis.schema.axes import AXES
from analysis.schema.ranges import check
from analysis.store import tracking_uri
from analysis.wording import count
from sweeps.arguments import DistillArgs
from sweeps.arguments.axes import given_value, set_single, values_of
from sweeps.plans.common import Status, SweepPlan, TrainingSetup, chosen_archs, prepare
from sweeps.plans.grids import GridPlan
from sweeps.plans.milestones import plan_milestones
from sweeps.stored.model_names import copy_version, find_version, resolve_model
from sweeps.stored.trials import earlier_trials, resolve_storage, scored
from trainables.corpus import Corpus, bring_corpus
from trainables.corpus.tokenizer import tokenizer_hash
from trainables.files import read_json
from trainables.finetune_spec import model_hash
from trainables.kept import kept
from trainables.spec import TrialSpec

CONTROL = "control"
_TEXT = 32
"""Tokens of the corpus that a teacher is tried on."""


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
            check_came_along(name, "--teacher", "models:/NAME@ALIAS")
            folder = Path(resolve_model(name, uri, storage))
            if not folder.is_dir():
                raise ValueError(
                    f"no teacher at {name}: give a checkpoint's folder, models:/NAME@ALIAS or "
                    "models:/NAME/VERSION (sweeps/promote.py registers one)"
                )
            name = str(folder)
        file = folder / "spec.json"
        spec = read_json(file, TrialSpec) if file.is_file() else None
        return cls(name, folder, spec)


def plan_distillation(args: DistillArgs, status: Status) -> SweepPlan:
    """The plan: a part for each alpha and temperature, and the control.

    Raises:
        ValueError: something asked for cannot be; the message says what to do.
    """
    _check(args)
    storage = resolve_storage(args.storage, create=False)
    uri = tracking_uri(storage)
    teachers = [Teacher.find(name, uri, storage) for name in args.teacher]
    args = _with_defaults(set_single(args), teachers[0])
    arch = _student_arch(args)
    corpus = None if args.corpus else _corpus_of(teachers[0], storage)
    setup = prepare(args, status, corpus)
    values = {**values_of(args), "lr": _lrs(args, teachers[0])}
    base = setup.at_values(_like(teachers[0], setup.spec(arch), args), values)
    for teacher in teachers:
        _check_fits(teacher, setup, base)
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
    folder = storage / setup.study(base)
    return setup.plan(
        bases,
        {part: _plan(args, values, spec, folder) for part, spec in bases.items()},
        axes=tuple(values),
        asked=values,
        teachers=tuple(teacher.folder for teacher in teachers),
        init=teachers[0].folder if base.init else None,
        kind="distillation",
        milestones=plan_milestones(args.milestones, setup, base),
    )


def _check(args: DistillArgs) -> None:
    check(args, flags=True)
    if not args.teacher:
        raise ValueError("--teacher needs a model, e.g. models:/hgrn2@teacher")
    for name in ("alphas", "temperatures"):
        if not getattr(args, name):
            raise ValueError(f"--{name} needs a value")
    if 0 in args.alphas:
        raise ValueError("--alphas must be above 0: 0 is the control, which is trained anyway")


def _with_defaults(args: DistillArgs, teacher: Teacher) -> DistillArgs:
    """The arguments with what was not given, and suits any architecture, as the teacher had it."""
    spec = teacher.spec
    if spec is None:
        return args
    arch: Any = args.arch or (spec.arch,)
    names = ("size", "context", "epochs", "batch_size")
    taken = {name: getattr(spec, name) for name in names if getattr(args, name) is None}
    return replace(args, arch=arch, **taken)


def _like(teacher: Teacher, base: TrialSpec, args: DistillArgs) -> TrialSpec:
    """The student's spec with what no flag sets, of all that sweeps vary, as the teacher had it.

    The learning rate apart, see `_lrs`. A teacher out of a branched epoch study gives the schedule
    "wsd" with its decay and its steps of warm-up, so that its own trial is the control. One of
    another architecture gives nothing: what suits one need not suit another.
    """
    spec = teacher.spec
    if spec is None or spec.arch != base.arch:
        return base
    unsaid = [name for name in AXES if name != "lr" and given_value(args, name) is None]
    if args.schedule in (None, spec.schedule):
        unsaid.append("decay")
    if args.warmup is None and not args.warmups:
        unsaid.append("warmup_steps")
    return base.replace(**{name: getattr(spec, name) for name in unsaid})


def _student_arch(args: DistillArgs) -> str:
    archs = chosen_archs(args.arch)
    if len(archs) > 1:
        raise ValueError(f"a student has one architecture, not {', '.join(archs)}: --arch ONE")
    return archs[0]


def _corpus_of(teacher: Teacher, storage: Path) -> Corpus:
    """The prepared corpus that the teacher learned."""
    if teacher.spec is not None:
        wanted = teacher.spec.corpus_hash
        if (corpora := kept(storage / "corpora")) is not None:
            for name in corpora.listed_below():
                if name.endswith(wanted[:16]):
                    bring_corpus(storage / "corpora" / name)
        for folder in storage.glob(f"corpora/*-{wanted[:16]}"):  # others may be damaged
            corpus = Corpus.open(folder)
            if corpus.hash == wanted:
                corpus.check_files()
                return corpus
    raise ValueError(
        f"the corpus of {teacher.name} is not in {storage / 'corpora'}: name it with --corpus, or "
        "give the --storage of the study that trained it"
    )


def _check_fits(teacher: Teacher, setup: TrainingSetup, base: TrialSpec) -> None:
    """Check that a teacher speaks of the same tokens, reads as many, and sees none that it is to
    predict."""
    if tokenizer_hash(teacher.folder) != tokenizer_hash(setup.corpus.directory):
        raise ValueError(
            f"the teacher {teacher.name} has another tokenizer than the corpus "
            f"{setup.corpus.name}: their tokens mean different things. Distil on the teacher's "
            "own corpus (leave --corpus and --vocab-size out), or train a teacher on this one"
        )
    config = models.load_config(teacher.folder)
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and longest < base.context:
        raise ValueError(
            f"the teacher {teacher.name} reads {count(longest, 'token')}, fewer than the "
            f"--context of {base.context}"
        )
    text = Span(tuple(setup.corpus.train.tokens[: min(_TEXT, base.context)].tolist()))
    with named(f"the teacher {teacher.name}"):
        sequence_log_probs(models.load(teacher.folder), [text])  # refuses what sees later tokens


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


def _plan(
    args: DistillArgs, values: dict[str, tuple[Any, ...]], base: TrialSpec, folder: Path
) -> GridPlan:
    known = scored(earlier_trials(folder, base, tuple(values)))
    # Only the values asked for: every part is compared at the same ones.
    known = {
        spec: score
        for spec, score in known.items()
        if all(getattr(spec, name) in given for name, given in values.items())
    }
    return GridPlan(base, values, args.seeds, extend=False, known=known)
