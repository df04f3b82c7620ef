"""Places that flags name, with errors that name the flag, the place and what is wrong with it."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

_OF_THE_PLACE = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EACCES, errno.EPERM, errno.EIO),
}
_JOB_FOLDER = "working_dir_files"
"""In the path of what Ray unpacks for a submitted job, and deletes after it."""


def check_lasts(path: Path, flag: str) -> None:
    """Check that what is written to an absolute path is still there after a submitted job.

    Raises:
        ValueError: it lies in the job's working folder; the message names flag and place.
    """
    if _JOB_FOLDER in path.parts:
        raise ValueError(
            f"a submitted job's working folder is temporary, and so is all that lies in "
            f"{_shown(path)}: give {flag} with an absolute path that all nodes share"
        )


def check_came_along(place: Path | str, flag: str, instead: str = "") -> None:
    """Check that a submitted job has what it is to read.

    It gets the project's code, and no other file of the folder that it was submitted from.

    Args:
        place: as it was given.
        flag: what named it, for errors.
        instead: what else may be given.

    Raises:
        ValueError: a relative path in such a job, where nothing is; the message says what to give.
    """
    path = Path(os.path.expanduser(place))
    if path.is_absolute() or _JOB_FOLDER not in Path.cwd().parts or os.path.exists(path):
        return
    choices = ", or ".join(["an absolute path that all nodes share", *filter(None, [instead])])
    raise ValueError(
        f"{flag} {_shown(place)} did not come along: a submitted job has the project's code and no "
        f"other file, so give {choices}"
    )


@contextlib.contextmanager
def path_or_hub_id(flag: str, place: str, names: Collection[str] = ()) -> Iterator[None]:
    """Say of what cannot be read that it may be a path which a submitted job does not have.

    Args:
        flag: what named it, for errors.
        place: a path, or else a name at the hub.
        names: those that are no paths.

    Raises:
        ValueError: in place of the error, which it quotes.
    """
    try:
        yield
    except ValueError as error:
        if place in names or ":/" in place:  # models:/NAME
            raise
        try:
            check_came_along(place, flag, "a name at the hub")
        except ValueError as reason:
            raise ValueError(f"{reason} ({error})") from error
        raise


def writable_folder(path: Path, flag: str) -> Path:
    """A folder that files can be written to, made if it is not there.

    Args:
        path: of the folder.
        flag: what named it, for errors.

    Raises:
        ValueError: it cannot be one, or not for long; the message names flag, place and reason.
    """
    check_lasts(path.absolute(), flag)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        reason = _file_in_the_way(path) or os.strerror(error.errno or 0).lower()
        raise ValueError(
            f"{flag} {_shown(path)} cannot be written to ({reason}): give a folder that can"
        ) from None


def resolved(path: Path | str, flag: str) -> Path:
    """The absolute path that a flag's value stands for.

    Raises:
        ValueError: it stands for none: its links lead in a circle, there is no such user's home, or
            it has a character that no path has.
    """
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{flag} {_shown(path)} is no place: {error}") from None


@contextlib.contextmanager
def reading(flag: str, place: str) -> Iterator[None]:
    """Name flag and place where what is read within cannot be.

    Raises:
        ValueError: in place of the errors of the operating system.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_PLACE:
            raise
        reason = os.strerror(error.errno).lower()
        inside = str(error.filename or "")
        is_itself = not inside or Path(inside).name == Path(place).name
        where = "" if is_itself else f"{_shown(inside)}: "
        raise ValueError(f"{flag} {_shown(place)} cannot be read ({where}{reason})") from None


def _shown(place: Path | str) -> str:
    """A place in a line."""
    text = str(place)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _file_in_the_way(path: Path) -> str:
    for part in (path, *path.parents):
        try:
            if part.exists() and not part.is_dir():
                return "it is a file" if part == path else f"{part} is a file"
        except OSError:  # a name too long, or a folder that may not be looked into
            return ""
    return ""
