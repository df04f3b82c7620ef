"""MLflow's store: where it is, whether it answers, and patience with one that does not for a while.

MLflow's own client waits for an answer for up to five minutes, in silence. Here a store is asked
first, with seconds to answer; and what must reach it is tried again until it does.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from filelock import FileLock
from google.protobuf.json_format import ParseError
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from analysis.addresses import address_of
from analysis.database import check_database
from analysis.errors import without_secret
from analysis.places import check_lasts
from analysis.stored_files import files_reached
from analysis.wording import quoted

# MLflow would print the address, with the password in it, at the end of every run.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"

LOCAL_UI = "http://127.0.0.1:5000"
"""Where `make ui` serves MLflow."""
EARLIEST_FIRST = "attributes.start_time ASC"
"""An order of runs."""
_PAGE = 500  # runs
ANSWER_SECONDS = 10
"""For an answer where one is to know soon that there is none."""
PATIENCE_SECONDS = 3600.0
"""For a store to come back, before what needs it fails."""
LONGEST_PAUSE = 30.0
"""Seconds between two tries, in the end."""

T = TypeVar("T")
_is_impatient = ContextVar("is_impatient", default=False)
_FILE = "sqlite:///"
_REFUSED = (401, 403)
_CREDENTIALS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_SQLITE = "sqlite3."
_NO_SERVER = "what answers there is no MLflow server: correct MLFLOW_TRACKING_URI"
_TROUBLES = (MlflowException, RequestException, SQLAlchemyError, ImportError, ParseError)


def tracking_uri(storage: Path) -> str:
    """The MLflow store: `MLFLOW_TRACKING_URI` when set, else a SQLite file in the storage.

    Raises:
        ValueError: the variable names a file that a submitted job would lose.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if not given and (address := address_of(storage)) is not None:
        raise ValueError(
            f"--storage {address} keeps files, and no database: set MLFLOW_TRACKING_URI to the "
            "address of an MLflow server that all machines reach"
        )
    for scheme in (_FILE, "file:"):
        if given and given.startswith(scheme):
            check_lasts(Path(given.removeprefix(scheme)).resolve(), "MLFLOW_TRACKING_URI")
    uri = given or f"{_FILE}{storage / 'mlflow.db'}"
    # Absolute: trials run in folders of their own.
    return f"{_FILE}{database_of(uri)}" if uri.startswith(_FILE) else uri


def name_of(uri: str) -> str:
    """A store as a report calls it, which others may read: no secret, and of a file in the current
    or in the home folder not where that is."""
    if not uri.startswith(_FILE):
        return without_secret(uri)
    file = database_of(uri)
    for folder, shown in ((Path.cwd(), Path()), (Path.home(), Path("~"))):
        if file.is_relative_to(folder):
            return str(shown / file.relative_to(folder))
    return str(file)


def ui_of(uri: str) -> str:
    """Address of MLflow's web pages of a store."""
    return without_secret(uri) if uri.startswith(("http://", "https://")) else LOCAL_UI


def how_to_browse(storage: Path, page: str = "") -> tuple[str, ...]:
    """The command that serves MLflow's pages, where no server does, and the address of a page.

    Args:
        storage: folder of the sweeps.
        page: what follows the server's address.
    """
    uri = tracking_uri(storage)
    address = f"{ui_of(uri).rstrip('/')}/{page}"
    if uri.startswith("http"):
        return (address,)
    if uri == f"{_FILE}{(storage / 'mlflow.db').resolve()}":
        return f"make ui STORAGE={quoted(str(storage))}", address
    return (without_secret(uri),)  # `make ui` serves no such store


def open_store(uri: str) -> MlflowClient:
    """A client of a store that is there and answers.

    Raises:
        ValueError: it is not, or does not; the message says what to do.
    """
    if uri.startswith(_FILE) and not database_of(uri).exists():  # MLflow would make a new one
        raise ValueError(
            f"no results in {database_of(uri).parent}: it has no {database_of(uri).name}. Give the "
            "--storage of the sweeps, or set MLFLOW_TRACKING_URI to their server"
        )
    return _ask(uri)


