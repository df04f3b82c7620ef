"""Whether a node reaches the bucket that a study is kept in, and can work on a copy of it."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainables.bucket import impatient, without_patience
from trainables.kept import KeptFolder, kept

_TOKEN = "token"


@dataclass(frozen=True)
class BucketUse:
    """What a node could do with the bucket.

    Attributes:
        is_same: whether what was put by who asks is there.
        refused: why the node could not read or put objects, or make a copy of the study; "" if it
            could.
        seconds: that an object took to be put.
    """

    is_same: bool
    refused: str
    seconds: float


@contextlib.contextmanager
def token_offered(shared: Path, token: str) -> Iterator[None]:
    """Let the nodes find a token in the bucket, if the folder is of a bucket's copy.

    Raises:
        OSError: the bucket does not answer.
    """
    folder = kept(shared)
    if folder is None:
        yield
        return
    with impatient():
        folder.mark(_TOKEN, token)
    try:
        yield
    finally:
        with without_patience():
            folder.remove_mark(_TOKEN)


def use_bucket(shared: Path, node: str, token: str) -> BucketUse:
    """Do on a node what trials do in a bucket.

    Args:
        shared, token: as in `token_offered`.
        node: name of this node.
    """
    is_same, seconds = False, 0.0
    try:
        copy = shared.parent
        copy.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=copy), impatient():
            folder = KeptFolder(shared)
            is_same = folder.read_mark(_TOKEN) == token
            started = time.monotonic()
            folder.mark(node, token)
            seconds = time.monotonic() - started
            folder.remove_mark(node)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return BucketUse(is_same, reason, seconds)
    return BucketUse(is_same, "", seconds)
