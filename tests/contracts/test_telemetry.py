"""Nothing that MLflow would report leaves this machine, whatever is imported first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LAZY = re.compile(r"^    from ((?:sweeps|analysis)\.\w+) import \w+  # heavy", re.MULTILINE)
COMMANDS = {
    match.group(1)
    for folder in ("sweeps", "analysis")
    for file in sorted((ROOT / folder).glob("*.py"))
    for match in _LAZY.finditer(file.read_text())
}
WORKERS = {"sweeps.tuning", "sweeps.scoring_workers", "trainables.trial"}  # what Ray unpickles

CODE = """
import importlib, os, sys

class Watch:
    seen = []

    def find_spec(self, name, path=None, target=None):
        if name == "mlflow":
            self.seen.append(os.environ.get("MLFLOW_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
from mlflow.telemetry import get_telemetry_client
assert set(Watch.seen) == {"true"}, Watch.seen
assert get_telemetry_client() is None
"""


def test_all_commands_are_known():
    """The commands' heavy modules are found by how they are imported."""
    assert len(COMMANDS) >= 6, COMMANDS


@pytest.mark.parametrize("module", sorted(COMMANDS | WORKERS))
def test_telemetry_is_off_before_mlflow_is_imported(module):
    """In a fresh interpreter, with no help of the environment, the variable is set before anything
    imports MLflow, and MLflow has no client that reports."""
    hidden = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "PYTEST_CURRENT_TEST")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-c", CODE, module]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=120)
