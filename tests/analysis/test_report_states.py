"""The report of studies that were killed, mixed, or kept in odd places."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from analysis import compare, report, store, study
from analysis.reporting.writing import folder_name
from tests.made_study import MadeStudy, base_spec
from trainables.progress import TrialOutcome as End

LRS = (3e-3, 1e-2, 3e-2)


def written(made: MadeStudy) -> tuple[str, Path]:
    """Run the command; the page that it wrote, and the folder of it."""
    folder = made.storage / "written"
    assert report.main(["--storage", str(made.storage), "--output", str(folder)]) == 0
    return (folder / "report.html").read_text(), folder


@pytest.mark.parametrize("outcome", [None, "diverged"])
def test_without_a_finished_epoch(tmp_path: Path, outcome: str | None) -> None:
    """Trials that just began, or all diverged in their first epoch, cost nothing that is known."""
    made = MadeStudy(tmp_path)
    tracker = made.tracker([base_spec()])
    for lr in LRS:
        run = tracker.trial(base_spec(lr=lr), {"total_steps": 300}, tmp_path)
        if outcome is not None:
            run.finish(End(outcome, (), None, "loss nan at step 3"), None)
    page, folder = written(made)
    assert "No trial has finished an epoch yet." in page
    assert len(pd.read_csv(folder / "tables" / "trials.csv")) == 3


def test_devices_that_were_not_recorded_are_unknown(tmp_path: Path) -> None:
    """Of trials of which some say what they ran on, both are named."""
    made = MadeStudy(tmp_path, suite=None)
    run_id = made.sweep(["mamba"], LRS, (0,))[0]
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("DELETE FROM params WHERE run_uuid = ? AND key = 'hardware'", (run_id,))
    _, folder = written(made)
    table = pd.read_csv(folder / "tables" / "cost.csv")
    device = "1 thread of a made-up processor; unknown"
    assert table["device of a trial"].item() == device
    assert table["tokens"].item() == 3 * 3 * 100 * 32 * 64
    assert "/runs/" in table["tokens run"].item()


def test_a_sweep_over_two_axes_has_curves_and_a_heat_map(tmp_path: Path) -> None:
    """For each architecture with both, in one comparison; unequal chances are named."""
    made = MadeStudy(tmp_path, suite=None)
    decays = (0.025, 0.1, 0.4)
    specs = [
        base_spec("hgrn2", lr=lr, weight_decay=decay, seed=seed)
        for lr in LRS
        for decay in decays
        for seed in (0, 1)
    ]
    made.add([*specs, *(base_spec("mamba", lr=lr, seed=seed) for lr in LRS for seed in (0, 1))])
    page, folder = written(made)
    for picture in ("rates", "axis_weight_decay", "plane_weight_decay_hgrn2"):
        assert list(folder.rglob(f"{picture}.svg")), picture
    assert not list(folder.rglob("plane_weight_decay_mamba.svg"))
    assert "Which weight decay" in page
    assert "hgrn2: weight decay 0.1 is ahead of" in page
    assert "unequal numbers of tries (3 weight decays for hgrn2; 1 weight decay for mamba)" in page
    points = pd.read_csv(folder / "tables" / "rates.csv")
    assert len(points) == len(LRS) * len(decays) + len(LRS)
    best = pd.read_csv(folder / "tables" / "leaderboard.csv").set_index("architecture")
    assert best.loc["hgrn2", "learning rate"] == 1e-2


@pytest.mark.slow
def test_two_axes_at_one_learning_rate_have_a_heat_map(tmp_path: Path) -> None:
    """A heat map is of any two axes that were varied, also without the rate."""
    made = MadeStudy(tmp_path, suite=None)
    pairs = [(decay, dropout) for decay in (0.1, 0.4) for dropout in (0.0, 0.1)]
    made.add([base_spec(weight_decay=decay, dropout=dropout) for decay, dropout in pairs])
    page, folder = written(made)
    assert list(folder.rglob("plane_weight_decay_dropout_hgrn2.svg"))
    assert "by weight decay and dropout" in page
    assert not list(folder.rglob("plane_dropout_hgrn2.svg"))  # one rate only


def test_runs_that_say_nothing_are_warned_of(tmp_path: Path) -> None:
    """A kill between a run's creation and its parameters does not end the report."""
    made = MadeStudy(tmp_path, suite=None)
    made.sweep(["mamba"], LRS, (0,))
    tags = {"babysweep.kind": "trial", "mlflow.runName": "mamba lr=1e-1 seed=0"}
    tracker = made.tracker([])
    tracker.client.create_run(tracker.experiment_id, tags=tags)
    page, folder = written(made)
    assert "1 run of this study recorded nothing of what was to be trained" in page
    assert len(pd.read_csv(folder / "tables" / "trials.csv")) == 3


