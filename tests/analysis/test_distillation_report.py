"""What a report says of students, of their controls, and of the published figures beside them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from analysis import report
from analysis.benchmarks.glue import PROTOCOL_TASKS
from analysis.paired import paired_gain
from analysis.reporting.page import Page
from analysis.reporting.sections.beside_literature import beside_literature
from analysis.reporting.sections.common import ReportContext, ReportPart
from analysis.reporting.sections.distillation import best_of, distillation, students_of
from analysis.reporting.sections.finals import finals
from analysis.reporting.tables import write_tables
from analysis.study import Study
from sweeps.findings.distill import gain_over_control
from tests.made_study import MadeStudy, base_spec, suite

TEACHER = {"teacher": "abcd", "teacher_name": "hgrn2 version 1", "alpha": 0.5}
SEEDS = (0, 1, 2)


@pytest.fixture
def made(tmp_path: Path, empty_pictures: None) -> MadeStudy:
    """An empty study, of whose report no picture is drawn."""
    return MadeStudy(tmp_path / "storage")


def context_of(made: MadeStudy) -> ReportContext:
    folder = made.storage / "report" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    return ReportContext(
        Study.open(made.uri, made.name, "http://127.0.0.1:5000"), "val_loss", folder
    )


def table(part: ReportPart | None, name: str, folder: Path) -> pd.DataFrame:
    """A table of the part as CSV has it."""
    assert part is not None
    write_tables(Page("", "", (), (), (part.section,)), folder)
    return pd.read_csv(folder / f"{name}.csv")


def note(part: ReportPart | None, name: str) -> str:
    assert part is not None
    return next(found.note for found in part.section.tables if found.name == name)


def test_a_student_is_compared_at_its_best_point(made: MadeStudy, tmp_path: Path) -> None:
    """Of several weight decays its best one counts, and the control's, of those that both had."""
    decays = (0.1, 0.4)
    plain = [base_spec(seed=seed, weight_decay=decay) for seed in SEEDS for decay in (*decays, 1.6)]
    made.add(plain)
    taught = [base_spec(seed=seed, weight_decay=0.4, **TEACHER) for seed in SEEDS]
    made.add(taught, kind="distillation", bonus=0.9)
    made.add([spec.replace(weight_decay=0.1) for spec in taught], kind="distillation")
    (student,) = students_of(context_of(made))
    assert set(student.taught["weight_decay"]) == {0.4}
    assert set(student.control["weight_decay"]) == {0.1}
    made.add([spec.replace(weight_decay=1.6, alpha=0.9) for spec in taught], kind="distillation")
    one, other = students_of(context_of(made))
    assert set(other.control["weight_decay"]) == {1.6}
    rows = table(distillation(context_of(made)), "distillation", tmp_path)
    assert list(rows["weight decay"]) == [0.4, 1.6]


