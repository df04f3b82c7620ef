"""Whether distillation helps: students beside the same training without a teacher."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import pandas as pd

from analysis import plots
from analysis.benchmarks.suite import Scores
from analysis.gains import at_best_point, pairs_by_point, why_no_gain
from analysis.inference import LEVEL, Difference, difference, holm
from analysis.paired import Gain, Pair, paired_gain, spread_of_pairs
from analysis.reporting.page import Cell, Picture, Section, Table
from analysis.reporting.sections.common import (
    ReportContext,
    ReportPart,
    interval,
    number,
    probability,
    records,
    value_of,
    with_spread,
)
from analysis.samples import sample
from analysis.schema.axes import AXES, LR, Axis
from analysis.shared_spread import SharedSpread
from analysis.study import DISTILLATION, setting
from analysis.wording import OVER_SEEDS

HELD_OUT = "held_out_macro"
"""Column of `runs.epochs` with what `Student.macro` compares."""


@dataclass(frozen=True)
class Student:
    """Trials with one teacher, and their controls, each at its best point.

    Attributes:
        arch: its architecture.
        label: what it is; no two students of a study have the same.
        taught: one row of `runs.trials` for each seed; none if a seed diverged at every point.
        control: the same without a teacher; no row if it was not trained.
        gain: in bits/byte; positive favours the teacher.
        sentence: the gain in words, or why none is known.
        macro: difference in macro on the held-out items, paired by seed; None without scores.
    """

    arch: str
    label: str
    taught: pd.DataFrame
    control: pd.DataFrame
    gain: Gain
    sentence: str
    macro: Difference | None


def distillation(context: ReportContext) -> ReportPart | None:
    """Gains of students from their teachers; None if none was distilled."""
    students = list(students_of(context))
    if not students:
        return None
    sentences = [f"{student.label}: {student.sentence}." for student in students]
    paragraphs = [*sentences, *_macro_sentences(students)]
    known = sum(student.gain.seeds > 0 for student in students)
    if known > 1:
        paragraphs.append(
            f"{known} students were compared with controls: the best of several looks "
            "better than it is; the table's p-values are after Holm's correction."
        )
    rows = list(_gain_rows(students))
    pictures: tuple[Picture, ...] = ()
    if rows:
        pictures = (
            context.draw(
                plots.gain_figure(pd.DataFrame(rows)),
                "gains",
                "What the teacher adds, with 95 % intervals over seeds (and items, of the macro)",
                " ".join(sentences),
            ),
        )
    section = Section(
        "distillation",
        "Does distillation help",
        tuple(paragraphs),
        (_table(context, students),),
        pictures,
        (_by_seed(context, students),),
    )
    return ReportPart(section, (_answer(students),))


def students_of(context: ReportContext) -> Iterator[Student]:
    """The kinds of student in the study, each with its controls."""
    trials = context.study.trials
    ended = trials[trials["outcome"].isin(["finished", "diverged"])]
    is_taught = ended["teacher"] != ""
    common = setting(ended, without=DISTILLATION) + ended["arch"]
    kinds = setting(ended) + ended["arch"]
    points = pd.Series([*zip(*(ended[name] for name in AXES), strict=True)], ended.index)
    groups = [group for _, group in ended[is_taught].groupby(kinds[is_taught])]
    controls = [
        ended[~is_taught & (common == common[group.index[0]]) & points.isin(points[group.index])]
        for group in groups
    ]
    beside = [
        (_with_macro(context, group), _with_macro(context, untaught))
        for group, untaught in zip(groups, controls, strict=True)
    ]
    for both, label in zip(beside, _labels(groups), strict=True):
        yield _student(context, label, both, beside)


def _with_macro(context: ReportContext, trials: pd.DataFrame) -> pd.DataFrame:
    """The trials with their macro on the held-out items at their best epoch."""
    epochs = context.study.epochs
    if HELD_OUT not in epochs:
        return trials
    figures = epochs.set_index(["run_id", "epoch"])[HELD_OUT]
    at_best = pd.MultiIndex.from_frame(trials[["run_id", "best_epoch"]])
    return trials.assign(**{HELD_OUT: figures.reindex(at_best).to_numpy()})


def best_of(students: Sequence[Student]) -> Student | None:
    """The one of the greatest gain in bits/byte, of those with several seeds if there are any;
    None if no gain is known."""
    known = _eligible(students)
    return max(known, key=lambda student: student.gain.mean) if known else None


def _eligible(students: Sequence[Student]) -> list[Student]:
    several = [student for student in students if student.gain.interval is not None]
    return several or [student for student in students if student.gain.seeds]


def _labels(groups: list[pd.DataFrame]) -> list[str]:
    """A name for each group of trials, with the parameters in which those of one name differ."""
    labels = [_label(group.iloc[0]) for group in groups]
    parameters = [json.loads(setting(group).iloc[0]) for group in groups]
    unique = []
    for label, mine in zip(labels, parameters, strict=True):
        alike = [other for name, other in zip(labels, parameters, strict=True) if name == label]
        differing = [key for key in mine if any(other[key] != mine[key] for other in alike)]
        unique.append(", ".join([label, *(f"{key} {_shown(mine[key])}" for key in differing)]))
    return unique


def _shown(value: object) -> str:
    return "none" if value == "" else str(value)


def _label(trial: pd.Series) -> str:
    divergence = "reverse KL, " if str(trial["reverse_kl"]) == "True" else ""
    return (
        f"{trial['arch']} taught by {trial['teacher_name'] or trial['teacher']} "
        f"({divergence}alpha {trial['alpha']:g}, T {trial['temperature']:g})"
    )


_Beside = tuple[pd.DataFrame, pd.DataFrame]
"""Trials of one kind of student, and their controls."""


def _student(context: ReportContext, label: str, both: _Beside, beside: list[_Beside]) -> Student:
    """One of the kinds of students that are `beside` each other."""
    left, right = (at_best_point(trials).sort_values("seed") for trials in both)
    figures = [frame.set_index("seed")["bits_per_byte"].astype(float) for frame in (left, right)]
    gain = paired_gain(figures[0], figures[1], _spread(left, right, beside, "bits_per_byte"))
    sentence = gain.in_words("the teacher", "" if gain.seeds else why_no_gain(*both))
    macro = _macro(context, left, right, _spread(left, right, beside, HELD_OUT))
    taught, control = (frame.reset_index(drop=True) for frame in (left, right))
    return Student(str(both[0]["arch"].iloc[0]), label, taught, control, gain, sentence, macro)


def _spread(
    taught: pd.DataFrame, control: pd.DataFrame, beside: list[_Beside], column: str
) -> SharedSpread:
    """The spread over seeds of a gain, learnt from all students and controls at all points."""
    others = chain.from_iterable(pairs_by_point(*both, column) for both in beside)
    return spread_of_pairs(Pair.of(taught, control, column), others)


def _answer(students: list[Student]) -> str:
    """The best student's gain; of several it is said that it is the best, and corrected for."""
    best = best_of(students)
    if best is None:
        return f"{students[0].label}: {students[0].sentence}."
    known = _eligible(students)
    if len(known) == 1:
        return f"{best.label}: {best.sentence}."
    text = f"The best of {len(known)} students is {best.label}: {best.sentence}"
    if best.gain.interval is None:
        return f"{text}."
    index = [student is best for student in known].index(True)
    p_value = holm([student.gain.p_value for student in known])[index]
    chance = "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"
    low, high = best.gain.interval
    only_uncorrected = low * high > 0 and p_value >= LEVEL
    verdict = ", so this may be chance" if only_uncorrected else ""
    return f"{text}; {chance} after Holm's correction over the {len(known)}{verdict}."


