"""What is learned when: the figures over the words seen, in a report."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import plots
from analysis.arguments import ReportArgs
from analysis.benchmarks import Answer, Benchmark, Item, Suite
from analysis.reporting.page import Section
from analysis.reporting.sections.milestones import learned_when
from analysis.reporting.writing import write_report
from analysis.study import Study
from tests.made_study import MadeStudy, base_spec, suite
from tests.notation import faults, texts_of_page
from trainables.milestones import milestone_report

WORDS = (1000, 2000, 4000)

pytestmark = pytest.mark.usefixtures("empty_pictures")


def section_of(made: MadeStudy) -> Section | None:
    """The section of the made study's report; the report's words are the project's."""
    page, _ = write_report(ReportArgs(storage=made.storage), lambda text: None)
    assert faults(texts_of_page(page)) == []
    return next((part for part in page.sections if part.name == "milestones"), None)


def rows_of(made: MadeStudy, table: str) -> list[dict[str, str]]:
    with (made.storage / "study" / "report" / "tables" / f"{table}.csv").open() as file:
        return [*csv.DictReader(file)]


def frame(*scores: float, error: float = 1.0, words: tuple[int, ...] = WORDS) -> pd.DataFrame:
    """One figure of one architecture after so many words, of chance 50."""
    key = {"arch": "hgrn2", "benchmark": "blimp", "grouping": "field", "name": "syntax"}
    rows = [
        {**key, "words": at, "value": score, "error": error, "chance": 50.0}
        for at, score in zip(words, scores, strict=True)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("scores", "first"),
    [
        ((51.0, 52.0, 60.0), 2000.0),  # 50 + 1.96 is between the first two
        ((60.0, 51.0, 60.0), 4000.0),  # it was above by chance: it did not stay so
        ((60.0, 60.0, 51.0), np.nan),
        ((40.0, 40.0, 40.0), np.nan),  # surely below chance is not learned
        ((52.0, 52.0, 52.0), 1000.0),
    ],
)
def test_learned_is_above_chance_by_its_error_from_then_on(
    scores: tuple[float, ...], first: float
) -> None:
    (found,) = learned_when(frame(*scores)).to_dict("records")
    assert (found["last"], found["last_words"]) == (scores[-1], 4000)
    np.testing.assert_equal(found["words"], first)


def test_the_mean_over_seeds_is_what_is_learned() -> None:
    """Seeds share the items: their errors are averaged, not made smaller."""
    both = pd.concat([frame(50.0, 51.0, 56.0), frame(50.0, 54.0, 56.0, error=2.0)])
    assert learned_when(both)["words"].tolist() == [4000.0]  # 52.5 is within 1.96 x 1.5 of 50
    assert learned_when(both.assign(error=1.0))["words"].tolist() == [2000.0]


def test_the_report_says_what_is_learned_when(tmp_path: Path) -> None:
    """From the runs in MLflow: means over seeds of what each trial recorded, and its groups."""
    made = MadeStudy(tmp_path)
    specs = [base_spec(arch, seed=seed) for arch in ("hgrn2", "lstm") for seed in (0, 1)]
    made.add(specs, milestones=WORDS)
    section = section_of(made)
    assert section is not None
    assert section.paragraphs[0].startswith("hgrn2 is above chance from ")
    assert "mid-schedule" in section.paragraphs[-1]
    assert [picture.name for picture in section.pictures] == ["milestones", "milestone_groups"]
    figures = [made.milestone(spec, 1) for spec in specs[:2]]
    (row,) = (
        each
        for each in rows_of(made, "milestones")
        if each["architecture"] == "hgrn2" and float(each["words seen"]) == 2000
    )
    for name in ("blimp", "ewok"):
        scores = [report.scores["benchmarks"][name] for report in figures if report.scores]
        assert float(row[name]) == pytest.approx(np.mean(scores))
    losses = [report.bits_per_byte or 0.0 for report in figures]
    assert float(row["validation bits/byte"]) == pytest.approx(np.mean(losses))
    table = rows_of(made, "learned_when")
    learned = {(row["score"], row["benchmark"]): row["lstm"] for row in table}
    assert {("all tasks", "macro"), ("binding term", "blimp")} <= learned.keys()
    assert learned["binding term", "blimp"] in ("1000.0", "2000.0", "4000.0")