def all_runs(
    client: MlflowClient, experiment_id: str, condition: str, *order_by: str
) -> Iterator[Run]:
    """The runs of an experiment that meet a condition, of which a store gives a page at a time.

    Args:
        client: of the store.
        experiment_id: MLflow's id of a study.
        condition: in MLflow's language.
        order_by: in MLflow's language; by default the newest run first.
    """
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            condition,
            max_results=_PAGE,
            order_by=[*order_by] or None,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def make_store(uri: str) -> None:
    """Make the file of a store that a sweep is to write to, or see that the store answers.

    Raises:
        ValueError: it cannot be made, or does not answer as it should.
    """
    if not uri.startswith(_FILE):
        _ask(uri)
        return
    file = database_of(uri)
    with FileLock(f"{file}.lock"):  # of two commands at once, one makes the tables
        is_new = not file.exists()
        try:
            _ask(uri)
        except ValueError:
            if is_new:  # half of the tables would be in the way for ever
                file.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Say of what MLflow raises which store it is, why, and what to do.

    Raises:
        ValueError: in place of MLflow's error.
    """
    try:
        with files_reached():
            yield
    except _TROUBLES as error:
        raise ValueError(
            f"the MLflow store {without_secret(uri)} cannot be used: {reason(error)}"
        ) from error


def _ask(uri: str) -> MlflowClient:
    is_file = uri.startswith(_FILE)
    if is_file:
        check_database(database_of(uri))
    with explained(uri):
        client = MlflowClient(uri)
        with short_timeouts():
            if is_file:
                client.search_experiments(max_results=1)
            else:
                _in_time(lambda: _check_server(client, uri))
    return client


def _check_server(client: MlflowClient, uri: str) -> None:
    """Check that what answers is MLflow: also an empty answer may be its, to who may see nothing.

    Raises:
        MlflowException: it is not.
    """
    if not client.search_experiments(max_results=1) and uri.startswith("http"):
        server_version(uri)


def server_version(uri: str) -> str:
    """The version of the MLflow server at an address.

    Raises:
        MlflowException: what answers there says none, or nothing answers.
    """
    credentials = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    answer = http_request(credentials, "/version", "GET")  # type: ignore[no-untyped-call]
    if not re.fullmatch(r"\d+\.\d+\S*", answer.text.strip()):
        raise MlflowException(_NO_SERVER)
    return str(answer.text.strip())


def _in_time(call: Callable[[], None]) -> None:
    """Call in a thread, for `ANSWER_SECONDS` twice: their count begins anew with each byte.

    Raises:
        MlflowException: it has not come back by then.
        Exception: what the call raises.
    """
    raised: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:  # is raised below
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * ANSWER_SECONDS)
    if thread.is_alive():
        raise MlflowException(f"it has not answered in {2 * ANSWER_SECONDS} s")
    if raised:
        raise raised[0]


@contextlib.contextmanager
def short_timeouts() -> Iterator[None]:
    """Let calls of MLflow fail within seconds: one try, with `ANSWER_SECONDS` for the answer.

    Nor does `call_with_retries` wait in here.
    """
    limits = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_SECONDS),
    }
    before = {name: os.environ.pop(name, None) for name in limits}
    os.environ.update(limits)
    token = _is_impatient.set(True)
    try:
        yield
    finally:
        _is_impatient.reset(token)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def is_transient(error: Exception) -> bool:
    """Whether what went wrong may be over soon: no answer, or a server's or lock's trouble."""
    if not isinstance(error, (MlflowException, RequestException)):
        return False
    if _SQLITE in str(error):  # a full disk or a file that is read-only does not mend itself
        return "locked" in str(error)
    status = _status(error)
    return status == 429 or status >= 500


def try_call(call: Callable[[], object]) -> Exception | None:
    """Call once, within seconds; returns the failure that may pass, or None if it succeeded.

    Raises:
        Exception: what does not pass by itself.
    """
    try:
        with short_timeouts(), files_reached():
            call()
    except Exception as error:
        if not is_transient(error):
            raise
        return error
    return None


def call_with_retries(call: Callable[[], T], told: Callable[[Exception], None] | None = None) -> T:
    """Call until it succeeds, or fails in a way that does not pass; for an hour at most.

    Args:
        call: can be repeated from its beginning, however far it came.
        told: of each failure after which it is tried again.
    """
    started, pause = time.monotonic(), 1.0
    while True:
        try:
            with files_reached():
                return call()
        except Exception as error:
            is_over = _is_impatient.get() or time.monotonic() - started > PATIENCE_SECONDS
            if is_over or not is_transient(error):
                raise
            if told is not None:
                told(error)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def reason(error: Exception) -> str:
    """Reason why a store did not do what was asked, in a line."""
    status, text = _status(error), " ".join(without_secret(str(error)).split())
    if status in _REFUSED:
        is_known = any(map(os.environ.get, _CREDENTIALS))
        return (
            f"it refuses access (HTTP {status}): {'correct' if is_known else 'set'} "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if status == 404 or "Response body" in text or isinstance(error, ParseError):
        return _NO_SERVER
    if _SQLITE in text:
        what = text.partition("[SQL")[0].strip()
        if "is full" in what:
            return f"{what}: free some space, or choose another --storage"
        return (
            f"{what}; restore the file from a backup, or move it away: a sweep makes a new one, "
            "and records there what its trials have found"
        )
    if "Caused by" in text:  # what urllib3 says of what it says of what happened
        text = re.sub(r"^\W*\w+\W*", "", text.rpartition("Caused by ")[2].rstrip(")'\""))
    return text.partition(" See ")[0][:300]


def _status(error: Exception) -> int:
    """HTTP status of an answer; 500 where there was none."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", 500))  # S3's client has a dictionary there


def database_of(uri: str) -> Path:
    """The file of a SQLite store."""
    return Path(uri.removeprefix(_FILE)).resolve()
