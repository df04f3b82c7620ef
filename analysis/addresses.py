"""Storage in a bucket: its address, and on each machine the folder in which its files are changed.

That folder, the copy, has the address in its name: whoever is handed a path in it, on whatever
machine, knows where its files are kept.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

SCRATCH = "BABYSWEEP_SCRATCH"
"""Variable: the folder of the copies, on every machine the same path, but not the same disk."""
SCHEMES = ("s3", "gs", "file")
"""What an address may begin with; see `pyarrow.fs.FileSystem.from_uri`."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/+(.*)", re.DOTALL)
_ESCAPE = "="
_LONGEST = 200


def address_in(value: Path | str) -> str | None:
    """The address that a flag's value is, or None: it is a path.

    Args:
        value: a `Path` has lost one of the slashes of "s3://bucket/folder".
    """
    found = _ADDRESS.fullmatch(str(value))
    if found is None:
        return None
    scheme, rest = found[1].lower(), found[2].rstrip("/")
    return f"{scheme}:///{rest}" if scheme == "file" else f"{scheme}://{rest}"


def check_address(address: str, flag: str) -> None:
    """Check that a bucket's address is one that can be opened, and that others may see.

    Raises:
        ValueError: it cannot, or holds credentials; the message names the flag.
    """
    scheme, _, rest = address.partition("://")
    place = rest.partition("?")[0]
    if "@" in place or re.search(r"[?&](access|secret|token|password)", rest, re.IGNORECASE):
        raise ValueError(
            f"{flag} must hold no credentials, which would be recorded with the results: give them "
            "to every machine as its environment, AWS_ACCESS_KEY_ID for example"
        )
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise ValueError(f"{flag} {address}: an address begins with one of {known}")
    if not place.strip("/") or ".." in place.split("/") or re.search(r"[\s#=]", place):
        raise ValueError(
            f"{flag} {address}: an address names a bucket and perhaps a folder, s3://bucket/folder,"
            " without blanks, = and #"
        )
    if len(_name_of(address)) > _LONGEST:
        raise ValueError(f"{flag} {address}: an address has at most {_LONGEST // 2} letters")


def copy_of(address: str) -> Path:
    """The folder of this machine in which the files of a bucket are worked on, made if new.

    Raises:
        ValueError: it cannot be made, or is another user's.
    """
    root = scratch()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = root.stat()
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ValueError(
            f"files of {address} are worked on in {root}, which cannot be made ({reason}): set "
            f"{SCRATCH} to a folder that every machine can write to"
        ) from None
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(
            f"{root}, where files of {address} are worked on, is another user's, or others can "
            f"write to it: set {SCRATCH} to a folder of your own"
        )
    copy = root / _name_of(address)
    copy.mkdir(exist_ok=True)
    return copy


def scratch() -> Path:
    """The folder of the copies: `BABYSWEEP_SCRATCH`, or one of this user's."""
    given = os.environ.get(SCRATCH)
    # Not the folder of temporary files, which may be memory, and is emptied at a restart.
    return Path(given or f"/var/tmp/babysweep-{os.getuid()}").expanduser().absolute()


def address_of(path: Path) -> str | None:
    """The address of the bucket whose copy a path lies in, or None."""
    copy = copy_around(path)
    return None if copy is None else _address_of(copy.name)


def copy_around(path: Path) -> Path | None:
    """The copy that a path lies in, or is; None if in none."""
    for folder in (path, *path.parents):
        if _address_of(folder.name) is not None:
            return folder
    return None


def shown(path: Path) -> str:
    """A path as others know it: in a copy the address of what is kept there."""
    copy, address = copy_around(path), address_of(path)
    if copy is None or address is None:
        return str(path)
    place, question, options = address.partition("?")
    return "/".join((place, *path.relative_to(copy).parts)) + question + options


def _name_of(address: str) -> str:
    """An address as the name of a folder; see `_address_of`."""
    return re.sub(
        r"[^A-Za-z0-9._-]", lambda found: f"{_ESCAPE}{ord(found[0]):02X}", f"kept:{address}"
    )


def _address_of(name: str) -> str | None:
    plain = re.sub(f"{_ESCAPE}([0-9A-F]{{2}})", lambda found: chr(int(found[1], 16)), name)
    return plain.removeprefix("kept:") if plain.startswith("kept:") else None
