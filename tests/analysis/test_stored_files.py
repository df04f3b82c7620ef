"""Where files of runs cannot be had, a sentence says which option or variable is missing."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from analysis import stored_files
from analysis.store import call_with_retries, explained, is_transient, reason, try_call
from analysis.stored_files import check_files, files_reached
from tests.trainables.test_spec import SPEC
from trainables import tracking
from trainables.tracking import Tracker

SERVER = "http://mlflow:5000"


@pytest.fixture
def botocore(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The errors of S3's client, which need not be installed."""
    package, errors = types.ModuleType("botocore"), types.ModuleType("botocore.exceptions")
    for name, base in (
        ("ConnectionError", Exception),
        ("EndpointConnectionError", "ConnectionError"),
        ("HTTPClientError", Exception),
        ("ReadTimeoutError", "HTTPClientError"),
        ("NoCredentialsError", Exception),
        ("ClientError", Exception),
    ):
        bases = (base if isinstance(base, type) else getattr(errors, base),)
        setattr(errors, name, type(name, bases, {"__module__": errors.__name__}))
    monkeypatch.setitem(sys.modules, "botocore", package)
    monkeypatch.setitem(sys.modules, "botocore.exceptions", errors)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://s3:9000")
    return errors


def _failing(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def _refusal(botocore: types.ModuleType, status: int, code: str) -> Exception:
    error = botocore.ClientError(f"An error occurred ({code})")
    error.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return error


def test_s3_may_be_away_as_a_server_may(botocore: types.ModuleType) -> None:
    """Training goes on meanwhile, and what must be recorded is tried again until S3 is back."""
    away = (
        botocore.EndpointConnectionError("Could not connect"),
        botocore.ReadTimeoutError("Read timeout"),
        _refusal(botocore, 503, "SlowDown"),
    )
    for error in away:
        found = try_call(_failing(error))
        assert found is not None
        assert is_transient(found)
    left = [*away]

    def call() -> str:
        if left:
            raise left.pop()
        return "done"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.store.time.sleep", lambda seconds: None)
        assert call_with_retries(call) == "done"


def test_an_upload_that_failed_is_told_by_its_cause(botocore: types.ModuleType) -> None:
    """Its own words say neither what nor whether it passes."""
    upload = type("S3UploadFailedError", (Exception,), {"__module__": "boto3.exceptions"})

    def call() -> None:
        try:
            raise _refusal(botocore, 500, "InternalError")
        except Exception as error:
            raise upload("Failed to upload") from error

    found = try_call(call)
    assert found is not None
    assert is_transient(found)


def test_what_s3_lacks_here_is_named(
    botocore: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a line; it is not waited for, and no secret is in it."""

    def said(error: Exception) -> str:
        with pytest.raises(ValueError, match="cannot be used") as caught, explained(SERVER):
            raise error
        assert len(str(caught.value).splitlines()) == 1
        with pytest.raises(MlflowException), files_reached():
            raise error
        return str(caught.value)

    missing = said(botocore.NoCredentialsError("Unable to locate credentials"))
    assert "here AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set" in missing
    assert "MLFLOW_S3_ENDPOINT_URL" not in missing
    monkeypatch.delenv("MLFLOW_S3_ENDPOINT_URL")
    bucket = said(_refusal(botocore, 404, "NoSuchBucket"))
    assert "refuses (NoSuchBucket)" in bucket
    assert "MLFLOW_S3_ENDPOINT_URL is not set" in bucket
    assert "pip install boto3" in said(ModuleNotFoundError("No module named 'boto3'", name="boto3"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-of-s3")
    wrong = said(_refusal(botocore, 403, "hunter2-of-s3 is no SignatureDoesNotMatch"))
    assert "refuses" in wrong
    assert "hunter2" not in wrong


def test_other_errors_are_not_of_s3() -> None:
    with pytest.raises(KeyError), files_reached():
        raise KeyError


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("/none/such/root/7", "folder of its own machine.*--artifacts-destination"),
        ("file:///none/such/root/7", "folder of its own machine.*without --no-serve-artifacts"),
        ("mlflow-artifacts:/7", "was started with --no-serve-artifacts"),
    ],
)
def test_which_option_the_server_lacks(
    location: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By where the study's experiment has its files. It is not waited for, though MLflow answers as
    one that is overloaded."""
    answer = SimpleNamespace(status_code=503, text="Endpoint disabled: `--no-serve-artifacts`")
    monkeypatch.setattr(stored_files, "http_request", lambda *_, **__: answer)
    with pytest.raises(MlflowException, match=message) as caught:
        check_files(SERVER, location)
    assert not is_transient(caught.value)


def test_a_local_store_has_its_files_beside_it() -> None:
    """Nothing is asked."""
    check_files("sqlite:////x/mlflow.db", "/none/such/root/7")


def test_an_error_of_s3_that_nobody_turned_into_mlflows_can_be_told() -> None:
    """Its response is a dictionary, and no answer with a status."""
    error = RuntimeError("AccessDenied")
    error.response = {"Error": {"Code": "AccessDenied"}}
    assert "AccessDenied" in reason(error)


def test_a_place_is_asked_for_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each trial, nor after a failure that was answered with an error."""
    answers = [SimpleNamespace(status_code=503, text="--no-serve-artifacts"), SimpleNamespace()]
    asked = []

    def answer(*_: object, **__: object) -> SimpleNamespace:
        asked.append(answers.pop(0))
        return asked[-1]

    monkeypatch.setattr(stored_files, "http_request", answer)
    monkeypatch.setattr(stored_files, "augmented_raise_for_status", lambda answer: None)
    monkeypatch.setattr(stored_files, "_reached", set())
    answers[1].status_code = 200
    with pytest.raises(MlflowException):
        check_files(SERVER, "mlflow-artifacts:/8")
    check_files(SERVER, "mlflow-artifacts:/8")
    check_files(SERVER, "mlflow-artifacts:/8")
    assert len(asked) == 2


def test_a_driver_may_try_a_trials_run_again_when_the_store_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is away for a moment stays an error of MLflow's, which is waited for."""
    tracker = Tracker("sqlite:///x.db", "1", {})
    away = MlflowException("away", TEMPORARILY_UNAVAILABLE)

    def fail(call: object) -> None:
        raise away

    monkeypatch.setattr(tracking, "call_with_retries", fail)
    with pytest.raises(MlflowException, match="away"):
        tracker.trial(SPEC, {}, tmp_path)
