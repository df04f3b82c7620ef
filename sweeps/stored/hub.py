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
    logging,
    validate_repo_id,
)

from analysis.errors import without_secret

MAIN = "main"
"""The revision that is opened where none is named."""
_OF_EXPORTS = [
    *("README.md", "config.json", "generation_config.json", "modeling_babysweep_*.py"),
    *("model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "*.jinja"),
    *("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*"),
]
"""What is pushed: an export's files, and the licence that a person puts beside them."""


def check_push(repo: str, *, private: bool) -> None:
    """See that the user is known to the hub and may write to a repository, before there is
    anything to push. Nothing is made.

    Args:
        repo: OWNER/NAME.
        private: whether only its owner is to see it.

    Raises:
        ValueError: they may not, or it is public and is not to be.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError:
        is_name = False
    else:
        is_name = "/" in repo
    if not is_name:
        raise ValueError(
            f"{repo!r} is no OWNER/NAME of a repository: two names of letters, digits, -, _ and ., "
            "with a / between them"
        )
    with _at_the_hub(repo):
        api = HfApi()
        account = api.whoami()
        token = (account.get("auth") or {}).get("accessToken") or {}
        if token.get("role") == "read":
            raise ValueError(
                f"{repo} cannot be written with the token {token.get('displayName')!r}, which may "
                "only read: make one that may write"
            )
        owners = [account["name"], *(each["name"] for each in account.get("orgs") or [])]
        if repo.partition("/")[0].lower() not in map(str.lower, owners):
            raise ValueError(
                f"{repo} cannot be written by {account['name']}, who may write to repositories of "
                f"{', '.join(owners)}"
            )
        if private and api.repo_exists(repo) and not api.repo_info(repo).private:
            raise ValueError(
                f"{repo} is public already: make it private on its page, or leave out --private"
            )


def make_repo(repo: str, *, private: bool) -> None:
    """Make a repository, unless it is there.

    Args:
        repo: OWNER/NAME.
        private: whether only its owner is to see it; else it is as their settings have it, which
            is public for most.

    Raises:
        ValueError: the hub refuses it, or cannot be reached.
    """
    with _at_the_hub(repo):
        HfApi().create_repo(repo, private=private or None, exist_ok=True)


def push_folder(folder: Path, repo: str, revision: str) -> None:
    """Commit an export's files to a revision of a repository; what is the same there does not
    travel again.

    Args:
        folder: of the export; other files in it, and folders, stay here.
        repo: OWNER/NAME, which is there.
        revision: a branch. One that is not there begins with the repository's first commit, so
            that a push which fails leaves no other model under its name.

    Raises:
        ValueError: the hub refuses it, or cannot be reached.
    """
    api = HfApi()
    with _at_the_hub(repo), _quietly():
        if revision != MAIN:
            first = api.list_repo_commits(repo)[-1].commit_id
            api.create_branch(repo, branch=revision, revision=first, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            commit_message=f"Export of {folder.name}",
            allow_patterns=_OF_EXPORTS,
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
def _quietly() -> Iterator[None]:
    """Without the library's progress bars and remarks: the command says what goes on."""
    had_bars, verbosity = not are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            enable_progress_bars()
