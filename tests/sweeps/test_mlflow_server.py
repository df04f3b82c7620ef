"""A study on an MLflow server with PostgreSQL and S3: whole, and nothing lost, whatever is away."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from analysis import report
from tests.empty_store import empty_store
from tests.made_study import MadeStudy, base_spec, draw_nothing
from tests.processes import ROOT, environment, wait_for
from tests.sweeps.conftest import LONGEST_RUN, SweepCommand
from tests.sweeps.ray_nodes import RayNodes, family
from tests.sweeps.servers import MlflowServer, Relay, S3Server, missing_services, mlflow_on_postgres
from trainables.progress import TrialOutcome
from trainables.spec import TrialSpec
from trainables.tracking import Tracker

LOGIN = ("bob", "hunter2-of-mlflow")
TRIALS = ["--arch", "lstm", "transformer", "--lrs", "1e-3", "3e-3", "--epochs", "1"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(missing_services()), reason=missing_services()),
]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MlflowServer, S3Server]]:
    """A server that hands on files from S3. Tests take studies of their own."""
    with mlflow_on_postgres(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MlflowServer, S3Server]]:
    """A server whose clients reach S3 themselves, which asks for a password."""
    folder = tmp_path_factory.mktemp("direct")
    with mlflow_on_postgres(folder, serves_artifacts=False, login=LOGIN) as running:
        yield running


@pytest.fixture
def client(services: tuple[MlflowServer, S3Server], monkeypatch: pytest.MonkeyPatch):
    """A client of the server that hands on files, which is that of the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", services[0].address)
    return MlflowClient(services[0].address)


def _report_of(storage: Path) -> dict[str, str]:
    """The words and tables of a study's report, without addresses, ids, times and folders."""
    assert report.main(["--study", "study", "--storage", str(storage)]) == 0
    folder = storage / "study" / "report"
    files = [folder / "report.html", *sorted((folder / "tables").iterdir())]
    return {file.name: _normal(file.read_text()) for file in files}


def _normal(text: str) -> str:
    text = re.sub(r"(https?://|sqlite:)[^\s\"'<,]+?(?=\.?[\s\"'<,])", "ADDRESS", text)
    text = re.sub(r"[\w~./-]*mlflow\.db", "ADDRESS", text)
    text = re.sub(r"\b[0-9a-f]{32}\b", "RUN", text)
    text = re.sub(r"/\S*/storage\S*", "FOLDER", text)
    return re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?", "TIME", text)


