"""Repositories of models on the Hugging Face hub: who may write there, and a folder pushed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from analysis.errors import without_secret

MAIN = "main"
"""The revision that is opened where none is named."""


def check_push(repo: str) -> None:
    """See that a repository's name can be one, and that its hub knows the user, who may write.

    Args:
        repo: OWNER/NAME.

    Raises:
        ValueError: it cannot, it does not, or they may not.
    """
    owner, _, name = repo.partition("/")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"{repo!r} is no OWNER/NAME: {error}") from error
    if not owner or not name:
        raise ValueError(
            f"{repo!r} is no OWNER/NAME: give the account or organisation that it is to be of, too"
        )
    with _at_the_hub(repo):
        account = HfApi().whoami()
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise ValueError(
            f"{repo} cannot be written with the token {token.get('displayName')!r}, which may only "
            "read: make one that may write"
        )


def push_folder(folder: Path, repo: str, revision: str, *, private: bool) -> None:
    """Commit the files of a folder, and none of folders in it, to a revision; what is the same
    there does not travel again.

    Args:
        folder: of a model.
        repo: OWNER/NAME; made if it is not there.
        revision: a branch; made, of `MAIN`, if it is not there.
        private: whether a repository that is made is shown to its owner only.

    Raises:
        ValueError: the hub refuses it, or cannot be reached.
    """
    api = HfApi()
    with _at_the_hub(repo), _without_bars():
        api.create_repo(repo, private=private, exist_ok=True)
        if revision != MAIN:
            api.create_branch(repo, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            commit_message=f"Export of {folder.name}",
            ignore_patterns="*/*",
        )


@contextlib.contextmanager
def _at_the_hub(repo: str) -> Iterator[None]:
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ValueError(
            f"{repo} cannot be written: no token of the Hugging Face hub is known here: log in "
            "with `hf auth login`, or set HF_TOKEN"
        ) from error
    except (OSError, RuntimeError, HTTPError) as error:
        # Of an upload's thread: what stopped it is its cause.
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
        reason = without_secret((str(cause).strip() or type(cause).__name__).splitlines()[0])
        raise ValueError(f"{repo} cannot be written at {HfApi().endpoint}: {reason}") from error


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Without the library's progress bars: the command says what goes on."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
