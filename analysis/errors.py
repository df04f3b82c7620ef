"""Errors as a person sees them, and no secret in what is printed or stored."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape

EXIT_FAILED, EXIT_USAGE = 1, 2
SECRET_FLAGS = frozenset({"ewok-password"})
_IN_ADDRESS = re.compile(
    # A name and password, which may hold anything; but a port and a path that has an @ are none.
    r"""(?<=://)(?:[^/\s@:'"]*:(?!\d+/)[^\s'"]*@|[^/\s'"]*@)"""
)
_IN_QUERY = re.compile(r"""((?:password|passwd|token|secret|key)=)[^&\s'"]+""", re.IGNORECASE)
_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN")


def say_error(error: Exception, status: int = EXIT_USAGE) -> int:
    """Print what is wrong, in a line; returns the exit status, by default of a wrong use."""
    said = without_secret(str(error)).encode("utf-8", "backslashreplace").decode("utf-8")
    text = f"[bold red]error:[/] {escape(said)}"
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)
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
    """A text without user names, passwords and tokens: those of the addresses in it, and those that
    the environment holds."""
    secrets = [os.environ.get(name) for name in _VARIABLES]
    with contextlib.suppress(ValueError):  # no address
        secrets.append(urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).password)
    text = _IN_QUERY.sub(r"\1***", _IN_ADDRESS.sub("", text))
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command's words with passwords blotted out, however their flags are written."""
    shown, is_secret = [], False
    for word in words:
        flag, is_joined, _ = word.partition("=")
        names_secret = flag.lstrip("-").replace("_", "-") in SECRET_FLAGS and flag.startswith("-")
        if is_secret:
            word = "***"
        elif names_secret and is_joined:
            word = f"{flag}=***"
        is_secret = not is_secret and names_secret and not is_joined
        shown.append(without_secret(word))
    return shown