def _macro(
    context: ReportContext, taught: pd.DataFrame, control: pd.DataFrame, shared: SharedSpread
) -> Difference | None:
    both = taught.merge(control, on="seed", suffixes=("", "_control"))
    left: list[Scores] = []
    right: list[Scores] = []
    for row in records(both):
        with_teacher = context.scores(row["run_id"], row["best_epoch"])
        without = context.scores(row["run_id_control"], row["best_epoch_control"])
        if not with_teacher or not without or with_teacher["macro"] is None:
            return None
        left.append(with_teacher)
        right.append(without)
    if len({scores["suite_hash"] for scores in left + right}) != 1:
        return None
    return difference(sample(left, "macro"), sample(right, "macro"), paired=True, shared=shared)


def _macro_sentences(students: list[Student]) -> Iterator[str]:
    for student in students:
        it = student.macro
        if it is not None:
            verb = "gains" if it.mean > 0 else "loses"
            is_clear = it.low * it.high > 0
            verdict = "excludes zero" if is_clear else "includes zero, so this may be chance"
            over = "items only, with one seed" if it.seeds == (1, 1) else "seeds and items"
            yield (
                f"{student.label}: in macro it {verb} {abs(it.mean):.2f} points (95 % interval of "
                f"the gain {it.low:.2f} to {it.high:.2f}, over {over}): the interval {verdict}."
            )


