"""A store that is not there, not MLflow's, or damaged is named at once; patience has an end."""

from __future__ import annotations

import contextlib
import http.server
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException

from analysis import database, store
from analysis.store import (
    call_with_retries,
    how_to_browse,
    is_transient,
    make_store,
    name_of,
    open_store,
    short_timeouts,
    tracking_uri,
)
from tests.empty_store import empty_store
from tests.processes import ROOT, environment


class _Answers(http.server.BaseHTTPRequestHandler):
    status = 200
    body = b"<html>hello</html>"
    pause = 0.0  # seconds between two bytes

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked has gone
            for byte in self.body:
                self.wfile.write(bytes([byte]))
                threading.Event().wait(self.pause)

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """A web server that is not MLflow's; its answers' status is `_Answers.status`."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://bob:hunter2@127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "MLFLOW_TRACKING_USERNAME"),
        (403, "MLFLOW_TRACKING_TOKEN"),
        (404, "no MLflow server"),
        (200, "no MLflow server"),
        (302, "no MLflow server"),
        (500, "500"),
        (503, "503"),
        (429, "429"),
    ],
)
def test_what_answers_otherwise_is_said(
    server: str, monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    """In a line that names the place, without the password in it."""
    monkeypatch.setattr(_Answers, "status", status)
    with pytest.raises(ValueError, match=message) as caught:
        open_store(server)
    assert "127.0.0.1" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"experiments": 5}', b"3", b"null"])
def test_what_is_answered_is_looked_at(
    server: str, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """Also where it could be an answer of MLflow's that has no experiments to name."""
    monkeypatch.setattr(_Answers, "body", body)
    for opened in (open_store, make_store):
        with pytest.raises(ValueError, match="no MLflow server") as caught:
            opened(server)
        assert len(str(caught.value).splitlines()) == 1


def test_who_may_see_no_experiment_has_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without one for this user says its version."""
    monkeypatch.setattr(store.MlflowClient, "search_experiments", lambda *_, **__: [])
    answer = SimpleNamespace(text="3.17.0")
    monkeypatch.setattr(store, "http_request", lambda *_: answer)
    assert open_store("http://127.0.0.1:9")


def test_an_answer_that_never_ends_is_not_waited_for(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte at a time keeps any limit between bytes."""
    monkeypatch.setattr(store, "ANSWER_SECONDS", 1)
    monkeypatch.setattr(_Answers, "body", b" " * 1000)
    monkeypatch.setattr(_Answers, "pause", 0.2)
    with pytest.raises(ValueError, match="has not answered in 2 s"):
        open_store(server)


def test_who_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes connections and says nothing; one where nobody listens; no such host."""
    monkeypatch.setattr(store, "ANSWER_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for place, message in (
            (address, "timed out"),
            ("http://127.0.0.1:9", "refused"),
            ("http://there.is.none.invalid", "resolve"),
        ):
            with pytest.raises(ValueError, match=message):
                open_store(place)


@pytest.mark.parametrize("place", ["foo://bar", "http://a b", "databricks-uc"])
def test_addresses_of_no_store_are_refused(place: str) -> None:
    """Whatever MLflow says of them, in a line."""
    with pytest.raises(ValueError, match="cannot be used") as caught:
        open_store(place)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"\x8f\x01garbage" * 500, b"SQLite format 3\0" + b"\xff" * 99])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    """The message names it and what to do."""
    (tmp_path / "mlflow.db").write_bytes(content)
    for opened in (open_store, make_store):
        with pytest.raises(ValueError, match=r"mlflow\.db.*backup") as caught:
            opened(tracking_uri(tmp_path))
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("table", ["runs", "params", "tags", "metrics", "experiments"])
def test_damage_inside_a_database_is_found(tmp_path: Path, table: str) -> None:
    """Before MLflow meets it, or finds no rows where there were some."""
    file = tmp_path / "mlflow.db"
    uri = empty_store(tmp_path)
    with contextlib.closing(sqlite3.connect(file)) as opened:
        ((size,),) = opened.execute("PRAGMA page_size")
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        ((page,),) = opened.execute(query, (table,))
    content = bytearray(file.read_bytes())
    content[(page - 1) * size : page * size] = b"\xa5" * size
    file.write_bytes(content)
    for opens in (open_store, make_store):
        with pytest.raises(ValueError, match=r"mlflow\.db cannot be read .*backup") as caught:
            opens(uri)
        assert len(str(caught.value).splitlines()) == 1


def test_a_database_that_lost_a_table_is_named(tmp_path: Path) -> None:
    """MLflow would say which statement failed."""
    uri = empty_store(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as opened:
        opened.execute("DROP TABLE latest_metrics")
    with pytest.raises(ValueError, match=r"mlflow\.db .*lacks the table latest_metrics.*backup"):
        open_store(uri)


def test_what_a_kill_left_half_written_is_taken_back(tmp_path: Path) -> None:
    """A writer that is killed leaves a journal; the next one goes on from before it."""
    uri = empty_store(tmp_path)
    code = (
        "import os, sqlite3, sys; store = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "store.execute('PRAGMA cache_size = 1'); store.execute('PRAGMA cache_spill = 1');"
        "store.execute('BEGIN'); store.execute('CREATE TABLE filler AS WITH RECURSIVE n(x) AS"
        " (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 90000)"
        " SELECT x, hex(randomblob(50)) AS y FROM n'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "mlflow.db")], check=False)
    assert (tmp_path / "mlflow.db-journal").stat().st_size > 0
    assert open_store(uri).search_experiments()


def test_a_store_that_is_written_to_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, and nobody is told to move it away."""
    uri = empty_store(tmp_path)
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        database.check_database(tmp_path / "mlflow.db")
    assert open_store(uri)


