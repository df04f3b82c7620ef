"""What MLflow holds for its pages: the saved view and the descriptions."""

from __future__ import annotations

import base64
import json
import zlib

import pytest

from analysis.schema.axes import AXES
from tests.empty_store import empty_store
from tests.trainables.test_spec import SPEC
from trainables.mlflow_pages import COLUMNS, SWEEPS, TRIALS, trial_note, with_text
from trainables.progress import EpochReport, TrialOutcome
from trainables.tracking import Tracker

NOTE = "mlflow.note.content"


@pytest.fixture
def tracker(tmp_path):
    """A study with the parent runs of two sweeps."""
    return open_tracker(tmp_path)


def open_tracker(folder):
    return Tracker.open(
        empty_store(folder), folder / "artifacts", "study", [SPEC, SPEC.replace(arch="lstm")]
    )


def test_a_text_is_replaced_and_everything_around_it_stays():
    """Twice the same text changes nothing, another replaces it; a person's words and texts on other
    topics stay where they are."""
    once = with_text("", "lr sweep", "first")
    assert with_text(once, "lr sweep", "first") == once
    note = f"Mine.\n\n{once}\n\nMine, too."
    assert with_text(note, "lr sweep", r"se\1cond") == note.replace("first", r"se\1cond")
    both = with_text(note, "distillation", "other")
    assert both.startswith(note)
    assert with_text(both, "lr sweep", "second") == both.replace("first", "second")


@pytest.mark.parametrize("mark", [0, 1])
def test_a_person_may_delete_a_mark(mark):
    """With one of the two marks gone, nothing that is left is lost, however often it is written."""
    lines = with_text("", "study", "first\nline").splitlines()
    lines[mark] = lines[mark].split(" <!--")[0]
    before = "\n".join(["Mine.", *lines, "Mine, too."])
    note = before
    for text in ("second", "third"):
        note = with_text(note, "study", text)
        assert note.startswith(before)
    assert "second" not in note
    assert "third" in note


def test_a_table_of_runs_shows_the_first_line():
    """MLflow's table shows a description as it is written: no mark comes before the first line."""
    note = with_text("", "lr sweep", "the answer\n\nthe rest")
    assert note.startswith("the answer <!--")
    assert "the rest" in note


def test_opening_a_study_again_changes_no_tag(tracker, tmp_path):
    """The view is there from the start, and written the same by every command."""
    before = tracker.client.get_experiment(tracker.experiment_id).tags
    again = open_tracker(tmp_path)
    assert again.client.get_experiment(again.experiment_id).tags == before
    assert tracker.page.startswith(f"#/experiments/{tracker.experiment_id}/runs?")
    assert SWEEPS in tracker.page
    assert before["mlflow.experimentKind"] == "custom_model_development"


def opened(tracker, view):
    """A view's tag, its envelope, and the state in it."""
    tag = tracker.client.get_experiment(tracker.experiment_id).tags[
        f"mlflow.sharedViewState.{view}"
    ]
    envelope = json.loads(tag)
    kind, packed = envelope["state"].split(";")
    assert kind == "deflate"
    return tag, envelope, json.loads(zlib.decompress(base64.b64decode(packed)))


@pytest.mark.parametrize("view", [SWEEPS, TRIALS])
def test_charts_have_room_for_their_titles(tracker, view):
    """One in a row: its title is its metric's name."""
    _, _, state = opened(tracker, view)
    (section,) = state["compareRunSections"]
    assert section["columns"] == 1
    charts = state["compareRunCharts"]
    assert len({chart["metricKey"] for chart in charts}) == len(charts) == 4
    assert {chart["metricSectionId"] for chart in charts} == {section["uuid"]}


@pytest.mark.parametrize("view", [SWEEPS, TRIALS])
def test_a_view_is_what_mlflow_reads(tracker, view):
    """It is in MLflow's envelope: name, time, and a deflated state; it fits an experiment's tag."""
    tag, envelope, state = opened(tracker, view)
    assert state["selectedColumns"] == list(COLUMNS)
    assert {type(envelope[key]) for key in ("name", "state")} == {str}
    assert isinstance(envelope["createdAt"], int)
    assert len(tag) < 5000


def test_the_best_value_of_every_ordered_axis_is_a_column():
    """And a trial that failed early says where it lay on all that was not the default."""
    names = [axis.field for axis in AXES.values() if axis.scale]
    assert {f"metrics.`best/{name}`" for name in names} <= set(COLUMNS)
    note = trial_note(SPEC.replace(lr=1e-2, weight_decay=0.4), "diverged", None)
    assert note.endswith("at learning rate 1e-2 at weight decay 0.4")


def test_descriptions_keep_what_a_person_wrote(tracker, tmp_path):
    """Of a sweep, of the study, and of a trial, which gets one only when it has none."""
    (run_id, other) = tracker.parents.values()
    tracker.client.set_tag(run_id, NOTE, "Mine.")
    for _ in range(2):
        tracker.describe(run_id, "lr sweep", "found")
        tracker.describe_study("about")
    note = tracker.client.get_run(run_id).data.tags[NOTE]
    assert note.startswith("Mine.")
    assert note.count("found") == 1
    study = tracker.client.get_experiment(tracker.experiment_id).tags[NOTE]
    assert study.count("about") == 1
    assert NOTE not in tracker.client.get_run(other).data.tags
    history = (EpochReport(1, 10, 100, 1.5, 1.5, 0.75, 1.0, 1.0),)
    for seed, written in enumerate(["Mine.", None]):
        run = tracker.trial(SPEC.replace(seed=seed), {}, tmp_path)
        if written:
            tracker.client.set_tag(run.run_id, NOTE, written)
        run.finish(TrialOutcome("finished", history, None), None)
        expected = written or "finished; best after epoch 1 of 3: 0.7500 bits/byte"
        assert tracker.client.get_run(run.run_id).data.tags[NOTE] == expected


def test_a_text_too_long_for_mlflow_is_left_out():
    """MLflow would cut the description, and with it the mark of where the text ends."""
    note = with_text("Mine.", "lr sweep", "first")
    assert with_text(note, "lr sweep", "x" * 8000) == note
