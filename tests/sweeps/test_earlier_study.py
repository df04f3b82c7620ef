"""A study of November 2026, made by version 0.1.0: two architectures, rates and seeds.

earlier_study/trials/     specs and outcomes of its trials
earlier_study/runs.json   its runs in MLflow, but for the points of single steps
earlier_study/tables/     what its report said, but for links
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from analysis import report
from analysis.command_line import parse
from sweeps.arguments import LrSweepArgs
from sweeps.plans.lr_sweep import plan_sweep
from sweeps.stored.trials import earlier_trials, study_trials
from tests.empty_store import empty_store
from tests.processes import ROOT
from tests.sweeps.conftest import SweepCommand

EARLIER = ROOT / "tests" / "sweeps" / "earlier_study"


def test_trials_of_an_earlier_version_are_found(sweep: SweepCommand) -> None:
    """The same hashes, and nothing to run again."""
    study = sweep.storage / "study"
    shutil.copytree(EARLIER / "trials", study / "trials")
    trials = study_trials(study)
    assert len(trials) == 8
    for trial in trials:
        assert trial.path.name == trial.spec.hash
    flags = sweep.line("--arch", "lstm", "transformer", "--seeds", "0", "1")[2:]
    plan = plan_sweep(parse(LrSweepArgs, flags, None), lambda text: None)
    assert {arch: plan.plans[arch].remaining() for arch in plan.plans} == {
        "lstm": 0,
        "transformer": 0,
    }
    found = earlier_trials(study, plan.bases["lstm"])
    assert {(spec.lr, spec.seed): score for spec, score in found.items()} == {
        (1e-3, 0): pytest.approx(1.6710, abs=1e-4),
        (3e-3, 0): pytest.approx(1.0574, abs=1e-4),
        (1e-3, 1): pytest.approx(1.5338, abs=1e-4),
        (3e-3, 1): pytest.approx(1.0346, abs=1e-4),
    }


def test_the_report_of_an_earlier_version_has_the_same_figures(tmp_path: Path) -> None:
    """Every figure of its tables of rates, architectures, seeds and trials stands in today's."""
    restore(MlflowClient(empty_store(tmp_path)))
    folder = tmp_path / "report"
    assert report.main(["--storage", str(tmp_path), "--output", str(folder)]) == 0
    for name in ("rates", "leaderboard", "seeds", "trials"):
        then = pd.read_csv(EARLIER / "tables" / f"{name}.csv")
        now = pd.read_csv(folder / "tables" / f"{name}.csv")
        pd.testing.assert_frame_equal(now[then.columns], then, check_dtype=False, obj=name)


def restore(client: MlflowClient) -> None:
    """Record the runs again; a trial's run lies below that of its sweep."""
    experiment = client.create_experiment("study")
    ids: dict[str, str] = {}
    for run in json.loads((EARLIER / "runs.json").read_text()):
        tags = run["tags"]
        if parent := tags.get("mlflow.parentRunId"):
            tags["mlflow.parentRunId"] = ids[parent]
        made = client.create_run(experiment, run["start"], run_name=tags["mlflow.runName"])
        ids[run["id"]] = made.info.run_id
        client.log_batch(
            made.info.run_id,
            metrics=[
                Metric(name, value, time, step)
                for name, points in run["metrics"].items()
                for step, value, time in points
            ],
            params=[Param(*each) for each in run["params"].items()],
            tags=[RunTag(*each) for each in tags.items()],
        )
        client.set_terminated(made.info.run_id, run["status"], run["end"])