def test_a_failure_that_was_mended_is_not_shown(tmp_path: Path) -> None:
    """A trial that failed and then finished has no reason in the table of all trials."""
    made = MadeStudy(tmp_path, suite=None)
    first, second = made.sweep(["mamba"], LRS[:2], (0,))
    made.add([base_spec("mamba", lr=1e-1)], outcome="diverged")
    made.tracker([]).client.set_tag(first, "babysweep.reason", "the disk is full")
    page, folder = written(made)
    assert "the disk is full" not in page
    reasons = pd.read_csv(folder / "tables" / "trials.csv").set_index("outcome")["reason"]
    assert reasons["diverged"] == "loss nan at step 120"


def test_schedules_of_equal_length_are_not_mixed(tmp_path: Path) -> None:
    """Two sweeps of one study that differ in the schedule only: the epochs of one are read."""
    made = MadeStudy(tmp_path, suite=None)
    for schedule in ("linear", "cosine"):
        made.add([base_spec(schedule=schedule, seed=seed) for seed in (0, 1)])
    _, folder = written(made)
    table = pd.read_csv(folder / "tables" / "epochs.csv")
    assert list(table["design"]) == ["trajectory"] * 3
    assert list(table["seeds"]) == [2, 2, 2]


def test_a_torn_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores that are no JSON end the command with the run and the file, not with a traceback."""
    made = MadeStudy(tmp_path)
    run_id = made.add([base_spec()])[0]
    for file in tmp_path.rglob("scores/epoch-*.json"):
        file.write_text('{"items"')
    assert report.main(["--storage", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "scores/epoch-00" in message
    assert f".json of run {run_id} cannot be read" in message


def test_a_server_that_goes_away_is_said_to_be_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What MLflow raises while the study is read is a line, and has no password."""
    made = MadeStudy(tmp_path, suite=None)
    made.sweep(["mamba"], LRS[:2], (0,))

    def gone(*_: object, **__: object) -> None:
        raise MlflowException("API request to https://me:secret@host/api failed")

    monkeypatch.setattr(MlflowClient, "get_metric_history", gone)
    assert report.main(["--storage", str(tmp_path)]) == 2
    assert "cannot be used: API request to https://host/api failed" in capsys.readouterr().err
    monkeypatch.setattr(MlflowClient, "search_runs", gone)
    assert compare.main(["a", "b", "--storage", str(tmp_path)]) == 2
    assert "cannot be used: API request to https://host/api failed" in capsys.readouterr().err


def test_the_password_of_a_server_is_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in no link, no table and no text; the links lead to the server all the same."""
    made = MadeStudy(tmp_path)
    made.sweep(["mamba"], LRS, (0,))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org")
    for module in (study, store):
        monkeypatch.setattr(module, "MlflowClient", lambda _: MlflowClient(made.uri))
    page, folder = written(made)
    assert "https://mlflow.example.org/#/experiments/" in page
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert not [file for file in files if b"secret" in file.read_bytes()]


def test_the_report_stays_in_its_storage(tmp_path: Path) -> None:
    """A study may be named as a path, as on Databricks: it names one folder of the storage."""
    made = MadeStudy(tmp_path / "storage", str(tmp_path / "elsewhere" / "x"), suite=None)
    made.sweep(["mamba"], LRS[:1], (0,))
    assert report.main(["--storage", str(made.storage)]) == 0
    assert (made.storage / folder_name(made.name) / "report" / "report.html").exists()
    assert not (tmp_path / "elsewhere").exists()
    assert folder_name("/Users/me/x") == "_Users_me_x"
    assert [folder_name(name) for name in ("mini-mini", "..")] == ["mini-mini", "_"]
