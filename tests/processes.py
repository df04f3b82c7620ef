"""Commands under test, as processes of their own."""

from __future__ import annotations

import re
import subprocess


def wait_for(process: subprocess.Popen[str], pattern: str) -> str:
    """Read a process's output up to a line that matches; returns what came until then."""
    seen: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(line)
        if re.search(pattern, line):
            return "".join(seen)
    raise AssertionError(f"{pattern!r} was never printed:\n{''.join(seen)}")
