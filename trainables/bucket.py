"""A bucket: how it is opened, and how patiently it is asked.

pyarrow speaks to it. Its errors have neither a class nor a number of their own, only a text.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from trainables.files import tell

PATIENCE_MINUTES = 30.0
"""For a bucket that does not answer; work that is on this machine waits for it."""
LONGEST_PAUSE = 2.0
_HOPELESS = ("ACCESS_DENIED", "AccessDenied", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "Forbidden")

Value = TypeVar("Value")


@functools.cache
def file_system(address: str) -> tuple[Any, str]:
    """pyarrow's file system of an address, and the path in it.

    Raises:
        OSError, ValueError: pyarrow cannot open such an address.
    """
    from pyarrow import fs  # late: few need it, and it takes 0.3 s

    system, place = fs.FileSystem.from_uri(address)
    return system, place.rstrip("/")


def check_reach(address: str, flag: str, *, write: bool) -> None:
    """Check at once that a bucket can be read, and perhaps written.

    Raises:
        ValueError: it cannot; the message names the flag and the reason.
    """
    try:
        system, place = file_system(address)
        if not write:
            system.get_file_info(place)
            return
        make_folder(system, place)
        probe = f"{place}/.probe-{os.getpid()}-{time.time_ns()}"
        with system.open_output_stream(probe) as stream:
            stream.write(b"-")
        system.delete_file(probe)
    except (OSError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        done = "written to" if write else "read"
        raise ValueError(
            f"{flag} {address} cannot be {done} ({reason}): is its name right, and are its "
            "credentials, and for S3 AWS_ENDPOINT_URL and AWS_REGION, in the environment?"
        ) from None


_is_hurried = False


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Ask buckets once in the block."""
    global _is_hurried
    before, _is_hurried = _is_hurried, True
    try:
        yield
    finally:
        _is_hurried = before


@contextlib.contextmanager
def without_patience() -> Iterator[None]:
    """Ask buckets once in the block, and go on without an answer: what is not told them now is made
    up for later, or was only to save time."""
    with contextlib.suppress(OSError), impatient():
        yield


def patiently(address: str, call: Callable[[], Value]) -> Value:
    """Call until the bucket answers.

    Raises:
        OSError: it refuses us, or has not answered for `PATIENCE_MINUTES`; in `without_patience`
            at its first failure.
    """
    pause, end = 0.1, time.monotonic() + 60 * PATIENCE_MINUTES
    is_told = False
    while True:
        try:
            return call()
        except FileNotFoundError:
            raise
        except OSError as error:
            is_hopeless = any(sign in str(error) for sign in _HOPELESS)
            is_over = time.monotonic() > end or _is_hurried
            if is_hopeless or error.errno is not None or is_over:
                raise
        if pause >= LONGEST_PAUSE and not is_told:
            tell(f"{address} does not answer: it is tried for {PATIENCE_MINUTES:g} minutes")
            is_told = True
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def is_local(system: Any) -> bool:
    """Whether it is a file system, of file://, which has folders and no objects."""
    return bool(system.type_name == "local")


def make_folder(system: Any, place: str) -> None:
    """Make what objects have no need of: a folder for files."""
    if is_local(system):
        system.create_dir(place, recursive=True)
