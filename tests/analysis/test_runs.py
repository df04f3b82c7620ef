"""Reading a study back from a real MLflow store."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from analysis import runs, store
from analysis.errors import without_secret
from tests.empty_store import empty_store
from tests.made_study import MadeStudy
from tests.processes import ROOT
from trainables.spec import TrialSpec


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """A SQLite store with the studies `empty` and `lrs`: a parent run and three trials."""
    folder: Path = tmp_path_factory.mktemp("store")
    client = MlflowClient(empty_store(folder))
    client.create_experiment("empty", artifact_location=folder.as_uri())
    study = client.create_experiment("lrs", artifact_location=folder.as_uri())
    parent = client.create_run(study, tags={"babysweep.kind": "sweep"}).info.run_id
    add_trial(client, study, parent, arch="mamba", lr=3e-3, outcome="diverged", bits=[4.0])
    add_trial(client, study, parent, arch="mamba", lr=1e-3, outcome="finished", bits=[2.0, 1.5])
    add_trial(client, study, parent, arch="lstm", lr=1e-3, outcome=None, bits=[])
    return client


def add_trial(
    client: MlflowClient,
    study: str,
    parent: str,
    *,
    arch: str,
    lr: float,
    outcome: str | None,
    bits: list[float],
) -> None:
    tags = {
        "babysweep.kind": "trial",
        "mlflow.parentRunId": parent,
        "babysweep.spec_hash": f"{arch}-{lr}",
    }
    run_id = client.create_run(study, tags=tags).info.run_id
    parameters = {"arch": arch, "size": "mini", "lr": lr, "seed": 0, "epochs": 2}
    # A hash of digits and a protocol are names, not numbers.
    for name, value in {**parameters, "corpus_hash": "12e4", "protocol": "2024"}.items():
        client.log_param(run_id, name, value)
    for epoch, value in enumerate(bits, start=1):
        client.log_metric(run_id, "val/bits_per_byte", value, step=epoch)
        client.log_metric(run_id, "val/loss", value * 2, step=epoch)
        client.log_metric(run_id, "zero_shot/macro", 50 + epoch, step=epoch)
        client.log_metric(run_id, "zero_shot/blimp", 60 + epoch, step=epoch)
        client.log_metric(run_id, "train/loss", 9.0, step=17 * epoch)
    if outcome == "finished":
        client.log_metric(run_id, "best/epoch", bits.index(min(bits)) + 1)
        client.log_metric(run_id, "best/bits_per_byte", min(bits))
        client.log_metric(run_id, "best/macro", 52.0)
    if outcome is not None:
        client.set_tag(run_id, "babysweep.outcome", outcome)
        client.set_terminated(run_id)


def test_one_row_per_trial(client: MlflowClient) -> None:
    """Trials only, sorted, numbers as numbers and names as text; what is missing is missing."""
    frame = runs.trials(client, "lrs")
    assert frame[["arch", "lr"]].to_numpy().tolist() == [
        ["lstm", 1e-3],
        ["mamba", 1e-3],
        ["mamba", 3e-3],
    ]
    running, finished, diverged = (row for _, row in frame.iterrows())
    assert pd.isna(running["outcome"])
    assert pd.isna(running["bits_per_byte"])
    assert running["status"] == "RUNNING"
    assert (finished["outcome"], finished["status"]) == ("finished", "FINISHED")
    assert (finished["best_epoch"], finished["bits_per_byte"], finished["macro"]) == (2, 1.5, 52.0)
    assert (finished["seed"], finished["epochs"], finished["size"]) == (0, 2, "mini")
    assert (finished["corpus_hash"], finished["protocol"]) == ("12e4", "2024")
    assert finished["spec_hash"] == "mamba-0.001"
    assert diverged["outcome"] == "diverged"


def test_one_row_per_trial_and_epoch(client: MlflowClient) -> None:
    """Metrics by epoch side by side; those by optimizer step stay out."""
    frame = runs.epochs(client, "lrs")
    mine = frame[(frame["arch"] == "mamba") & (frame["lr"] == 1e-3)]
    assert len(frame) == 3
    assert mine["epoch"].tolist() == [1, 2]
    assert mine["bits_per_byte"].tolist() == [2.0, 1.5]
    assert mine["loss"].tolist() == [4.0, 3.0]
    assert mine["blimp"].tolist() == [61.0, 62.0]
    assert mine["macro"].tolist() == [51.0, 52.0]


def test_all_pages_are_read(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers one run at a time gives the same frame; the URI works as well."""
    whole = runs.trials(client, "lrs")
    monkeypatch.setattr(store, "_PAGE", 1)
    pd.testing.assert_frame_equal(runs.trials(client.tracking_uri, "lrs"), whole)


