"""Whether distillation helps: students beside the same training without a teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from analysis import plots
from analysis.learning_rates import best_lrs
from analysis.report_page import Cell, Picture, Section, Table
from analysis.samples import sample
from analysis.sections.common import (
    Context,
    Part,
    interval,
    number,
    probability,
    rate,
    records,
    with_spread,
)
from analysis.statistics import Difference, Gain, difference, holm, paired_gain
from analysis.study import DISTILLATION, setting


@dataclass(frozen=True)
class Student:
    """Trials with one teacher, and their controls, each at its best learning rate.

    Attributes:
        label: what it is.
        taught: one row of `runs.trials` for each seed.
        control: the same without a teacher; no row if it was not trained.
        gain: in bits-per-byte; positive favours the teacher.
        macro: difference in macro on the held-out items, paired by seed; None without scores.
    """

    label: str
    taught: pd.DataFrame
    control: pd.DataFrame
    gain: Gain
    macro: Difference | None


def distillation(context: Context) -> Part | None:
    """What teachers gained their students; None if none was distilled."""
    students = list(_students(context))
    if not students:
        return None
    sentences = [f"{student.label}: the teacher {student.gain.sentence}." for student in students]
    best = max(students, key=lambda student: (student.gain.seeds > 0, student.gain.mean))
    paragraphs = [*sentences, *_macro_sentences(students)]
    if len(students) > 1:
        paragraphs.append(
            f"{len(students)} students were compared with controls: the best of several looks "
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
    answer = sentences[students.index(best)]
    return Part(section, (answer,))


def _students(context: Context) -> Iterator[Student]:
    """Each kind of student in the study, with its controls."""
    trials = context.study.trials
    if "teacher" not in trials:
        return
    ended = trials[trials["outcome"].isin(["finished", "diverged"])]
    common = setting(ended, without=DISTILLATION) + ended["arch"]
    is_taught = ended["teacher"].fillna("") != ""
    kinds = ["teacher", "alpha", "temperature", "reverse_kl"]
    taught = ended[is_taught].assign(_common=common[is_taught])
    for (key, *_), group in taught.groupby(["_common", *kinds]):
        controls = ended[~is_taught & (common == key) & ended["lr"].isin(group["lr"])]
        yield _student(context, group, controls)


def _student(context: Context, group: pd.DataFrame, controls: pd.DataFrame) -> Student:
    first = group.iloc[0]
    divergence = "reverse KL, " if str(first["reverse_kl"]) == "True" else ""
    label = (
        f"{first['arch']} taught by {first['teacher_name'] or first['teacher']} "
        f"({divergence}alpha {first['alpha']:g}, T {first['temperature']:g})"
    )
    left, right = (_at_best_lr(frame) for frame in (group, controls))
    by_seed = [frame.set_index("seed")["bits_per_byte"].astype(float) for frame in (left, right)]
    return Student(label, left, right, paired_gain(*by_seed), _macro(context, left, right))


def _at_best_lr(trials: pd.DataFrame) -> pd.DataFrame:
    """The finished trials at the best learning rate of one architecture."""
    best = list(best_lrs(trials).values()) if len(trials) else []
    mine = trials[trials["lr"].isin(best) & (trials["outcome"] == "finished")]
    return mine.sort_values("seed", ignore_index=True)


def _macro(context: Context, taught: pd.DataFrame, control: pd.DataFrame) -> Difference | None:
    both = taught.merge(control, on="seed", suffixes=("", "_control"))
    left, right = [], []
    for row in records(both):
        with_teacher = context.scores(row["run_id"], row["best_epoch"])
        without = context.scores(row["run_id_control"], row["best_epoch_control"])
        if not with_teacher or not without or with_teacher["macro"] is None:
            return None
        left.append(with_teacher)
        right.append(without)
    if not left or left[0]["suite_hash"] != right[0]["suite_hash"]:
        return None
    return difference(sample(left, "macro"), sample(right, "macro"), paired=True)


def _macro_sentences(students: list[Student]) -> Iterator[str]:
    for student in students:
        it = student.macro
        if it is not None:
            verb = "gains" if it.mean > 0 else "loses"
            verdict = "excludes" if it.low * it.high > 0 else "includes"
            yield (
                f"{student.label}: in macro it {verb} {abs(it.mean):.2f} points (95 % interval of "
                f"the gain {it.low:.2f} to {it.high:.2f}): the interval {verdict} zero."
            )


def _gain_rows(students: list[Student]) -> Iterator[dict[str, object]]:
    for student in students:
        if student.gain.seeds:
            low, high = student.gain.interval or (math.nan, math.nan)
            yield {
                "student": student.label,
                "metric": "bits per byte",
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


def _table(context: Context, students: list[Student]) -> Table:
    tested = [student for student in students if student.macro is not None]
    adjusted = dict(
        zip(
            (student.label for student in tested),
            holm([student.macro.p_value for student in tested if student.macro]),
            strict=True,
        )
    )
    rows = tuple(_row(context, student, adjusted.get(student.label)) for student in students)
    columns = ("student", "learning rate", "seeds", "bits/byte", "control", "gain")
    of_macro = ("gain in macro", "macro, 95 % interval", "p after Holm")
    return Table(
        "distillation",
        "Students and their controls, each at its best learning rate",
        (*columns, "gain, 95 % interval", *of_macro),
        rows,
        "A gain is the mean over seeds that both have: control minus student in bits-per-byte, "
        "student minus control in macro (percentage points on held-out items).",
    )


def _row(context: Context, student: Student, adjusted: float | None) -> tuple[Cell, ...]:
    gain, macro = student.gain, student.macro
    low, high = gain.interval or (math.nan, math.nan)
    lrs = student.taught["lr"].unique()
    return (
        Cell(student.label),
        Cell(rate(lrs[0]), lrs[0]) if len(lrs) else Cell("-"),
        Cell(str(gain.seeds), gain.seeds),
        _mean(context, student.taught),
        _mean(context, student.control),
        Cell(f"{gain.mean:+.4f}", gain.mean) if gain.seeds else Cell("-"),
        interval(low, high, 4),
        Cell(f"{macro.mean:+.2f}", macro.mean) if macro else Cell("-"),
        interval(macro.low, macro.high, 2) if macro else Cell("-"),
        probability(math.nan if adjusted is None else adjusted),
    )


def _mean(context: Context, trials: pd.DataFrame) -> Cell:
    if trials.empty:
        return Cell("-")
    figures = trials["bits_per_byte"].astype(float)
    return with_spread(figures.mean(), figures.std(), 4, link=context.link(list(trials["run_id"])))


def _by_seed(context: Context, students: list[Student]) -> Table:
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
