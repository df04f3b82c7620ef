"""Where the public tools are: an environment of their own, layered over the project's.

`make agreement` builds it from `requirements.txt` and points it, with a `.pth` file, at the
project's packages. Both sides then compute with one torch and one transformers, `import models`
works there, and nothing of the tools enters the project's own environment.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "BABYSWEEP_TOOLS_PYTHON"
"""Names another interpreter that has the tools."""
OLDER = "4.51.3"
"""Version of transformers that the BabyLM pipelines pin."""
OLDER_VARIABLE = "BABYSWEEP_OLDER_PYTHON"
"""Names another interpreter that has it."""
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def python() -> Path:
    """The interpreter that has the tools, whether it is there or not."""
    return Path(os.environ.get(VARIABLE) or ROOT / ".venv-tools" / "bin" / "python")


def older_python() -> Path:
    """The interpreter that has `OLDER`, whether it is there or not."""
    return Path(os.environ.get(OLDER_VARIABLE) or ROOT / ".venv-older" / "bin" / "python")


def missing() -> str:
    """What to do about a missing environment; empty if it is there."""
    if python().is_file():
        return ""
    return f"no public tools at {python()}: `make agreement` installs them, or set {VARIABLE}"


def version(package: str) -> str:
    """Of a package in the environment of the tools."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([python(), "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