def test_a_study_without_trials_is_an_empty_frame(client: MlflowClient) -> None:
    """No trial yet: the columns are there, the rows are not."""
    assert runs.trials(client, "empty").empty
    assert "bits_per_byte" in runs.trials(client, "empty")
    assert runs.epochs(client, "empty").empty


def test_an_unknown_study_lists_the_known_ones(client: MlflowClient) -> None:
    """A misspelt study is answered with those there are."""
    with pytest.raises(ValueError, match="no study 'lr' in sqlite.*: it has .*empty, lrs"):
        runs.trials(client, "lr")


def test_what_was_not_recorded_stands_for_the_defaults_of_the_spec(client: MlflowClient) -> None:
    """A trial older than a parameter has the value that its spec would have."""
    frame = runs.trials(client, "lrs")
    without_default = {"corpus", "context", "batch_size"}
    assert {f.name for f in dataclasses.fields(TrialSpec)} - {*frame.columns} == without_default
    assert list(frame["weight_decay"]) == [0.1, 0.1, 0.1]
    assert list(frame["warmup_steps"]) == [0, 0, 0]
    assert list(frame["reverse_kl"]) == ["False"] * 3
    assert list(frame["init"]) == [""] * 3


def test_runs_that_do_not_say_what_they_are_are_counted(client: MlflowClient) -> None:
    """A run that was killed before its parameters were recorded is no trial."""
    study = client.create_experiment("unnamed")
    client.create_run(study, tags={"babysweep.kind": "trial"})
    assert runs.trials(client, "unnamed").empty
    add_trial(client, study, "", arch="mamba", lr=1e-3, outcome="finished", bits=[2.0])
    assert len(runs.trials(client, "unnamed")) == 1
    assert runs.count_unrecorded(client, "unnamed") == 1
    assert runs.count_unrecorded(client, "lrs") == 0