def _points(client: MlflowClient, study: str = "study") -> dict[str, dict[str, list]]:
    """By name of a trial, its metrics' steps and values as they are stored."""
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id], "tags.`babysweep.kind` = 'trial'")
    names = [run.info.run_name for run in runs]
    assert len(set(names)) == len(names)
    return {
        run.info.run_name: {
            name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        for run in runs
    }


def _check_whole(points: dict[str, dict[str, list]], like: dict[str, dict[str, list]]) -> None:
    """Every point is there once, with the value of a sweep that nothing disturbed."""
    assert points.keys() == like.keys()
    for name, metrics in like.items():
        for metric in ("train/loss", "val/loss", "best/epoch"):
            assert sorted(points[name][metric]) == sorted(metrics[metric]), (name, metric)


def test_the_report_from_a_server_says_what_the_local_one_says(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same trials: words, tables and figures."""
    draw_nothing(monkeypatch)
    pages = []
    for uri, folder in ((client.tracking_uri, "far"), ("", "near")):
        made = MadeStudy(tmp_path / folder / "storage", uri=uri)
        made.sweep(["mamba", "hgrn2"], (3e-3, 1e-2), (0, 1))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
        pages.append(_report_of(made.storage))
    assert pages[0].keys() == pages[1].keys()
    for name, text in pages[1].items():
        assert pages[0][name] == text, name
    experiment = client.get_experiment_by_name("study")
    client.rename_experiment(experiment.experiment_id, "reported")


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, direct):
    """A Ray cluster whose nodes have in their environment what the fixture's parameter says."""
    server, files = direct
    variables = {**server.env, **files.env} if request.param == "all" else files.env
    nodes = RayNodes(tmp_path_factory.mktemp("r"), cpus=1, variables=variables)
    try:
        nodes.join()
        yield nodes
    finally:
        nodes.end()


@pytest.mark.parametrize("cluster", ["all"], indirect=True)
def test_a_sweep_whose_workers_reach_s3_themselves(
    direct: tuple[MlflowServer, S3Server], sweep: SweepCommand, cluster: RayNodes
) -> None:
    """With password and keys in the environment of the nodes of a Ray cluster: the best checkpoint
    of every trial is in S3, and no secret is where others may see it."""
    server, files = direct
    variables = {**cluster.env, **server.env, **files.env}
    process = sweep.start(*TRIALS, "--address", cluster.address, **variables)
    output = wait_for(process, "epoch 1/1")
    members = [process, *cluster.nodes]
    words = [word for each in members for other in family(each) for word in _words(other)]
    output += process.communicate(timeout=LONGEST_RUN)[0]
    assert process.returncode == 0, output
    assert sum(name.endswith("model.safetensors") for name in files.objects()) == 4
    client = MlflowClient(server.address)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        experiment = client.get_experiment_by_name("study")
        recorded = str(client.search_runs([experiment.experiment_id]))
    left = [each for each in cluster.folder.rglob("*.*") if each.is_file()]
    left += [each for each in sweep.storage.rglob("*") if each.is_file()]
    for secret in (LOGIN[1], files.env["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in output + recorded + " ".join(words)
        assert not [each for each in left if secret.encode() in each.read_bytes()]


@pytest.mark.parametrize("cluster", ["S3's keys"], indirect=True)
def test_a_node_without_the_password_says_so(
    direct: tuple[MlflowServer, S3Server], sweep: SweepCommand, cluster: RayNodes
) -> None:
    """Its trials fail before they train, in a line that names the variables."""
    server, files = direct
    variables = {**cluster.env, **server.env, **files.env}
    output = sweep.run("--address", cluster.address, "--study", "bare", status=1, **variables)
    said = " ".join(output.split())
    assert "refuses access (HTTP 401): set MLFLOW_TRACKING_USERNAME" in said
    assert "Traceback" not in output
    assert not [*sweep.storage.glob("bare/trials/*/checkpoints/*")]


@pytest.mark.parametrize("password", ["", "hunter3-of-nobody"])
def test_a_wrong_password_is_said_before_anything_starts(
    direct: tuple[MlflowServer, S3Server], sweep: SweepCommand, password: str
) -> None:
    """In a line and within 20 s, without the password."""
    server, _ = direct
    variables = server.env | {"MLFLOW_TRACKING_PASSWORD": password}
    if not password:
        variables = {"MLFLOW_TRACKING_URI": server.address}
    started = time.monotonic()
    output = sweep.run(status=2, **variables)
    assert time.monotonic() - started < 20
    assert output.count("error: ") == 1
    assert output.splitlines()[-1].startswith("error: ")
    assert "Starting Ray" not in output
    verb = "correct" if password else "set"
    assert f"it refuses access (HTTP 401): {verb} MLFLOW_TRACKING_USERNAME" in output
    assert not password or password not in output


def test_the_server_is_killed_in_the_middle(
    services: tuple[MlflowServer, S3Server],
    client: MlflowClient,
    sweep: SweepCommand,
    whole_sweep: SweepCommand,
) -> None:
    """Training goes on, and afterwards every point is there once."""
    server, _ = services
    words = ("--study", "killed")
    process = sweep.start(*words, MLFLOW_TRACKING_URI=server.address)
    wait_for(process, r"epoch 1/3")
    server.kill()
    wait_for(process, "MLflow does not answer")
    server.start()
    output, _ = process.communicate(timeout=LONGEST_RUN)
    assert process.returncode == 0, output
    assert "answers again" in output
    _check_whole(_points(client, "killed"), like=_points(whole_sweep.client))
    assert not [*sweep.storage.rglob("unsent*")]


def test_a_server_that_is_slow(
    services: tuple[MlflowServer, S3Server],
    client: MlflowClient,
    sweep: SweepCommand,
    whole_sweep: SweepCommand,
) -> None:
    """Each answer comes a second late: nothing is lost or doubled, and nobody is told of an
    outage."""
    relay = Relay(services[0].port)
    relay.delay = 1.0
    address = f"http://127.0.0.1:{relay.port}"
    output = sweep.run("--study", "slow", MLFLOW_TRACKING_URI=address)
    relay.kill()
    assert relay.answers > 20
    assert "does not answer" not in output
    _check_whole(_points(client, "slow"), like=_points(whole_sweep.client))


def test_s3_is_away_in_the_middle(
    direct: tuple[MlflowServer, S3Server],
    sweep: SweepCommand,
    whole_sweep: SweepCommand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trials train on, and their checkpoints are there when it is back."""
    server, files = direct
    before = {*files.objects()}
    process = sweep.start("--study", "away", **server.env, **files.env)
    wait_for(process, r"epoch 1/3")
    files.kill()
    wait_for(process, r"epoch 3/3")
    files.start()
    output, _ = process.communicate(timeout=LONGEST_RUN)
    assert process.returncode == 0, output
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    _check_whole(_points(MlflowClient(server.address), "away"), _points(whole_sweep.client))
    new = {*files.objects()} - before
    assert sum(name.endswith("model.safetensors") for name in new) == 2


def _record(tracker: Tracker, spec: TrialSpec, folder: Path, start: Barrier) -> None:
    """Write as a trial does, with many small batches."""
    start.wait()
    run = tracker.trial(spec, {}, folder / spec.hash)
    for step in range(1, 101):
        run.log_step(step, {"loss": step / 7})
        if step % 10 == 0:
            run.flush()
    made = MadeStudy(folder, uri=tracker.uri)
    history = tuple(made.report(spec, epoch, 0.0) for epoch in (1, 2))
    for epoch in history:
        run.log_epoch(epoch)
    run.finish(TrialOutcome("finished", history, None), None)


def test_ten_trials_write_at_once(client: MlflowClient, tmp_path: Path) -> None:
    """Each has its points once, and a name of its own, though two and two would be called alike."""
    specs = [base_spec(lr=1e-3 * k + 1e-11 * twin) for k in range(1, 6) for twin in (1, 2)]
    tracker = MadeStudy(tmp_path, "ten", client.tracking_uri).tracker(specs)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.made_study"])
    start = context.Barrier(len(specs))
    for spec in specs:
        (tmp_path / spec.hash).mkdir()
    writers = [
        context.Process(target=_record, args=(tracker, spec, tmp_path, start)) for spec in specs
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=300)
    assert [writer.exitcode for writer in writers] == [0] * len(specs)
    points = _points(client, "ten")
    assert len(points) == len(specs)
    for metrics in points.values():
        assert sorted(metrics["train/loss"]) == [(step, step / 7) for step in range(1, 101)]
        assert sorted(step for step, _ in metrics["val/loss"]) == [1, 2]
    assert not [*tmp_path.rglob("unsent*")]


READ = """
import sys
from pathlib import Path
from sweeps.stored.model_names import resolve_model
try:
    resolve_model(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
except ValueError as error:
    print(error)
"""


def _said_of(name: str, address: str, storage: Path, variables: dict[str, str]) -> str:
    """What a reader is told of a model, in a process of its own: S3's client remembers keys."""
    words = [sys.executable, "-c", READ, f"models:/{name}@teacher", address, str(storage)]
    nothing = {"AWS_EC2_METADATA_DISABLED": "true"}  # else a machine of Amazon's is looked for
    env = environment() | nothing | variables
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _register(client: MlflowClient, name: str, experiment: str) -> None:
    run_id = client.create_run(experiment).info.run_id
    client.create_registered_model(name)
    client.create_model_version(name, f"runs:/{run_id}/model", run_id, await_creation_for=None)
    client.set_registered_model_alias(name, "teacher", "1")


def test_a_model_in_s3_is_not_read_without_keys(
    direct: tuple[MlflowServer, S3Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables that are missing here are named, in a line."""
    server, files = direct
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(server.address)
    _register(client, "mine", client.create_experiment("model"))
    said = _said_of("mine", server.address, tmp_path, server.env)
    assert "here AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set" in said
    assert "MLFLOW_S3_ENDPOINT_URL is not set" in said
    assert len(said.splitlines()) == 1
    said = _said_of("mine", server.address, tmp_path, server.env | files.env)
    assert "must be set" not in said


def test_a_model_that_the_server_does_not_hand_on(tmp_path: Path) -> None:
    """The option that the server lacks is named, in a line and without waiting."""
    database = empty_store(tmp_path / "server")
    client = MlflowClient(database)
    _register(client, "served", client.create_experiment("served", "mlflow-artifacts:/7"))
    _register(client, "folder", client.create_experiment("folder", "/none/such/root/8"))
    flags = ("--no-serve-artifacts", f"--default-artifact-root={tmp_path / 'root'}")
    with MlflowServer(tmp_path / "server", database, *flags) as server:
        served = _said_of("served", server.address, tmp_path, {})
        folder = _said_of("folder", server.address, tmp_path, {})
    assert "started with --no-serve-artifacts: start it without that option" in served
    assert "a folder of its own machine" in folder
    assert "--artifacts-destination and without --no-serve-artifacts" in folder
    assert len(f"{served}\n{folder}".splitlines()) == 2


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):  # it has ended
        return process.cmdline()
    return []
