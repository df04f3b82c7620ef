"""What a shell makes of lines that are printed to be typed."""

from __future__ import annotations

import subprocess

ODD_NAMES = (
    *("my study", "it's", 'a "b"', "a$HOME", "a$$b", "$(x)", "a`b`", "a\\b", "50%", "#a", "a~"),
    *("zażółć", "-x", "--", "a;b"),
)
"""Of files, folders and studies, which mean something else to a shell, to make or to a command."""


def words_of(line: str, **variables: str) -> list[str]:
    """The words that a line consists of for bash, with these variables set."""
    script = 'eval "set -- $LINE"; printf "%s\\0" "$@"'
    env = {"LINE": line, **variables}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]
