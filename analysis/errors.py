"""Errors as a person sees them, and no secret in what is printed or stored."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

EXIT_FAILED, EXIT_USAGE = 1, 2
SECRET_FLAGS = {"ewok-password": "BABYSWEEP_EWOK_PASSWORD"}
"""Flags whose values nobody else is to see, and the variables that stand for them."""
_ENDS_OF_SECRETS = ("_PASSWORD", "_TOKEN", "_SECRET", "_SECRET_ACCESS_KEY")
"""Of names of variables."""
_SHORTEST_SECRET = 5
"""Letters; a shorter one would blot out words of any text."""
_IN_ADDRESS = re.compile(
    # A name and password, which may hold anything, or a token. After a port and a space, though,
    # comes something else; what follows a port and a slash may be either, and is blotted out.
    r"""(?<=://)(?:
        (?P<port>[^/\s@:'"]*:\d+/) (?:(?!://)\S)*@
        | [^/\s@:]*:(?!\d+['"]) (?:(?!://)\S)*@
        | [^/\s@:]*:(?!\s|\d+(?:\W|$)) [^/@\n]*@
        | [^/\s'"]*@
    )""",
    re.VERBOSE,
)
_IN_PROXY = re.compile(
    # As in bob:hunter2@host:3128. Behind the colon of a scheme stands a slash.
    r"""(?<![^\s'"(=,])[^\s:/@'"(=,]+:(?!/)\S+@(?=(?:[\w.-]+|\[[\da-f:]+\]):\d)""",
    re.IGNORECASE,
)
_QUERY = re.compile(r"(?<=://)[^\s?]*\?\S+")
_OF_QUERY = re.compile(
    # Whatever its name: each service has another one.
    rf"""(=)[^&\s]{{{_SHORTEST_SECRET},}}?(?=['"]?[,;:.)\]}}]*(?:[&\s]|$)|['"],)"""
)
_NAMES = (
    r"(?:password|passwd|pwd|passphrase|token|secret|signature|credentials?"
    r"|(?:api|access|account|private|secret)[-_]?key|(?<![^\W_])(?:pass|auth|sig))"
)
"""Of secrets, as names end."""
_ASSIGNED = re.compile(
    rf"""((?:{_NAMES}|key)(?:=|%3D))[^&\s]+?(?=['"]?(?:[&\s,;)\]}}]|%3B|$))""", re.IGNORECASE
)
_IN_JSON = re.compile(
    rf"""({_NAMES}\\?["']\s*:\s*)(?:(\\?["'])(?:(?!\2)(?:\\.|.))+|[^\s,\]}}"'\\]+)""", re.IGNORECASE
)
_AFTER_COLON = re.compile(
    # As in a header. What an error says of a flag, or in words, follows a colon as well.
    rf"""(?<![\w-])((?!--)[\w-]*{_NAMES}\s?:\s*)
    (?=\S*\d|\S+\s*(?:[\n,;)\]}}'"]|$))\S{{{_SHORTEST_SECRET},}}""",
    re.IGNORECASE | re.VERBOSE,
)
_IN_HEADER = re.compile(r"(\bBearer\s+|\bAuthorization\W+Basic\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_OF_THE_HUB = re.compile(r"\bhf_\w{8,}")


def say_error(error: Exception, status: int = EXIT_USAGE) -> int:
    """Print what is wrong, in a line; returns the exit status, by default of a wrong use."""
    from rich.console import Console  # not before --help
    from rich.markup import escape

    from analysis.terminal import say

    said = without_secret(str(error)).encode("utf-8", "backslashreplace").decode("utf-8")
    say(Console(stderr=True), f"[bold red]error:[/] {escape(said)}")
    return status


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Put the name of a flag, or of its value, before what a ValueError says, unless it has it."""
    try:
        yield
    except ValueError as error:
        if name in str(error):
            raise
        raise ValueError(f"{name}: {error}") from error


def without_secret(text: str) -> str:
    """A text without user names, passwords and tokens: those of its addresses and headers, and
    those that the environment holds."""
    environment = os.environ.items()
    secrets = {value for name, value in environment if name.endswith(_ENDS_OF_SECRETS)}
    with contextlib.suppress(ValueError):  # no address
        secrets.add(urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).password or "")
    text = _IN_ADDRESS.sub(lambda found: "***@" if found["port"] else "", text)
    text = _QUERY.sub(lambda found: _OF_QUERY.sub(r"\1***", found[0]), _IN_PROXY.sub("", text))
    text = _IN_JSON.sub(r"\1\2***", text)
    for pattern in (_ASSIGNED, _AFTER_COLON, _IN_HEADER):
        text = pattern.sub(r"\1***", text)
    text = _OF_THE_HUB.sub("***", text)
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command's words with passwords blotted out, however their flags are written."""
    shown = [without_secret(word) for word in words]
    for flag, start, end in _secret_flags(words):
        shown[start:end] = [f"{flag}=***"] if end == start + 1 else [flag, "***"]
    return shown


def hide_secret_flags(words: Sequence[str]) -> None:
    """Start this process anew if its own words have secrets, with variables in their place: its
    words are shown to everyone on the machine, and Ray writes them down.

    Args:
        words: those behind the program's name, which are left alone if they are another's.
    """
    own = sys.orig_argv
    found = list(_secret_flags(words))
    if not found or own[-len(words) :] != [*words]:
        return
    variables = dict(os.environ)
    for flag, start, end in found:  # of a flag given twice the last value counts
        value = words[end - 1] if end > start + 1 else words[start].partition("=")[2]
        variables[SECRET_FLAGS[_name_of(flag)]] = value
    kept = [*words]
    for _, start, end in reversed(found):
        del kept[start:end]
    os.execve(sys.executable, [*own[: -len(words)], *kept], variables)


def _secret_flags(words: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """The secret flags among words, as they are written, each with where it begins and ends."""
    start = 0
    while start < len(words):
        flag, is_joined, _ = words[start].partition("=")
        end = start + 1
        if flag.startswith("-") and is_secret(flag):
            end = end if is_joined else min(start + 2, len(words))
            if is_joined or end == start + 2:
                yield flag, start, end
        start = end


def is_secret(flag: str) -> bool:
    """Whether the value of a flag, or of its field, is not to be shown; however it is written."""
    return _name_of(flag) in SECRET_FLAGS


def _name_of(flag: str) -> str:
    return flag.lstrip("-").replace("_", "-")
