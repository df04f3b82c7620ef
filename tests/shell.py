"""What a shell makes of lines that are printed to be typed."""

from __future__ import annotations

import subprocess


def words_of(line: str, **variables: str) -> list[str]:
    """The words that a line consists of for bash, with these variables set."""
    script = 'eval "set -- $LINE"; printf "%s\\0" "$@"'
    env = {"LINE": line, **variables}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]