@pytest.mark.slow
def test_commands_that_begin_together_make_one_store(tmp_path: Path) -> None:
    """None takes away the file that another one makes."""
    code = "import sys; from analysis.store import make_store; make_store(sys.argv[1])"
    words = [sys.executable, "-c", code, tracking_uri(tmp_path)]
    makers = [subprocess.Popen(words, cwd=ROOT) for _ in range(2)]
    assert [maker.wait(timeout=120) for maker in makers] == [0, 0]
    assert open_store(tracking_uri(tmp_path)).search_experiments()


def test_only_sweeps_make_a_store(tmp_path: Path) -> None:
    """To read where there is none is an error, and leaves no file."""
    uri = tracking_uri(tmp_path)
    with pytest.raises(ValueError, match="has no mlflow.db"):
        open_store(uri)
    assert not [*tmp_path.iterdir()]
    make_store(uri)
    assert open_store(uri).search_experiments()


def test_what_is_half_made_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when the tables are made: what to do is said, and nothing is in the way
    when there is space again."""
    full = sqlalchemy.exc.OperationalError(
        "CREATE TABLE x", {}, sqlite3.OperationalError("database or disk is full")
    )

    def fails(*args: object, **named: object) -> None:
        (tmp_path / "mlflow.db").write_bytes(b"half")
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(store, "MlflowClient", fails)
        with pytest.raises(ValueError, match="is full: free some space") as caught:
            make_store(tracking_uri(tmp_path))
    assert len(str(caught.value).splitlines()) == 1
    make_store(tracking_uri(tmp_path))


def test_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass is tried until it has; not within `short_timeouts`, and not for ever."""
    clock = [0.0]
    monkeypatch.setattr(store.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(store.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))
    left = [5]

    def call() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise MlflowException("connection refused")
        return "done"

    assert call_with_retries(call) == "done"
    assert clock[0] == 1 + 2 + 4 + 8 + 16
    left[0] = 5
    with short_timeouts(), pytest.raises(MlflowException):
        call_with_retries(call)
    left[0] = 10**9
    with pytest.raises(MlflowException):
        call_with_retries(call)
    assert store.PATIENCE_SECONDS < clock[0] < store.PATIENCE_SECONDS + 100


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (MlflowException("API request failed"), True),
        (MlflowException.invalid_parameter_value("changed"), False),
        (MlflowException("(sqlite3.OperationalError) database is locked"), True),
        (MlflowException("(sqlite3.OperationalError) database or disk is full"), False),
        (ValueError("connection refused"), False),
    ],
)
def test_what_may_pass(error: Exception, passes: bool) -> None:
    """A server's trouble and a lock; not what was wrong with the request, nor a full disk."""
    assert is_transient(error) == passes


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (None, ["make ui STORAGE='{}'", "http://127.0.0.1:5000/#/models"]),
        ("http://bob:hunter2@server:5000/", ["http://server:5000/#/models"]),
        ("sqlite:////elsewhere/mlflow.db", ["sqlite:////elsewhere/mlflow.db"]),
    ],
)
def test_how_pages_are_looked_at(
    uri: str | None, shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `make ui` where the store is the storage's own, at its server's address, or not at
    all: then the store is named."""
    storage = tmp_path / "my runs"
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert how_to_browse(storage, "#/models") == tuple(line.format(storage) for line in shown)


DOWNLOAD = """
import sys
from pathlib import Path

from analysis import store
from mlflow import MlflowClient, artifacts

folder, uri = Path(sys.argv[1]), sys.argv[2]
for number in range(5):
    (folder / "files").mkdir(exist_ok=True)
    (folder / "files" / f"{number}.txt").write_text("x")
client = MlflowClient(uri)
run = client.create_run(client.create_experiment("e", str(folder / "artifacts"))).info.run_id
client.log_artifacts(run, str(folder / "files"), "model")
target = artifacts.download_artifacts(
    run_id=run, artifact_path="model", dst_path=str(folder / "there"), tracking_uri=uri
)
print(len(list(Path(target).iterdir())), "files")
"""


def test_mlflow_shows_no_bars_of_its_own(tmp_path: Path) -> None:
    """One for each model that is fetched would stand between a command's lines, in pipes too."""
    words = [sys.executable, "-c", DOWNLOAD, str(tmp_path), empty_store(tmp_path)]
    env = {**environment(), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "5 files\n"
    assert "Downloading artifacts" not in done.stderr


def test_a_store_that_others_read_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose home it is, and any password, they do not learn."""
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "bob"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert name_of(f"sqlite:///{tmp_path}/work/runs/mlflow.db") == "runs/mlflow.db"
    assert name_of(f"sqlite:///{tmp_path}/home/bob/x/mlflow.db") == "~/x/mlflow.db"
    assert name_of("sqlite:////shared/mlflow.db") == "/shared/mlflow.db"
    assert name_of("http://bob:hunter2@host:5000") == "http://host:5000"