def test_the_reason_is_of_how_a_trial_ended(client: MlflowClient) -> None:
    """A trial that failed, went on and finished has none; one that diverged keeps its own."""
    study = client.create_experiment("went on")
    for outcome in ("finished", "diverged", None):
        lr = 1e-3 * (1 + len(outcome or ""))
        add_trial(client, study, "", arch="mamba", lr=lr, outcome=outcome, bits=[2.0])
    for run in client.search_runs([study]):
        client.set_tag(run.info.run_id, "babysweep.reason", "out of memory")
    frame = runs.trials(client, "went on")
    reasons = frame.assign(outcome=frame["outcome"].fillna("failed")).set_index("outcome")["reason"]
    assert pd.isna(reasons["finished"])
    assert (reasons["diverged"], reasons["failed"]) == ("out of memory", "out of memory")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:secret@host:5000/x", "https://host:5000/x"),
        ("https://me:se@cret@host", "https://host"),
        ("postgresql://me:secret@host/db", "postgresql://host/db"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
        ("http://host:5000/a: refused by a@b", "http://host:5000/a: refused by a@b"),
        ("http://host:5000 refused a@b", "http://host:5000 refused a@b"),
        ("http://mlflow.org: refused by a@b", "http://mlflow.org: refused by a@b"),
        ("{'uri': 'http://host:5000', 'of': 'a@b'}", "{'uri': 'http://host:5000', 'of': 'a@b'}"),
        ("http://bob:12/3@h", "http://***@h"),
        ("http://bob:hun'ter2@h/x, 'http://h'", "http://h/x, 'http://h'"),
        ('["http://a:b\'c@h","http://d:e@h"]', '["http://h","http://h"]'),
        ("http://bob:p w@h is away", "http://h is away"),
        ("?password=hun'ter2&x=1 'token=abc'", "?password=***&x=1 'token=***'"),
        ("'Authorization': 'Bearer abcdef123'", "'Authorization': 'Bearer ***'"),
        ("Authorization: Basic Ym9iOmh1bnRlcjI=", "Authorization: Basic ***"),
        ("no such token: hf_abcdefghijkl", "no such token: ***"),
        ("a bearer token and a Basic configuration", "a bearer token and a Basic configuration"),
        ("postgresql://bob:hun/t@er2@host/db failed", "postgresql://host/db failed"),
        ("'http://token@host' and \"http://a:b@h\"", "'http://host' and \"http://h\""),
        (
            "postgresql://host/db?user=bob&password=hunter2&x=1",
            "postgresql://host/db?user=bob&password=***&x=1",
        ),
        (
            "GET http://me:secret@host/api failed: write to a@b",
            "GET http://host/api failed: write to a@b",
        ),
        ("mysql://h/db?user=bob&pwd=hunter2pw", "mysql://h/db?user=bob&pwd=***"),
        ("(see http://h/a?x=1&se=hunter2).", "(see http://h/a?x=1&se=***)."),
        ("['http://h?a=hunter2', 'of']", "['http://h?a=***', 'of']"),
        ("s3://h?odbc_connect=UID%3Dbob%3BPWD%3Dhunter2", "s3://h?odbc_connect=***"),
        ("UID%3Dbob%3BPWD%3Dhunter2%3BDB%3Dx", "UID%3Dbob%3BPWD%3D***%3BDB%3Dx"),
        ("pass=a auth=b sig=c X-Amz-Signature=d", "pass=*** auth=*** sig=*** X-Amz-Signature=***"),
        ("compass=5 of X", "compass=5 of X"),
        ("the proxy bob:hunter2@h:3128 is away", "the proxy h:3128 is away"),
        ("HTTP_PROXY='bob:hun't/e@r2@[::1]:80'", "HTTP_PROXY='[::1]:80'"),
        ("at 12:30 me@host:80, file:/a@b:80", "at 12:30 me@host:80, file:/a@b:80"),
        ("x-api-key: hunter2\nof: bob", "x-api-key: ***\nof: bob"),
        ("X-Auth-Token: correcthorse, of", "X-Auth-Token: *** of"),
        ('{"password": "hun\\"ter2", "x": 1}', '{"password": "***", "x": 1}'),
        ("{'db_password':'hunter2'}", "{'db_password':'***'}"),
        (r'"{\"token\": \"hunter2\", \"x\": 1}"', r'"{\"token\": \"***\", \"x\": 1}"'),
        ('{"secret": 12345678, "password": "cut o', '{"secret": ***, "password": "***'),
        ("--ewok-password: must be TEXT 2", "--ewok-password: must be TEXT 2"),
        ("the server's token: refused by it", "the server's token: refused by it"),
        ("[{'key': 'mlflow.runName'}]", "[{'key': 'mlflow.runName'}]"),
    ],
)
def test_passwords_are_taken_out_of_texts(text: str, expected: str) -> None:
    """User and password go, in the middle of a sentence too; everything else stays."""
    assert without_secret(text) == expected


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "BABYSWEEP_EWOK_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY"],
)
def test_what_the_environment_holds_is_taken_out_of_texts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever service it is of; what is as short as a word of any text is left."""
    monkeypatch.setenv(name, "open sesame")
    assert without_secret("it was 'open sesame'.") == "it was '***'."
    monkeypatch.setenv(name, "ewok")
    assert without_secret("--tasks ewok") == "--tasks ewok"


def test_the_example_of_the_documentation_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It reads a study, prints the best points and writes its two figures."""
    study = MadeStudy(tmp_path / "runs")
    study.sweep(["lstm", "mamba"], [1e-3, 1e-2], [0])
    example = runpy.run_path(str(ROOT / "docs" / "from_mlflow_to_a_figure.py"))
    example["main"](study.uri, study.name, tmp_path / "figures")
    assert "mamba: best at 1e-2." in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "figures").glob("*.svg")} == {
        "rates.svg",
        "epochs.svg",
    }


def test_a_server_is_asked_once_for_a_metric_of_many_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each run, which would take minutes; of one that cannot answer so, the frame is the
    same."""
    made = MadeStudy(tmp_path)
    made.sweep(["mamba", "hgrn2"], (3e-3, 1e-2), (0, 1))
    near, client = runs.epochs(made.uri, "study"), MlflowClient(made.uri)
    asked: list[str] = []
    status = [200]

    def answer(credentials: object, path: str, method: str, params: dict[str, Any]) -> Any:
        asked.append(params["metric_key"])
        points = [
            {"run_id": run_id, "step": point.step, "value": point.value}
            for run_id in params["run_id"]
            for point in client.get_metric_history(run_id, params["metric_key"])
        ]
        return SimpleNamespace(status_code=status[0], json=lambda: {"metrics": points})

    monkeypatch.setattr(runs, "http_request", answer)
    monkeypatch.setattr(runs, "get_default_host_creds", lambda uri: None)
    monkeypatch.setattr(runs, "augmented_raise_for_status", lambda answer: None)
    far = MlflowClient(made.uri)
    monkeypatch.setattr(MlflowClient, "tracking_uri", "http://mlflow:5000")
    for status[0] in (200, 404):
        asked.clear()
        pd.testing.assert_frame_equal(runs.epochs(far, "study"), near)
        assert len(set(asked)) == len(asked) > 5
