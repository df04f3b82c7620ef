"""The former place of `sweeps/evaluate.py`: the same command."""

from __future__ import annotations

import runpy
from pathlib import Path

if __name__ == "__main__":
    command = Path(__file__).resolve().parents[1] / "sweeps" / "evaluate.py"
    runpy.run_path(str(command), run_name="__main__")