def test_students_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Students that differ in epochs alone have each their row, gain, p-value and place in the
    picture, under labels that say what differs."""
    made = MadeStudy(tmp_path / "storage")
    for epochs, bonus in ((2, 0.05), (3, 0.0)):
        made.add([base_spec(seed=seed, epochs=epochs) for seed in SEEDS])
        taught = [base_spec(seed=seed, epochs=epochs, **TEACHER) for seed in SEEDS]
        made.add(taught, kind="distillation", bonus=bonus)
    context = context_of(made)
    part = distillation(context)
    rows = table(part, "distillation", tmp_path)
    assert sorted(rows["student"]) == [
        f"hgrn2 taught by hgrn2 version 1 (alpha 0.5, T 1), epochs {epochs}" for epochs in (2, 3)
    ]
    assert part is not None
    text = " ".join(part.section.pictures[0].svg.split())
    assert "epochs 2" in text
    assert "epochs 3" in text
    for column in ("gain, p after Holm", "macro, p after Holm"):
        assert rows[column].nunique() == 2
    raw = [student.gain.p_value for student in students_of(context)]
    assert min(rows["gain, p after Holm"]) == pytest.approx(2 * min(raw))


def test_the_best_of_several_is_corrected_for(made: MadeStudy) -> None:
    """The answer says that it is the best of so many, with Holm's p-value, and a student of one
    seed does not win by luck."""
    made.add([base_spec(seed=seed) for seed in SEEDS])
    for alpha in (0.3, 0.5):
        taught = [base_spec(seed=seed, **{**TEACHER, "alpha": alpha}) for seed in SEEDS]
        made.add(taught, kind="distillation", bonus=0.02)
    made.add([base_spec(**{**TEACHER, "alpha": 0.9})], kind="distillation", bonus=0.5)
    context = context_of(made)
    students = list(students_of(context))
    best = best_of(students)
    assert best is not None
    assert len(students) == 3
    assert best.gain.seeds == 3
    assert best.gain.mean < max(student.gain.mean for student in students)
    part = distillation(context)
    assert part is not None
    assert part.answers[0].startswith(f"The best of 2 students is {best.label}: the teacher gains")
    assert "after Holm's correction over the 2" in part.answers[0]


@pytest.mark.parametrize(
    ("student_lost", "control_lost", "reason"),
    [
        (True, False, "a seed of the student diverged (hgrn2 lr=1e-2 seed=1 alpha=0.5 T=1)."),
        (False, True, "a seed of the control diverged (hgrn2 lr=1e-2 seed=1)."),
    ],
)
def test_divergence_is_no_gain(
    made: MadeStudy, student_lost: bool, control_lost: bool, reason: str
) -> None:
    """Where a seed diverged at every rate no gain is given, and the seed is named."""
    for changes, lost in ((TEACHER, student_lost), ({}, control_lost)):
        made.add([base_spec(**changes)])
        outcome = "diverged" if lost else "finished"
        made.add([base_spec(seed=1, **changes)], outcome=outcome)
    part = distillation(context_of(made))
    assert part is not None
    assert "what the teacher gains is not known: at every learning rate" in part.answers[0]
    assert part.answers[0].endswith(reason)


def test_students_without_controls_make_a_report(made: MadeStudy) -> None:
    """A missing control, or one of another seed, is said, and no published figure stands beside
    half a pair."""
    made.sweep(["mamba"], (1e-2,), (0,))
    made.add([base_spec(**TEACHER)])
    assert report.main(["--storage", str(made.storage)]) == 0
    tables = made.storage / made.name / "report" / "tables"
    assert not (tables / "published_distillation.csv").exists()
    part = distillation(context_of(made))
    assert part is not None
    assert part.answers[0].endswith("is not known: no control was trained to the end.")
    made.add([base_spec(seed=1)])
    part = distillation(context_of(made))
    assert part is not None
    assert "student and control have no seed in common" in part.answers[0]


def test_the_published_pair_is_beside_a_student_and_its_control(
    made: MadeStudy, tmp_path: Path
) -> None:
    """Not beside the best plain HGRN2 of any length: with and without differ in the teacher alone,
    as means over the same seeds."""
    made.add([base_spec(seed=seed, epochs=1) for seed in (*SEEDS, 3)])
    made.add([base_spec(seed=seed, epochs=4) for seed in SEEDS], bonus=0.2)
    made.add([base_spec(seed=seed, epochs=1, **TEACHER) for seed in SEEDS], bonus=0.05)
    context = context_of(made)
    part = beside_literature(context)
    rows = table(part, "published_distillation", tmp_path).set_index(["HGRN2", "benchmark"])
    epochs = context.study.epochs.merge(context.study.trials[["run_id", "epochs", "teacher"]])
    one = epochs[(epochs["epochs"] == 1) & epochs["seed"].isin(SEEDS)]
    for label, is_taught in (("without distillation", False), ("with distillation", True)):
        mine = one[(one["teacher"] != "") == is_taught]
        assert len(mine) == 3
        assert rows.loc[(label, "blimp"), "ours"] == pytest.approx(mine["blimp"].mean())
        assert rows.loc[(label, "blimp"), "seeds, ours"] == 3
    assert "990.5M" in note(part, "published_distillation")


@pytest.mark.parametrize("whole", [True, False])
def test_glue_is_the_mean_of_all_tasks_or_nothing(
    made: MadeStudy, tmp_path: Path, whole: bool
) -> None:
    """A score of zero counts, and a mean over fewer tasks is not put beside one over eleven."""
    made.add([base_spec(), base_spec("mamba")])
    (run_id,) = made.add([base_spec(**TEACHER)])
    tasks = PROTOCOL_TASKS["2024"]
    known = {"baseline": 50.0, "error": 1.0}
    glue: dict[str, dict[str, Any]] = {task: {"score": 66.0, **known} for task in tasks}
    glue["cola"] = {"score": 0.0 if whole else None, **known}
    client = made.tracker([]).client
    client.log_dict(run_id, {"glue": glue}, "eval/scores.json")
    rows = table(beside_literature(context_of(made)), "published_distillation", tmp_path)
    figures = rows[rows["benchmark"] == "glue"]["ours"]
    assert len(tasks) == 11
    assert list(figures) == ([pytest.approx(60.0)] if whole else [])


def test_tables_say_what_the_published_models_are(made: MadeStudy, tmp_path: Path) -> None:
    """Sizes by table, the later correction of xLSTM, and the members of the macro."""
    made.sweep(["lstm", "xlstm"], (1e-3, 1e-2), (0,))
    part = beside_literature(context_of(made))
    best = table(part, "published_best", tmp_path).set_index("architecture")
    assert best.loc["xlstm", "macro, published"] == 49.95
    assert best.loc["xlstm, later correction", "macro, published"] == 56.95
    assert "lstm 283.5M, xlstm 338.2M." in note(part, "published_best")
    assert "chosen by the reported macro itself" in note(part, "published_lr")
    assert "mean of blimp, supplement, ewok." in note(part, "published_lr")


def test_a_macro_of_fewer_benchmarks_is_named(tmp_path: Path) -> None:
    """Ours over two benchmarks does not stand beside theirs over three without a word."""
    made = MadeStudy(tmp_path, suite=suite({"blimp": {"a": 50}, "ewok": {"b": 50}}))
    made.sweep(["mamba", "hgrn2"], (1e-3,), (0,))
    part = beside_literature(context_of(made))
    for name in ("published_best", "published_lr"):
        assert "ours of blimp, ewok alone: the two cannot be compared" in note(part, name)


def test_a_macro_of_another_protocol_is_named(tmp_path: Path) -> None:
    """It asks otherwise, also where its macro has the same members; what counts by half is said. Of
    a study of two protocols that of the trials in the table counts."""
    three = {name: {"a": 50} for name in ("blimp", "supplement", "ewok")}
    more = {**three, "global_piqa_parallel": {"en": 50}}
    for number, (items, protocol, words) in enumerate(
        (
            (three, "2026", ("The macro is the mean of blimp, supplement, ewok. ",)),
            (more, "2026", ("blimp, supplement, ewok, and of global_piqa_parallel by half; it",)),
            (more, "2024", ("The macro is the mean of blimp, supplement, ewok.",)),
        )
    ):
        scored = replace(suite(items), protocol=protocol)
        made = MadeStudy(tmp_path / str(number), suite=scored)
        made.add([base_spec("mamba", lr=lr, protocol=protocol) for lr in (1e-3, 1e-2)])
        made.suite = replace(scored, protocol="2025")
        made.add([base_spec("lstm", protocol="2025")])
        part = beside_literature(context_of(made))
        said = note(part, "published_best")
        assert all(each in said for each in words)
        assert ("ours by that of 2026: the two cannot be compared" in said) == (protocol == "2026")
        assert "2025" not in said


def test_glue_close_to_a_constant_answer_is_marked(made: MadeStudy, tmp_path: Path) -> None:
    """A score within two standard errors of the constant answer's is, and its error is shown."""
    (run_id,) = made.add([base_spec()])
    glue = {
        "rte": {"score": 55.0, "baseline": 54.0, "error": 3.0},
        "mrpc": {"score": 81.5, "baseline": 79.0, "error": 1.0},
    }
    client = made.tracker([]).client
    client.log_dict(run_id, {"glue": glue}, "eval/scores.json")
    client.log_metric(run_id, "eval/glue/rte", 55.0)
    rows = table(finals(context_of(made)), "finals", tmp_path)
    assert rows["rte mark"].iloc[0] == "no better than constant"
    assert "mrpc mark" not in rows or pd.isna(rows["mrpc mark"].iloc[0])
    assert rows["rte error"].iloc[0] == 3.0


def test_the_gains_p_value_is_the_t_tests() -> None:
    """Of paired seeds; a gain without spread is certain, and one seed has none."""
    control, changed = pd.Series([1.0, 1.1, 1.2, 1.4]), pd.Series([0.9, 1.05, 1.21, 1.3])
    expected = stats.ttest_rel(control, changed).pvalue
    assert gain_over_control(
        pd.DataFrame({"seed": range(4), "bits_per_byte": changed}),
        pd.DataFrame({"seed": range(4), "bits_per_byte": control}),
    ).p_value == pytest.approx(expected)
    assert paired_gain(control - 0.25, control).p_value == pytest.approx(0.0, abs=1e-9)
    assert paired_gain(control, control).p_value == 1.0
    assert math.isnan(paired_gain(changed[:1], control[:1]).p_value)
