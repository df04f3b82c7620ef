"""Files that MLflow keeps of runs: whether they can be had from here, and what is missing if not.

They lie where the study's experiment says. `mlflow-artifacts:` goes through MLflow's server; with
an address of S3, or a folder, every process reads and writes them itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow.artifacts import list_artifacts
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

_SERVED = "/api/2.0/mlflow-artifacts/artifacts"
_NOT_SERVED = 503
"""HTTP status of a server that hands on no files."""
_CLIENTS = ("boto3", "botocore", "s3transfer")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_ENDPOINT = "MLFLOW_S3_ENDPOINT_URL"
_CONNECT_SECONDS, _READ_SECONDS = 10, 20
"""For S3 to take a connection, and to say something; its client waits for minutes by itself."""


_reached: set[tuple[str, str]] = set()
"""Stores and places that this process has reached: it need not ask for each of its trials."""


def check_files(uri: str, location: str) -> None:
    """Check that this process can have the files of a study on a server.

    Args:
        uri: of the MLflow store.
        location: where its experiment has its files.

    Raises:
        MlflowException: it cannot; it may pass if that is so of the error's status.
    """
    if not uri.startswith(("http://", "https://")) or (uri, location) in _reached:
        return
    place = urlsplit(location)
    if place.scheme == "mlflow-artifacts":
        _check_served(uri, place.path)
    elif place.scheme == "s3":
        limit_waits()
        with files_reached():
            list_artifacts(artifact_uri=location)
    elif place.scheme in ("", "file"):
        folder = Path(unquote(place.path))
        if not folder.exists() and not folder.parent.exists():  # the server makes the latter
            raise MlflowException(
                f"it has files in {folder}, a folder of its own machine: start it with "
                "--artifacts-destination and without --no-serve-artifacts, and take a new --study, "
                "or run this where that folder is",
                INVALID_PARAMETER_VALUE,
            )
    _reached.add((uri, location))


def _check_served(uri: str, path: str) -> None:
    answer = http_request(
        get_default_host_creds(uri),  # type: ignore[no-untyped-call]
        _SERVED,
        "GET",
        params={"path": path.strip("/")},
        max_retries=0,
        raise_on_status=False,
    )
    if answer.status_code == _NOT_SERVED and "--no-serve-artifacts" in answer.text:
        raise MlflowException(
            "it has the files of its runs, and was started with --no-serve-artifacts: start it "
            "without that option",
            INVALID_PARAMETER_VALUE,
        )
    augmented_raise_for_status(answer)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def files_reached() -> Iterator[None]:
    """Turn errors of S3's client into MLflow's, so that who is patient with a server is with S3.

    Raises:
        MlflowException: S3 could not do what was asked; the message says what is missing.
    """
    try:
        yield
    except Exception as error:
        cause = _of_s3(error)
        if cause is None:
            raise
        code = TEMPORARILY_UNAVAILABLE if _may_pass(cause) else INVALID_PARAMETER_VALUE
        raise MlflowException(_reason(cause), code) from error


@functools.cache
def limit_waits() -> None:
    """Let S3's client give up within seconds: whoever calls it tries again for as long as it takes.

    MLflow hands it no such limits. It takes them from the session that it is made in, once for a
    process.
    """
    with contextlib.suppress(ImportError):  # is said when something is asked for
        import boto3
        import botocore.session
        from botocore.config import Config

        session = botocore.session.get_session()
        session.set_default_client_config(
            Config(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                retries={"total_max_attempts": 2},
            )
        )
        boto3.setup_default_session(botocore_session=session)


def _of_s3(error: BaseException | None) -> Any:
    """The error of S3's client that an error is, or came from, None if it did not; or that the
    client is not installed."""
    found = None
    while error is not None:
        is_missing = isinstance(error, ImportError) and error.name in _CLIENTS
        if is_missing or type(error).__module__.partition(".")[0] in _CLIENTS:
            found = error
        error = error.__cause__ or error.__context__
    return found


def _may_pass(error: Any) -> bool:
    """Whether there was no answer, or one of a server in trouble."""
    if isinstance(error, ImportError):
        return False
    if response := getattr(error, "response", None):
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
        return status == 429 or status >= 500
    from botocore.exceptions import ConnectionError as NotReached
    from botocore.exceptions import HTTPClientError

    return isinstance(error, (NotReached, HTTPClientError))


def _reason(error: Any) -> str:
    """Reason why S3 did not do what was asked, in a line, with what to do."""
    if isinstance(error, ImportError):
        return "its files are in S3, which this environment has no package for: pip install boto3"
    code = str((getattr(error, "response", None) or {}).get("Error", {}).get("Code", ""))
    said = " ".join(str(error).split())
    is_closed = "Credentials" in type(error).__name__ or code in ("403", "AccessDenied")
    missing = [name for name in _KEYS if not os.environ.get(name)]
    if is_closed and missing:
        return f"its files are in S3, and here {' and '.join(missing)} must be set{_elsewhere()}"
    if code:
        return f"S3, where its files are, refuses ({code}): {said}{_elsewhere()}"
    return f"S3, where its files are, cannot be used: {said}{_elsewhere()}"


def _elsewhere() -> str:
    """A hint for those whose S3 is not Amazon's."""
    named = (_ENDPOINT, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    if any(os.environ.get(name) for name in named):
        return ""
    return f"; {_ENDPOINT} is not set, so that Amazon is asked"