def _gain_rows(students: list[Student]) -> Iterator[dict[str, object]]:
    for student in students:
        if student.gain.seeds:
            low, high = student.gain.interval or (math.nan, math.nan)
            yield {
                "student": student.label,
                "metric": "bits/byte",
                "gain": student.gain.mean,
                "low": low,
                "high": high,
            }
        if student.macro is not None:
            yield {
                "student": student.label,
                "metric": "macro, points",
                "gain": student.macro.mean,
                "low": student.macro.low,
                "high": student.macro.high,
            }


def _table(context: ReportContext, students: list[Student]) -> Table:
    of_gain = _corrected([student.gain.p_value for student in students])
    of_macro = _corrected([s.macro.p_value if s.macro else math.nan for s in students])
    axes = _axes(students)
    rows = tuple(
        _row(context, student, axes, of_gain[index], of_macro[index])
        for index, student in enumerate(students)
    )
    columns = ["student", *(axis.label for axis in axes), "seeds", "bits/byte", "control"]
    columns += ["gain", "gain, 95 % interval", "gain, p after Holm"]
    columns += ["gain in macro", "macro, 95 % interval", "macro, p after Holm"]
    return Table(
        "distillation",
        f"Students and their controls, each at its best {' and '.join(a.label for a in axes)}",
        tuple(columns),
        rows,
        "A gain is the mean over seeds that both have: control minus student in bits/byte, "
        "student minus control in macro (percentage points on held-out items). Of one seed the "
        f"macro's interval is over items only. Bits/byte: mean {OVER_SEEDS}.",
    )


def _corrected(p_values: list[float]) -> list[float]:
    """Apply Holm's correction to the known p-values; NaN where there is none."""
    adjusted = iter(holm([p_value for p_value in p_values if not math.isnan(p_value)]))
    return [p_value if math.isnan(p_value) else next(adjusted) for p_value in p_values]


def _axes(students: list[Student]) -> tuple[Axis, ...]:
    """The learning rate, and what else the students' best points differ in."""
    best = pd.concat([student.taught for student in students])
    others = [axis for axis in AXES.values() if axis != LR and best[axis.field].nunique() > 1]
    return (LR, *others)


def _row(
    context: ReportContext, student: Student, axes: tuple[Axis, ...], gain_p: float, macro_p: float
) -> tuple[Cell, ...]:
    gain, macro = student.gain, student.macro
    low, high = gain.interval or (math.nan, math.nan)
    taught = student.taught
    link = "" if taught.empty else context.link(list(taught["run_id"]))
    point = [None if taught.empty else taught[axis.field].iloc[0] for axis in axes]
    return (
        Cell(student.label),
        *(value_of(axis, value) for axis, value in zip(axes, point, strict=True)),
        Cell(str(gain.seeds), gain.seeds),
        _mean(context, taught),
        _mean(context, student.control),
        Cell(f"{gain.mean:+.4f}", gain.mean, link) if gain.seeds else Cell("-"),
        interval(low, high, 4),
        probability(gain_p),
        Cell(f"{macro.mean:+.2f}", macro.mean, link) if macro else Cell("-"),
        interval(macro.low, macro.high, 2) if macro else Cell("-"),
        probability(macro_p),
    )


def _mean(context: ReportContext, trials: pd.DataFrame) -> Cell:
    if trials.empty:
        return Cell("-")
    figures = trials["bits_per_byte"].astype(float)
    return with_spread(figures.mean(), figures.std(), 4, link=context.link(list(trials["run_id"])))


def _by_seed(context: ReportContext, students: list[Student]) -> Table:
    rows = []
    for student in students:
        for what, trials in (("student", student.taught), ("control", student.control)):
            for row in records(trials):
                link = context.study.link(row["run_id"])
                macro = row["macro"]
                cells = (Cell(student.label), Cell(what), Cell(str(row["seed"]), row["seed"]))
                rows.append(
                    (
                        *cells,
                        number(row["bits_per_byte"], 4, link=link),
                        number(None if pd.isna(macro) else macro, 1, link=link),
                    )
                )
    columns = ("student", "trial", "seed", "bits/byte", "macro, all items")
    return Table("distillation_seeds", "Each seed by itself", columns, tuple(rows))