def test_groups_of_one_name_are_two_figures(tmp_path: Path) -> None:
    """Where a field is called as a term is, each has a column of its own."""
    tasks = {"binding": ("binding", "binding"), "islands": ("syntax", "binding")}
    items = tuple(
        Item(task, (f"a {n}", f"b {n}"), groups=(("field", field), ("linguistics_term", term)))
        for task, (field, term) in tasks.items()
        for n in range(40)
    )
    made = MadeStudy(tmp_path, suite=Suite((Benchmark("blimp", items),), "2024"))
    (spec,) = specs = [base_spec()]
    made.add(specs, milestones=WORDS)
    assert section_of(made) is not None
    (row, *_) = rows_of(made, "milestone_groups")
    scores = made.milestone(spec, 0).scores
    assert scores is not None
    for grouping in ("field", "linguistics_term"):
        shown = float(row[f"blimp: binding ({grouping.replace('_', ' ')})"])
        assert shown == pytest.approx(scores["groups"]["blimp"][grouping]["binding"])


def test_only_the_milestones_of_all_seeds_are_averaged(tmp_path: Path) -> None:
    """Of a seed that lacks one, and of one that has none: it was trained before they were asked
    for."""
    made = MadeStudy(tmp_path, suite=None)
    for seed, words in enumerate((WORDS, WORDS[1:], ())):
        made.add([base_spec(seed=seed, benchmarks_hash="")], milestones=words)
    section = section_of(made)
    assert section is not None
    assert [float(row["words seen"]) for row in rows_of(made, "milestones")] == [2000, 4000]


def test_without_benchmarks_there_is_the_loss(tmp_path: Path) -> None:
    """And no word of chance."""
    made = MadeStudy(tmp_path, suite=None)
    made.add([base_spec(benchmarks_hash="")], milestones=WORDS)
    section = section_of(made)
    assert section is not None
    assert section.tables == ()
    assert "chance" not in " ".join(section.paragraphs)
    assert len(section.pictures) == 1


def test_a_study_without_milestones_has_no_such_section(tmp_path: Path) -> None:
    made = MadeStudy(tmp_path, suite=None)
    made.add([base_spec(benchmarks_hash="")])
    assert section_of(made) is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """With its run, as those of epochs."""
    made = MadeStudy(tmp_path)
    (run_id,) = made.add([base_spec()], milestones=WORDS)
    study = Study.open(made.uri, made.name, "http://localhost")
    assert [*study.milestones(run_id)] == [*WORDS]
    asked: list[str | None] = []
    list_all = study.client.list_artifacts
    with pytest.MonkeyPatch.context() as patch:  # a server is asked once for the list of files
        patch.setattr(
            study.client, "list_artifacts", lambda *of: asked.append(of[1]) or list_all(*of)
        )
        study.milestones(run_id)
    assert asked == ["scores"]
    study.client.log_dict(run_id, {"val_loss": "low"}, "scores/words-2000.json")
    with pytest.raises(ValueError, match=rf"scores/words-2000.json of run {run_id} is damaged"):
        study.milestones(run_id)


def test_the_picture_has_words_on_a_log_axis_and_chance() -> None:
    """A panel for each figure; a line at chance only where there is one."""
    scores = frame(50.0, 60.0, 70.0, words=(10**6, 10**7, 10**8)).assign(panel="blimp", unit="%")
    loss = scores.assign(panel="loss", unit="lower is better", chance=np.nan)
    figure = plots.milestone_figure(pd.concat([loss, scores]))
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("loss", "blimp")
    assert left.get_xscale() == right.get_xscale() == "log"
    assert [text.get_text() for text in right.texts] == ["chance"]
    assert not left.texts
    figure.canvas.draw()
    labels = [label.get_text() for label in right.get_xticklabels()]
    assert {"1M", "10M", "100M"} <= {*labels}


def test_errors_of_groups_are_those_of_their_items() -> None:
    """Right at random on one task, always on the other: only the first has an error."""
    made, luck = suite(), np.random.default_rng(0)
    answers = {
        benchmark.name: [
            Answer(float(item.task == "binding" or luck.random() < 0.5), 0, False, (-1.0, -2.0))
            for item in benchmark.items
        ]
        for benchmark in made.benchmarks
    }
    report = milestone_report(2.0, 1.0, made, made.summarize(answers).to_dict())
    errors = report.group_errors["blimp"]["linguistics_term"]
    assert errors["binding_term"] == 0.0
    assert errors["agreement_term"] == pytest.approx(100 * 0.5 / np.sqrt(60), rel=0.05)
